"""The jobs that wait and the one at work: begun in order, each told in every state, each state with an end.

Rules:
- A job is stored as IN_PROGRESS before it begins; where that cannot be stored it does not begin. An end that the disk
  would not take is told all the same, and stored as soon as it does, so that no restart contradicts it.
- A waiting job ends when its command expires, one at work at its deadline; both are counted by the monotonic clock, so
  that a clock set back prolongs nothing. A waiting one ends too when the clock, set ahead meanwhile, says so: by it the
  command would not have been taken.
- Progress is published and not kept: it wears no memory card, and a lost step is followed by the next.
- Who has left the operator list in the meantime, or has another role there, is not obeyed any more.
- A rollback goes before whatever waits and switches nothing: bench, sync and select do not keep a fault in service. It
  ends a deployment of its task that has switched and is not confirmed yet; what it goes back from is that release.

Leaves running the verb to the daemon: it asks ``begin``, says ``finish``, and stops the child when ``stop_asked``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from agent.clock import iso
from agent.core.operators import read_time
from agent.core.payloads import JobState
from agent.core.ports import ProgressEvent
from agent.core.slices import OVERLAP
from agent.core.topics import topic_for
from agent.orders.jobs import JobRecord, Jobs, after_restart
from agent.orders.outcome import read_outcome
from agent.report.outbox import Outbox
from agent.report.publisher import Publisher
from agent.site import Site

log = logging.getLogger("boardfit")

_SWITCHES = ("deploy", "rollback")
#: Orders whose verb has another name on the command line.
_VERBS = {"leave-safe-mode": ("recover", "--leave-safe-mode")}
MAX_WAITING = 50  # chosen: more is a mistake of whoever orders
_PROGRESS_PERIOD_S = 2.0
_SAVE_AGAIN_S = 30.0  # chosen: each try counts as a message that was not stored


class Line:
    """The jobs of one board. ``running`` is at work now; ``waiting`` begin in their order."""

    def __init__(self, site: Site, outbox: Outbox, publisher: Publisher, jobs: Jobs) -> None:
        self._site = site
        self._outbox = outbox
        self._publisher = publisher
        self._jobs = jobs
        self.waiting: list[JobRecord] = []
        self.running: JobRecord | None = None
        self._ends: dict[str, float] = {}  # waiting job -> monotonic time at which its command expires
        self._deadline: float | None = None
        self._stop: tuple[Literal["CANCELED", "TIMED_OUT"], str] | None = None
        self._leaving: dict[str, str] = {}  # waiting rollback -> the release it goes back from
        self._next_progress = 0.0
        self._unsaved: list[JobRecord] = []  # ends that were told and are not on disk yet
        self._save_again = 0.0

    @property
    def stop_asked(self) -> bool:
        """Return whether the job at work shall end."""
        return self._stop is not None

    @property
    def urgent(self) -> bool:
        """Return whether what waits first switches what serves: nothing that was not ordered may keep it waiting."""
        return bool(self.waiting) and self.waiting[0].verb in _SWITCHES

    def supersede(self, release: str | None, *, switched: bool, ordered: bool) -> bool:
        """Let what waits first end the deployment of its task that is under way. Returns: whether it is to be stopped.

        Args: release, switched: of that deployment, which is not confirmed yet. ordered: it is the job at work, and
            has been canceled then.
        """
        first = self.waiting[0]
        if ordered and not (first.verb == "rollback" and switched):
            return False
        if first.verb == "rollback" and switched and release is not None:
            self._leaving[first.id] = release
        if ordered:
            text = f"{first.issuer} ordered a rollback before it was confirmed; what ran before is back"
            self._stop = self._stop or ("CANCELED", text)
        return True

    def recover(self, now: datetime) -> None:
        """Settle what a restart has left. Args: now: aware, above the floor. Raises: StorageError."""
        for record in self._jobs.open_jobs():
            settled = after_restart(record, now)
            if settled is record:
                self.add(record, now)
            else:
                self._save(settled)

    def add(self, record: JobRecord, now: datetime) -> None:
        """Let a stored job wait for its turn."""
        place = len(self.waiting)
        if record.verb == "rollback":
            place = max((number + 1 for number, one in enumerate(self.waiting) if one.verb in _SWITCHES), default=0)
        self.waiting.insert(place, record)
        left = (read_time(record.expires_at) - now).total_seconds()
        self._ends[record.id] = self._site.clock.monotonic_s() + left

    def begin(self, objection: Callable[[JobRecord], str | None]) -> list[str] | None:
        """Begin the next job. Returns: the command line's words after ``boardfit``; None when nothing waits.

        Args: objection: why a job's issuer may not order it any more, None when he may.
        """
        self.tend()
        while self.waiting and self.running is None:
            leaving = self._leaving.get(self.waiting[0].id)
            record = self._leave(self.waiting[0])
            if (reason := objection(record)) is not None:
                self._save(self._ended(record, "CANCELED", reason))
                continue
            now = self._site.clock.utc()
            begun = msgspec.structs.replace(
                record, state="IN_PROGRESS", started_at=iso(now), revision=record.revision + 1,
                deadline_at=iso(now + timedelta(seconds=record.deadline_s)),
            )  # fmt: skip
            if not self._save(begun):
                self._end(self._ended(begun, "FAILED", "its beginning could not be stored, so it was not begun"))
                continue
            self.running, self._stop = begun, None
            self._deadline = self._site.clock.monotonic_s() + record.deadline_s
            return words_for(record) + ([] if leaving is None else ["--release", leaving])
        return None

    def progress(self, event: ProgressEvent) -> None:
        """Tell how the job at work gets on, every two seconds at most."""
        now = self._site.clock.monotonic_s()
        if self.running is None or now < self._next_progress or not self._publisher.online:
            return
        self._next_progress = now + _PROGRESS_PERIOD_S
        self.running = msgspec.structs.replace(self.running, revision=self.running.revision + 1)
        document = msgspec.structs.replace(
            self.running.document(self._outbox.origin()),
            stage=event.stage, done=event.done, total=event.total, reason=event.text,
            progress_ratio=min(1.0, event.done / event.total) if event.total else None,
        )  # fmt: skip
        self._publisher.say(self._topic(document.id), document, qos=0)

    def finish(self, code: int, printed: bytes, *, stopping: bool = False) -> None:
        """Settle the job at work by what its verb returned. Args: stopping: the agent itself is being stopped."""
        record, self.running, self._deadline = self.running, None, None
        if record is None:
            return
        reason, result = read_outcome(code, printed)
        state: JobState = "SUCCEEDED" if code == 0 else "FAILED"
        if state == "FAILED" and self._stop is not None:
            state, reason = self._stop
        elif state == "FAILED" and stopping:
            reason = "the agent was stopped; what was finished is stored"
        self._stop = None
        ended = self._ended(record, state, reason)
        ended = msgspec.structs.replace(ended, exit_code=code if code >= 0 else None, result=result)
        self._end(ended)

    def canceled(self, job_id: str, by: str) -> JobRecord | None:
        """Return what a waiting job is once it is canceled, to be stored with the cancel; None for any other."""
        found = next((one for one in self.waiting if one.id == job_id), None)
        return None if found is None else self._ended(found, "CANCELED", f"canceled by {by} before it began")

    def cancel(self, job_id: str, by: str) -> None:
        """Take a job out of the line, whose end is stored; one at work is asked to stop."""
        for record in [one for one in self.waiting if one.id == job_id]:
            self._leave(record)
        if self.running is not None and self.running.id == job_id:
            self._stop = ("CANCELED", f"canceled by {by}; what was finished is stored")

    def tend(self) -> None:
        """End what has run out of time."""
        now, wall = self._site.clock.monotonic_s(), self._site.clock.utc()
        over = [one for one in self.waiting if now >= self._ends[one.id] or wall >= read_time(one.expires_at)]
        for record in over:
            text = f"it had not begun when it expired at {record.expires_at}"
            self._save(self._ended(self._leave(record), "TIMED_OUT", text))
        if self._unsaved and now >= self._save_again:
            self._save_again = now + _SAVE_AGAIN_S
            self._unsaved = [one for one in self._unsaved if not self._save(one)]
        if self.running is not None and self._deadline is not None and now >= self._deadline:
            self._deadline = None
            text = f"it took longer than {self.running.deadline_s:g} s; what was finished is stored"
            self._stop = self._stop or ("TIMED_OUT", text)

    def deadline(self) -> float | None:
        """Return the monotonic time at which ``tend`` has work."""
        ends = [*self._ends.values(), *([] if self._deadline is None else [self._deadline])]
        ends += [self._save_again] if self._unsaved else []
        return min(ends, default=None)

    def say(self, record: JobRecord) -> None:
        """Publish a job's document without keeping it."""
        self._publisher.say(self._topic(record.id), record.document(self._outbox.origin()))

    def tell(self, record: JobRecord, also: Callable[..., None], *more: JobRecord) -> bool:
        """Store a job with what ``also`` writes, and queue its document and those of ``more``, all or none.

        Returns: False when the disk refuses.
        """
        origin = self._outbox.origin()
        stored = self._outbox.put_all([(self._topic(one.id), one.document(origin)) for one in (record, *more)], also)
        self._publisher.poke()
        return bool(stored)

    def _end(self, record: JobRecord) -> None:
        """Store an end and tell it; where the disk does not take it, tell it now and store it later."""
        if not self._save(record):
            self.say(record)
            self._unsaved.append(record)
            self._save_again = self._site.clock.monotonic_s() + _SAVE_AGAIN_S

    def _save(self, record: JobRecord) -> bool:
        return self.tell(record, lambda connection: Jobs.save(connection, record))

    def _leave(self, record: JobRecord) -> JobRecord:
        self.waiting.remove(record)
        del self._ends[record.id]
        self._leaving.pop(record.id, None)
        return record

    def _ended(self, record: JobRecord, state: JobState, reason: str | None) -> JobRecord:
        return msgspec.structs.replace(
            record, state=state, reason=reason, finished_at=iso(self._site.clock.utc()), revision=record.revision + 1
        )

    def _topic(self, job_id: str) -> str:
        return topic_for(self._outbox.address, "job", job_id)


def words_for(record: JobRecord) -> list[str]:
    """Return the command line of a job's verb; its arguments were checked when the command was read."""
    given = record.arguments
    words = [*_VERBS.get(record.verb, (record.verb,))]
    for name in ("task", "candidate"):
        if given.get(name) is not None:
            words += [f"--{name}", str(given[name])]
    for candidate in given.get("candidates", ()):
        words += ["--candidate", str(candidate)]
    for board in given.get("among", ()):
        words += ["--among", str(board)]
    if given.get("among"):
        words += ["--overlap", str(given.get("overlap", OVERLAP))]
    return words + [f"--{name}" for name in ("again", "exhaustive", "sustained") if given.get(name)]
