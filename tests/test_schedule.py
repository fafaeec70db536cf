"""Schedules: jitter spreads a fleet and keeps a board predictable; a missed entry is caught up once, in its window."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from agent.clock import LocalZone
from agent.core.schedule import (
    Condition,
    Readings,
    ScheduleEntry,
    condition_failure,
    jitter_s,
    missed_due,
    next_due,
    parse_condition,
)
from agent.errors import ConfigError

NIGHTLY = ScheduleEntry(name="nightly", action="pass", cron="0 3 * * *", jitter_s=900, window_s=7200)


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 5, day, hour, minute, tzinfo=timezone.utc)


def test_the_delay_is_a_constant_of_the_board_within_the_jitter() -> None:
    delays = {jitter_s(NIGHTLY, f"board-{number}") for number in range(200)}
    assert len(delays) == 200
    assert min(delays) >= 0
    assert min(delays) < 60
    assert max(delays) > 840
    assert max(delays) < 900
    assert jitter_s(NIGHTLY, "board-7") == jitter_s(NIGHTLY, "board-7")


def test_next_due_is_after_now_and_includes_the_delay() -> None:
    delay = timedelta(seconds=jitter_s(NIGHTLY, "b"))
    assert next_due(NIGHTLY, at(1, 12), "b") == at(2, 3) + delay
    assert next_due(NIGHTLY, at(2, 3) + delay, "b") == at(3, 3) + delay


@pytest.mark.parametrize(
    ("cron", "after", "dues"),
    [
        # 2026-03-29: the clock goes from 2 to 3 in the morning, at 1 UTC
        ("30 2 * * *", "2026-03-28T12:00+00:00", ["2026-03-29T01:30+00:00", "2026-03-30T00:30+00:00"]),
        # 2026-10-25: the clock goes from 3 back to 2, at 1 UTC
        ("30 2 * * *", "2026-10-24T12:00+00:00", ["2026-10-25T00:30+00:00", "2026-10-26T01:30+00:00"]),
        ("*/30 * * * *", "2026-10-25T00:10+00:00", ["2026-10-25T00:30+00:00", "2026-10-25T02:00+00:00"]),
    ],
)
def test_a_night_in_which_the_clock_is_changed_has_the_entry_once(cron: str, after: str, dues: list[str]) -> None:
    entry = ScheduleEntry(name="e", action="sync", cron=cron)
    moment, found = datetime.fromisoformat(after), []
    for _ in dues:
        moment = next_due(entry, moment, "b", ZoneInfo("Europe/Berlin"))
        found.append(moment)
    assert found == [datetime.fromisoformat(due) for due in dues]


def test_the_board_s_own_zone_is_as_the_zone_database_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        moment = at(1, 12)
        for _ in range(400):
            expected = next_due(NIGHTLY, moment, "b", ZoneInfo("Europe/Berlin"))
            assert next_due(NIGHTLY, moment, "b", LocalZone()) == expected
            moment = expected
    finally:
        monkeypatch.undo()
        time.tzset()


def test_many_missed_nights_are_caught_up_once_and_only_within_the_window() -> None:
    delay = timedelta(seconds=jitter_s(NIGHTLY, "b"))
    assert missed_due(NIGHTLY, at(1, 4), at(9, 4), "b") == at(9, 3) + delay
    assert missed_due(NIGHTLY, at(9, 4), at(9, 4, 30), "b") is None
    assert missed_due(NIGHTLY, at(1, 4), at(9, 12), "b") is None
    assert missed_due(NIGHTLY, None, at(9, 4), "b") is None


@pytest.mark.parametrize(
    ("condition", "reading", "says"),
    [
        (parse_condition("load", "< 0.5", where="w"), {"load_per_core": 0.49}, None),
        (parse_condition("load", "< 0.5", where="w"), {"load_per_core": 0.5}, "does not hold"),
        (parse_condition("temperature", "< 60 C", where="w"), {"temperature_celsius": 71.0}, "it is 71.00"),
        (parse_condition("temperature", "< 60 C", where="w"), {}, "does not report temperature"),
        (parse_condition("power", "mains", where="w"), {"on_mains": True}, None),
        (parse_condition("power", "mains", where="w"), {"on_mains": False}, "runs on its battery"),
        (parse_condition("power", "mains", where="w"), {}, "does not say what feeds it"),
        (Condition(quantity="temperature", below=False, limit=0.0), {"temperature_celsius": 5.0}, None),
    ],
)
def test_conditions_hold_fail_or_cannot_be_judged(
    condition: Condition, reading: dict[str, float], says: str | None
) -> None:
    failure = condition_failure((condition,), Readings(**reading))
    assert failure is None if says is None else says in (failure or "")


def test_a_condition_needs_a_comparison_and_a_unit() -> None:
    with pytest.raises(ConfigError, match="does not compare"):
        parse_condition("load", "0.5", where="w")
    with pytest.raises(ConfigError, match="has no unit"):
        parse_condition("temperature", "< 60", where="w")
