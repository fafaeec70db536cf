"""What a board remembers of its work: facts, measurements (with raw values), decisions, its schedule, its operators.

Rules:
- Of each (task, artifact, point, class) the newest ``KEPT_PER_KEY`` measurements are kept; the newest speaks.
- All measurements together stay below ``MEASUREMENTS_MAX_BYTES``: models come and go, and a board outlives many.
- A document that this version cannot read is skipped and counted, never deleted.

Leaves what the figures mean to ``agent.core`` and ``agent.select``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from agent.core.combination import Combination, JointMeasurement
from agent.core.decision import ClassCheck, Decision
from agent.core.facts import DeviceFacts
from agent.core.measurement import Measurement, OperatingPoint
from agent.database import Database

KEPT_PER_KEY = 5  # chosen: enough to see a drift, 5 x 32 kB raw at most
MEASUREMENTS_MAX_BYTES = 64 << 20  # chosen: two thousand with raw values; what was measured longest ago goes
_KEPT_DECISIONS = 100
_KEPT_JOINT = 200  # a few kB each

_Document = TypeVar("_Document")

_TABLES = (
    """CREATE TABLE IF NOT EXISTS measurement (
        id TEXT PRIMARY KEY, task TEXT NOT NULL, artifact TEXT NOT NULL, point TEXT NOT NULL,
        class TEXT NOT NULL, started_at TEXT NOT NULL, document BLOB NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS measurement_key ON measurement (task, class, artifact, point, started_at)",
    """CREATE TABLE IF NOT EXISTS decision (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE, task TEXT NOT NULL, document BLOB NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS joint (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        class TEXT NOT NULL, members TEXT NOT NULL, document BLOB NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS combination (number INTEGER PRIMARY KEY AUTOINCREMENT, document BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS facts (one INTEGER PRIMARY KEY CHECK (one = 1), document BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS scheduled (name TEXT PRIMARY KEY, ran_at TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS class_told (
        board TEXT NOT NULL, class TEXT NOT NULL, heard_at TEXT NOT NULL, document BLOB NOT NULL,
        PRIMARY KEY (class, board))""",
    """CREATE TABLE IF NOT EXISTS class_check (
        task TEXT NOT NULL, class TEXT NOT NULL, document BLOB NOT NULL, PRIMARY KEY (task, class))""",
    "CREATE TABLE IF NOT EXISTS operators (one INTEGER PRIMARY KEY CHECK (one = 1), document BLOB NOT NULL)",
)


