"""What the schedule wants done now, what is put off and why, and when work that is under way has to give way.

Rules:
- One entry at a time, and only while nothing else is done. An entry is served once its work has ended by itself; work
  of the same action that began after it was due serves it too.
- An entry whose conditions do not hold waits within its window and is judged again every minute; the first time, and
  when its window ends, the fleet is told.
- Work that was begun gives way when a condition fails at two looks in a row (a spike is no reason), or when a limit of
  the day is reached. What it finished is stored, and the entry goes on within its window or at its next one. While our
  own work runs, load is what everybody else uses.
- A deployment under way is never broken off for this: the child is asked by a signal of its own (SIGUSR1).
- An entry that was begun five times without an end, by crashes or by giving way, is left out until it is due again.
- What makes way for an order is begun again like what gives way; orders themselves never give way to the schedule.
- What a full disk does not take of all this is said in the log and kept in memory: no daemon ends for it.
- A pass that the watch asks for, or other budgets or objectives, is begun like an entry without conditions; any pass
  that begins serves the wish. What is measured already is not measured again for it.
- What is not in the schedule and due at idle, the replay of golden inputs, comes after it (``agent.watch.replaying``).
- The limits of the day bind what the board does by itself (start-up and schedule), never what a person asked for.

Leaves the arithmetic of time to ``agent.core.agenda`` and of limits to ``agent.core.allowance``; doing the work to
``agent.daemon``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from agent.clock import LocalZone, iso, read_iso
from agent.core.agenda import Agenda, Open
from agent.core.allowance import cap_reached
from agent.core.schedule import Readings, ScheduleEntry, condition_failure
from agent.device.neighbours import Ticks, others_share
from agent.errors import StorageError
from agent.site import Site
from agent.watch.replaying import ReplayTimes

log = logging.getLogger("boardfit")

RECHECK_S = 60.0  # how often a condition that did not hold is judged again
WATCH_S = 15.0  # how often the conditions of work under way are judged
_LOOKS = 2
MOST_STARTS = 5  # chosen: of one due moment


class Work(NamedTuple):
    """One piece of work and why it is done. ``capped``: the limits of the day bind it; ``due``: of its entry.

    ``action``: an ``Action``, or the words of a job.
    """

    action: str
    cause: str
    capped: bool = False
    entry: str | None = None
    due: datetime | None = None


class _Running:
    """The work under way."""

    def __init__(self, work: Work, pid: int, began: datetime) -> None:
        self.work, self.pid, self.began = work, pid, began
        self.look_s = 0.0
        self.failures = 0
        self.ticks: Ticks | None = None
        self.written_before: int | None = None
        self.yielded: str | None = None


class Timetable:
    """The schedule of one board, and the limits of its days."""

    def __init__(self, site: Site, idle_s: Callable[[], float | None] = lambda: None) -> None:
        """Begin. Args: idle_s: for how long no application has told of a request, None where none tells anything."""
        self._site = site
        self._idle_s = idle_s
        self._entries: dict[str, ScheduleEntry] = {}
        self._agenda = Agenda((), "", {})
        self._new: set[str] = set()  # entries seen for the first time
        self._running: _Running | None = None
        self._judge_s: dict[str, float] = {}  # entry -> when it is judged again, monotonic
        self._reasons: dict[str, tuple[datetime, str]] = {}  # entry -> the due moment put off, and why
        self._last_deferred: tuple[str, str, str] | None = None
        self._replays = ReplayTimes(site)
        self._wished: str | None = None  # why somebody asks for a pass
        self._asked_of: dict[str, object] | None = None  # of each task: what is allowed and preferred

    def wish(self, cause: str) -> None:
        """Have a pass begun once nothing else is done and the limits of the day allow it. Args: cause: why."""
        self._wished = self._wished or cause

    def plan(self) -> None:
        """Read the schedule in force and what was served, and tell the fleet when the entries are due."""
        self._entries = {entry.name: entry for entry in self._site.config.schedule}
        known = self._site.records.last_runs()
        served = {name: read_iso(text) for name, text in known.items()}
        self._new = set(self._entries) - set(known)
        self._agenda = Agenda(self._site.config.schedule, self._site.device_id, served, LocalZone())
        asked_of: dict[str, object] = {
            name: (task.budgets, task.objectives) for name, task in self._site.config.tasks.items()
        }
        changed = [name for name, asked in asked_of.items() if (self._asked_of or asked_of).get(name) != asked]
        self._asked_of = asked_of
        if changed:
            text = f"{', '.join(changed)}: what is allowed or preferred has changed"
            self._site.report.event("reselection_wanted", text, level="info")
            self.wish(text)
        self._look()
        self._tell()

    def deadlines(self, now_s: float) -> list[float]:
        """Return the monotonic times at which ``tend`` has something to do."""
        wall, wake = self._site.clock.utc(), self._agenda.wake_at()
        found = [] if wake is None else [now_s + max(0.0, (wake - wall).total_seconds())]
        if self._running is None:
            found += [self._judge_s.get(one.entry.name, now_s) for one in self._agenda.open()]
            found += [] if (due_s := self._replays.deadline(now_s)) is None else [due_s]
        return found

    def tend(self, *, idle: bool) -> Work | None:
        """Bring the schedule to this moment. Returns: the work to do now; None unless ``idle``."""
        now_s = self._site.clock.monotonic_s()
        for lost in self._look():
            self._left_out(lost)
        if not idle:
            return None
        for one in self._agenda.open():
            if now_s < self._judge_s.get(one.entry.name, now_s):
                continue
            if self._site.ledger.starts(one.entry.name, iso(one.due)) >= MOST_STARTS:
                self._serve(one)
                text = f"{one.entry.name} was begun {MOST_STARTS} times without an end; it is tried again when next due"
                self._site.report.event("schedule_skipped", text)
                continue
            failure = self._cap_reached() or self._failure(one, self._resting())
            if failure is None:
                self._judge_s.pop(one.entry.name, None)
                return Work(one.entry.action, f"schedule {one.entry.name}", True, one.entry.name, one.due)
            self._judge_s[one.entry.name] = now_s + RECHECK_S
            self._put_off(one.entry.name, one.due, failure, "waits")
        if self._wished is not None and self._cap_reached() is None:
            cause, self._wished = self._wished, None
            return Work("pass", cause, capped=True)
        found = self._replays.tend(lambda when: self._cap_reached() or condition_failure(when, self._resting()))
        return None if found is None else Work(*found, capped=True)

    def barred(self, work: Work) -> str | None:
        """Return which limit of the day keeps this work from beginning, None when none does."""
        return self._cap_reached() if work.capped else None

    def begin(self, work: Work, pid: int) -> None:
        """Note that work was begun in a child."""
        running = self._running = _Running(work, pid, self._site.clock.utc())
        self._wished = None if work.action == "pass" else self._wished
        running.look_s = self._site.clock.monotonic_s() + WATCH_S
        running.ticks = self._site.board.processor_ticks(os.getpid())
        running.written_before = self._site.board.written_bytes(os.getpid())
        if work.entry is not None and work.due is not None:
            self._kept(self._site.ledger.begin, work.entry, iso(work.due))

    def watch(self) -> str | None:
        """Return why the work under way must give way, once; None while it may go on."""
        running = self._running
        if running is None or running.yielded is not None:
            return None
        reason = self._cap_reached(self._written(running)) if running.work.capped else None
        now_s = self._site.clock.monotonic_s()
        if reason is None and now_s >= running.look_s and running.work.entry in self._entries:
            running.look_s = now_s + WATCH_S
            failure = condition_failure(self._entries[running.work.entry].when, self._working(running))
            running.failures = 0 if failure is None else running.failures + 1
            reason = failure if running.failures >= _LOOKS else None
        running.yielded = reason
        if reason is not None and running.work.entry is not None and running.work.due is not None:
            self._put_off(running.work.entry, running.work.due, reason, "gives way")
        elif reason is not None:
            self._site.report.event(
                "work_gives_way", f"{running.work.action} ({running.work.cause}) gives way: {reason}"
            )
        return reason

    def end(self, *, cut_short: bool, complete: bool) -> bool:
        """Note that the child has ended.

        Args: cut_short: it was asked to end.   complete: it did all it had to all the same.
        Returns: whether it gave way.
        """
        running, self._running = self._running, None
        if running is None:
            return False
        written = self._written(running)
        if written:
            self._kept(self._site.ledger.add, written_bytes=written)
        gave_way = running.yielded is not None and not complete
        if gave_way and running.work.entry is not None:
            self._judge_s[running.work.entry] = self._site.clock.monotonic_s() + RECHECK_S
        if complete or not (gave_way or cut_short):
            entry = self._entries.get(running.work.entry or "")
            if entry is not None and running.work.due is not None:
                self._serve(Open(entry, running.work.due))
            for one in self._agenda.open():
                if one.entry.action == running.work.action and one.due <= running.began:
                    self._serve(one)
        self._tell()
        return gave_way

    def telemetry(self) -> dict[str, Any]:
        """Return the fields of a telemetry message that tell of schedule and limits."""
        use = self._site.ledger.today()
        fields: dict[str, Any] = {
            "bench_today_s": use.bench_s,
            "download_today_bytes": use.download_bytes,
            "written_today_bytes": use.written_bytes,
        }
        if self._last_deferred is not None:
            names = ("schedule_deferred_entry", "schedule_deferred_at", "schedule_deferred_reason")
            fields |= dict(zip(names, self._last_deferred, strict=True))
        dues = self._agenda.next_dues()
        if dues:
            name = min(dues, key=lambda one: dues[one])
            fields |= {"schedule_next_entry": name, "schedule_next_due": iso(dues[name])}
        elif self._entries:
            fields["schedule_deferred_reason"] = "the clock is not set, so nothing is due"
        return fields

    def _tell(self) -> None:
        dues = {name: iso(due) for name, due in self._agenda.next_dues().items()}
        self._kept(self._site.report.settings, self._site.config, self._site.settings, dues)

    def _look(self) -> tuple[Open, ...]:
        wall = self._site.clock.utc()
        lost = self._agenda.look(wall, self._site.clock.monotonic_s())
        if self._agenda.clock_is_set:
            # from now on it can be missed, over restarts too
            self._new = {name for name in self._new if not self._kept(self._site.records.keep_run, name, iso(wall))}
        return lost

    def _failure(self, one: Open, readings: Readings) -> str | None:
        return condition_failure(one.entry.when, readings) if one.entry.when else None

    def _resting(self) -> Readings:
        reading = self._site.board.read_context()
        load = reading.load_1min
        return Readings(
            load_per_core=None if load is None else load / max(1, self._site.board.usable_cores()),
            temperature_celsius=reading.temperature_celsius,
            on_mains=self._site.board.on_mains(),
            serving_idle_s=self._idle_s(),
        )

    def _working(self, running: _Running) -> Readings:
        ticks = self._site.board.processor_ticks(os.getpid())
        share, running.ticks = others_share(running.ticks, ticks), ticks
        return Readings(
            load_per_core=share,
            temperature_celsius=self._site.board.read_context().temperature_celsius,
            on_mains=self._site.board.on_mains(),
            serving_idle_s=self._idle_s(),
        )

    def _written(self, running: _Running) -> int | None:
        """Return what the child has written; what it leaves behind comes to us when it is taken leave of."""
        ours = self._site.board.written_bytes(os.getpid())
        if ours is None or running.written_before is None:
            return None
        return ours - running.written_before + (self._site.board.written_bytes(running.pid) or 0)

    def _cap_reached(self, written_now: int | None = 0) -> str | None:
        caps = self._site.config.caps
        if caps.bench_s is None and caps.download_bytes is None and caps.written_bytes is None:
            return None
        known = written_now is not None and self._site.board.written_bytes(os.getpid()) is not None
        return cap_reached(caps, self._site.ledger.today(), written_now=written_now or 0, written_known=known)

    def _put_off(self, name: str, due: datetime, reason: str, how: str) -> None:
        told = self._reasons.get(name)
        self._reasons[name] = (due, reason)
        self._last_deferred = (name, iso(self._site.clock.utc()), reason)
        if how == "gives way" or told is None or told[0] != due:
            self._site.report.event("schedule_deferred", f"{name} {how}: {reason}", level="info")

    def _left_out(self, lost: Open) -> None:
        self._judge_s.pop(lost.entry.name, None)
        running = self._running
        if running is not None and (running.work.entry, running.work.due) == (lost.entry.name, lost.due):
            return
        due, reason = self._reasons.get(lost.entry.name, (None, ""))
        why = reason if due == lost.due else "the agent was busy, or the clock was set"
        self._site.report.event("schedule_skipped", f"{lost.entry.name} is left out this time: {why}")

    def _serve(self, one: Open) -> None:
        self._agenda.serve(one.entry.name, one.due)
        self._judge_s.pop(one.entry.name, None)
        self._kept(self._site.records.keep_run, one.entry.name, iso(one.due))

    def _kept(self, write: Callable[..., None], *given: Any, **named: Any) -> bool:
        """Store something. Returns: False when the disk would not take it, which ends no daemon."""
        try:
            write(*given, **named)
        except StorageError as error:
            log.warning("%s", error)
            return False
        return True
