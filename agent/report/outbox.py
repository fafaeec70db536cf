"""What is to be sent, kept on disk until it has arrived; bounded, and honest about what it dropped.

Rules:
- A message leaves when the broker, or where one runs a collector, has confirmed it; when a newer one for the same
  retained topic replaces it; or when the bounds push it out. Nothing else removes it: not a restart, not a refusal.
- Bounds: bytes and age. Telemetry goes first, then measurements, oldest first within each. Decisions, deployments,
  events and jobs (``kept``) are never dropped: with nothing but them left, the outbox outgrows its bound and says so.
- Age is judged only where it is known: by the monotonic clock within one boot, by the wall clock across boots unless
  one of the two was plainly wrong or is known not to be synchronised. A board that wakes up in 1970, or a year ahead,
  throws nothing away.
- ``seq`` counts every message ever put in, so that a receiver sees what was dropped as a gap.
- A full or failing disk never stops the caller: ``put`` counts the message as not stored and returns None.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

import msgspec

from agent.clock import iso
from agent.core.messages import MAX_PAYLOAD_BYTES, MESSAGES, Precedence, encode
from agent.core.payloads import Origin
from agent.core.ports import Clock
from agent.core.topics import Address, parse_topic, topic_for
from agent.database import Database
from agent.errors import ReportError, StorageError

log = logging.getLogger(__name__)

_RANK: dict[Precedence, int] = {"telemetry": 0, "measurement": 1, "kept": 2}
_NAMES = {rank: name for name, rank in _RANK.items()}
_OVERHEAD_BYTES = 200  # of a row and its index entries; chosen
_PLAUSIBLE_WALL_S = 1_704_067_200.0  # 2024-01-01: before boardfit, so a clock that says less is not set
_TABLES = (
    """CREATE TABLE IF NOT EXISTS outbox (
        seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL,
        retain INTEGER NOT NULL, rank INTEGER NOT NULL, bytes INTEGER NOT NULL,
        created_wall_s REAL NOT NULL, created_monotonic_s REAL NOT NULL, boot_id TEXT)""",
    "CREATE INDEX IF NOT EXISTS outbox_bounds ON outbox (rank, seq, bytes)",
    "CREATE INDEX IF NOT EXISTS outbox_topic ON outbox (topic)",
    "CREATE TABLE IF NOT EXISTS outbox_counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
    "INSERT OR IGNORE INTO outbox_counter VALUES ('seq', 0)",
    """CREATE TABLE IF NOT EXISTS outbox_loss (
        class TEXT NOT NULL, cause TEXT NOT NULL, messages INTEGER NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY (class, cause))""",
    "CREATE TABLE IF NOT EXISTS outbox_told (topic TEXT PRIMARY KEY, seq INTEGER NOT NULL, digest TEXT NOT NULL)",
)


_LARGEST_SEQ = 2**63 - 1  # what SQLite counts to; a receipt may say anything
_COLUMNS = "seq, topic, payload, qos, retain, rank"
_JOBS = "topic >= :jobs AND topic < :jobs || '~'"
_PENDING = {
    None: "FROM outbox WHERE seq > :after ORDER BY seq LIMIT :limit",
    True: f"FROM outbox INDEXED BY outbox_topic WHERE {_JOBS} AND seq > :after ORDER BY seq LIMIT :limit",
    False: f"FROM outbox WHERE NOT ({_JOBS}) AND seq > :after ORDER BY seq LIMIT :limit",
}
READ_BYTES = 256 * 1024  # chosen: what is read at once stays in memory until it is sent
_FRAME_BYTES = 256  # of a packet around its payload: a topic has four levels of 64 at most


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept, in bytes on disk (payload, topic and row) and in seconds."""

    max_bytes: int = 16 * 1024 * 1024
    max_age_s: float = 14 * 86400.0


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One stored message. ``durable``: it waits for a collector's receipt, where one runs."""

    seq: int
    topic: str
    payload: bytes
    qos: int
    retain: bool
    durable: bool = True


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages of a class were lost, and to what: space, age, or not_stored (the disk would not take them)."""

    precedence: str
    cause: str
    messages: int
    bytes: int


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """What the outbox holds now. ``over_bound``: only messages that are never dropped are left, and too many."""

    messages: int
    bytes: int
    over_bound: bool
    losses: tuple[Loss, ...] = ()

    @property
    def lost(self) -> int:
        """How many messages were lost in all."""
        return sum(loss.messages for loss in self.losses)


class Outbox:
    """The outbox of one state directory. Several processes may put; one drains.

    Args:
        database: the state directory's; the outbox owns the tables whose names begin with ``outbox``.
        clock: both clocks.   boot_id: of this boot, None where the kernel does not say.
        clock_synced: asked for each message; None means unknown.
    Raises: StorageError: the tables cannot be made.
    """

    def __init__(
        self,
        database: Database,
        at: Address,
        clock: Clock,
        *,
        boot_id: str | None = None,
        bounds: Bounds | None = None,
        clock_synced: Callable[[], bool | None] = lambda: None,
    ) -> None:
        self.address = at
        self.boot_id = boot_id
        self.bounds = bounds or Bounds()
        self._database = database
        self._clock = clock
        self._clock_synced = clock_synced
        self._not_stored: dict[str, tuple[int, int]] = {}
        self._jobs = topic_for(at, "job", "id").removesuffix("id")
        database.ensure(_TABLES)

    def origin(self) -> Origin:
        """Return the header of a message made now; ``put`` fills in its ``seq``."""
        return Origin(
            fleet=self.address.fleet,
            device=self.address.device,
            boot_id=self.boot_id,
            time=iso(self._clock.utc()),
            clock_synced=self._clock_synced(),
        )

    def put(self, topic: str, message: Origin) -> int | None:
        """Store one message durably. Returns: its seq, None when the disk would not take it (counted, logged)."""
        stored = self.put_all([(topic, message)])
        return stored[0] if stored else None

    def put_news(self, topic: str, message: Origin) -> int | None:
        """Store a retained document unless the broker was told the same last. Returns: as ``put``; None: no news."""
        try:
            told = self._database.rows("SELECT digest FROM outbox_told WHERE topic = ?", (topic,))
        except StorageError:
            told = []  # putting it will say so
        return None if told and told[0]["digest"] == _meaning(topic, message) else self.put(topic, message)

    def put_all(
        self, messages: Sequence[tuple[str, Origin]], also: Callable[[sqlite3.Connection], None] | None = None
    ) -> tuple[int, ...]:
        """Store several messages in one durable transaction, all or none.

        Args: also: writes what must be on disk with them, and not without them, in the same transaction.
        Returns: their seqs; empty when the disk would not take them.
        Raises: ReportError: a message is too long or its topic is not one of ours; nothing was stored then.
        """

        def made(connection: sqlite3.Connection) -> Sequence[tuple[str, Origin]]:
            if also is not None:
                also(connection)
            return messages

        essential = any(MESSAGES[parse_topic(topic).kind].precedence != "telemetry" for topic, _ in messages)
        try:
            return self.put_made(made, essential=essential)
        except StorageError as error:
            log.warning("%s", error)
            for topic, message in messages:
                self.count_not_stored(topic, message)
            return ()

    def put_made(
        self, make: Callable[[sqlite3.Connection], Sequence[tuple[str, Origin]]], *, essential: bool = True
    ) -> tuple[int, ...]:
        """Store the messages that ``make`` makes, and whatever it writes, in one durable transaction.

        Args: essential: as ``Database.transaction`` has it.
        Raises: StorageError: nothing was stored, nor counted. ReportError: as ``put_all``.
        """
        with self._database.transaction(essential=essential) as connection:
            stored = tuple(self._insert(connection, topic, message) for topic, message in make(connection))
            self._save_not_stored(connection)
            self._enforce(connection)
        self._not_stored.clear()
        return stored

    def count_not_stored(self, topic: str, message: Origin) -> None:
        """Count a message that the disk would not take; the count is stored as soon as it takes one."""
        name = MESSAGES[parse_topic(topic).kind].precedence
        messages, length = self._not_stored.get(name, (0, 0))
        self._not_stored[name] = (messages + 1, length + len(encode(message)))

    def pending(self, after_seq: int = 0, limit: int = 50, *, jobs: bool | None = None) -> tuple[Entry, ...]:
        """Return stored messages in the order they were put, beginning after ``after_seq``. Raises: StorageError.

        Args:
            limit: how many at most; fewer where they are longer than ``READ_BYTES`` together, but one.
            jobs: only how commands fare (True), only everything else (False), or both.
        """
        wanted = {"after": after_seq, "limit": limit, "jobs": self._jobs}
        lengths = accumulate(row["bytes"] for row in self._database.rows(f"SELECT bytes {_PENDING[jobs]}", wanted))
        wanted["limit"] = max(1, sum(length <= READ_BYTES for length in lengths))
        rows = self._database.rows(f"SELECT {_COLUMNS} {_PENDING[jobs]}", wanted)
        return tuple(
            Entry(
                seq=row[0],
                topic=row[1],
                payload=bytes(row[2]),
                qos=row[3],
                retain=bool(row[4]),
                durable=row[5] != _RANK["telemetry"],
            )
            for row in rows
        )

    def remove_confirmed(self, stored: Mapping[int, str], digest: Callable[[bytes], str]) -> tuple[int, ...]:
        """Forget messages that a collector has stored. Raises: StorageError.

        Args: stored: seq to the digest of the payload it has; another digest than ours confirms nothing.
        Returns: the seqs that were removed.
        """
        with self._database.transaction() as connection:
            found = []
            for seq, seen in stored.items():
                if not 0 < seq <= _LARGEST_SEQ:
                    continue
                row = connection.execute("SELECT payload FROM outbox WHERE seq = ?", (seq,)).fetchone()
                if row is not None and digest(bytes(row["payload"])) == seen:
                    found.append(seq)
            connection.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in found])
        return tuple(found)

    def collector_known(self) -> bool:
        """Return whether a collector is known to give receipts. Raises: StorageError."""
        rows = self._database.rows("SELECT value FROM outbox_counter WHERE name = 'collector'")
        return bool(rows and rows[0]["value"])

    def know_collector(self, known: bool) -> None:
        """Remember whether one is. Raises: StorageError."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO outbox_counter VALUES ('collector', ?)", (int(known),))

    def message_limit(self) -> int:
        """Return how long a payload may be, in bytes, by our own rule and the broker's. Raises: StorageError."""
        rows = self._database.rows("SELECT value FROM outbox_counter WHERE name = 'max_packet'")
        return min(MAX_PAYLOAD_BYTES, rows[0]["value"] - _FRAME_BYTES) if rows else MAX_PAYLOAD_BYTES

    def know_limit(self, max_packet_bytes: int | None) -> None:
        """Remember the longest packet that the broker takes, None without a limit. Raises: StorageError."""
        rows = self._database.rows("SELECT value FROM outbox_counter WHERE name = 'max_packet'")
        if (rows[0]["value"] if rows else None) == max_packet_bytes:
            return  # a connection that changes nothing wears no memory card
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM outbox_counter WHERE name = 'max_packet'")
            if max_packet_bytes is not None:
                connection.execute("INSERT INTO outbox_counter VALUES ('max_packet', ?)", (max_packet_bytes,))

    def forget_told(self, sent_seq: int = _LARGEST_SEQ) -> None:
        """Note that a connection begins or ends: what was sent over others is news again. Raises: StorageError.

        Args: sent_seq: the newest that was sent; what waits here and was not sent yet is told all the same.
        """
        told, sent = "FROM outbox_told WHERE seq <= :sent OR seq NOT IN (SELECT seq FROM outbox)", {"sent": sent_seq}
        if self._database.rows(f"SELECT 1 {told} LIMIT 1", sent):
            with self._database.transaction() as connection:
                connection.execute(f"DELETE {told}", sent)

    def remove(self, seqs: Iterable[int]) -> None:
        """Forget messages that the broker has acknowledged. Raises: StorageError: they will be sent once more."""
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in seqs])

    def fill(self) -> Fill:
        """Return what is held and what was lost since the state directory was made. Raises: StorageError."""
        count, size = self._database.rows("SELECT count(*), coalesce(sum(bytes), 0) FROM outbox")[0]
        losses = {
            (row[0], row[1]): (row[2], row[3])
            for row in self._database.rows("SELECT class, cause, messages, bytes FROM outbox_loss")
        }
        for name, (messages, length) in self._not_stored.items():
            before = losses.get((name, "not_stored"), (0, 0))
            losses[name, "not_stored"] = (before[0] + messages, before[1] + length)
        return Fill(
            messages=count,
            bytes=size,
            over_bound=size > self.bounds.max_bytes,
            losses=tuple(
                Loss(precedence=name, cause=cause, messages=messages, bytes=length)
                for (name, cause), (messages, length) in sorted(losses.items())
            ),
        )

    def _insert(self, connection: sqlite3.Connection, topic: str, message: Origin) -> int:
        definition = MESSAGES[parse_topic(topic).kind]
        if not isinstance(message, definition.payload):
            raise ReportError(f"{topic} carries a {definition.payload.__name__}, not a {type(message).__name__}")
        connection.execute("UPDATE outbox_counter SET value = value + 1 WHERE name = 'seq'")
        seq = int(connection.execute("SELECT value FROM outbox_counter WHERE name = 'seq'").fetchone()[0])
        payload = encode(msgspec.structs.replace(message, seq=seq))
        if definition.retain:
            connection.execute("DELETE FROM outbox WHERE topic = ?", (topic,))
            told = (topic, seq, _meaning(topic, message))
            connection.execute("INSERT OR REPLACE INTO outbox_told VALUES (?, ?, ?)", told)
        connection.execute(
            "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                seq, topic, payload, definition.qos, definition.retain, _RANK[definition.precedence],
                len(payload) + len(topic) + _OVERHEAD_BYTES,
                self._known_wall_s(), self._clock.monotonic_s(), self.boot_id,
            ),
        )  # fmt: skip
        return seq

    def _enforce(self, connection: sqlite3.Connection) -> None:
        self._drop_old(connection)
        total = int(connection.execute("SELECT coalesce(sum(bytes), 0) FROM outbox").fetchone()[0])
        excess = total - self.bounds.max_bytes
        if excess <= 0:
            return
        doomed: list[sqlite3.Row] = []
        query = "SELECT seq, rank, bytes FROM outbox WHERE rank < ? ORDER BY rank, seq"
        for row in connection.execute(query, (_RANK["kept"],)):
            if excess <= 0:
                break
            doomed.append(row)
            excess -= row["bytes"]
        self._drop(connection, doomed, "space")
        if excess > 0:
            log.warning("the outbox is %d bytes over its bound, and holds nothing that may be dropped", excess)

    def _known_wall_s(self) -> float:
        """Return the wall time; 0, which is plausible nowhere, where it is known not to be synchronised."""
        return 0.0 if self._clock_synced() is False else self._clock.utc().timestamp()

    def _drop_old(self, connection: sqlite3.Connection) -> None:
        wall_s, monotonic_s = self._known_wall_s(), self._clock.monotonic_s()
        doomed = connection.execute(
            """SELECT seq, rank, bytes FROM outbox WHERE rank < :kept AND CASE
                 WHEN boot_id IS NOT NULL AND boot_id = :boot THEN :monotonic - created_monotonic_s > :age
                 ELSE created_wall_s >= :plausible AND :wall - created_wall_s > :age END""",
            {
                "kept": _RANK["kept"], "boot": self.boot_id, "monotonic": monotonic_s, "wall": wall_s,
                "age": self.bounds.max_age_s, "plausible": _PLAUSIBLE_WALL_S,
            },
        ).fetchall()  # fmt: skip
        self._drop(connection, doomed, "age")

    def _drop(self, connection: sqlite3.Connection, rows: Sequence[sqlite3.Row], cause: str) -> None:
        for row in rows:
            connection.execute("DELETE FROM outbox WHERE seq = ?", (row["seq"],))
            _count_loss(connection, _NAMES[row["rank"]], cause, 1, row["bytes"])
        if rows:
            log.warning("the outbox dropped %d messages for lack of %s", len(rows), cause)

    def _save_not_stored(self, connection: sqlite3.Connection) -> None:
        for name, (messages, length) in self._not_stored.items():
            _count_loss(connection, name, "not_stored", messages, length)


def _meaning(topic: str, message: Origin) -> str:
    """Return a digest of what a message says, apart from when and as the how-manieth it says so."""
    blank = {"seq": 0, "time": None, **dict.fromkeys(MESSAGES[parse_topic(topic).kind].incidental, "")}
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(message, **blank))).hexdigest()


def _count_loss(connection: sqlite3.Connection, name: str, cause: str, messages: int, length: int) -> None:
    connection.execute(
        """INSERT INTO outbox_loss VALUES (?, ?, ?, ?) ON CONFLICT (class, cause)
           DO UPDATE SET messages = messages + excluded.messages, bytes = bytes + excluded.bytes""",
        (name, cause, messages, length),
    )
