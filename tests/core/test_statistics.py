from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.statistics import (
    Interval,
    binomial_cdf,
    counter_delta,
    mean_interval,
    normal_quantile,
    paired_difference_interval,
    percentile,
    percentile_interval,
    proportion_interval,
    student_t_quantile,
    trapezoid_j,
    warmup_cut,
)

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


def exact_cdf(k: int, n: int, p: Fraction) -> float:
    return float(sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 99), st.data())
def test_binomial_cdf_is_exact(n: int, percent: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(-1, n))
    found = binomial_cdf(k, n, percent / 100)
    assert found == pytest.approx(exact_cdf(k, n, Fraction(percent, 100)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("k", "n", "p", "value"),
    [
        (0, 10, 0.0, 1.0), (9, 10, 1.0, 0.0), (10, 10, 1.0, 1.0), (-1, 10, 0.5, 0.0),
        (9750, 10_000, 0.975, 0.5087306), (0, 100_000, 0.5, 0.0), (99_999, 100_000, 0.5, 1.0),
    ],
)  # fmt: skip
def test_binomial_cdf_at_the_edges_and_for_large_n(k: int, n: int, p: float, value: float) -> None:
    assert binomial_cdf(k, n, p) == pytest.approx(value, abs=1e-7)


@given(VALUES)
def test_percentiles_are_monotone_and_inside(values: list[float]) -> None:
    found = [percentile(values, q) for q in (0.01, 0.5, 0.9, 0.95, 0.99)]
    assert found == sorted(found)
    assert min(values) <= found[0] and found[-1] <= max(values)


def test_percentile_is_type_7() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.5
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.9) == pytest.approx(3.7)
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_p95_upper_bound_needs_72_runs() -> None:
    assert percentile_interval(list(range(71)), 0.95).high is None
    assert percentile_interval(list(range(72)), 0.95).high == 71
    assert percentile_interval([], 0.5) == Interval(None, None)
    assert percentile_interval([1.0], 0.5) == Interval(None, None)


@settings(deadline=None)
@given(st.integers(1, 150), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_percentile_ranks_are_the_tightest_that_hold(n: int, q: float) -> None:
    interval = percentile_interval([float(rank) for rank in range(1, n + 1)], q)
    exact, tail = Fraction(str(q)), 0.025
    if interval.low is None:
        assert exact_cdf(0, n, exact) > tail
    else:
        assert exact_cdf(int(interval.low) - 1, n, exact) <= tail * (1 + 1e-9)
        assert exact_cdf(int(interval.low), n, exact) > tail * (1 - 1e-9)
    if interval.high is None:
        assert exact_cdf(n - 1, n, exact) < 1 - tail * (1 - 1e-9)
    else:
        assert exact_cdf(int(interval.high) - 1, n, exact) >= 1 - tail * (1 + 1e-9)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Clopper & Pearson, as R's binom.test gives them
        (0, 10, 0.0, 0.3084971), (10, 10, 0.6915029, 1.0), (5, 10, 0.1870860, 0.8129140),
        (950, 1000, 0.9345972, 0.9626656),
    ],
)  # fmt: skip
def test_proportion_interval(successes: int, n: int, low: float, high: float) -> None:
    assert proportion_interval(successes, n) == pytest.approx((low, high), abs=1e-4)
    assert proportion_interval(0, 0) == Interval(None, None)


@given(st.integers(1, 500), st.data())
def test_paired_difference_holds_its_estimate_and_mirrors(n: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, n))
    second = data.draw(st.integers(0, n - first))
    value, (low, high) = paired_difference_interval(first, second, n)
    assert low is not None and high is not None and -1 <= low <= value <= high <= 1
    mirrored, (other_low, other_high) = paired_difference_interval(second, first, n)
    assert mirrored == -value
    assert (other_low, other_high) == (pytest.approx(-high), pytest.approx(-low))


def test_paired_difference_covers() -> None:
    # True difference 0.02; the interval must hold it about 19 times in 20.
    draw = random.Random(1)
    held = 0
    for _ in range(400):
        draws = [draw.random() for _ in range(300)]
        first, second = sum(x < 0.05 for x in draws), sum(x > 0.97 for x in draws)
        _, (low, high) = paired_difference_interval(first, second, 300)
        held += low is not None and high is not None and low <= 0.02 <= high
    assert held / 400 > 0.92


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (5, 2.57058), (30, 2.04227), (200, 1.97190), (500, 1.96472)],
)
def test_student_t_quantile(freedom: int, t: float) -> None:
    assert student_t_quantile(0.975, freedom) == pytest.approx(t, rel=1e-4)
    assert student_t_quantile(0.025, freedom) == pytest.approx(-t, rel=1e-4)


def test_normal_quantile_and_mean_interval() -> None:
    assert normal_quantile(0.975) == pytest.approx(1.959963985)
    assert mean_interval([1.0]) == Interval(None, None)
    assert mean_interval([1.0, 3.0]) == pytest.approx((2 - 12.7062, 2 + 12.7062), rel=1e-4)
    assert mean_interval([2.0] * 5) == (2.0, 2.0)


def test_mean_interval_of_few_values_covers() -> None:
    draw = random.Random(2)
    intervals = [mean_interval([draw.gauss(0, 1) for _ in range(4)]) for _ in range(1000)]
    held = sum(low is not None and high is not None and low <= 0 <= high for low, high in intervals)
    assert 0.93 < held / 1000 < 0.97


def test_warmup_cut() -> None:
    assert warmup_cut([10.0] * 5 + [5.0] * 5 + [5.1] * 5) == 10
    assert warmup_cut([5.0] * 10) == 5
    assert warmup_cut([float(2**i) for i in range(20)]) is None
    assert warmup_cut([5.0] * 4) is None


def test_trapezoid() -> None:
    assert trapezoid_j([2.0, 4.0, 4.0], [0.0, 1.0, 3.0]) == 11.0
    for power, times in (([1.0], [0.0]), ([1.0, 2.0], [0.0]), ([1.0, 2.0], [1.0, 1.0])):
        with pytest.raises(ValueError):
            trapezoid_j(power, times)


def test_counter_delta() -> None:
    assert counter_delta(5, 9, None) == 4
    assert counter_delta(250, 3, 255) == 9
    with pytest.raises(ValueError, match="backwards"):
        counter_delta(9, 5, None)
