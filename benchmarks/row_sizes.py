"""What a board's messages take in the collector's database: rows and bytes, in SQLite and in PostgreSQL.

    python benchmarks/row_sizes.py [--samples FILE] [--boards 100] [--json | --markdown]

Real messages of one daemon (``message_sizes.py --samples FILE``; without it they are taken anew) are multiplied: many
boards, one day each, of telemetry as often as the daemon sends it and one scheduled pass, after a first pass. Names,
numbers and times differ as they would; figures are the same, which matters to compression alone, and there is none.
The collector's own code judges and stores them. Sizes are of tables with their indexes and long values, after a
checkpoint (SQLite) or as PostgreSQL counts them. PostgreSQL is left out, and said so, where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.clock import iso  # noqa: E402
from agent.collector.judging import take  # noqa: E402
from agent.collector.store import Store  # noqa: E402
from agent.daemon import TELEMETRY_S  # noqa: E402
from benchmarks.message_sizes import BOARD, DAY_S, FIRST, LATER, measure  # noqa: E402
from benchmarks.table import render  # noqa: E402

BATCH = 500
BEGIN = datetime(2026, 11, 22, tzinfo=timezone.utc)
#: Tables that keep growing; the others hold the newest only.
HISTORY = ("telemetry", "measurement", "decision", "deployment", "event", "job")


class Table(NamedTuple):
    """One table: rows and bytes after the first passes, and after a day."""

    name: str
    rows: int
    size: int
    rows_later: int
    size_later: int


class Sample(NamedTuple):
    """One real message."""

    phase: str
    topic: str
    payload: dict[str, Any]


def samples(path: Path | None) -> list[Sample]:
    """Return real messages, from a file or from a run."""
    if path is None:
        found = [(phase, one.topic, one.payload) for phase, one in measure().messages]
    else:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found = [(line["phase"], line["topic"], line["payload"]) for line in lines]
    return [Sample(phase, topic, json.loads(payload)) for phase, topic, payload in found]


class Multiplied:
    """A day of many boards, made of one board's messages."""

    def __init__(self, real: list[Sample], boards: int) -> None:
        self._boards = [f"{BOARD[:-1]}{number:05}" for number in range(boards)]
        self._first = [one for one in real if one.phase == FIRST]
        self._later = [one for one in real if one.phase == LATER]
        told = [one for one in real if one.topic.endswith("/telemetry/board")]
        self._telemetry = told[-1]
        self._seq = 0

    def first(self) -> Iterator[tuple[str, bytes, float]]:
        """Yield (topic, payload, heard) of the boards' first passes."""
        for name in self._boards:
            for one in self._first:
                yield self._of(one, name, 0.0)

    def day(self) -> Iterator[tuple[str, bytes, float]]:
        """Yield what comes in a day after that."""
        for number in range(int(DAY_S / TELEMETRY_S)):
            for name in self._boards:
                yield self._of(self._telemetry, name, 600.0 + number * TELEMETRY_S)
        for name in self._boards:
            for one in self._later:
                yield self._of(one, name, 600.0 + DAY_S)

    def _of(self, one: Sample, board: str, after_s: float) -> tuple[str, bytes, float]:
        self._seq += 1
        at = BEGIN + timedelta(seconds=after_s, milliseconds=self._seq % 1000)
        payload = one.payload | {"device": board, "time": iso(at)}
        if payload.get("seq"):
            payload["seq"] = self._seq
        text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
        return one.topic.replace(BOARD, board), text.encode(), at.timestamp()


def fill(store: Store, told: Iterator[tuple[str, bytes, float]]) -> tuple[int, float]:
    """Store messages in batches. Returns: how many, and in how many seconds. Raises: SystemExit: one was refused."""
    count, batch, begun = 0, [], time.perf_counter()
    for topic, payload, heard_s in told:
        taken = take(topic, payload, heard_s)
        if taken is not None:
            batch.append(taken)
            count += 1
        if len(batch) >= BATCH:
            _apply(store, batch)
            batch = []
    _apply(store, batch)
    return count, time.perf_counter() - begun


def _apply(store: Store, batch: list[Any]) -> None:
    done = store.apply(batch)
    if done.refused:
        raise SystemExit(f"the database refused {done.refused[0][0].topic}: {done.refused[0][1]}")


