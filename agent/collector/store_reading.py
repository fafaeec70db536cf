"""Reads a collector's database: ``agent.collector.reading.Reader`` for SQLite and PostgreSQL.

Any process may read while others write. Each question is one snapshot of the database.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, case, func, select

from agent.clock import iso, read_iso
from agent.collector import store_schema as schema
from agent.collector.reading import Changes, ClassRow, Document, History, OptionFigures
from agent.collector.store_engine import open_engine, told
from agent.fleet.view import BoardView, TaskView

MOST_NAMED = 5000  # of changes; with more, a reader reads all again
_AT_ONCE = 500
_FIGURES = (
    "latency_p95_s",
    "accuracy_top1",
    "energy_per_inference_j",
    "memory_peak_bytes",
    "size_bytes",
)
_LAST = {"job": ("id",), "measurement": ("seq", "started_at")}  # of what was said at the same time
_OPTION = ("candidate", "engine", "provider", "threads", "batch")


class StoredReader:
    """A store, read. Safe to use from several threads. Close it, or use it as a context manager.

    Args: url: ``sqlite:///file`` or ``postgresql://...``. Raises: ConfigError: the URL.
    """

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)
        self._checked = False

    def __enter__(self) -> StoredReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    def fleets(self) -> list[str]:
        """Return the names of the fleets stored."""
        with self._asked() as connection:
            return list(connection.scalars(select(schema.fleet.c.name).order_by(schema.fleet.c.name)))

    def boards(self, fleet: str, names: Collection[str] | None = None) -> list[BoardView]:
        """Return boards by name; None: all."""
        board, task = schema.board, schema.board_task
        of_board = and_(board.c.fleet == fleet, board.c.removed.is_(False))
        with self._asked() as connection:
            if names is None:
                rows = connection.execute(select(board).where(of_board).order_by(board.c.name)).all()
                tasks = connection.execute(select(task).where(task.c.fleet == fleet)).all()
            else:
                rows, tasks = [], []
                for some in _pieces(sorted(names)):
                    asked = select(board).where(of_board, board.c.name.in_(some)).order_by(board.c.name)
                    rows += connection.execute(asked).all()
                    tasks += connection.execute(select(task).where(task.c.fleet == fleet, task.c.board.in_(some)))
        found = {row.name: _board(row) for row in rows}
        for row in sorted(tasks, key=lambda one: str(one.task)):
            if row.board in found:
                found[row.board].tasks[row.task] = _task(row)
        return list(found.values())

    def documents(self, fleet: str, board: str) -> dict[str, Document]:
        """Return a board's newest documents by the end of their topic; of jobs, the last heard of as ``job``."""
        table = schema.document
        asked = select(table.c.topic, table.c.payload).where(table.c.fleet == fleet, table.c.board == board)
        with self._asked() as connection:
            return {topic: _document(payload) for topic, payload in connection.execute(asked.order_by(table.c.topic))}

    def history(
        self,
        fleet: str,
        kind: History,
        *,
        board: str | None = None,
        task: str | None = None,
        since: str | None = None,
        limit: int = 500,
    ) -> list[Document]:
        """Return stored documents of one kind, the newest first; of a job, its newest document only.

        A measurement is given with the header of the message that it came in.

        Args: since: ISO 8601; compared with the board's own time where it can be believed, otherwise with when it was
        heard. Raises: ValueError: ``since`` is not a time.
        """
        table = schema.job if kind == "job" else schema.history[kind]
        asked = select(table.c.payload).where(table.c.fleet == fleet)
        if board is not None:
            asked = asked.where(table.c.board == board)
        if task is not None:
            if "task" not in table.c:
                return []
            asked = asked.where(table.c.task == task)
        if since is not None:
            asked = asked.where(table.c.at >= iso(read_iso(since)))
        last = _LAST.get(kind, ("seq",))
        asked = asked.order_by(table.c.at.desc(), *(table.c[name].desc() for name in last)).limit(limit)
        with self._asked() as connection:
            return [_document(payload) for payload in connection.scalars(asked)]

    def classes(self, fleet: str) -> list[ClassRow]:
        """Return the classes of boards, the most frequent first."""
        board, task = schema.board, schema.board_task
        here = and_(board.c.fleet == fleet, board.c.removed.is_(False), board.c.class_fingerprint.is_not(None))
        online = func.sum(case((board.c.status.in_(("online", "busy")), 1), else_=0))
        asked = (
            select(
                board.c.class_fingerprint,
                func.count(),
                online,
                func.max(board.c.profile),
                func.max(board.c.model),
            )
            .where(here)
            .group_by(board.c.class_fingerprint)
        )
        of_board = and_(task.c.fleet == board.c.fleet, task.c.board == board.c.name)
        tasks = select(board.c.class_fingerprint, task.c.task).select_from(board.join(task, of_board)).where(here)
        with self._asked() as connection:
            rows = connection.execute(asked).all()
            found: dict[str, list[str]] = {}
            for name, one in connection.execute(tasks.distinct().order_by(task.c.task)):
                found.setdefault(name, []).append(one)
        made = [
            ClassRow(
                class_fingerprint=name, boards=boards, online=int(up), profile=profile, model=model,
                tasks=tuple(found.get(name, ())),
            )
            for name, boards, up, profile, model in rows
        ]  # fmt: skip
        return sorted(made, key=lambda row: (-row.boards, row.class_fingerprint))

    def options(self, fleet: str, class_fingerprint: str, task: str) -> list[OptionFigures]:
        """Return what the boards of a class measured for a task."""
        measured = schema.history["measurement"]
        option = [measured.c[name] for name in _OPTION]
        number = func.row_number().over(
            partition_by=[measured.c.board, *option],
            order_by=[measured.c.at.desc(), measured.c.seq.desc(), measured.c.started_at.desc()],
        )
        ranked = (
            select(*option, *(measured.c[name] for name in _FIGURES), number.label("place"))
            .where(
                measured.c.fleet == fleet,
                measured.c.class_fingerprint == class_fingerprint,
                measured.c.task == task,
                measured.c.verdict == "ok",
            )
            .subquery()
        )
        board, serves = schema.board, schema.board_task
        serving = (
            select(serves.c.candidate, func.count())
            .join(board, and_(board.c.fleet == serves.c.fleet, board.c.name == serves.c.board))
            .where(
                serves.c.fleet == fleet,
                serves.c.task == task,
                board.c.class_fingerprint == class_fingerprint,
                board.c.removed.is_(False),
            )
            .group_by(serves.c.candidate)
        )
        with self._asked() as connection:
            rows = connection.execute(select(ranked).where(ranked.c.place == 1)).all()
            count = {row[0]: row[1] for row in connection.execute(serving)}
        groups: dict[tuple[Any, ...], list[Row[Any]]] = {}
        for row in rows:
            groups.setdefault(tuple(row[: len(_OPTION)]), []).append(row)
        return [_figures(key, group, count.get(key[0], 0)) for key, group in sorted(groups.items())]

    def rollouts(self, fleet: str, limit: int = 50) -> list[Document]:
        """Return the rollouts that operators' machines told of, the newest first."""
        table = schema.rollout
        asked = select(table.c.payload).where(table.c.fleet == fleet).order_by(table.c.updated_at.desc(), table.c.id)
        with self._asked() as connection:
            return [_document(payload) for payload in connection.scalars(asked.limit(limit))]

    def changes(self, fleet: str, after: int) -> Changes:
        """Return what changed after a cursor; 0: only the cursor of now."""
        board, rollout = schema.board.c, schema.rollout.c
        with self._asked() as connection:
            cursor = connection.scalar(select(schema.fleet.c.cursor).where(schema.fleet.c.name == fleet)) or 0
            if after in (0, cursor):
                return Changes(cursor=cursor)
            if after > cursor:  # the database is an older one than before
                return Changes(cursor=cursor, whole=True)
            asked = select(board.name).where(board.fleet == fleet, board.change > after).limit(MOST_NAMED + 1)
            boards = frozenset(connection.scalars(asked))
            if len(boards) > MOST_NAMED:
                return Changes(cursor=cursor, whole=True)
            told_of = select(rollout.id).where(rollout.fleet == fleet, rollout.change > after)
            return Changes(cursor=cursor, boards=boards, rollouts=frozenset(connection.scalars(told_of)))

    @contextmanager
    def _asked(self) -> Iterator[Connection]:
        with told(self.engine), self.engine.begin() as connection:
            if not self._checked:
                schema.check(connection)
                self._checked = True
            yield connection


