"""How fast a backlog goes out: one board's bucket, and ten thousand simulated boards that come back together."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.report.pace import DrainLimits, Pace


class Now:
    def __init__(self) -> None:
        self.s = 50.0

    def __call__(self) -> float:
        return self.s


def sending_times(pace: Pace, now: Now, messages: int) -> list[float]:
    """Send as a loop does: whenever the pace says that the next one is due."""
    times = []
    while len(times) < messages:
        if pace.take():
            times.append(now.s)
        else:
            assert pace.due() > now.s - 1e-9
            now.s = max(now.s + 1e-9, pace.due())
    return times


def test_what_is_new_goes_at_once_up_to_the_burst_and_then_at_the_rate() -> None:
    now = Now()
    times = sending_times(Pace(DrainLimits(rate_per_s=5, burst=20), now, lambda: 0.5), now, 30)
    assert times[:20] == [50.0] * 20
    assert times[-1] - times[19] == pytest.approx(2.0, abs=1e-3)


def test_after_a_connection_the_delay_is_in_proportion_to_the_backlog_and_bounded() -> None:
    now = Now()
    pace = Pace(DrainLimits(rate_per_s=5, burst=20, spread_s=600), now, lambda: 0.5)
    for backlog, delay_s in ((0, 0.0), (10, 1.0), (1000, 100.0), (100_000, 300.0)):
        pace.connected(backlog)
        assert pace.due() - now.s == pytest.approx(delay_s)


@given(st.floats(0.1, 1000), st.integers(1, 500), st.integers(0, 5000), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_no_stretch_of_time_has_more_than_rate_and_burst(rate: float, burst: int, backlog: int, share: float) -> None:
    now = Now()
    pace = Pace(DrainLimits(rate_per_s=rate, burst=burst), now, lambda: share)
    pace.connected(backlog)
    times = sending_times(pace, now, 60)
    for first in range(0, 60, 7):
        for last in range(first, 60, 5):
            assert last - first <= burst + (times[last] - times[first]) * rate + 1.001


def test_ten_thousand_simulated_boards_that_come_back_together_stay_below_their_common_rate() -> None:
    chance, limits = random.Random(1), DrainLimits()
    per_second: dict[int, int] = {}
    for _ in range(10_000):
        now = Now()
        pace = Pace(limits, now, chance.random)
        pace.connected(30)
        for moment in sending_times(pace, now, 30):
            per_second[int(moment - 50)] = per_second.get(int(moment - 50), 0) + 1
    assert sum(per_second.values()) == 300_000
    assert max(per_second.values()) <= 10_000 * limits.rate_per_s * 1.05
    assert per_second[0] < max(per_second.values()) / 4
