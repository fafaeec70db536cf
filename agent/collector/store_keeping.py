"""Throws away what a collector need not keep: by age, by rows of one board, and telemetry down to one an hour.

Rules:
- Only what was told over time is thrown away; what is newest stays, however old it is.
- A piece at a time, so that storing goes on in between. Where several collectors do it, the least is kept.
- Age is that of ``at``: the board's own time where it can be believed, otherwise when it was heard.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import msgspec
from sqlalchemy import Connection, Table, and_, delete, exists, func, or_, select, tuple_, update

from agent.clock import iso, read_iso
from agent.collector import store_schema as schema
from agent.collector.store import Store
from agent.collector.store_engine import told
from agent.core.ports import Clock

PIECE = 5000
EVERY_S = 3600.0
_COUNT_EVERY = timedelta(days=1)  # counting reads whole tables
THIN_AFTER = timedelta(days=7)
_HOUR = timedelta(hours=1)


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept. ``age_s`` in seconds, ``rows`` of one board in one table; None is all."""

    age_s: float | None = 90 * 86400.0
    rows: int | None = 100_000


class Keeping:
    """Throws away in the background of one store: call ``step`` now and then."""

    def __init__(self, store: Store, fleet: str, keep: Keep, clock: Clock) -> None:
        self._store = store
        self._fleet = fleet
        self._keep = keep
        self._clock = clock
        self._due_s = clock.monotonic_s()
        self._tables = [*schema.history.values(), schema.job]
        self.thrown_away = 0

    def step(self) -> bool:
        """Do one piece of what is due. Returns: whether there is more to do now. Raises: StorageError."""
        if self._clock.monotonic_s() < self._due_s:
            return False
        with told(self._store.engine), self._store.engine.begin() as connection:
            gone = self._old(connection) or self._many(connection)
            more = gone > 0 or self._thin(connection)
        self.thrown_away += gone
        if not more:
            self._due_s = self._clock.monotonic_s() + EVERY_S
        return more

    def _old(self, connection: Connection) -> int:
        if self._keep.age_s is None:
            return 0
        before = iso(self._clock.utc() - timedelta(seconds=self._keep.age_s))
        for table in self._tables:
            keys = list(table.primary_key.columns)
            some = select(*keys).where(table.c.fleet == self._fleet, table.c.at < before).limit(PIECE)
            gone = connection.execute(delete(table).where(tuple_(*keys).in_(some))).rowcount
            if gone:
                return gone
        return 0

    def _many(self, connection: Connection) -> int:
        """Throw away what boards told beyond their share; looked for once a day, over restarts too."""
        if self._keep.rows is None:
            return 0
        fleets, now = schema.fleet, self._clock.utc()
        last = _moment(connection.scalar(select(fleets.c.pruned_at).where(fleets.c.name == self._fleet)))
        if last is not None and now - last < _COUNT_EVERY:
            return 0
        gone = sum(self._many_of(connection, table, self._keep.rows) for table in self._tables)
        connection.execute(update(fleets).where(fleets.c.name == self._fleet).values(pruned_at=iso(now)))
        return gone

    def _many_of(self, connection: Connection, table: Table, rows: int) -> int:
        here = table.c.fleet == self._fleet
        many = select(table.c.board).where(here).group_by(table.c.board).having(func.count() > rows)
        gone = 0
        for board in connection.scalars(many).all():
            of_board = and_(here, table.c.board == board)
            asked = select(table.c.at).where(of_board).order_by(table.c.at.desc()).offset(rows - 1).limit(1)
            oldest = connection.scalar(asked)
            gone += connection.execute(delete(table).where(of_board, table.c.at < oldest)).rowcount
        return gone

    def _thin(self, connection: Connection) -> bool:
        """Leave the first telemetry of an hour, board and group, one hour at a time. Returns: whether there is more."""
        fleets, table = schema.fleet, schema.history["telemetry"]
        here = table.c.fleet == self._fleet
        done = connection.scalar(select(fleets.c.thinned_until).where(fleets.c.name == self._fleet))
        first = select(func.min(table.c.at)).where(here)
        oldest = _moment(connection.scalar(first if done is None else first.where(table.c.at >= done)))
        if oldest is None:
            return False
        begin = oldest.replace(minute=0, second=0, microsecond=0)
        end = begin + _HOUR
        if end > self._clock.utc() - THIN_AFTER:
            return False
        earlier = table.alias("earlier")
        in_hour = and_(table.c.at >= iso(begin), table.c.at < iso(end))
        before = or_(earlier.c.at < table.c.at, and_(earlier.c.at == table.c.at, earlier.c.seq < table.c.seq))
        same = and_(
            earlier.c.fleet == table.c.fleet,
            earlier.c.board == table.c.board,
            earlier.c.group == table.c.group,
            earlier.c.at >= iso(begin),
            before,
        )
        gone = connection.execute(delete(table).where(here, in_hour, exists().where(same))).rowcount
        self.thrown_away += gone
        connection.execute(update(fleets).where(fleets.c.name == self._fleet).values(thinned_until=iso(end)))
        return True


def _moment(stored: object) -> datetime | None:
    if stored is None:
        return None
    found = stored if isinstance(stored, datetime) else read_iso(str(stored))
    return found.astimezone(timezone.utc)
