"""The mean of a series and its two errors, against series whose truth is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from agent.core.ports import PowerSample
from agent.core.power import MeanPower, mean_power


def at_power(powers: list[float], step_s: float = 0.1, **more: float) -> list[PowerSample]:
    return [PowerSample(monotonic_s=i * step_s, power_w=power, **more) for i, power in enumerate(powers)]


def mean(samples: list[PowerSample], period_s: float = 0.1) -> MeanPower:
    found = mean_power(samples, period_s)
    assert isinstance(found, MeanPower), found
    return found


def correlated(n: int, r: float, dice: random.Random) -> list[float]:
    """AR(1) around 5 W, with a standard deviation of 1 W."""
    level, values = dice.gauss(0.0, 1.0), []
    for _ in range(n):
        values.append(5.0 + level)
        level = r * level + math.sqrt(1.0 - r * r) * dice.gauss(0.0, 1.0)
    return values


@pytest.mark.parametrize(("r", "n"), [(0.0, 20), (0.0, 100), (0.5, 100), (0.8, 200)])
def test_the_interval_holds_the_mean_if_one_went_on_in_nineteen_of_twenty(r: float, n: int) -> None:
    dice = random.Random(17)
    held = 0
    for _ in range(400):
        interval = mean(at_power(correlated(n, r, dice))).interval
        assert interval.low is not None
        assert interval.high is not None
        held += interval.low <= 5.0 <= interval.high
    assert held >= 0.92 * 400


def test_an_interval_that_took_correlated_readings_as_independent_would_not() -> None:
    dice = random.Random(17)
    held = 0
    for _ in range(400):
        values = correlated(200, 0.8, dice)
        half = 1.96 * math.sqrt(sum((v - sum(values) / 200) ** 2 for v in values) / 199 / 200)
        held += abs(sum(values) / 200 - 5.0) <= half
    assert held < 0.7 * 400


@pytest.mark.parametrize("shape", [lambda x: 5 + 3 * math.sin(x / 40), lambda x: 2 + x / 100, lambda x: 4.0])
def test_a_slow_load_is_known_better_than_its_spread(shape: Callable[[float], float]) -> None:
    found = mean(at_power([shape(i) for i in range(400)]))
    truth = sum((shape(i / 10) + shape((i + 1) / 10)) / 2 for i in range(3990)) / 3990
    assert abs(found.mean_w - truth) <= found.error_w + 1e-9
    assert found.error_w < 0.02 * truth


def test_steps_accuracy_and_offset_widen_the_interval() -> None:
    found = mean(at_power([5.0] * 20, resolution_w=0.2, accuracy_ratio=0.01, offset_w=0.08))
    assert (found.error_w, found.spread_w) == (pytest.approx(0.1), 0.0)
    assert found.uncertainty_w == pytest.approx(0.1 + 0.05 + 0.08)
    assert found.interval.high == pytest.approx(5.23)


def test_a_counter_of_whole_watt_hours_says_so_in_its_error() -> None:
    samples = [
        PowerSample(monotonic_s=float(i), energy_j=5.0 * i // 3600 * 3600, resolution_j=3600.0) for i in range(3601)
    ]
    found = mean(samples, 1.0)
    assert found.method == "counter"
    assert found.mean_w == pytest.approx(5.0, abs=found.error_w)
    assert 0.5 < found.error_w < 1.0
    assert found.resolution_w == pytest.approx(1.0)


def test_a_counter_renewed_seldom_has_the_step_of_its_jumps() -> None:
    samples = [PowerSample(monotonic_s=float(i), energy_j=5.0 * (i // 60 * 60), resolution_j=0.001) for i in range(150)]
    found = mean(samples, 1.0)
    assert found.error_w > 1.0
    assert found.mean_w == pytest.approx(5.0, abs=found.error_w)
    with_power = [PowerSample(monotonic_s=one.monotonic_s, energy_j=one.energy_j, power_w=5.0) for one in samples]
    assert mean(with_power, 1.0).method == "trapezoid"


def test_the_better_of_power_and_counter_is_used() -> None:
    dice = random.Random(5)
    samples = [
        PowerSample(monotonic_s=i * 0.1, power_w=dice.uniform(2.0, 8.0), energy_j=0.5 * i, resolution_j=0.001)
        for i in range(100)
    ]
    found = mean(samples)
    assert (found.method, found.mean_w) == ("counter", pytest.approx(5.0))


def test_missing_values_are_counted_and_widen_the_error() -> None:
    dice = random.Random(3)
    values = at_power([dice.uniform(2.0, 8.0) for _ in range(100)])
    whole = mean(values)
    fewer = mean(values[:30] + values[42:70] + values[75:])
    assert (whole.missed, fewer.missed) == (0, 17)
    assert fewer.error_w > 1.2 * whole.error_w
    assert fewer.rate_hz == pytest.approx(82 / 9.9)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([], "gave 0 values, 10 are needed"),
        (at_power([1.0] * 9), "gave 9 values, 10 are needed"),
        ([PowerSample(monotonic_s=float(i)) for i in range(30)], "gave 0 values, 10 are needed"),
        ([PowerSample(monotonic_s=1.0, power_w=2.0)] * 20, "gave values whose times do not increase"),
        ([PowerSample(monotonic_s=i * 0.1, energy_j=7.0) for i in range(30)], "has a counter that did not move"),
    ],
)
def test_what_holds_no_mean_says_why(samples: list[PowerSample], reason: str) -> None:
    assert mean_power(samples, 0.1) == reason


def test_silence_at_an_end_is_a_reason() -> None:
    values = at_power([1.0] * 30)
    assert mean_power(values, 0.1, begin_s=-5.0) == "gave no value for 5 s at the beginning"
    assert mean_power(values, 0.1, end_s=6.0) == "gave no value for 3.1 s at the end"


def test_what_the_readings_do_not_cover_widens_the_error() -> None:
    found = mean(at_power([1.0, 3.0] * 50))
    assert found.over(9.9).error_w == pytest.approx(found.error_w)
    assert found.over(11.0).error_w > found.error_w
