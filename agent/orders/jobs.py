"""The jobs of a board and the counters of its issuers, on disk: the memory that makes "at most once" true.

Rules:
- A counter and its job are stored in one transaction, with the document that tells of it, before anything is done.
- After a restart no job is begun twice: one that was at work has failed. One that waited goes on waiting, but for those
  that named an epoch: that ended with the restart, so an old disk put back into a board cannot switch what serves.
- Of finished jobs the newest ``KEPT`` are kept.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Any

import msgspec

from agent.clock import iso
from agent.core.operators import read_time
from agent.core.payloads import Job, JobState, Origin, Scalar
from agent.database import Database
from agent.errors import OrderError

KEPT = 500  # chosen: what an operator may still ask about; 0.5 KiB each
FINAL = frozenset({"SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED"})
#: Progress documents count on from the stored revision; after a restart nobody knows how far they came.
_REVISION_GAP = 1_000_000

_TABLES = (
    "CREATE TABLE IF NOT EXISTS order_counter (keyid TEXT PRIMARY KEY, counter INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS job (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, final INTEGER NOT NULL,
        document BLOB NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS order_time (one INTEGER PRIMARY KEY CHECK (one = 1), at TEXT NOT NULL)",
)


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One job as it is stored. ``digest`` is of the envelope as it came; times are UTC text."""

    id: str
    verb: str
    issuer: str
    keyid: str
    digest: str
    state: JobState
    queued_at: str
    expires_at: str
    deadline_s: float
    arguments: dict[str, Any] = {}
    revision: int = 1
    epoch: bool = False
    deadline_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    reason: str | None = None
    exit_code: int | None = None
    result: dict[str, Scalar] = {}

    def document(self, origin: Origin) -> Job:
        """Return what the fleet is told."""
        task = self.arguments.get("task")
        return Job(
            **msgspec.structs.asdict(origin),
            id=self.id,
            verb=self.verb,
            state=self.state,
            reason=self.reason,
            issuer=self.issuer,
            task=task if isinstance(task, str) else None,
            queued_at=self.queued_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            deadline_at=None if self.state in FINAL else self.deadline_at,
            revision=self.revision,
            exit_code=self.exit_code,
            result=self.result,
        )


class Jobs:
    """Reads and writes jobs and counters. Each method raises StorageError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.ensure(_TABLES)

    def counter(self, keyid: str) -> int:
        """Return the greatest counter taken from a key, 0 for none."""
        rows = self._database.rows("SELECT counter FROM order_counter WHERE keyid = ?", (keyid,))
        return int(rows[0]["counter"]) if rows else 0

    def floor(self) -> datetime | None:
        """Return when the last command was taken: time is not before it."""
        rows = self._database.rows("SELECT at FROM order_time")
        try:
            return read_time(rows[0]["at"]) if rows else None
        except OrderError:
            return None

    def find(self, job_id: str) -> JobRecord | None:
        """Return a job by its id."""
        rows = self._database.rows("SELECT document FROM job WHERE id = ?", (job_id,))
        return msgspec.json.decode(rows[0]["document"], type=JobRecord) if rows else None

    def open_jobs(self) -> list[JobRecord]:
        """Return the jobs that are not final, in the order they were taken."""
        rows = self._database.rows("SELECT document FROM job WHERE final = 0 ORDER BY number")
        return [msgspec.json.decode(row["document"], type=JobRecord) for row in rows]

    @staticmethod
    def accept(connection: sqlite3.Connection, record: JobRecord, counter: int, at: datetime) -> None:
        """Store a new job with its issuer's counter, within the caller's transaction."""
        connection.execute("INSERT OR REPLACE INTO order_counter VALUES (?, ?)", (record.keyid, counter))
        connection.execute("INSERT OR REPLACE INTO order_time VALUES (1, ?)", (iso(at),))
        connection.execute(
            "INSERT INTO job (id, final, document) VALUES (?, ?, ?)",
            (record.id, record.state in FINAL, msgspec.json.encode(record)),
        )
        connection.execute(
            "DELETE FROM job WHERE final = 1 AND number NOT IN (SELECT number FROM job ORDER BY number DESC LIMIT ?)",
            (KEPT,),
        )

    @staticmethod
    def save(connection: sqlite3.Connection, record: JobRecord) -> None:
        """Store a job's new state, within the caller's transaction."""
        connection.execute(
            "UPDATE job SET final = ?, document = ? WHERE id = ?",
            (record.state in FINAL, msgspec.json.encode(record), record.id),
        )


def after_restart(record: JobRecord, now: datetime) -> JobRecord:
    """Return what has become of an open job by a restart of the agent. Pure. Args: now: aware, above the floor."""
    if record.state == "QUEUED" and not record.epoch and now < read_time(record.expires_at):
        return record
    state: JobState = "FAILED"
    if record.state == "IN_PROGRESS":
        reason = "interrupted by a restart of the agent; what was finished is stored"
    elif now >= read_time(record.expires_at):
        state, reason = "TIMED_OUT", f"it had not begun when it expired at {record.expires_at}"
    else:
        reason = "the epoch it named ended with a restart of the agent before it began"
    return msgspec.structs.replace(
        record, state=state, reason=reason, finished_at=iso(now), revision=record.revision + _REVISION_GAP
    )
