"""How fast a backlog goes out, so that a fleet that comes back together does not bury its broker. Pure but for a clock.

Rules:
- A token bucket: ``rate_per_s`` messages for long, ``burst`` at once after a while of silence.
- After a connection the bucket is empty, and sending begins after a delay that is uniform up to the time the backlog
  takes at that rate, at most ``spread_s``: a board with nothing to say begins at once, and ten thousand with a day's
  messages each spread over as long as they take anyway.
- What answers an operator (jobs) is not paced; the publisher sends that first.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class DrainLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How fast messages may go out. The defaults: 10,000 boards together stay at what one small broker takes."""

    rate_per_s: float = 5.0  # chosen: a day offline (288 telemetry) in a minute; 10,000 boards are 50,000 /s at most
    burst: int = 20
    spread_s: float = 600.0


class Pace:
    """The bucket of one connection. Args: jitter: random number in 0..1."""

    def __init__(self, limits: DrainLimits, clock: Callable[[], float], jitter: Callable[[], float]) -> None:
        self.limits = limits
        self._clock = clock
        self._jitter = jitter
        self._tokens = float(limits.burst)
        self._at_s = clock()

    def connected(self, backlog: int) -> None:
        """Begin anew after a connection. Args: backlog: messages that wait."""
        takes_s = min(self.limits.spread_s, backlog / self.limits.rate_per_s)
        self._tokens = 1.0
        self._at_s = self._clock() + self._jitter() * takes_s

    def take(self) -> bool:
        """Return whether one message may go now, and count it."""
        now = self._clock()
        if now < self._at_s:
            return False
        self._tokens = min(float(self.limits.burst), self._tokens + (now - self._at_s) * self.limits.rate_per_s)
        self._at_s = now
        if self._tokens < 1.0 - 1e-6:
            return False
        self._tokens -= 1.0
        return True

    def due(self) -> float:
        """Return the monotonic time at which the next message may go."""
        return self._at_s + max(0.0, 1.0 - self._tokens) / self.limits.rate_per_s
