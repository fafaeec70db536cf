"""What a board has done by itself today, and which scheduled work it began, kept over restarts.

Rules:
- Every figure is added in one durable transaction by whoever used it; several processes may add.
- Which day it is and which limit is reached, ``agent.core.allowance`` decides.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from agent.core.allowance import DayUse, day_at
from agent.core.ports import Clock, StopRequested
from agent.database import Database

_TABLES = (
    """CREATE TABLE IF NOT EXISTS day_use (
        one INTEGER PRIMARY KEY CHECK (one = 1), document BLOB NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS schedule_start (name TEXT PRIMARY KEY, due_at TEXT NOT NULL, starts INTEGER NOT NULL)",
)


_TELL_S = 30.0  # chosen: by so much a limit of the day may be passed; each telling is one disk write


class Ledger:
    """The counts of one state directory. Args: boot_id: of this boot, None where the kernel does not say."""

    def __init__(self, database: Database, clock: Clock, boot_id: str | None) -> None:
        self._database = database
        self._clock = clock
        self._boot_id = boot_id
        database.ensure(_TABLES)

    def today(self) -> DayUse:
        """Return what was used today. Raises: StorageError."""
        return self._counting(self._database.rows("SELECT document FROM day_use"))

    def add(self, *, bench_s: float = 0.0, download_bytes: int = 0, written_bytes: int = 0) -> None:
        """Add to today. Raises: StorageError."""
        with self._database.transaction() as connection:
            use = self._counting(connection.execute("SELECT document FROM day_use").fetchall())
            use = msgspec.structs.replace(
                use,
                bench_s=use.bench_s + bench_s,
                download_bytes=use.download_bytes + download_bytes,
                written_bytes=use.written_bytes + written_bytes,
            )
            connection.execute("INSERT OR REPLACE INTO day_use VALUES (1, ?)", (msgspec.json.encode(use),))

    @contextmanager
    def measuring(self, stop: StopRequested) -> Iterator[StopRequested]:
        """Count the device seconds of the block, bit by bit, so that a limit binds in the middle of a long measurement.

        Returns: to be asked in place of ``stop``, often: it does the counting. Raises: StorageError.
        """
        told_s = self._clock.monotonic_s()

        def asked() -> bool:
            nonlocal told_s
            now_s = self._clock.monotonic_s()
            if now_s - told_s >= _TELL_S:
                self.add(bench_s=now_s - told_s)
                told_s = now_s
            return stop()

        try:
            yield asked
        finally:
            self.add(bench_s=self._clock.monotonic_s() - told_s)

    def starts(self, name: str, due_at: str) -> int:
        """Return how often a schedule entry was begun for a due moment (UTC, ISO 8601). Raises: StorageError."""
        rows = self._database.rows("SELECT starts FROM schedule_start WHERE name = ? AND due_at = ?", (name, due_at))
        return int(rows[0]["starts"]) if rows else 0

    def begin(self, name: str, due_at: str) -> None:
        """Count one more beginning of it. Raises: StorageError."""
        with self._database.transaction() as connection:
            connection.execute(
                """INSERT INTO schedule_start VALUES (?, ?, 1) ON CONFLICT (name) DO UPDATE SET
                   starts = CASE WHEN due_at = excluded.due_at THEN starts + 1 ELSE 1 END, due_at = excluded.due_at""",
                (name, due_at),
            )

    def _counting(self, rows: Sequence[sqlite3.Row]) -> DayUse:
        use = None
        if rows:
            try:
                use = msgspec.json.decode(rows[0]["document"], type=DayUse)
            except msgspec.DecodeError:
                use = None  # of a later version: today begins anew
        return day_at(use, self._clock.utc(), self._clock.monotonic_s(), self._boot_id)
