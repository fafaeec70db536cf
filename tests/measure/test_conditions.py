from __future__ import annotations

from typing import Any

import pytest

from agent.core.facts import BoardIdentity, CpuFacts, DeviceFacts, MemoryFacts, OsFacts
from agent.core.measurement import ContextReading
from agent.core.ports import SchedulerCounters
from agent.measure.conditions import (
    Contention,
    contention,
    context,
    is_contended,
    limit_celsius,
)
from agent.measure.settings import MeasureSettings

SETTINGS = MeasureSettings()


def reading(**fields: Any) -> ContextReading:
    return ContextReading(monotonic_s=0.0, **fields)


@pytest.mark.parametrize(
    ("before", "after", "flags"),
    [
        ({}, {}, ()),
        ({"temperature_celsius": 79.0}, {"temperature_celsius": 79.9}, ()),
        ({"temperature_celsius": 60.0}, {"temperature_celsius": 80.0}, ("hot",)),
        ({"throttle_now": ()}, {"throttle_now": ("soft_limit",)}, ("throttled",)),
        ({"throttle_counts": {"a": 1}}, {"throttle_counts": {"a": 2}}, ("throttled",)),
        ({"throttle_counts": {"a": 1}}, {"throttle_counts": {"a": 1, "b": 9}}, ()),
        ({"clock_max_hz": 2e9}, {"clock_max_hz": 1e9}, ("clock_changed",)),
        ({"clock_hz": 6e8, "clock_max_hz": 2e9}, {"clock_hz": 2e9, "clock_max_hz": 2e9}, ()),
        ({"governor": "ondemand"}, {"governor": "performance"}, ("clock_changed",)),
        ({"power_mode": "15W"}, {"power_mode": "7W"}, ("clock_changed",)),
        ({"steal_ratio": 0.5}, {"steal_ratio": 0.01}, ()),
        ({}, {"steal_ratio": 0.06}, ("steal",)),
        ({"supply_ok": True}, {"supply_ok": False}, ("low_supply",)),
    ],
)
def test_flags(before: dict[str, Any], after: dict[str, Any], flags: tuple[str, ...]) -> None:
    found = context([reading(**before), reading(**after)], None, SETTINGS)
    assert found.flags == flags
    assert (found.before, found.after) == (reading(**before), reading(**after))


def test_what_happened_in_the_middle_is_not_lost() -> None:
    readings = [reading(), reading(throttle_now=("cap",)), reading(throttle_now=())]
    assert context(readings, None, SETTINGS).flags == ("throttled",)


@pytest.mark.parametrize(("profile_says", "flags"), [(None, ()), (60.0, ("hot",)), (95.0, ())])
def test_a_boards_own_limit_wins_over_the_setting(profile_says: float | None, flags: tuple[str, ...]) -> None:
    facts = DeviceFacts(
        board=BoardIdentity(model=None, profile="generic", matched_on="nothing"),
        cpu=CpuFacts(architecture="", present=(0,), usable=(0,)),
        memory=MemoryFacts(total_bytes=1),
        os=OsFacts(),
        class_fingerprint="x",
        throttle_celsius=profile_says,
    )
    limit = limit_celsius(facts, SETTINGS)
    assert limit == (profile_says or SETTINGS.hot_celsius)
    readings = [reading(temperature_celsius=50.0), reading(temperature_celsius=62.0)]
    assert context(readings, None, SETTINGS, limit).flags == flags


def counters(wait_s: float, switches: int) -> SchedulerCounters:
    return SchedulerCounters(run_s=0.0, wait_s=wait_s, involuntary_switches=switches)


def test_the_view_from_outside_wins_over_the_workers_own() -> None:
    assert contention(counters(1.0, 5), counters(1.5, 25), 2.0, 0.9, 0) == Contention(0.25, 20, 2.0, 0)
    assert contention(None, counters(1.5, 25), 2.0, 0.9, 3) == Contention(0.9, None, 2.0, 3)


@pytest.mark.parametrize(
    ("timed", "contended"),
    [
        (Contention(0.05, 2, 1.0, 0), False),
        (Contention(0.50, 140, 1.0, 0), True),
        (Contention(0.05, 2, 1.0, 1), True),
        (Contention(None, 3, 1.0, 0), False),
        (Contention(None, 130, 1.0, 0), True),
        (Contention(None, None, 1.0, 0), False),
    ],
)
def test_contention_is_seen_by_queue_wait_or_by_switches(timed: Contention, contended: bool) -> None:
    assert is_contended(timed, SETTINGS) is contended
    assert ("contended" in context([reading(), reading()], timed, SETTINGS).flags) is contended