def _board(row: Row[Any]) -> BoardView:
    view = BoardView(row.name)
    stored: tuple[Any, ...] = tuple(row[2:])
    for name, value in zip(schema.BOARD_COLUMNS, stored, strict=False):  # in the order of the table
        if value is not None:
            setattr(view, name, _value(name, value))
    return view


def _task(row: Row[Any]) -> TaskView:
    view = TaskView()
    for name in schema.TASK_COLUMNS:
        setattr(view, name, getattr(row, name))
    view.budgets = tuple((metric, limit) for metric, limit in _value("budgets", row.budgets) or ())
    return view


def _value(name: str, value: Any) -> Any:
    if name in schema.JSON_COLUMNS or schema.TASK_COLUMNS.get(name) is schema.JSON:
        found = msgspec.json.decode(value) if isinstance(value, str) else value
        return tuple(found) if isinstance(found, list) else found
    return iso(value) if isinstance(value, datetime) else value


def _document(payload: Any) -> Document:
    return msgspec.json.decode(payload) if isinstance(payload, str) else payload  # type: ignore[no-any-return]


def _figures(key: tuple[Any, ...], rows: list[Row[Any]], serving: int) -> OptionFigures:
    found = {name: [getattr(row, name) for row in rows if getattr(row, name) is not None] for name in _FIGURES}
    medians: dict[str, Any] = {name: float(statistics.median(values)) for name, values in found.items() if values}
    p95 = found["latency_p95_s"]
    return OptionFigures(
        **dict(zip(_OPTION, key, strict=True)),
        boards=len(rows),
        latency_p95_least_s=min(p95, default=None),
        latency_p95_most_s=max(p95, default=None),
        serving=serving,
        **medians,
    )


def _pieces(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _AT_ONCE):
        yield names[start : start + _AT_ONCE]
