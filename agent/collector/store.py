"""Writes what boards tell into a database, a batch at a time. What is newer is decided in ``agent.collector.judging``.

Rules:
- One batch is one transaction: on disk when ``apply`` has returned, or not at all.
- Several processes may write. History is inserted first, without waiting for each other; then the fleet's row is
  locked, whose counter numbers the batch, and what is newest is written: batches show in the order of their numbers.
- What is stored of the newest is remembered here for as long as nobody else has written.
- A value that the database does not take costs its own document, never the batch.

Leaves reading to ``agent.collector.store_reading``, throwing away to ``agent.collector.store_keeping``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection, delete, func, select, tuple_, update

from agent.clock import read_iso
from agent.collector import store_schema as schema
from agent.collector.judging import Order, Taken, Writes, moment
from agent.collector.store_engine import open_engine, told
from agent.collector.store_rows import Rows, RowWriter
from agent.errors import StorageError

if TYPE_CHECKING:
    from datetime import datetime

MAX_DOCUMENTS = 200  # of one board: tasks and groups of telemetry are its own to name
_MOST_REMEMBERED = 2_000_000
_AT_ONCE = 500  # bound variables of one statement
_ATTEMPTS = 5  # at what another writer's lock undid


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a batch. ``refused``: documents that the database does not take, and why."""

    stored: tuple[Taken, ...]
    refused: tuple[tuple[Taken, str], ...] = ()
    left_out: int = 0  # a board told of more topics than are kept


