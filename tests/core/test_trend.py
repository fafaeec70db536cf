from __future__ import annotations

import math
import random

import pytest

from agent.core.trend import mann_kendall_z, theil_sen


def test_theil_sen_is_the_median_slope_and_one_outlier_does_not_move_it() -> None:
    times = [float(i) for i in range(20)]
    values = [3.0 - 0.5 * at for at in times]
    assert theil_sen(times, values) == pytest.approx(-0.5)
    values[7] = 1e6
    assert theil_sen(times, values) == pytest.approx(-0.5, abs=0.01)
    assert theil_sen([1.0, 1.0], [2.0, 3.0]) == 0.0
    assert theil_sen([], []) == 0.0


def test_mann_kendall_of_a_worked_example() -> None:
    # n = 10 without ties: S = 45 of 45 pairs, Var = 10 * 9 * 25 / 18 = 125, Z = 44 / sqrt(125).
    assert mann_kendall_z(list(range(10))) == pytest.approx(44 / math.sqrt(125))
    assert mann_kendall_z(list(range(10, 0, -1))) == pytest.approx(-44 / math.sqrt(125))
    assert mann_kendall_z([1.0] * 10) == 0.0
    assert mann_kendall_z([1.0, 2.0, 3.0]) == 0.0


def test_mann_kendall_sees_a_trend_that_is_not_there_5_times_in_100() -> None:
    draw = random.Random(1)
    seen = sum(abs(mann_kendall_z([draw.random() for _ in range(20)])) > 1.96 for _ in range(500))
    assert 0.02 < seen / 500 < 0.08
