"""What a board may do in a day: limits, unknown figures, and days that never go back."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from agent.core.allowance import Caps, DayUse, cap_reached, day_at


def at(day: int, hour: int = 12, year: int = 2026) -> datetime:
    return datetime(year, 5, day, hour, tzinfo=timezone.utc)


USED = DayUse(day="2026-05-04", boot_id="a", began_s=100.0, bench_s=60.0, download_bytes=5, written_bytes=7)


@pytest.mark.parametrize(
    ("caps", "says"),
    [
        (Caps(), None),
        (Caps(bench_s=61.0, download_bytes=6, written_bytes=8), None),
        (Caps(bench_s=60.0), "1 min of measuring are used up"),
        (Caps(download_bytes=5), "5 B of downloads are used up"),
        (Caps(written_bytes=7), "7 B of writing are used up"),
    ],
)
def test_a_limit_is_reached_when_it_is_used_up(caps: Caps, says: str | None) -> None:
    reached = cap_reached(caps, USED)
    assert reached is None if says is None else says in (reached or "")


def test_work_under_way_counts_and_what_cannot_be_counted_reaches_its_limit() -> None:
    caps = Caps(written_bytes=10)
    assert cap_reached(caps, USED, written_now=2) is None
    assert cap_reached(caps, USED, written_now=3) is not None
    assert "cannot be counted" in (cap_reached(caps, USED, written_known=False) or "")
    assert cap_reached(Caps(bench_s=99.0), USED, written_known=False) is None


def test_a_new_day_begins_anew_and_the_same_day_goes_on() -> None:
    assert day_at(None, at(4), 5.0, "a") == DayUse(day="2026-05-04", boot_id="a", began_s=5.0)
    assert day_at(USED, at(4, 23), 9e9, "b") == USED
    assert day_at(USED, at(5, 0), 5.0, "a") == DayUse(day="2026-05-05", boot_id="a", began_s=5.0)


def test_a_clock_set_back_gives_no_fresh_day_until_a_day_has_passed() -> None:
    back = at(1, year=1970)
    assert day_at(USED, back, 100.0 + 86399, "a") == USED
    assert day_at(USED, back, 100.0 + 86400, "a").bench_s == 0.0
    rebooted = day_at(USED, back, 3.0, "b")
    assert (rebooted.bench_s, rebooted.boot_id, rebooted.began_s) == (60.0, "b", 3.0)
    assert day_at(rebooted, back, 3.0 + 86400, "b").bench_s == 0.0
