"""The tables of a collector, for SQLite and PostgreSQL alike, and which version of them this program reads.

Rules:
- ``board``, ``board_task``, ``document``, ``rollout`` hold the newest; the other tables hold what was told over time.
- Columns are what people filter and draw by; ``payload`` is the whole document as it was sent (JSONB in PostgreSQL).
- ``at`` is the board's own time where that can be believed, otherwise when the collector heard it.
- A row of history is one message: fleet, board, number and digest of the very bytes; or one of its measurements, by its
  id too. Sent again, it is the same row.
- Tables of a newer version are refused; older ones are brought up when a later version needs it.

History: version 1 is the first.
"""

from __future__ import annotations

from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    insert,
    inspect,
    select,
)
from sqlalchemy.types import Double, UserDefinedType

from agent.collector.judging import MOMENTS, ROWS
from agent.core.messages import MESSAGES
from agent.core.payloads import MeasurementSummary
from agent.errors import StorageError

VERSION = 1


class _Plain(UserDefinedType[Any]):
    """A type of PostgreSQL's whose values are written as text."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: object) -> str:
        """Return the type's name."""
        return self.name


MOMENT = Text().with_variant(_Plain("TIMESTAMPTZ"), "postgresql")  # SQLite: ISO 8601, UTC, milliseconds
JSON = Text().with_variant(_Plain("JSONB"), "postgresql")

metadata = MetaData()


def _table(name: str, keys: tuple[str, ...], columns: dict[str, Any], *indexes: Index) -> Table:
    made = [Column(column, kind, nullable=column not in keys) for column, kind in columns.items()]
    return Table(name, metadata, *made, PrimaryKeyConstraint(*keys), *indexes)


version = _table("collector_schema", ("version",), {"version": Integer})
fleet = _table("fleet", ("name",), {"name": String, "cursor": BigInteger, "thinned_until": MOMENT, "pruned_at": MOMENT})

#: What a board's row holds of ``agent.fleet.view.BoardView``, beside its name and its tasks.
BOARD_COLUMNS: dict[str, Any] = {
    "status": String, "reason": String, "epoch": String, "boot_id": String, "seen": MOMENT, "agent_version": String,
    "outbox_messages": BigInteger, "class_fingerprint": String, "profile": String, "model": String, "soc": String,
    "architecture": String, "cores": BigInteger, "memory_bytes": BigInteger, "power_mode": String, "os": String,
    "python": String, "engines": JSON, "accelerators": JSON, "traps": JSON, "groups": JSON, "desired_versions": JSON,
    "desired_error": String, "doing": String, "temperature_celsius": Double, "job": String, "job_state": String,
}  # fmt: skip
JSON_COLUMNS = tuple(name for name, kind in BOARD_COLUMNS.items() if kind is JSON)
board = _table(
    "board",
    ("fleet", "name"),
    {"fleet": String, "name": String, **BOARD_COLUMNS, "heard_at": MOMENT, "removed": Boolean, "change": BigInteger},
    Index("board_change", "fleet", "change"),
    Index("board_class", "fleet", "class_fingerprint"),
)
TASK_COLUMNS: dict[str, Any] = {
    "candidate": String, "decided": String, "decided_p95_s": Double, "energy_j": Double, "expected_p95_s": Double,
    "outcome": String, "phase": String, "reason": String, "release": String,
    "budgets": JSON,
}  # fmt: skip
board_task = _table(
    "board_task",
    ("fleet", "board", "task"),
    {"fleet": String, "board": String, "task": String, **TASK_COLUMNS},
)
document = _table(
    "document",
    ("fleet", "board", "topic"),
    {
        "fleet": String, "board": String, "topic": String, "boot_id": String, "seq": BigInteger, "time": MOMENT,
        "uptime_s": Double, "heard_at": MOMENT, "payload": JSON,
    },
)  # fmt: skip
rollout = _table(
    "rollout",
    ("fleet", "id"),
    {"fleet": String, "id": String, "updated_at": MOMENT, "change": BigInteger, "payload": JSON},
)


def _column(kind: str, name: str) -> Any:
    """Return the type of a column that is named after a field of a document."""
    if name in MOMENTS:
        return MOMENT
    told = MeasurementSummary if kind == "measurement" else MESSAGES[kind].payload
    hint = get_type_hints(told)[name]
    kinds = {type(value) for value in get_args(hint)} if get_origin(hint) is Literal else set(get_args(hint)) or {hint}
    found = kinds - {NoneType}
    return Boolean if bool in found else Double if float in found else BigInteger if int in found else String


def _columns(kind: str) -> dict[str, Any]:
    return {name: _column(kind, name) for name in ROWS[kind]}


job = _table(
    "job",
    ("fleet", "board", "id"),
    {
        "fleet": String, "board": String, "id": String, "at": MOMENT, "heard_at": MOMENT, **_columns("job"),
        "payload": JSON,
    },
    Index("job_at", "fleet", "at"),
)  # fmt: skip
_KEY: dict[str, Any] = {
    "fleet": String, "board": String, "seq": BigInteger, "digest": String, "at": MOMENT, "heard_at": MOMENT,
    "boot_id": String,
}  # fmt: skip
_MORE = {"measurement": (Index("measurement_class", "fleet", "class_fingerprint", "task"),)}
history: dict[str, Table] = {
    name: _table(
        name,
        ("fleet", "board", "seq", "digest", *(("id",) if name == "measurement" else ())),
        {**_KEY, **_columns(name), "payload": JSON},
        Index(f"{name}_board", "fleet", "board", "at"),
        Index(f"{name}_at", "fleet", "at"),
        *_MORE.get(name, ()),
    )
    for name in ROWS
    if name != "job"
}


def ensure(connection: Connection) -> None:
    """Make the tables, or see that they are those of this version. Raises: StorageError: they are newer."""
    if inspect(connection).has_table(version.name):
        check(connection)
        return
    metadata.create_all(connection)
    connection.execute(insert(version).values(version=VERSION))


def check(connection: Connection) -> None:
    """See that the tables are those of this version. Raises: StorageError: there are none, or they are newer."""
    if not inspect(connection).has_table(version.name):
        raise StorageError("the database holds no collector's tables", fix="start `boardfit fleet serve` on it once")
    found = connection.execute(select(version.c.version)).scalar_one()
    if found > VERSION:
        raise StorageError(
            f"the database was made by a newer boardfit: its tables are of version {found}, this one reads {VERSION}",
            fix="update boardfit here",
        )