def in_sqlite(path: Path) -> dict[str, tuple[int, int]]:
    """Return rows and bytes by table; indexes count to their table."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        names = dict(database.execute("SELECT name, tbl_name FROM sqlite_master WHERE type IN ('table', 'index')"))
        sizes: dict[str, int] = {}
        for name, size in database.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name"):
            table = names.get(name, name)
            sizes[table] = sizes.get(table, 0) + size
        return {
            table: (database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0], size)
            for table, size in sizes.items()
        }


def in_postgres(url: str) -> dict[str, tuple[int, int]]:
    """Return rows and bytes by table, with indexes and long values."""
    import psycopg

    with psycopg.connect(url) as database:
        names = [row[0] for row in database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        found = {}
        for name in names:
            rows = database.execute(f'SELECT count(*), pg_total_relation_size(\'"{name}"\') FROM "{name}"').fetchone()  # type: ignore[arg-type]
            assert rows is not None
            found[name] = (rows[0], rows[1])
        return found


def tables(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> list[Table]:
    """Return what holds anything, the largest first."""
    found = [Table(name, *before.get(name, (0, 0)), *after[name]) for name in after if after[name][0]]
    return sorted(found, key=lambda one: -one.size_later)


def measured(real: list[Sample], boards: int, folder: Path) -> dict[str, tuple[list[Table], float]]:
    """Return, by database, the tables and the rate of storing, messages a second."""
    found = {}
    path = folder / "collector.db"
    many = Multiplied(real, boards)
    with Store(f"sqlite:///{path}") as store:
        fill(store, many.first())
        before = in_sqlite(path)
        count, seconds = fill(store, many.day())
    found["SQLite"] = (tables(before, in_sqlite(path)), count / seconds)
    server = None
    with suppress(ImportError):
        import pytest

        from tests.postgres import Postgres

        try:
            server = Postgres(folder / "postgres").start()
        except pytest.fail.Exception as error:
            sys.stderr.write(f"PostgreSQL is left out: {error}\n")
    if server is not None:
        try:
            url, many = server.database(), Multiplied(real, boards)
            with Store(url) as store:
                fill(store, many.first())
                before = in_postgres(url)
                count, seconds = fill(store, many.day())
            found["PostgreSQL"] = (tables(before, in_postgres(url)), count / seconds)
        finally:
            server.stop()
    return found


def show(found: dict[str, tuple[list[Table], float]], boards: int, *, markdown: bool) -> str:
    """Return the tables as text."""
    begun = f"{'# Rows in the collector' + chr(39) + 's database' + chr(10) * 2 if markdown else ''}"
    parts = [f"{begun}{boards} boards, a first pass and then a day; `benchmarks/row_sizes.py`. Bytes with indexes."]
    for name, (listed, rate) in found.items():
        heads = ("table", "keeps", "rows a board", "bytes a row", "rows a board and day", "bytes a board and day")
        rows = []
        for one in listed:
            grows = one.name in HISTORY
            more, size = one.rows_later - one.rows, one.size_later - one.size
            rows.append(
                (
                    one.name, "all" if grows else "the newest", f"{one.rows_later / boards:,.1f}",
                    f"{one.size_later / one.rows_later:,.0f}", f"{more / boards:,.1f}" if grows else "–",
                    f"{size / boards:,.0f}" if grows else "–",
                )
            )  # fmt: skip
        grown = [one for one in listed if one.name in HISTORY]
        more = sum(one.rows_later - one.rows for one in grown) / boards
        size = sum(one.size_later - one.size for one in grown) / boards
        kept = sum(one.size_later for one in listed if one.name not in HISTORY) / boards
        rows.append(("what grows, a day", "", "", "", f"{more:,.1f}", f"{size:,.0f}"))
        rows.append(("the newest, for good", "", "", f"{kept:,.0f} a board", "", ""))
        head = f"## {name}" if markdown else name
        about = f"Stored at {rate:,.0f} messages a second, one process, {BATCH} in a transaction."
        parts.append(f"{head}\n\n{about}\n\n{render(heads, rows, markdown=markdown, left=2)}")
    return "\n\n".join(parts)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, metavar="FILE", help="messages that message_sizes.py wrote")
    parser.add_argument("--boards", type=int, default=100)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true")
    shown.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="boardfit-rows-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user
        found = measured(samples(options.samples), options.boards, folder)
    if options.json:
        print(json.dumps({name: {"tables": made[0], "per_s": made[1]} for name, made in found.items()}, indent=1))
    else:
        print(show(found, options.boards, markdown=options.markdown))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
