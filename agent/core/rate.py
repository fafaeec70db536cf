"""How often something may happen: a token bucket on a clock that its owner gives it. Pure but for that."""

from __future__ import annotations

from collections.abc import Callable


class Bucket:
    """Holds ``capacity`` at first and is filled by ``per_s`` a second."""

    def __init__(self, clock: Callable[[], float], *, capacity: float, per_s: float) -> None:
        self._clock = clock
        self._capacity = capacity
        self._per_s = per_s
        self._level = capacity
        self._at = clock()

    def take(self) -> bool:
        """Take one. Returns: False when there is none."""
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._at) * self._per_s)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True