class Store:
    """The writing end of one database. Close it, or use it as a context manager.

    Args: url: ``sqlite:///file`` or ``postgresql://...``.
    Raises: ConfigError: the URL. StorageError: it cannot be reached, or was made by a newer boardfit.
    """

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url, writes=True)
        self.name = self.engine.url.render_as_string(hide_password=True)
        self._orders: dict[str, dict[tuple[str, str], Order]] = {}
        self._cursors: dict[str, int] = {}
        self._rows = RowWriter(self.engine)
        self._ready = False

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    def open(self) -> None:
        """Connect, and make the tables where there are none. Raises: StorageError."""
        with told(self.engine), self.engine.begin() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(0x626F617264666974)))  # several may start at once
            schema.ensure(connection)
        self._ready = True

    def apply(self, batch: Sequence[Taken]) -> Applied:
        """Store a batch durably. Raises: StorageError: the database cannot be reached; nothing was stored then."""
        if not self._ready:
            self.open()
        stored: list[Taken] = []
        refused: list[tuple[Taken, str]] = []
        left_out = 0
        for fleet in dict.fromkeys(taken.fleet for taken in batch):
            part = [taken for taken in batch if taken.fleet == fleet]
            left_out += self._apply_sound(fleet, part, stored, refused)
        return Applied(stored=tuple(stored), refused=tuple(refused), left_out=left_out)

    def _apply_sound(
        self, fleet: str, batch: list[Taken], stored: list[Taken], refused: list[tuple[Taken, str]]
    ) -> int:
        """Store a batch, halving it around documents that the database does not take."""
        if not batch:
            return 0
        try:
            left_out = self._apply_patiently(fleet, batch)
        except StorageError as error:
            if error.facts.get("cause") != "data":
                raise
            if len(batch) == 1:
                refused.append((batch[0], error.problem))
                return 0
            half = len(batch) // 2
            return self._apply_sound(fleet, batch[:half], stored, refused) + self._apply_sound(
                fleet, batch[half:], stored, refused
            )
        stored.extend(batch)
        return left_out

    def _apply_patiently(self, fleet: str, batch: list[Taken]) -> int:
        for attempt in range(_ATTEMPTS):
            try:
                return self._apply(fleet, batch)
            except StorageError as error:
                self._forget(fleet)
                if error.facts.get("cause") != "again" or attempt + 1 == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _apply(self, fleet: str, batch: list[Taken]) -> int:
        with told(self.engine), self.engine.begin() as connection:
            self._insert_history(connection, batch)
            cursor = self._next_cursor(connection, fleet)
            if self._cursors.get(fleet) != cursor - 1:
                self._forget(fleet)
            known = self._orders.setdefault(fleet, {})
            self._learn(connection, fleet, known, batch)
            writes = Writes(known, _Room(self._counts(connection, fleet, known, batch)))
            for taken in batch:
                writes.add(taken)
            self._write(connection, fleet, cursor, writes)
        self._cursors[fleet] = cursor
        for key in [(taken.board, taken.topic) for taken in batch if taken.kind == "job"]:
            known.pop(key, None)
        if len(known) > _MOST_REMEMBERED:
            self._forget(fleet)
        return writes.left_out

    def _forget(self, fleet: str) -> None:
        self._orders.pop(fleet, None)
        self._cursors.pop(fleet, None)

    def _next_cursor(self, connection: Connection, fleet: str) -> int:
        table = schema.fleet
        bump = update(table).where(table.c.name == fleet).values(cursor=table.c.cursor + 1).returning(table.c.cursor)
        found = connection.execute(bump).scalar()
        if found is None:
            self._rows.add(connection, table, [{"name": fleet, "cursor": 0}])
            found = connection.execute(bump).scalar_one()
        return int(found)

    def _insert_history(self, connection: Connection, batch: list[Taken]) -> None:
        rows: dict[str, Rows] = {}
        for taken in batch:
            if taken.kind not in schema.history:
                continue
            key = {
                "fleet": taken.fleet, "board": taken.board, "seq": taken.order.seq, "digest": taken.digest,
                "at": moment(taken.at), "heard_at": moment(taken.order.heard_s), "boot_id": taken.order.boot_id,
                "payload": taken.payload,
            }  # fmt: skip
            rows.setdefault(taken.kind, []).extend({**key, **row} for row in taken.rows)
        for kind in sorted(rows):  # in one order everywhere, so that two writers do not wait for each other in a ring
            ordered = sorted(rows[kind], key=lambda row: (row["board"], row["seq"], row["digest"]))
            self._rows.add(connection, schema.history[kind], ordered)

    def _learn(
        self, connection: Connection, fleet: str, known: dict[tuple[str, str], Order], batch: list[Taken]
    ) -> None:
        """Read the orders of what is stored, where they are not known."""
        missing: dict[str, dict[str, None]] = {}
        jobs: dict[tuple[str, str], None] = {}
        for taken in batch:
            if taken.kind == "rollout":
                continue
            topics = ("job", "status") if taken.kind == "job" else (taken.topic, "status")
            if taken.kind == "job":
                jobs[taken.board, taken.parameter or ""] = None
            for topic in topics:
                if (taken.board, topic) not in known:
                    missing.setdefault(topic, {})[taken.board] = None
        table = schema.document
        columns = (table.c.board, table.c.boot_id, table.c.seq, table.c.time, table.c.uptime_s, table.c.heard_at)
        for topic, boards in missing.items():
            for some in _pieces(boards):
                asked = select(*columns).where(table.c.fleet == fleet, table.c.topic == topic, table.c.board.in_(some))
                for board, boot_id, seq, time, uptime_s, heard_at in connection.execute(asked):
                    known[board, topic] = Order(
                        boot_id=boot_id, seq=seq or 0, time_s=seconds_of(time), uptime_s=uptime_s,
                        heard_s=seconds_of(heard_at) or 0.0,
                    )  # fmt: skip
        made = schema.job.c
        for pairs in _pieces(jobs):
            revisions = select(made.board, made.id, made.revision)
            of_these = tuple_(made.board, made.id).in_(pairs)
            for row in connection.execute(revisions.where(made.fleet == fleet, of_these)):
                known[row[0], f"job/{row[1]}"] = Order(revision=row[2], heard_s=0.0)

    def _counts(
        self, connection: Connection, fleet: str, known: dict[tuple[str, str], Order], batch: list[Taken]
    ) -> dict[str, int]:
        table = schema.document
        new = {
            t.board: None
            for t in batch
            if t.kind in ("decision", "deployment", "telemetry") and (t.board, t.topic) not in known
        }
        counts = {}
        for some in _pieces(new):
            counted = select(table.c.board, func.count()).where(table.c.fleet == fleet, table.c.board.in_(some))
            counts.update({row[0]: row[1] for row in connection.execute(counted.group_by(table.c.board))})
        return counts

    def _write(self, connection: Connection, fleet: str, cursor: int, writes: Writes) -> None:
        for table, column in ((schema.document, "board"), (schema.board_task, "board"), (schema.board, "name")):
            for some in _pieces(dict.fromkeys(sorted(writes.removed))):
                connection.execute(delete(table).where(table.c.fleet == fleet, table.c[column].in_(some)))
        boards: dict[tuple[str, ...], Rows] = {}
        for name, columns in writes.boards.items():
            row: dict[str, Any] = {"fleet": fleet, "name": name, "removed": False, "change": cursor, **columns}
            row["heard_at"] = moment(row.pop("heard_s"))
            boards.setdefault(tuple(row), []).append(row)
        for rows in boards.values():
            self._rows.put(connection, schema.board, ("fleet", "name"), rows)
        documents = [
            {
                "fleet": fleet, "board": board, "topic": topic, "boot_id": taken.order.boot_id, "seq": taken.order.seq,
                "time": None if taken.order.time_s is None else moment(taken.order.time_s),
                "uptime_s": taken.order.uptime_s, "heard_at": moment(taken.order.heard_s), "payload": taken.payload,
            }
            for (board, topic), taken in writes.documents.items()
        ]  # fmt: skip
        self._rows.put(connection, schema.document, ("fleet", "board", "topic"), documents)
        tasks: dict[tuple[str, ...], Rows] = {}
        for (board, task), columns in writes.tasks.items():
            row = {"fleet": fleet, "board": board, "task": task, **columns}
            tasks.setdefault(tuple(row), []).append(row)
        for rows in tasks.values():
            self._rows.put(connection, schema.board_task, ("fleet", "board", "task"), rows)
        jobs = [
            {
                "fleet": fleet, "board": board, "id": taken.parameter, "at": moment(taken.at),
                "heard_at": moment(taken.order.heard_s), **taken.rows[0], "payload": taken.payload,
            }
            for (board, _), taken in writes.jobs.items()
        ]  # fmt: skip
        self._rows.put(connection, schema.job, ("fleet", "board", "id"), jobs)
        rollouts = [
            {"fleet": fleet, "id": name, "change": cursor, **taken.rows[0], "payload": taken.payload}
            for name, taken in writes.rollouts.items()
        ]
        self._rows.put(connection, schema.rollout, ("fleet", "id"), rollouts)


class _Room:
    """Says whether a board may have one more document. Args: counts: how many it has, where it tells of a new topic."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    def __call__(self, board: str, topic: str) -> bool:
        if "/" not in topic or topic.startswith("job/"):
            return True
        self._counts[board] = self._counts.get(board, 0) + 1
        return self._counts[board] <= MAX_DOCUMENTS


def seconds_of(stored: str | datetime | None) -> float | None:
    """Return a stored time in seconds since 1970."""
    if stored is None:
        return None
    return (read_iso(stored) if isinstance(stored, str) else stored).timestamp()


def _pieces(keys: Iterable[Any]) -> Iterable[list[Any]]:
    every = list(keys)
    for start in range(0, len(every), _AT_ONCE):
        yield every[start : start + _AT_ONCE]
