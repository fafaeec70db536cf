"""Which entries of a schedule are open at a moment, over restarts, long sleeps and clocks that jump. Pure.

Rules:
- An entry is open from its due moment until it is served or its window ends; of several missed moments only the newest.
- While the clock says a time before this program was written it is not set: nothing is open, nothing counts as missed.
- When wall and monotonic clock disagree the wall clock was stepped (or the board slept): everything is worked out anew
  from the last served moments. Ahead by a week: each entry once, within its window. Back by an hour: what was served is
  not served again. Back by more than to the next due moment: what a wrong clock served is forgotten, so that nothing
  waits for years.
- An entry that was never served counts as missed only from when the agenda first saw a set clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone, tzinfo
from typing import NamedTuple

from agent.core.schedule import ScheduleEntry, missed_due, next_due

PLAUSIBLE = datetime(2024, 1, 1, tzinfo=timezone.utc)  # before boardfit: a clock that says less is not set
STEP_S = 30.0  # chosen: slewing and drift between two looks are far below, and a smaller step harms nobody


class Open(NamedTuple):
    """An entry that is to be served, and the moment it was due."""

    entry: ScheduleEntry
    due: datetime

    @property
    def until(self) -> datetime:
        """The end of its window."""
        return self.due + timedelta(seconds=self.entry.window_s)


class Agenda:
    """The open entries of one board.

    Args: served: the newest due moment of each entry that was served.   zone: of the cron fields.
    """

    def __init__(
        self,
        entries: Sequence[ScheduleEntry],
        device_id: str,
        served: Mapping[str, datetime],
        zone: tzinfo = timezone.utc,
    ) -> None:
        self._entries = tuple(entries)
        self._device_id = device_id
        self._zone = zone
        self._served = dict(served)
        self._since: datetime | None = None
        self._last: tuple[datetime, float] | None = None
        self._open: dict[str, datetime] = {}
        self._next: dict[str, datetime] = {}

    @property
    def clock_is_set(self) -> bool:
        """Whether the last look saw a time that can be right."""
        return self._last is not None

    def look(self, wall: datetime, monotonic_s: float) -> tuple[Open, ...]:
        """Bring the agenda to this moment. Returns: what was open and is no longer, though nobody served it."""
        before = self.open()
        if wall < PLAUSIBLE:
            self._last = None
            self._open, self._next = {}, {}
            return before
        if self._stepped(wall, monotonic_s):
            self._since = wall if self._since is None else min(self._since, wall)
            for entry in self._entries:
                self._plan(entry, wall)
        else:
            for entry in self._entries:
                if wall >= self._next[entry.name]:
                    self._plan(entry, wall)
                due = self._open.get(entry.name)
                if due is not None and wall >= due + timedelta(seconds=entry.window_s):
                    del self._open[entry.name]
        self._last = (wall, monotonic_s)
        return tuple(one for one in before if self._open.get(one.entry.name) != one.due)

    def open(self) -> tuple[Open, ...]:
        """Return what is open, the earliest due first."""
        found = [Open(entry, self._open[entry.name]) for entry in self._entries if entry.name in self._open]
        return tuple(sorted(found, key=lambda one: one.due))

    def serve(self, name: str, due: datetime) -> None:
        """Note that an entry was served for a due moment."""
        self._served[name] = due
        if self._open.get(name) == due:
            del self._open[name]

    def next_dues(self) -> dict[str, datetime]:
        """Return when each entry is due next, in UTC; empty while the clock is not set."""
        return dict(self._next)

    def wake_at(self) -> datetime | None:
        """Return the wall time at which ``look`` will find something changed, None while the clock is not set."""
        return min([*self._next.values(), *(one.until for one in self.open())], default=None)

    def _stepped(self, wall: datetime, monotonic_s: float) -> bool:
        if self._last is None:
            return True
        before, then_s = self._last
        return abs((wall - before).total_seconds() - (monotonic_s - then_s)) > STEP_S

    def _plan(self, entry: ScheduleEntry, wall: datetime) -> None:
        self._next[entry.name] = next_due(entry, wall, self._device_id, self._zone)
        served = self._served.get(entry.name)
        if served is not None and served > self._next[entry.name]:
            del self._served[entry.name]
            served = wall
        due = missed_due(entry, served or self._since, wall, self._device_id, self._zone)
        self._open.pop(entry.name, None)
        if due is not None:
            self._open[entry.name] = due
