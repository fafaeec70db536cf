"""How long to wait before a contended option is tried again; leaves to ``race`` whether it is tried at all.

Rules:
- A retry waits until the back-off since the last contended measurement is over: the first five seconds, each further
  one of an option three times as long. What was measured in between counts as waiting.
- One pass waits a minute in all at most; after that retries go on at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.core.measurement import Measurement
from agent.core.ports import Clock, StopRequested
from agent.measure.settings import MeasureSettings

_MOST_S = 60.0
_SLICE_S = 0.2  # how soon a stop request is noticed


class Patience:
    """The waiting of one pass."""

    def __init__(
        self, settings: MeasureSettings, clock: Clock, stop: StopRequested, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._stop = stop
        self._pause = pause
        self._left_s = _MOST_S
        self._contended_at: float | None = None

    def before(self, tries: int) -> float:
        """Wait before an option that was contended ``tries`` times; return how long in seconds."""
        if tries == 0 or self._contended_at is None:
            return 0.0
        over_at = self._contended_at + self._settings.contended_backoff_s * 3.0 ** (tries - 1)
        begin = self._clock.monotonic_s()
        end = min(over_at, begin + self._left_s)
        while not self._stop() and (left := end - self._clock.monotonic_s()) > 0:
            self._pause(min(_SLICE_S, left))
        waited = max(0.0, self._clock.monotonic_s() - begin)
        self._left_s = max(0.0, self._left_s - waited)
        return waited

    def after(self, measurement: Measurement) -> None:
        """Take note of a measurement."""
        self._contended_at = self._clock.monotonic_s() if measurement.verdict == "contended" else None
