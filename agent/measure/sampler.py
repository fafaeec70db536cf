"""Power and energy, read by the agent while its worker idles and runs; the arithmetic is ``agent.core.power``'s.

Rules:
- The window is a phase of its own: latency is timed with nobody reading sensors.
- Idle is read before the worker is spawned. Energy per inference is (mean power - idle power) * window / inferences.
- A read that the meter puts off (EAGAIN and its like) is skipped and counted; any other failure, or more than four of
  these in a row at the end, and the series gives no figure but the reason.
- A window is twenty periods of the meter, and never fewer than ten: a slow meter gets a long one, up to a bound.
- A meter counts only for what runs where it measures: a processor's package says nothing about a graphics card.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from agent.core.measurement import Figure, PowerFigures
from agent.core.ports import PowerMeter, PowerSample, StopRequested
from agent.core.power import GAP_PERIODS, MIN_SAMPLES, PASSING, MeanPower, mean_power
from agent.errors import SensorUnavailableError
from agent.measure.settings import MeasureSettings

_ONE_SIDED = {"package": True, "gpu": False}  # scope -> it sees the processor alone, or all but the processor


class PowerSeries:
    """Values of one meter over one stretch of time.

    Args: clock: monotonic seconds, the same that the meter stamps its samples with.
    """

    def __init__(self, meter: PowerMeter, clock: Callable[[], float] = time.monotonic) -> None:
        self.meter = meter
        self.failure: str | None = None
        self.skipped = 0
        self._skipped_in_a_row = 0
        self._asked = 0
        self._clock = clock
        self._samples: list[PowerSample] = []
        self._put_off: str | None = None
        self._begin_s: float | None = None
        self._end_s = 0.0

    def read(self) -> None:
        """Read once; a value that the meter gave before is not counted again, nor one from before this series."""
        if self.failure is not None:
            return
        asked_s = self._clock()
        if self._begin_s is None:
            self._begin_s = asked_s
        self._end_s = max(asked_s, self._end_s)
        self._asked += 1
        try:
            sample, passed_s = self.meter.read(), None
            while sample.monotonic_s < self._begin_s and sample.monotonic_s != passed_s:
                sample, passed_s = self.meter.read(), sample.monotonic_s  # kept from before, by a meter that keeps
        except SensorUnavailableError as error:
            if error.facts.get("errno") in PASSING:
                self.skipped += 1
                self._skipped_in_a_row += 1
                self._put_off = error.problem
            else:
                self.failure = error.problem
            return
        self._skipped_in_a_row = 0
        if sample.monotonic_s < self._begin_s:
            return
        if not self._samples or sample.monotonic_s > self._samples[-1].monotonic_s:
            self._samples.append(sample)

    @property
    def samples(self) -> tuple[PowerSample, ...]:
        """Return the values, in order of time."""
        return tuple(self._samples)

    def mean(self) -> MeanPower | str:
        """Return the mean power, or the reason why there is none."""
        if self.failure is not None:
            named = self.failure.startswith(self.meter.name)
            return self.failure if named else f"{self.meter.name}: {self.failure}"
        if self._skipped_in_a_row > GAP_PERIODS:
            return f"{self.meter.name} stopped answering: {self._put_off}"
        asked_every_s = (self._end_s - self._begin_s) / max(1, self._asked - 1) if self._begin_s is not None else 0.0
        period_s = max(self.meter.period_s, asked_every_s)  # what was never asked for is not missing
        mean = mean_power(self._samples, period_s, self._begin_s, self._end_s)
        if isinstance(mean, str):
            put_off = f"; {self.skipped} reads failed, the last: {self._put_off}" if self._put_off else ""
            return f"{self.meter.name} {mean}{put_off}"
        return mean


def sees(meter: PowerMeter, *, on_processor: bool) -> bool:
    """Return whether a meter's figure holds what the model draws.

    Args: on_processor: the model runs on the processor alone, and not on a graphics card or another accelerator.
    """
    return _ONE_SIDED.get(meter.scope, on_processor) is on_processor


def choose_meter(
    meters: Sequence[PowerMeter], settings: MeasureSettings, *, on_processor: bool
) -> tuple[PowerMeter, float] | str:
    """Return the first meter that sees the model and is quick enough, with its window in seconds; else a reason.

    Args: meters: best first. on_processor: as ``sees`` has it.
    """
    reasons = []
    for meter in meters:
        if not sees(meter, on_processor=on_processor):
            where = "the processor" if on_processor else "an accelerator"
            reasons.append(f"{meter.name} measures the {meter.scope} and the model runs on {where}")
            continue
        length_s = window_s(meter, settings)
        if not isinstance(length_s, str):
            return meter, length_s
        reasons.append(length_s)
    return "; ".join(reasons)


def window_s(meter: PowerMeter, settings: MeasureSettings) -> float | str:
    """Return the length of the power window for a meter, or why it is too slow for one."""
    wanted = max(settings.power_window_min_s, settings.power_periods * meter.period_s)
    needed = (MIN_SAMPLES + 1) * meter.period_s
    if needed > settings.power_window_max_s:
        return f"{meter.name} gives a value every {meter.period_s:g} s: too slow for {settings.power_window_max_s:g} s"
    return min(wanted, max(needed, settings.power_window_max_s))


def read_idle(
    meter: PowerMeter,
    length_s: float,
    stop: StopRequested,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> PowerSeries:
    """Read a meter for ``length_s`` seconds and ten values, at most twice as long, while nothing of ours runs."""
    series = PowerSeries(meter, clock)
    begin = clock()
    wanted = max(MIN_SAMPLES, math.ceil(length_s / meter.period_s)) + 1
    for number in range(2 * wanted):
        over = number >= wanted or clock() - begin >= 2.0 * length_s  # reads that take longer than a period
        if stop() or series.failure is not None or (over and len(series.samples) > MIN_SAMPLES):
            break
        pause(max(0.0, begin + number * meter.period_s - clock()))
        series.read()
    return series


def power_figures(
    idle: PowerSeries, window: PowerSeries, inferences: int, length_s: float
) -> tuple[PowerFigures | None, str | None]:
    """Put idle and window together.

    Args: inferences, length_s: what the worker says it did in the window, by its own clock.
    Returns: the figures, and a sentence on what is missing of them; one of the two may be None.
    """
    running = window.mean()
    if isinstance(running, str):
        return None, running
    running = running.over(length_s)
    resting = idle.mean()
    energy, reason, error_w = None, None, 0.0
    if isinstance(resting, str):
        reason = f"no idle power, so no energy per inference: {resting}"
    else:
        above_w = running.mean_w - resting.mean_w
        bound_w = (running.accuracy_ratio or 0.0) * abs(above_w)
        error_w = math.hypot(running.error_w, resting.error_w) + bound_w
        half_w = math.hypot(running.error_w, running.spread_w, resting.error_w, resting.spread_w) + bound_w
        scale = length_s / inferences
        if above_w - error_w <= 0.0:
            reason = (
                f"power while running ({running.mean_w:.3g} W) is not above idle ({resting.mean_w:.3g} W)"
                f" by more than the error of both ({error_w:.2g} W)"
            )
        else:
            low_w = max(0.0, above_w - half_w)
            energy = Figure(value=above_w * scale, low=low_w * scale, high=(above_w + half_w) * scale)
    known = None if isinstance(resting, str) else resting
    figures = PowerFigures(
        source=window.meter.name,
        scope=window.meter.scope,
        mean_w=Figure(value=running.mean_w, low=running.interval.low, high=running.interval.high),
        idle_w=known.mean_w if known else None,
        energy_per_inference_j=energy,
        window_s=length_s,
        inferences=inferences,
        samples=running.samples,
        sample_rate_hz=running.rate_hz,
        method=running.method,
        period_s=window.meter.period_s,
        missed_samples=running.missed,
        skipped_reads=window.skipped,
        resolution_w=running.resolution_w,
        accuracy_ratio=running.accuracy_ratio,
        uncertainty_w=running.uncertainty_w,
        energy_uncertainty_j=None if energy is None else error_w * length_s / inferences,
        idle_samples=known.samples if known else 0,
        idle_window_s=known.span_s if known else None,
    )
    return figures, reason
