"""Opens a collector's database: SQLite by file, PostgreSQL by URL; says its errors in one sentence.

Rules:
- SQLite: WAL and synchronous=FULL, since WAL alone loses committed rows on a power cut; a writer begins IMMEDIATE.
- PostgreSQL is spoken to by psycopg 3, whatever the URL calls it. A server that is gone is known of within seconds.
- A password in a URL is shown by nothing here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.durable import storage_error
from agent.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from sqlalchemy import Engine

_BUSY_S = 10.0
_CONNECT_S = 5
_FIX = "write sqlite:///FILE or postgresql://USER@HOST/DATABASE"


def open_engine(url: str, *, writes: bool = False) -> Engine:
    """Return an engine; nothing is connected yet but a SQLite file's folder is made for one that writes.

    Args: url: of SQLAlchemy's form, ``sqlite:///file`` or ``postgresql://...``.
    Raises: ConfigError: another database, or a package is missing. StorageError: the folder cannot be made.
    """
    try:
        from sqlalchemy import create_engine
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError as error:
        raise ConfigError(
            "a collector needs the package sqlalchemy", fix="install it with: pip install 'boardfit[fleet]'"
        ) from error
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError("--database is not a URL", fix=_FIX) from error
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigError("--database names no file", fix=_FIX)
        path = Path(parsed.database)
        if writes:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise storage_error(error, path) from error
        engine = create_engine(parsed.set(drivername="sqlite"), connect_args={"timeout": _BUSY_S})
        _tune_sqlite(engine, "BEGIN IMMEDIATE" if writes else "BEGIN")
        return engine
    if kind in ("postgresql", "postgres"):
        arguments: dict[str, Any] = {"connect_timeout": _CONNECT_S, "application_name": "boardfit-collector"}
        arguments |= {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20000}
        try:
            return create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                connect_args={**arguments, **parsed.query},
                isolation_level="READ COMMITTED" if writes else "REPEATABLE READ",
                pool_pre_ping=not writes,
            )
        except ImportError as error:
            raise ConfigError(
                "PostgreSQL needs the package psycopg", fix="install it with: pip install 'boardfit[fleet]'"
            ) from error
    raise ConfigError(f"--database: {kind} is neither sqlite nor postgresql", fix=_FIX)


@contextmanager
def told(engine: Engine) -> Iterator[None]:
    """Say what a database refuses as one sentence. Raises: StorageError; ``facts['cause']`` is data, lost or other."""
    from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        where = engine.url.render_as_string(hide_password=True)
        original = getattr(error, "orig", None)
        if isinstance(original, sqlite3.Error):
            found = storage_error(original, Path(str(engine.url.database)))
            raise StorageError(found.problem, fix=found.fix, cause=_cause(original)) from error
        text = " ".join(str(original or error).split())[:300]
        state = str(getattr(original, "sqlstate", None) or "")
        if isinstance(error, DataError) or state.startswith("54"):  # 54: nested too deep
            raise StorageError(f"{where} does not take a value: {text}", cause="data") from error
        again = isinstance(error, DBAPIError) and state in ("40P01", "40001")
        lost = isinstance(error, DBAPIError) and (error.connection_invalidated or "connect" in text)
        raise StorageError(
            f"{where} cannot be used: {text}",
            fix="check that the database runs, and the address, the user and his rights",
            cause="again" if again else "lost" if lost else "other",
        ) from error


def _cause(error: sqlite3.Error) -> str:
    return "data" if isinstance(error, (sqlite3.DataError, sqlite3.InterfaceError)) else "other"


def _tune_sqlite(engine: Engine, begin: str) -> None:
    from sqlalchemy import event

    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # begun by us, below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-65536", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")

    def begun(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
