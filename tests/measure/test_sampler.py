from __future__ import annotations

import pytest

from agent.core.ports import PowerSample
from agent.errors import SensorUnavailableError
from agent.measure.sampler import MeanPower, PowerSeries, power_figures, window_s
from agent.measure.settings import MeasureSettings


class Scripted:
    """A simulated meter that gives prepared samples and then fails."""

    name = "simulated"
    scope = "rails"
    period_s = 0.1

    def __init__(self, samples: list[PowerSample]) -> None:
        self.samples = list(samples)

    def read(self) -> PowerSample:
        if not self.samples:
            raise SensorUnavailableError("the bus does not answer", state="broken")
        return self.samples.pop(0)


def series(samples: list[PowerSample], reads: int | None = None) -> PowerSeries:
    result = PowerSeries(Scripted(samples))
    for _ in range(len(samples) if reads is None else reads):
        result.read()
    return result


def powers(*values: float) -> list[PowerSample]:
    return [PowerSample(monotonic_s=i * 0.1, power_w=value) for i, value in enumerate(values)]


def counters(watts: float, n: int = 21) -> list[PowerSample]:
    return [PowerSample(monotonic_s=i * 0.1, energy_j=100.0 + i * 0.1 * watts) for i in range(n)]


def test_power_is_integrated_by_the_trapezoid_rule() -> None:
    mean = series(powers(*[2.0] * 10, *[4.0] * 11)).mean()
    assert isinstance(mean, MeanPower)
    assert mean.mean_w == pytest.approx((0.9 * 2 + 0.1 * 3 + 1.0 * 4) / 2.0)
    assert (mean.samples, mean.rate_hz) == (21, pytest.approx(10.0))


def test_an_energy_counter_is_differenced() -> None:
    mean = series(counters(3.0)).mean()
    assert isinstance(mean, MeanPower)
    assert mean.mean_w == pytest.approx(3.0)


def test_a_value_that_was_given_before_counts_once() -> None:
    repeated = [sample for sample in powers(*[2.0] * 9) for _ in range(3)]
    assert series(repeated).mean() == "simulated gave 9 values, 10 are needed"


def test_a_meter_that_fails_in_the_window_gives_a_reason() -> None:
    assert series(powers(*[2.0] * 20), reads=22).mean() == "simulated: the bus does not answer"


def test_energy_per_inference_is_above_idle() -> None:
    figures, reason = power_figures(series(powers(*[2.0] * 20)), series(counters(5.0)), 100, 2.0)
    assert figures is not None and figures.energy_per_inference_j is not None
    assert figures.energy_per_inference_j.value == pytest.approx((5.0 - 2.0) * 2.0 / 100)
    assert (figures.source, figures.scope, figures.idle_w) == ("simulated", "rails", pytest.approx(2.0))
    assert reason is None


def test_energy_that_drowns_in_idle_is_not_given() -> None:
    figures, reason = power_figures(series(powers(*[2.0, 4.0] * 10)), series(powers(*[2.2, 4.0] * 10)), 100, 2.0)
    assert figures is not None and figures.energy_per_inference_j is None
    assert reason is not None and "is not above idle" in reason


def test_without_idle_there_is_power_and_no_energy() -> None:
    figures, reason = power_figures(series(powers(2.0)), series(counters(5.0)), 100, 2.0)
    assert figures is not None
    assert (figures.idle_w, figures.energy_per_inference_j) == (None, None)
    assert reason is not None and "no idle power" in reason


@pytest.mark.parametrize(("period_s", "length"), [(0.01, 1.0), (0.5, 10.0), (1.5, 30.0)])
def test_the_window_holds_enough_periods(period_s: float, length: float) -> None:
    meter = Scripted([])
    meter.period_s = period_s
    assert window_s(meter, MeasureSettings()) == pytest.approx(length)


def test_a_meter_slower_than_the_longest_window_is_not_used() -> None:
    meter = Scripted([])
    meter.period_s = 10.0
    assert window_s(meter, MeasureSettings()) == "simulated gives a value every 10 s: too slow for 30 s"
