from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from agent.core.ports import PowerSample
from agent.core.power import MeanPower
from agent.errors import SensorUnavailableError
from agent.measure.sampler import PowerSeries, choose_meter, power_figures, read_idle, sees, window_s
from agent.measure.settings import MeasureSettings


class Scripted:
    """A simulated meter that gives prepared samples, or errors by their number, and then is gone. It is a clock too."""

    name = "simulated"
    scope = "rails"
    period_s = 0.1

    def __init__(self, script: list[PowerSample | int]) -> None:
        self.script = list(script)
        self.now_s = script[0].monotonic_s if script and isinstance(script[0], PowerSample) else 0.0

    def clock(self) -> float:
        return self.now_s

    def read(self) -> PowerSample:
        if not self.script:
            raise SensorUnavailableError("the bus does not answer", state="absent", errno=errno.ENODEV)
        item = self.script.pop(0)
        if isinstance(item, int):
            self.now_s += self.period_s
            raise SensorUnavailableError(f"broken ({errno.errorcode[item]})", state="broken", errno=item)
        self.now_s = max(self.now_s, item.monotonic_s)
        return item


def series(script: Sequence[PowerSample | int], reads: int | None = None) -> PowerSeries:
    meter = Scripted(list(script))
    result = PowerSeries(meter, meter.clock)
    for _ in range(len(script) if reads is None else reads):
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
    assert figures.method == "counter" and figures.idle_samples == 20
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


def test_reads_that_are_put_off_are_skipped_and_counted() -> None:
    good = powers(*[2.0] * 30)
    script: list[PowerSample | int] = [*good]
    for place in (5, 12, 13, 27):
        script[place] = errno.EAGAIN
    figures, _ = power_figures(series(powers(*[1.0] * 20)), series(script), 100, 3.0)
    assert figures is not None
    assert figures.mean_w.value == pytest.approx(2.0)
    assert (figures.samples, figures.missed_samples, figures.skipped_reads) == (26, 4, 4)
    assert figures.sample_rate_hz == pytest.approx(25 / 2.9)


@pytest.mark.parametrize("error", [errno.ENODEV, errno.ENOENT, errno.EACCES])
def test_a_meter_that_dies_in_the_middle_gives_no_figure(error: int) -> None:
    script: list[PowerSample | int] = [*powers(*[2.0] * 30), error, *powers(*[2.0] * 60)[31:]]
    figures, reason = power_figures(series(powers(*[1.0] * 20)), series(script), 100, 6.0)
    assert figures is None
    assert reason == f"simulated: broken ({errno.errorcode[error]})"


def test_a_meter_that_is_put_off_for_ever_has_stopped() -> None:
    script: list[PowerSample | int] = [*powers(*[2.0] * 60), *[errno.EIO] * 5]
    assert series(script).mean() == "simulated stopped answering: broken (EIO)"


def test_a_long_stretch_without_values_gives_no_figure() -> None:
    values = powers(*[2.0] * 40)
    reason = series(values[:10] + values[25:]).mean()
    assert isinstance(reason, str) and "no value for 1.6 s in between" in reason


def test_half_of_the_values_missing_gives_no_figure() -> None:
    values = powers(*[2.0] * 61)
    script: list[PowerSample | int] = [one if i % 3 == 0 else errno.EAGAIN for i, one in enumerate(values)]
    expected = "simulated 40 of 61 values are missing; 40 reads failed, the last: broken (EAGAIN)"
    assert series(script).mean() == expected


def test_what_was_never_asked_for_is_not_missing() -> None:
    slow_reader = [one for i, one in enumerate(powers(*[2.0] * 61)) if i % 3 == 0]
    mean = series(slow_reader).mean()
    assert isinstance(mean, MeanPower)
    assert (mean.missed, mean.rate_hz) == (0, pytest.approx(20 / 6.0))


def test_a_value_from_before_the_window_is_not_of_it() -> None:
    meter = Scripted(list(powers(*[2.0] * 30)))
    meter.now_s = 0.95
    result = PowerSeries(meter, meter.clock)
    for _ in range(20):
        result.read()
    mean = result.mean()
    assert isinstance(mean, MeanPower)
    assert (mean.samples, result.samples[0].monotonic_s) == (20, 1.0)


def test_accuracy_counts_for_the_difference_and_the_offset_cancels() -> None:
    def exact(watts: float) -> list[PowerSample]:
        return [
            PowerSample(monotonic_s=i * 0.1, power_w=watts, resolution_w=0.04, accuracy_ratio=0.01, offset_w=0.08)
            for i in range(21)
        ]

    figures, _ = power_figures(series(exact(4.0)), series(exact(5.0)), 100, 2.0)
    assert figures is not None and figures.energy_per_inference_j is not None
    assert figures.uncertainty_w == pytest.approx(0.02 + 0.05 + 0.08)
    energy = figures.energy_per_inference_j
    assert energy.high is not None
    assert (energy.high - energy.value) * 100 / 2.0 == pytest.approx(0.02 * 2**0.5 + 0.01)
    assert (figures.resolution_w, figures.accuracy_ratio) == (0.04, 0.01)


@pytest.mark.parametrize(("period_s", "length"), [(0.01, 1.0), (0.5, 10.0), (1.5, 30.0), (2.5, 30.0)])
def test_the_window_holds_enough_periods(period_s: float, length: float) -> None:
    meter = Scripted([])
    meter.period_s = period_s
    assert window_s(meter, MeasureSettings()) == pytest.approx(length)


def test_a_meter_slower_than_the_longest_window_is_not_used() -> None:
    meter = Scripted([])
    meter.period_s = 10.0
    assert window_s(meter, MeasureSettings()) == "simulated gives a value every 10 s: too slow for 30 s"
    assert choose_meter([meter], MeasureSettings(), on_processor=True) == window_s(meter, MeasureSettings())
    quick = Scripted([])
    assert choose_meter([meter, quick], MeasureSettings(), on_processor=True) == (quick, 2.0)


@pytest.mark.parametrize(
    ("scope", "on_processor", "on_accelerator"),
    [("board", True, True), ("module", True, True), ("package", True, False), ("gpu", False, True)],
)
def test_a_meter_counts_for_what_runs_where_it_measures(scope: str, on_processor: bool, on_accelerator: bool) -> None:
    meter = Scripted([])
    meter.scope = scope
    assert (sees(meter, on_processor=True), sees(meter, on_processor=False)) == (on_processor, on_accelerator)
    if not on_processor:
        reason = choose_meter([meter], MeasureSettings(), on_processor=True)
        assert reason == "simulated measures the gpu and the model runs on the processor"


def test_idle_is_read_for_ten_periods_at_least() -> None:
    meter = Scripted(list(powers(*[2.0] * 100)))
    assert isinstance(read_idle(meter, 0.2, lambda: False, lambda _: None, meter.clock).mean(), MeanPower)
    assert len(meter.script) == 100 - 11
