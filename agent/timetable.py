"""What the schedule wants done now: when each entry is due, and what becomes of one that may not run yet.

Leaves cron, jitter, windows and conditions to ``agent.core.schedule``, and doing the work to ``agent.daemon``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from agent.clock import iso
from agent.core.schedule import Action, ScheduleEntry, condition_failure, missed_due, next_due
from agent.site import Site

_RECHECK_S = 60.0  # how often a condition that did not hold is judged again


class Work(NamedTuple):
    """One piece of work and why it is done."""

    action: Action
    cause: str


class Timetable:
    """The schedule of one board. ``tend`` hands out what is due, once each."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._due: dict[str, datetime] = {}
        self._deferred: dict[str, datetime] = {}  # entry -> end of its window

    def plan(self) -> None:
        """Read when the entries last ran, and tell the fleet when they are due."""
        wall, last = self._site.clock.utc(), self._site.records.last_runs()
        for entry in self._site.config.schedule:
            ran = datetime.fromisoformat(last[entry.name].replace("Z", "+00:00")) if entry.name in last else None
            missed = missed_due(entry, ran, wall, self._site.device_id)
            self._due[entry.name] = missed or next_due(entry, wall.astimezone(), self._site.device_id)
        self._site.tell_settings({name: iso(due) for name, due in self._due.items()})

    def deadlines(self, now_s: float) -> list[float]:
        """Return the monotonic times at which ``tend`` has something to do."""
        wall = self._site.clock.utc()
        return [now_s + max(0.0, (due - wall).total_seconds()) for due in self._due.values()]

    def tend(self) -> list[Work]:
        """Return the work that is due now and may be done."""
        wall = self._site.clock.utc()
        due = (entry for entry in self._site.config.schedule if wall >= self._due[entry.name])
        return [work for entry in due if (work := self._fire(entry, wall)) is not None]

    def _fire(self, entry: ScheduleEntry, wall: datetime) -> Work | None:
        """Hand out a due entry, or put it off while its conditions do not hold and its window is open."""
        window_end = self._deferred.setdefault(entry.name, self._due[entry.name] + timedelta(seconds=entry.window_s))
        reading = self._site.board.read_context()
        failure = condition_failure(entry.when, reading, self._site.board.usable_cores())
        if failure is not None and wall + timedelta(seconds=_RECHECK_S) <= window_end:
            if self._due[entry.name] + timedelta(seconds=entry.window_s) == window_end:
                self._site.event("schedule_deferred", f"{entry.name} waits: {failure}", level="info")
            self._due[entry.name] = wall + timedelta(seconds=_RECHECK_S)
            return None
        del self._deferred[entry.name]
        self._due[entry.name] = next_due(entry, wall.astimezone(), self._site.device_id)
        if failure is not None:
            self._site.event("schedule_skipped", f"{entry.name} is left out this time: {failure}")
            return None
        self._site.records.keep_run(entry.name, iso(wall))
        return Work(entry.action, f"schedule {entry.name}")
