"""The watch: a slowdown is seen within stated inferences, noise is not, and causes are told apart."""

from __future__ import annotations

import random

import numpy as np
import pytest

from agent.core.watch import RECOVER_REPORTS, Cause, Chart, Conditions, Watch, causes
from benchmarks.watch import MOST, calls, false_alarms, report, seen_after

GOOD, SLOW = [1_000_000] * 50, [1_300_000] * 50
BURST_REPORTS = 4


@pytest.mark.parametrize(("spread", "most"), [(0.03, 300), (0.1, 400), (0.2, MOST)])
def test_a_slowdown_of_a_fifth_is_seen_within_so_many_inferences(spread: float, most: int) -> None:
    draw = np.random.default_rng(7)
    seen = sorted(seen_after(draw, spread, 1.2, 50) or 10**9 for _ in range(20))
    assert seen[18] <= most, seen


@pytest.mark.parametrize("kind", ["independent", "correlated", "bursts"])
def test_noise_is_no_alarm(kind: str) -> None:
    assert false_alarms(np.random.default_rng(7), 0.2, 50, kind) == 0


def test_the_stated_rate_of_false_alarms_holds_at_the_worst_rate_that_is_still_good() -> None:
    """With a threshold of ln 100 instead, the mean run until a false alarm is at least 100 reports."""
    from agent.core import watch

    draw = random.Random(7)
    kept = watch.THRESHOLD, watch._MOST_ADDED
    try:
        watch.THRESHOLD, watch._MOST_ADDED = 4.605, 4.605
        runs = []
        for _ in range(100):
            chart, reports = watch._Cusum(*watch.RATES["slower"]), 0
            while not chart.alarmed:
                chart.add(sum(draw.random() < watch.RATES["slower"][0] for _ in range(20)), 20)
                reports += 1
            runs.append(reports)
    finally:
        watch.THRESHOLD, watch._MOST_ADDED = kept
    assert sum(runs) / len(runs) >= 100


def test_a_burst_is_no_alarm_what_lasts_is_and_it_recovers() -> None:
    watch = Watch(0.001, 0.01)
    for _ in range(BURST_REPORTS):
        assert watch.add(report(SLOW)) is None
    for _ in range(50):
        assert watch.add(report(GOOD)) is None
    changes = [watch.add(report(SLOW)) for _ in range(BURST_REPORTS + 1)]
    assert [one is not None for one in changes] == [False] * BURST_REPORTS + [True]
    assert changes[-1] is not None
    assert (changes[-1].degraded, changes[-1].charts) == (True, ("slower",))
    assert all(watch.add(report(SLOW)) is None for _ in range(100))  # one alarm, however long it lasts
    back = [watch.add(report(GOOD)) for _ in range(RECOVER_REPORTS)]
    assert [one for one in back if one is not None] == [back[-1]]
    assert back[-1] is not None
    assert not back[-1].degraded
    assert watch.degraded == ()


@pytest.mark.parametrize(
    ("latencies", "errors", "charts"),
    [
        ([12_000_000] * 50, 0, ("slower", "over_budget")),
        (GOOD, 5, ("failing",)),
        ([], 5, ("failing",)),
        (GOOD, 0, ()),
        ([], 0, ()),
    ],
)
def test_what_is_wrong_is_named(latencies: list[int], errors: int, charts: tuple[Chart, ...]) -> None:
    watch = Watch(0.001, 0.01)
    for _ in range(30):
        watch.add(report(latencies, errors))
    assert watch.degraded == charts


def test_without_a_measurement_or_a_budget_only_failures_are_seen() -> None:
    watch = Watch(None, None)
    for _ in range(50):
        watch.add(report(calls(np.random.default_rng(7), 50, 0.2) * 100))
    assert watch.degraded == ()


THEN = Conditions(
    temperature_celsius=50.0, clock_hz=1.5e9, governor="performance", power_mode="MAXN", engine_version="1.23.2",
    kernel="6.6.1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("now", "kinds", "says"),
    [
        ({"supply_ok": False}, ["supply"], "voltage is too low"),
        ({"throttle": ("under_voltage", "throttled", "frequency_capped")}, ["supply"], "says under_voltage"),
        ({"throttle": ("VDD_IN_over_current",)}, ["supply"], "VDD_IN_over_current"),
        ({"throttle": ("soft_temperature_limit",), "temperature_celsius": 82.0}, ["heat"], "at 82.0 °C"),
        ({"throttle": ("under_voltage", "soft_temperature_limit")}, ["supply", "heat"], "voltage"),
        ({"temperature_celsius": 75.0, "clock_hz": 1.2e9}, ["heat"], "1.2 GHz instead of 1.5 GHz"),
        ({"temperature_celsius": 75.0, "clock_hz": 1.5e9}, ["model"], "nothing known of the board differs"),
        ({"governor": "powersave"}, ["governor"], "the governor is powersave, and was performance"),
        ({"power_mode": "15W"}, ["governor"], "the power mode is 15W, and was MAXN"),
        ({"engine_version": "1.24.0"}, ["update"], "the engine is 1.24.0, and was 1.23.2"),
        ({"kernel": "6.12.0"}, ["update"], "the kernel is 6.12.0"),
        ({"memory_pressure": 0.3}, ["memory"], "30% of the time somebody waits"),
        ({"others_share": 0.6, "agent_share": 0.5}, ["neighbour"], "others use 60% of the processors, boardfit's own"),
        ({"processor_pressure": 0.6}, ["neighbour"], "60% of the time somebody waits for a core"),
        ({"processor_pressure": 0.6, "others_share": 0.01}, ["model"], "the model or"),
        ({"others_share": 0.1, "memory_pressure": 0.01, "supply_ok": True, "throttle": ()}, ["model"], "the model or"),
        ({}, ["model"], "the model or"),
    ],
)  # fmt: skip
def test_causes_are_told_apart(now: dict[str, object], kinds: list[str], says: str) -> None:
    found: tuple[Cause, ...] = causes(THEN, Conditions(**now))
    assert [one.kind for one in found] == kinds
    assert any(says in one.text for one in found), found


def test_a_board_that_says_nothing_makes_no_cause_up() -> None:
    assert [one.kind for one in causes(Conditions(), Conditions())] == ["model"]