class Records:
    """Reads and writes measurements and decisions.

    Attributes: unreadable: how many stored documents the last reading had to skip.
    """

    def __init__(self, database: Database, *, measurements_max_bytes: int = MEASUREMENTS_MAX_BYTES) -> None:
        self._database = database
        self._measurements_max_bytes = measurements_max_bytes
        self.unreadable = 0
        database.ensure(_TABLES)

    def add_measurement(self, measurement: Measurement) -> None:
        """Store one measurement durably and prune older ones of the same key. Raises: StorageError."""
        point = msgspec.json.encode(measurement.point, order="sorted").decode()
        key = (measurement.task, measurement.class_fingerprint, measurement.artifact_sha256, point)
        with self._database.transaction(essential=False) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO measurement VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    measurement.id,
                    measurement.task,
                    measurement.artifact_sha256,
                    point,
                    measurement.class_fingerprint,
                    measurement.started_at,
                    msgspec.json.encode(measurement),
                ),
            )
            connection.execute(
                """DELETE FROM measurement WHERE task=? AND class=? AND artifact=? AND point=? AND id NOT IN (
                    SELECT id FROM measurement WHERE task=? AND class=? AND artifact=? AND point=?
                    ORDER BY rowid DESC LIMIT ?)""",
                (*key, *key, KEPT_PER_KEY),
            )
            connection.execute(
                """DELETE FROM measurement WHERE rowid IN (SELECT one FROM (
                    SELECT rowid AS one, SUM(length(document)) OVER (ORDER BY rowid DESC) AS upto FROM measurement)
                    WHERE upto > ?)""",
                (self._measurements_max_bytes,),
            )

    def measurements(self, task: str, class_fingerprint: str) -> tuple[Measurement, ...]:
        """Return the newest measurement of each key for this task on this class of board, oldest first."""
        rows = self._database.rows(
            """SELECT document FROM measurement WHERE rowid IN (
                SELECT MAX(rowid) FROM measurement WHERE task=? AND class=? GROUP BY artifact, point) ORDER BY rowid""",
            (task, class_fingerprint),
        )
        return tuple(self._decoded([row["document"] for row in rows]))

    def forget_measurements(self, task: str, engine: str) -> int:
        """Forget what was measured of a task on an engine that is no longer what it was. Returns: how many."""
        gone = [
            row["id"] for row in self._database.rows("SELECT id, point FROM measurement WHERE task=?", (task,))
            if msgspec.json.decode(row["point"], type=OperatingPoint).engine == engine
        ]  # fmt: skip
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM measurement WHERE id=?", [(one,) for one in gone])
        return len(gone)

    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that have measurements or decisions."""
        rows = self._database.rows("SELECT task FROM measurement UNION SELECT task FROM decision ORDER BY task")
        return tuple(row["task"] for row in rows)

    def add_decision(self, decision: Decision) -> None:
        """Store one decision durably; the newest hundred of a task are kept. Raises: StorageError."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO decision (id, task, document) VALUES (?, ?, ?)",
                (decision.id, decision.task, msgspec.json.encode(decision)),
            )
            connection.execute(
                """DELETE FROM decision WHERE task=? AND number NOT IN (
                    SELECT number FROM decision WHERE task=? ORDER BY number DESC LIMIT ?)""",
                (decision.task, decision.task, _KEPT_DECISIONS),
            )

    def keep_class(self, class_fingerprint: str, told: dict[str, bytes], heard_at: str) -> None:
        """Store what other boards of a class told, by board, in the place of what was known. Raises: StorageError."""
        with self._database.transaction(essential=False) as connection:
            connection.execute("DELETE FROM class_told")  # of another class, too: this board is of one at a time
            connection.executemany(
                "INSERT INTO class_told VALUES (?, ?, ?, ?)",
                [(board, class_fingerprint, heard_at, document) for board, document in sorted(told.items())],
            )

    def class_told(self, class_fingerprint: str) -> tuple[bytes, ...]:
        """Return what other boards of a class told, each as ``keep_class`` stored it."""
        rows = self._database.rows("SELECT document FROM class_told WHERE class=? ORDER BY board", (class_fingerprint,))
        return tuple(bytes(row["document"]) for row in rows)

    def class_heard_at(self, class_fingerprint: str) -> str | None:
        """Return when anything of a class was heard last (UTC, ISO 8601); None where nothing is known of it."""
        rows = self._database.rows("SELECT MAX(heard_at) AS at FROM class_told WHERE class=?", (class_fingerprint,))
        return rows[0]["at"] if rows else None

    def keep_class_checks(self, task: str, class_fingerprint: str, checks: tuple[ClassCheck, ...]) -> None:
        """Store how this board's own latencies stand to its class's, for one task. Raises: StorageError."""
        with self._database.transaction(essential=False) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO class_check VALUES (?, ?, ?)",
                (task, class_fingerprint, msgspec.json.encode(checks)),
            )

    def class_checks(self, task: str, class_fingerprint: str) -> tuple[ClassCheck, ...]:
        """Return what ``keep_class_checks`` stored last; nothing where there is none, or it cannot be read."""
        rows = self._database.rows(
            "SELECT document FROM class_check WHERE task=? AND class=?", (task, class_fingerprint)
        )
        try:
            return msgspec.json.decode(rows[0]["document"], type=tuple[ClassCheck, ...]) if rows else ()
        except msgspec.DecodeError:
            self.unreadable += 1
            return ()

    def last_decision(self, task: str) -> Decision | None:
        """Return the newest decision of a task, or None."""
        rows = self._database.rows("SELECT document FROM decision WHERE task=? ORDER BY number DESC LIMIT 1", (task,))
        return self._one(rows, Decision)

    def add_joint(self, joint: JointMeasurement) -> None:
        """Store a run of several tasks together; the newest of the same members and the newest of all are kept."""
        members = _members_text(joint.key)
        with self._database.transaction(essential=False) as connection:
            connection.execute("DELETE FROM joint WHERE class=? AND members=?", (joint.class_fingerprint, members))
            connection.execute(
                "INSERT INTO joint (class, members, document) VALUES (?, ?, ?)",
                (joint.class_fingerprint, members, msgspec.json.encode(joint)),
            )
            connection.execute(
                "DELETE FROM joint WHERE number NOT IN (SELECT number FROM joint ORDER BY number DESC LIMIT ?)",
                (_KEPT_JOINT,),
            )

    def joint(self, key: tuple[object, ...]) -> JointMeasurement | None:
        """Return the newest run together of these members on this class, or None. Args: key: of the measurement."""
        rows = self._database.rows(
            "SELECT document FROM joint WHERE class=? AND members=?", (str(key[0]), _members_text(key))
        )
        return self._one(rows, JointMeasurement)

    def add_combination(self, combination: Combination) -> None:
        """Store what several tasks got of the board; the newest hundred are kept. Raises: StorageError."""
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO combination (document) VALUES (?)", (msgspec.json.encode(combination),))
            connection.execute(
                """DELETE FROM combination WHERE number NOT IN (
                    SELECT number FROM combination ORDER BY number DESC LIMIT ?)""",
                (_KEPT_DECISIONS,),
            )

    def last_combination(self) -> Combination | None:
        """Return the newest combination, or None."""
        rows = self._database.rows("SELECT document FROM combination ORDER BY number DESC LIMIT 1")
        return self._one(rows, Combination)

    def keep_facts(self, facts: DeviceFacts) -> None:
        """Store what this board is; the newest replaces the older. Raises: StorageError."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (1, ?)", (msgspec.json.encode(facts),))

    def facts(self) -> DeviceFacts | None:
        """Return what this board was found to be, None before the first profile or when the row cannot be read."""
        return self._one(self._database.rows("SELECT document FROM facts"), DeviceFacts)

    def keep_run(self, name: str, ran_at: str) -> None:
        """Store the due moment for which a schedule entry was served, or when it was first seen (UTC, ISO 8601)."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO scheduled VALUES (?, ?)", (name, ran_at))

    def last_runs(self) -> dict[str, str]:
        """Return the newest due moment for which each schedule entry was served."""
        return {row["name"]: row["ran_at"] for row in self._database.rows("SELECT name, ran_at FROM scheduled")}

    def keep_operators(self, document: bytes | None) -> None:
        """Store the registry's signed operator list as of the last sync; None: it has none. Raises: StorageError."""
        if document == self.operators():
            return
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM operators")
            if document is not None:
                connection.execute("INSERT INTO operators VALUES (1, ?)", (document,))

    def operators(self) -> bytes | None:
        """Return the operator list as ``keep_operators`` stored it."""
        rows = self._database.rows("SELECT document FROM operators")
        return bytes(rows[0]["document"]) if rows else None

    def count_unreadable(self) -> int:
        """Return how many of all stored documents this version cannot read. Raises: StorageError."""
        kinds = {
            "measurement": Measurement, "decision": Decision, "joint": JointMeasurement, "combination": Combination,
            "facts": DeviceFacts,
        }  # fmt: skip
        found = 0
        for table, kind in kinds.items():
            for row in self._database.rows(f"SELECT document FROM {table}"):  # noqa: S608 - our own names
                try:
                    msgspec.json.decode(row["document"], type=kind)
                except msgspec.DecodeError:
                    found += 1
        return found

    def _one(self, rows: Sequence[Any], kind: type[_Document]) -> _Document | None:
        """Return the document of the first row; None without one, and where it cannot be read."""
        try:
            return msgspec.json.decode(rows[0]["document"], type=kind) if rows else None
        except msgspec.DecodeError:
            self.unreadable += 1
            return None

    def _decoded(self, documents: list[bytes]) -> list[Measurement]:
        self.unreadable = 0
        decoded = []
        for document in documents:
            try:
                decoded.append(msgspec.json.decode(document, type=Measurement))
            except msgspec.DecodeError:
                self.unreadable += 1
        return decoded


def _members_text(key: tuple[object, ...]) -> str:
    return msgspec.json.encode(key[1:], order="sorted").decode()
