"""The agenda over simulated days: restarts, sleeps and clocks that jump; once each, never a storm, never forever."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.agenda import Agenda, Open
from agent.core.schedule import ScheduleEntry

NIGHTLY = ScheduleEntry(name="nightly", action="bench", cron="0 3 * * *", window_s=7200)
OFTEN = ScheduleEntry(name="often", action="sync", cron="*/5 * * * *", window_s=600)


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 5, day, hour, minute, tzinfo=timezone.utc)


class Simulated:
    """An agenda whose clocks the test moves. ``served`` notes what was served, and when by the wall clock."""

    def __init__(self, wall: datetime, *entries: ScheduleEntry, served: dict[str, datetime] | None = None) -> None:
        self.wall, self.monotonic_s = wall, 100.0
        self.agenda = Agenda(entries, "board", served or {})
        self.served: list[tuple[str, datetime, datetime]] = []
        self.lost: list[Open] = []
        self.look()

    def look(self) -> None:
        self.lost += self.agenda.look(self.wall, self.monotonic_s)

    def set_clock(self, wall: datetime) -> None:
        self.wall = wall
        self.look()

    def wait(self, *, minutes: float, serve: bool = True) -> None:
        """Let time pass as a loop does: look when the agenda says so, and every minute at the latest."""
        end_s = self.monotonic_s + minutes * 60
        while self.monotonic_s < end_s:
            if serve:
                for one in self.agenda.open():
                    self.agenda.serve(one.entry.name, one.due)
                    self.served.append((one.entry.name, one.due, self.wall))
            wake = self.agenda.wake_at()
            step = 60.0 if wake is None else min(60.0, max(0.5, (wake - self.wall).total_seconds()))
            self.wall += timedelta(seconds=step)
            self.monotonic_s += step
            self.look()


def test_a_quiet_week_serves_each_night_once_and_on_time() -> None:
    simulated = Simulated(at(1, 12), NIGHTLY)
    simulated.wait(minutes=7 * 24 * 60)
    assert [due for _, due, _ in simulated.served] == [at(day, 3) for day in range(2, 9)]
    assert all(when - due <= timedelta(seconds=1) for _, due, when in simulated.served)
    assert simulated.lost == []


def test_after_days_off_the_newest_is_caught_up_once_and_only_in_its_window() -> None:
    simulated = Simulated(at(9, 4), NIGHTLY, OFTEN, served={"nightly": at(1, 3), "often": at(1, 3)})
    assert [(one.entry.name, one.due) for one in simulated.agenda.open()] == [
        ("nightly", at(9, 3)),
        ("often", at(9, 4)),
    ]
    simulated.wait(minutes=2)
    assert len(simulated.served) == 2
    assert Simulated(at(9, 6), NIGHTLY, served={"nightly": at(1, 3)}).agenda.open() == ()


def test_a_clock_that_is_not_set_has_nothing_due_and_once_set_catches_up_once() -> None:
    simulated = Simulated(datetime(1970, 1, 1, 2, 59, tzinfo=timezone.utc), NIGHTLY, served={"nightly": at(1, 3)})
    simulated.wait(minutes=600)
    assert simulated.served == []
    assert not simulated.agenda.clock_is_set
    simulated.set_clock(at(9, 4))
    simulated.wait(minutes=120)
    assert [due for _, due, _ in simulated.served] == [at(9, 3)]


def test_a_clock_that_was_years_ahead_forgets_what_it_served() -> None:
    ahead = datetime(2031, 5, 4, 2, 0, tzinfo=timezone.utc)
    simulated = Simulated(ahead, NIGHTLY)
    simulated.wait(minutes=120)
    assert [due.year for _, due, _ in simulated.served] == [2031]
    simulated.set_clock(at(4, 12))
    simulated.wait(minutes=24 * 60)
    assert [due for _, due, _ in simulated.served[1:]] == [at(5, 3)]
    restarted = Simulated(at(4, 12), NIGHTLY, served={"nightly": ahead + timedelta(hours=1)})
    restarted.wait(minutes=24 * 60)
    assert [due for _, due, _ in restarted.served] == [at(5, 3)]


def test_a_clock_set_back_by_an_hour_serves_nothing_twice() -> None:
    simulated = Simulated(at(4, 2), NIGHTLY)
    simulated.wait(minutes=65)
    simulated.set_clock(simulated.wall - timedelta(hours=1))
    simulated.wait(minutes=180)
    assert [due for _, due, _ in simulated.served] == [at(4, 3)]


def test_an_entry_that_cannot_run_is_lost_once_and_its_next_moment_comes() -> None:
    simulated = Simulated(at(4, 2), NIGHTLY)
    simulated.wait(minutes=24 * 60, serve=False)
    assert [(one.entry.name, one.due) for one in simulated.lost] == [("nightly", at(4, 3))]
    assert simulated.agenda.next_dues() == {"nightly": at(5, 3)}


def test_a_newer_moment_takes_the_place_of_one_still_waiting() -> None:
    simulated = Simulated(at(4, 2), OFTEN)
    simulated.wait(minutes=12, serve=False)
    assert [one.due for one in simulated.agenda.open()] == [at(4, 2, 10)]
    assert [one.due for one in simulated.lost] == [at(4, 2, 5)]


def test_an_open_entry_that_never_ran_stays_open_when_the_clock_is_corrected() -> None:
    simulated = Simulated(at(4, 2, 59), NIGHTLY)
    simulated.wait(minutes=5, serve=False)
    simulated.set_clock(simulated.wall + timedelta(minutes=2))
    assert [one.due for one in simulated.agenda.open()] == [at(4, 3)]
    assert simulated.lost == []


@pytest.mark.parametrize("entry", [NIGHTLY, OFTEN])
@given(steps=st.lists(st.tuples(st.integers(1, 400), st.integers(-100_000, 100_000)), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_however_the_clock_jumps_there_is_no_storm_and_nothing_is_missed_forever(
    entry: ScheduleEntry, steps: list[tuple[int, int]]
) -> None:
    """After each jump of minutes the board runs for a while; at the end it runs two days with a steady
    clock: what was served just before the last jump back is not served again, and the next may be a day after it."""
    simulated = Simulated(at(15, 12), entry)
    period = 86400.0 if entry is NIGHTLY else 300.0
    for run, jump in steps:
        before, began_s = len(simulated.served), simulated.monotonic_s
        simulated.wait(minutes=run)
        passed = simulated.monotonic_s - began_s
        assert len(simulated.served) - before <= passed / period + 2  # one caught up, and one at the seam
        simulated.set_clock(simulated.wall + timedelta(minutes=jump))
    before = len(simulated.served)
    simulated.wait(minutes=48 * 60 + 10)
    assert len(simulated.served) - before >= 1
