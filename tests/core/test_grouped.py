"""Intervals of figures taken in several processes: coverage of simulated ones, against intervals of one process."""

from __future__ import annotations

import math
import random

import pytest

from agent.core.grouped import grouped_mean, grouped_percentile
from agent.core.statistics import series_percentile_interval

LEVEL_SPREAD, RUN_SPREAD = 0.05, 0.02  # of the logarithm; the true median is 1


def processes(draw: random.Random, k: int, n: int = 100) -> list[list[float]]:
    """Return lognormal runs of processes that each have a level of their own."""
    levels = [draw.gauss(0.0, LEVEL_SPREAD) for _ in range(k)]
    return [[math.exp(level + draw.gauss(0.0, RUN_SPREAD)) for _ in range(n)] for level in levels]


@pytest.mark.parametrize("k", [3, 5])
def test_the_interval_over_processes_holds_the_true_median(k: int) -> None:
    draw = random.Random(k)
    held = alone = 0
    for _ in range(600):
        groups = processes(draw, k)
        low, high = grouped_percentile(groups, 0.5).interval
        assert low is not None
        assert high is not None
        held += low <= 1.0 <= high
        own_low, own_high = series_percentile_interval(groups[0], 0.5).interval
        alone += own_low is not None and own_high is not None and own_low <= 1.0 <= own_high
    assert held >= 0.93 * 600
    assert alone < 0.2 * 600  # what one process says of itself


def test_equal_processes_leave_the_interval_of_all_runs() -> None:
    draw = random.Random(7)
    runs = [math.exp(draw.gauss(0.0, RUN_SPREAD)) for _ in range(100)]
    figure = grouped_percentile([runs, runs, runs], 0.5)
    together = series_percentile_interval(runs, 0.5).interval
    assert figure.interval.low is not None and together.low is not None
    assert figure.interval.low >= together.low
    assert figure.effective_n > 200


def test_one_process_is_its_own_series() -> None:
    draw = random.Random(8)
    (runs,) = processes(draw, 1)
    figure = grouped_percentile([runs], 0.95)
    assert figure.interval == series_percentile_interval(runs, 0.95).interval
    assert grouped_mean([runs, []]) == grouped_mean([runs])


def test_nothing_has_no_figure() -> None:
    with pytest.raises(ValueError, match="no values"):
        grouped_percentile([[]], 0.5)
    with pytest.raises(ValueError, match="no values"):
        grouped_mean([])
