"""Power and energy, read by the agent while its worker idles and runs.

Rules:
- The window is a phase of its own: latency is timed with nobody reading sensors.
- Idle is read before the worker is spawned. Energy per inference is (mean power - idle power) * window / inferences.
- A power meter is integrated by the trapezoid rule on the monotonic clock; an energy counter by its difference.
- A window with fewer than ten values holds no mean: there is then a reason and no figure.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from agent.core.measurement import Figure, PowerFigures
from agent.core.ports import PowerMeter, PowerSample, StopRequested
from agent.core.statistics import Interval, mean_interval, trapezoid_j
from agent.errors import SensorUnavailableError
from agent.measure.settings import MeasureSettings

MIN_SAMPLES = 10  # chosen: the error of a window's edges is then below a tenth of it


class MeanPower(NamedTuple):
    """Mean power over a series in watts with its 95 % interval."""

    mean_w: float
    interval: Interval
    samples: int
    rate_hz: float


class PowerSeries:
    """Values of one meter over one stretch of time."""

    def __init__(self, meter: PowerMeter) -> None:
        self.meter = meter
        self.failure: str | None = None
        self._samples: list[PowerSample] = []

    def read(self) -> None:
        """Read once; a value that the meter gave before is not counted again, and the first failure ends the series."""
        if self.failure is not None:
            return
        try:
            sample = self.meter.read()
        except SensorUnavailableError as error:
            self.failure = error.problem
            return
        if not self._samples or sample.monotonic_s > self._samples[-1].monotonic_s:
            self._samples.append(sample)

    def mean(self) -> MeanPower | str:
        """Return the mean power, or the reason why there is none."""
        if self.failure is not None:
            return f"{self.meter.name}: {self.failure}"
        times = [sample.monotonic_s for sample in self._samples]
        if len(times) < MIN_SAMPLES:
            return f"{self.meter.name} gave {len(times)} values, {MIN_SAMPLES} are needed"
        span_s = times[-1] - times[0]
        rate_hz = (len(times) - 1) / span_s
        powers = [sample.power_w for sample in self._samples if sample.power_w is not None]
        if len(powers) == len(times):
            return MeanPower(trapezoid_j(powers, times) / span_s, mean_interval(powers), len(times), rate_hz)
        energies = [sample.energy_j for sample in self._samples if sample.energy_j is not None]
        if len(energies) != len(times):
            return f"{self.meter.name} gave neither power nor energy throughout"
        steps = [(energies[i + 1] - energies[i]) / (times[i + 1] - times[i]) for i in range(len(times) - 1)]
        return MeanPower((energies[-1] - energies[0]) / span_s, mean_interval(steps), len(times), rate_hz)


def window_s(meter: PowerMeter, settings: MeasureSettings) -> float | str:
    """Return the length of the power window for a meter, or why it is too slow for one."""
    needed = max(settings.power_window_min_s, settings.power_periods * meter.period_s)
    if needed > settings.power_window_max_s:
        return f"{meter.name} gives a value every {meter.period_s:g} s: too slow for {settings.power_window_max_s:g} s"
    return needed


def read_idle(
    meter: PowerMeter, length_s: float, stop: StopRequested, pause: Callable[[float], None] = time.sleep
) -> PowerSeries:
    """Read a meter for ``length_s`` seconds while nothing of ours runs."""
    series = PowerSeries(meter)
    begin = time.monotonic()
    for number in range(max(MIN_SAMPLES, math.ceil(length_s / meter.period_s)) + 1):
        if stop() or series.failure is not None:
            break
        pause(max(0.0, begin + number * meter.period_s - time.monotonic()))
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
    resting = idle.mean()
    energy, reason = None, None
    if isinstance(resting, str):
        reason = f"no idle power, so no energy per inference: {resting}"
    else:
        above_w = running.mean_w - resting.mean_w
        half_w = math.hypot(_half(running.interval), _half(resting.interval))
        scale = length_s / inferences
        if above_w - half_w <= 0.0:
            reason = f"power while running ({running.mean_w:.3g} W) is not above idle ({resting.mean_w:.3g} W)"
        else:
            energy = Figure(value=above_w * scale, low=(above_w - half_w) * scale, high=(above_w + half_w) * scale)
    figures = PowerFigures(
        source=window.meter.name,
        scope=window.meter.scope,
        mean_w=Figure(value=running.mean_w, low=running.interval.low, high=running.interval.high),
        idle_w=None if isinstance(resting, str) else resting.mean_w,
        energy_per_inference_j=energy,
        window_s=length_s,
        inferences=inferences,
        samples=running.samples,
        sample_rate_hz=running.rate_hz,
    )
    return figures, reason


def _half(interval: Interval) -> float:
    return 0.0 if interval.low is None or interval.high is None else (interval.high - interval.low) / 2.0
