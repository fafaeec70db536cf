"""Whether another client has our name: when connections that are lost are more than an accident. Pure.

Two boards with one identity (a copied card) throw each other off again and again, each coming back after the delay
between attempts, which is two minutes at most. One takeover is an accident: somebody tried the connection by hand.

- A broker may say that the session was taken over (MQTT 5, reason 0x8E): several times in a while are certain.
- Others say nothing (mosquitto 2.0, MQTT 3.1.1): several losses in a while are a suspicion, which whoever knows what
  this client has left at the broker can prove.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 600.0  # chosen: several of the longest delays
LEAST = 3
_SAY_AGAIN_S = 6 * 3600.0


class Rivals:
    """Remembers how one connection was lost. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._lost: deque[tuple[float, bool]] = deque(maxlen=100)
        self._said: float | None = None

    def note(self, now: float, *, told: bool) -> None:
        """Remember that the connection was lost; ``told``: the broker said that another client took it."""
        self._lost.append((now, told))

    def suspected(self, now: float) -> bool:
        """Return whether it was lost too often."""
        self._forget(now)
        return len(self._lost) >= LEAST

    def verdict(self, now: float, *, proven: bool = False) -> str | None:
        """Return what is to be said about it, once in several hours, else None."""
        self._forget(now)
        certain = proven or sum(told for _, told in self._lost) >= LEAST
        if not self._lost or not certain or (self._said is not None and now - self._said < _SAY_AGAIN_S):
            return None
        self._said = now
        minutes = max(1, round((now - self._lost[0][0]) / 60))
        return (
            f"another client has this board's identity: it took the connection {len(self._lost)} times in {minutes} min"
        )

    def _forget(self, now: float) -> None:
        while self._lost and now - self._lost[0][0] > WINDOW_S:
            self._lost.popleft()
