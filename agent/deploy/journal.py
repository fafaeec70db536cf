"""The durable record of where each task's deployment stands, and of the models that failed.

Rules:
- One row per task. A phase is stored before its action is carried out; a blame or a pardon is stored in the same
  transaction as the phase it belongs to, so that a restart never counts twice.
- ``writes`` counts the writes of the present attempt; ``phases.MAX_WRITES`` bounds it.
- ``restore_current`` and ``restore_previous`` are where the two links go when this attempt is rolled back.
- A row of another schema version is refused, not guessed at.

History: schema 1 first version.
"""

from __future__ import annotations

import sqlite3

import msgspec

from agent.database import Database
from agent.deploy.phases import MAX_FAILURES
from agent.errors import DeploymentError

SCHEMA_VERSION = 1

_TABLES = (
    """CREATE TABLE IF NOT EXISTS deployment_journal (
        task TEXT PRIMARY KEY, schema_version INTEGER NOT NULL, phase TEXT NOT NULL, changed_at TEXT NOT NULL,
        writes INTEGER NOT NULL, release TEXT, candidate TEXT, artifact_sha256 TEXT,
        restore_current TEXT, restore_previous TEXT, outcome TEXT, reason TEXT)""",
    """CREATE TABLE IF NOT EXISTS deployment_failures (
        task TEXT NOT NULL, artifact_sha256 TEXT NOT NULL, candidate TEXT NOT NULL, failures INTEGER NOT NULL,
        reason TEXT NOT NULL, failed_at TEXT NOT NULL, PRIMARY KEY (task, artifact_sha256))""",
    """CREATE TABLE IF NOT EXISTS deployment_attempts (
        task TEXT NOT NULL, artifact_sha256 TEXT NOT NULL, options TEXT NOT NULL, day TEXT NOT NULL,
        attempts INTEGER NOT NULL, PRIMARY KEY (task, artifact_sha256, options))""",
)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One row: the present or last attempt of a task."""

    task: str
    phase: str
    changed_at: str  # UTC, ISO 8601 with Z
    writes: int = 0
    release: str | None = None
    candidate: str | None = None
    artifact_sha256: str | None = None
    restore_current: str | None = None
    restore_previous: str | None = None
    outcome: str | None = None
    reason: str | None = None


WITHDRAWN = "rolled back by hand"
REFUSED = "refused by its shadow run"


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """How often in a row a model failed in deployment, and how the last time."""

    task: str
    artifact_sha256: str
    candidate: str
    failures: int
    reason: str
    failed_at: str

    @property
    def text(self) -> str:
        """Why no pass may try it, for a person."""
        if self.reason == WITHDRAWN or self.reason.startswith(REFUSED):
            return self.reason
        return f"quarantined after {self.failures} failures, the last: {self.reason}"


_COLUMNS = Record.__struct_fields__
_FAILURE_COLUMNS = Failures.__struct_fields__


class Journal:
    """The journal in an open state database. Raises: StorageError, from every method that writes or reads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.ensure(_TABLES)

    def read(self, task: str) -> Record | None:
        """Return a task's row, or None. Raises: DeploymentError: written by another version."""
        rows = self._database.rows("SELECT * FROM deployment_journal WHERE task = ?", (task,))
        return _record(rows[0]) if rows else None

    def records(self) -> tuple[Record, ...]:
        """Return all rows by task. Raises: DeploymentError: one was written by another version."""
        return tuple(map(_record, self._database.rows("SELECT * FROM deployment_journal ORDER BY task")))

    def write(self, record: Record, *, blame: str | None = None, pardon: bool = False) -> Record:
        """Store a row, durable on return, and return it with ``writes`` one higher.

        Args:
            blame: count one failure of the row's artifact, for this reason.
            pardon: forget the failures of the row's artifact.
        """
        record = msgspec.structs.replace(record, writes=record.writes + 1)
        names = ", ".join(("schema_version", *_COLUMNS))
        marks = ", ".join("?" * (len(_COLUMNS) + 1))
        values = (SCHEMA_VERSION, *(getattr(record, name) for name in _COLUMNS))
        with self._database.transaction() as connection:
            connection.execute(f"INSERT OR REPLACE INTO deployment_journal ({names}) VALUES ({marks})", values)  # noqa: S608 - own names
            if blame is not None and record.artifact_sha256 is not None:
                connection.execute(
                    """INSERT INTO deployment_failures (task, artifact_sha256, candidate, failures, reason, failed_at)
                       VALUES (?, ?, ?, 1, ?, ?) ON CONFLICT (task, artifact_sha256) DO UPDATE SET
                       failures = failures + 1, candidate = excluded.candidate, reason = excluded.reason,
                       failed_at = excluded.failed_at""",
                    (record.task, record.artifact_sha256, record.candidate or "", blame, record.changed_at),
                )
            if pardon:
                _forget(connection, record.task, record.artifact_sha256)
        return record

    def failures(self) -> tuple[Failures, ...]:
        """Return every model with failures on record."""
        rows = self._database.rows("SELECT * FROM deployment_failures ORDER BY task, candidate, artifact_sha256")
        return tuple(Failures(**{name: row[name] for name in _FAILURE_COLUMNS}) for row in rows)

    def withdraw(self, task: str, artifact_sha256: str, candidate: str, reason: str, at: str) -> None:
        """Count a model as failed for good, for a reason that is not a failure of its own."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO deployment_failures"
                " (task, artifact_sha256, candidate, failures, reason, failed_at) VALUES (?, ?, ?, ?, ?, ?)",
                (task, artifact_sha256, candidate, MAX_FAILURES, reason, at),
            )

    def attempts(self, task: str, artifact_sha256: str, options: str, day: str) -> int:
        """Return how often a model with its options was tried on a day (UTC, ``2026-01-31``)."""
        where = "task = ? AND artifact_sha256 = ? AND options = ? AND day = ?"
        found = self._database.rows(
            f"SELECT attempts FROM deployment_attempts WHERE {where}",  # noqa: S608 - own names
            (task, artifact_sha256, options, day),
        )
        return int(found[0]["attempts"]) if found else 0

    def count_attempt(self, task: str, artifact_sha256: str, options: str, day: str, by: int) -> None:
        """Count an attempt on a day; those of other days are forgotten."""
        before = self.attempts(task, artifact_sha256, options, day)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO deployment_attempts VALUES (?, ?, ?, ?, ?)",
                (task, artifact_sha256, options, day, max(0, before + by)),
            )

    def forget_attempts(self, task: str) -> None:
        """Let everything of a task be tried again today."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM deployment_attempts WHERE task = ?", (task,))

    def pardon(self, task: str, artifact_sha256: str) -> None:
        """Forget the failures of one model, and how often it was tried."""
        with self._database.transaction() as connection:
            _forget(connection, task, artifact_sha256)


def _forget(connection: sqlite3.Connection, task: str, artifact_sha256: str | None) -> None:
    for table in ("deployment_failures", "deployment_attempts"):
        connection.execute(f"DELETE FROM {table} WHERE task = ? AND artifact_sha256 = ?", (task, artifact_sha256))  # noqa: S608 - own names


def _record(row: sqlite3.Row) -> Record:
    if row["schema_version"] != SCHEMA_VERSION:
        raise DeploymentError(
            f"the deployment journal of task {row['task']} has schema {row['schema_version']}, not {SCHEMA_VERSION}",
            fix="start the boardfit version that wrote it once, so that it finishes what it began",
        )
    return Record(**{name: row[name] for name in _COLUMNS})
