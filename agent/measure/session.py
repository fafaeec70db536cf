"""When a measurement may begin, and when it is taken again: one pass's waiting, for heat and for busy neighbours.

Leaves to ``heat`` what cool and spoilt mean, and to ``race`` whether a contended option is tried again at all. Rules:
- Nothing begins before the board is as cool as when the pass began, where it tells its temperature. A run that heat
  spoilt is taken again; one that heat spoils every time is kept, with the sentence that says so.
- A retry of a contended option waits until the back-off since the last contended one is over: two seconds, each
  further one of an option three times as long. What was measured in between counts as waiting.
- A pass waits a minute for neighbours in all at most; after that retries go on at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from agent.core.measurement import ContextReading, Measurement
from agent.core.ports import Clock, Progress, StopRequested
from agent.measure.clock_kernel import ClockKernel
from agent.measure.heat import HeatWatch
from agent.measure.settings import MeasureSettings

_MOST_S = 60.0
_SLICE_S = 0.2  # how soon a stop request is noticed
_SHORTEST_S = 1e-3  # so that a coarse clock cannot hold the loop


class Session:
    """The measurements of one pass.

    Args:
        read: the board's present state. limit_celsius: where this board slows down; None where nobody knows.
    """

    def __init__(
        self,
        read: Callable[[], ContextReading],
        limit_celsius: float | None,
        settings: MeasureSettings,
        *,
        clock: Clock,
        stop: StopRequested,
        progress: Progress,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings, self._clock, self._stop, self._pause = settings, clock, stop, pause
        # Without a zone the kernel alone would take every neighbour for heat, and wait for it.
        kernel = ClockKernel() if read().temperature_celsius is not None else None
        self._watch = HeatWatch(
            read, limit_celsius, kernel=kernel, clock=clock, pause=pause, stop=stop, progress=progress
        )
        self._left_s = _MOST_S
        self._contended_at: float | None = None

    def take(self, tries: int, measure: Callable[[], Measurement]) -> Measurement:
        """Measure when the board is ready, again where heat spoilt it.

        Args: tries: how often this option was contended before.
        """
        self._back_off(tries)
        while True:
            self._watch.ready()
            measurement = measure()
            self._contended_at = self._clock.monotonic_s() if measurement.verdict == "contended" else None
            if self._stop() or measurement.context is None or measurement.verdict != "ok":
                return measurement
            step, why = self._watch.judge(measurement.context)
            if step == "again":
                continue
            if step == "keep_as_throttled":
                return msgspec.structs.replace(measurement, reason=f"measured as throttled: {why}")
            return measurement

    def _back_off(self, tries: int) -> None:
        if tries == 0 or self._contended_at is None:
            return
        begin = self._clock.monotonic_s()
        over_at = self._contended_at + self._settings.contended_backoff_s * 3.0 ** (tries - 1)
        end = min(over_at, begin + self._left_s)
        while not self._stop() and (left := end - self._clock.monotonic_s()) > 0:
            self._pause(min(_SLICE_S, max(left, _SHORTEST_S)))
        self._left_s -= max(0.0, self._clock.monotonic_s() - begin)
