"""The table of boards: which ones, in which order, which of them on this page. Pure.

Rules:
- Which boards is said in the words of the command line (``agent.fleet.addressing``); what stands in a column's own
  filter becomes such words, so that everything shown can be ordered about with what the page shows as its filter.
- What is not known sorts last in both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from agent.errors import ConfigError
from agent.fleet.addressing import parse_selection
from agent.fleet.view import BoardView

PAGE = 100
MAX_PAGE = 500
#: A column's own filter: how its text becomes an expression. ``{}`` takes the text, within quotes.
FILTERS: dict[str, str] = {
    "name": 'name ~ "*{}*"',
    "status": 'status = "{}"',
    "model": 'model ~ "*{}*"',
    "group": 'group ~ "*{}*"',
    "candidate": 'candidate ~ "*{}*"',
    "p95": "p95 {}",
    "energy": "energy {}",
    "temperature": "temperature {}",
    "outbox": "outbox {}",
}
_QUANTITIES = ("p95", "energy", "temperature", "outbox")
_SIGNS = ("<", ">", "=", "!")


class TaskLine(msgspec.Struct, frozen=True, kw_only=True):
    """One task of a board, as the table shows it."""

    task: str
    candidate: str | None
    phase: str | None
    outcome: str | None
    p95_s: float | None
    budget_p95_s: float | None
    energy_j: float | None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One board, as the table shows it. ``use``: its worst p95 as a share of its budget; None where one is unknown."""

    name: str
    status: str | None
    reason: str | None
    model: str | None
    profile: str | None
    class_fingerprint: str | None
    groups: tuple[str, ...]
    tasks: tuple[TaskLine, ...]
    p95_s: float | None
    use: float | None
    energy_j: float | None
    temperature_celsius: float | None
    outbox: int | None
    seen: str | None
    job: str | None
    job_state: str | None
    desired_error: str | None


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. ``columns``: the text of each column's own filter. ``page`` counts from 1."""

    expression: str = ""
    columns: Mapping[str, str] = {}
    sort: str = "name"
    descending: bool = False
    page: int = 1
    per_page: int = PAGE


def line_of(board: BoardView) -> Line:
    """Return a board's line."""
    tasks = tuple(
        TaskLine(
            task=name, candidate=task.candidate, phase=task.phase, outcome=task.outcome, p95_s=task.p95_s,
            budget_p95_s=task.budget_p95_s, energy_j=task.energy_j if task.candidate == task.decided else None,
        )
        for name, task in sorted(board.tasks.items())
    )  # fmt: skip
    uses = [t.p95_s / t.budget_p95_s for t in tasks if t.p95_s is not None and t.budget_p95_s]
    return Line(
        name=board.name, status=board.status, reason=board.reason, model=board.model, profile=board.profile,
        class_fingerprint=board.class_fingerprint, groups=board.groups or (), tasks=tasks,
        p95_s=_most(t.p95_s for t in tasks), use=_most(uses), energy_j=_most(t.energy_j for t in tasks),
        temperature_celsius=board.temperature_celsius, outbox=board.outbox_messages, seen=board.seen,
        job=board.job, job_state=board.job_state, desired_error=board.desired_error,
    )  # fmt: skip


def expression_of(query: Query) -> str:
    """Return everything that is filtered by as one expression; empty for all boards. Raises: ConfigError."""
    parts = []
    for column, text in query.columns.items():
        pattern, said = FILTERS.get(column), text.strip().replace('"', "")
        if pattern is None:
            raise ConfigError(f"no column {column[:32]!r} can be filtered", fix=f"use {', '.join(FILTERS)}")
        if not said:
            continue
        if column in _QUANTITIES and not said.startswith(_SIGNS):
            said = f">= {said}"
        parts.append(pattern.format(said))
    said = query.expression.strip()
    if said and parts:
        said = f"({said})"
    return " and ".join([said, *parts] if said else parts)


def table(boards: Mapping[str, BoardView], lines: Mapping[str, Line], query: Query) -> dict[str, Any]:
    """Return one page of the table, and how many boards there are of each kind.

    Raises: ConfigError: the expression cannot be read, or no such order.
    """
    expression = expression_of(query)
    everything = list(boards.values())
    found = parse_selection([expression]).of(everything) if expression else everything
    chosen = _sorted([lines[board.name] for board in found if board.name in lines], query)
    per_page = min(max(query.per_page, 1), MAX_PAGE)
    pages = max(1, -(-len(chosen) // per_page))
    page = min(max(query.page, 1), pages)
    return {
        "expression": expression,
        "total": len(everything),
        "found": len(chosen),
        "page": page,
        "pages": pages,
        "per_page": per_page,
        "counts": _counts(chosen),
        "boards": chosen[(page - 1) * per_page : page * per_page],
    }


def _counts(lines: Iterable[Line]) -> dict[str, int]:
    counts = {"online": 0, "busy": 0, "offline": 0, "unknown": 0, "over_budget": 0, "waiting": 0, "refused": 0}
    for line in lines:
        counts[line.status if line.status in counts else "unknown"] += 1
        counts["over_budget"] += line.use is not None and line.use > 1
        counts["waiting"] += bool(line.outbox)
        counts["refused"] += line.desired_error is not None
    return counts


def _sorted(lines: list[Line], query: Query) -> list[Line]:
    key = SORTS.get(query.sort)
    if key is None:
        raise ConfigError(f"nothing can be sorted by {query.sort[:32]!r}", fix=f"use {', '.join(SORTS)}")
    lines = sorted(lines, key=lambda line: line.name)
    known = [line for line in lines if key(line) is not None]
    unknown = [line for line in lines if key(line) is None]
    return [*sorted(known, key=key, reverse=query.descending), *unknown]


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


_STATUS = {"offline": 0, "busy": 1, "online": 2}
#: What the table can be sorted by.
SORTS: dict[str, Callable[[Line], Any]] = {
    "name": lambda line: line.name,
    "status": lambda line: _STATUS.get(line.status or ""),
    "model": lambda line: line.model or line.profile,
    "class": lambda line: line.class_fingerprint,
    "group": lambda line: ", ".join(line.groups) or None,
    "candidate": lambda line: ", ".join(task.candidate or "" for task in line.tasks) or None,
    "p95": lambda line: line.p95_s,
    "use": lambda line: line.use,
    "energy": lambda line: line.energy_j,
    "temperature": lambda line: line.temperature_celsius,
    "outbox": lambda line: line.outbox,
    "seen": lambda line: line.seen,
}
