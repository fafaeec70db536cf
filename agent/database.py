"""The one SQLite file of a state directory: how it is opened, kept durable, and set aside when it is damaged.

Rules:
- WAL with ``synchronous=FULL``: with NORMAL a power cut loses rows that were acknowledged, without leaving a trace.
- Each owner (measurement archive, journal, outbox ...) declares its own tables with ``ensure``; nobody reads another's.
- A file that fails ``quick_check`` is renamed beside itself, a fresh one takes its place, and ``set_aside`` says so.
- Beside it a reserve of disk space may lie (``agent.reserve``); while that is given up, a transaction that is not
  essential is refused.
- Several processes may have it open: the daemon drains the outbox while a pass fills it.
- To be opened it needs some room beside itself. Where a disk has not even that, a file that was closed well is read
  as it lies, every transaction is refused, and each use tries again: who serves goes on, and is heard and answered.
- The file carries the number of its format (``user_version``). One of an earlier format is taken on, step by step in
  one transaction, so that a power cut leaves it as it was; one of a later is refused untouched: whoever went back to an
  earlier version goes forward again, or starts from an empty folder.

Leaves what the tables mean to their owners.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from agent.durable import storage_error
from agent.errors import StorageError
from agent.reserve import Reserve

FILE_NAME = "boardfit.db"


def _from_0(_: sqlite3.Connection) -> None:
    """Files of before formats were counted have the same tables, and only lack the number."""


#: ``STEPS[n]`` takes a file that holds something from format n to n + 1. One is added when a version writes what the
#: one before it would misread; new tables and fields with defaults need none. A step finds but tables that were in use.
STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (_from_0,)
FORMAT = len(STEPS)
_KEPT_ASIDE = 3  # damaged files; chosen: a disk that damages more than that is seen in the newest
_ROOM_BYTES = 128 << 10  # chosen: what opening takes (32 KiB of index, and a log of some pages), several times over
_BUSY_TIMEOUT_S = 10.0
_CACHE_KIB = 256  # chosen: SQLite's 2 MiB would stay with the idle daemon; a row here is a few KiB, read once


class Database:
    """An open state database. Not shared between threads: each opens its own.

    Args: path: the file; its folder is made when it is missing. reserve: tended before each transaction.
    Raises: StorageError: the disk is full or read-only, the file cannot be opened, or a later version wrote it.
    """

    def __init__(self, path: Path, reserve: Reserve | None = None) -> None:
        self.path = path
        self._reserve = reserve
        self.set_aside: Path | None = None
        self._owed: list[str] = []  # tables that were asked for while there was no room
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if reserve is not None:
                reserve.tend()  # to be opened it needs some room beside itself
            self._opened = self._open()
        except OSError as error:
            raise storage_error(error, path) from error

    def _open(self) -> sqlite3.Connection | None:
        """Return a connection; None where the file can but be read."""
        try:
            return self._connect()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter: SQLite's words quote damaged bytes
            if isinstance(error, sqlite3.OperationalError):
                if _lies_still(self.path):
                    return None
                raise storage_error(error, self.path) from error
            self.set_aside = _move_aside(self.path)
            return self._connect()

    def _connection(self) -> sqlite3.Connection | None:
        """Return the connection; None where there is still no room for one."""
        if self._opened is None:
            with suppress(sqlite3.Error):
                self._opened = self._connect()
        return self._opened

    def _no_space(self) -> StorageError:
        return storage_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), self.path)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        try:
            written = connection.execute("PRAGMA user_version").fetchone()[0]
            if written > FORMAT:
                raise _from_later(self.path, written)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            if written < FORMAT:
                _take_on(connection, self.path)
            connection.execute("PRAGMA shrink_memory")  # the check has read the whole file
        except BaseException:
            connection.close()
            raise
        connection.row_factory = sqlite3.Row
        return connection

    def ensure(self, statements: Sequence[str]) -> None:
        """Create the owner's tables and indexes (``CREATE ... IF NOT EXISTS``)."""
        if self._connection() is None:
            self._owed += statements
            return
        with self.transaction() as connection:
            for statement in statements:
                connection.execute(statement)

    @contextmanager
    def transaction(self, *, essential: bool = True) -> Iterator[sqlite3.Connection]:
        """Run statements as one durable transaction: all or nothing, on disk when the block has ended.

        Args: essential: may take what is left of a disk that is almost full.
        Raises: StorageError: disk full, I/O error or locked for longer than ten seconds.
        """
        if self._reserve is not None and self._reserve.tend() and not essential:
            raise self._no_space()
        if (connection := self._connection()) is None:
            raise self._no_space()
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for statement in self._owed:
                    connection.execute(statement)
                yield connection
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            self._owed.clear()
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            failed = storage_error(error, self.path)
            if self._reserve is not None and failed.facts.get("errno") == errno.ENOSPC:
                self._reserve.give_up()  # this one is lost, and what is told of it is not
            raise failed from error

    def rows(self, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[sqlite3.Row]:
        """Run a query and return all its rows. Raises: StorageError."""
        try:
            if (connection := self._connection()) is not None:
                return connection.execute(statement, parameters).fetchall()
            with closing(_as_it_lies(self.path)) as lying:
                return lying.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise storage_error(error, self.path) from error

    def close(self) -> None:
        """Close the file; the WAL is folded in by SQLite."""
        if self._opened is not None:
            self._opened.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _take_on(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to this version's format, or leave it as it was. Raises: StorageError."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # read again: another process may have been first
            written = connection.execute("PRAGMA user_version").fetchone()[0]
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for step in STEPS[written:]:
                    step(connection)
            connection.execute(f"PRAGMA user_version={max(written, FORMAT)}")
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
    except sqlite3.Error as error:
        # never as a damaged file, which would be set aside
        raise storage_error(error, path) from error


def _lies_still(path: Path) -> bool:
    """Return whether a disk is full, and the file on it whole and of our format: nothing waits beside it."""
    beside = path.with_name(f"{path.name}-wal")
    try:
        space = os.statvfs(path.parent)
        if space.f_bavail * space.f_frsize >= _ROOM_BYTES or (beside.exists() and beside.stat().st_size):
            return False
        with closing(_as_it_lies(path)) as connection:
            format_ = connection.execute("PRAGMA user_version").fetchone()[0]
            return bool(format_ == FORMAT and connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except (OSError, sqlite3.Error):
        return False


def _as_it_lies(path: Path) -> sqlite3.Connection:
    """Return a connection that reads the file alone, without locks or anything beside it, and changes nothing.

    Source: sqlite.org/uri.html, ``immutable``: for a file that nobody changes; it is opened anew for each query, since
    somebody may once there is room.
    """
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def _from_later(path: Path, written: int) -> StorageError:
    return StorageError(
        f"{path} was written by a later version of boardfit (its format is {written}, this version's {FORMAT})",
        fix="install that version again, or move the folder away to start anew; the deployed model stays in place",
    )


def _move_aside(path: Path) -> Path:
    before = sorted(
        int(one.suffix[9:]) for one in path.parent.glob(f"{path.name}.damaged-*") if one.suffix[9:].isdecimal()
    )
    for old in before[: -_KEPT_ASIDE + 1 or None]:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                path.with_name(f"{path.name}.damaged-{old}{suffix}").unlink()
    target = path.with_name(f"{path.name}.damaged-{max(before, default=0) + 1}")
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(target.with_name(target.name + suffix))
    path.rename(target)
    return target
