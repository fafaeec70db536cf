"""``fleet list``, ``show`` and ``watch``: what boards have told of themselves. Nothing is asked of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from agent.clock import SystemClock
from agent.console import Cell, Column
from agent.core.units import format_quantity
from agent.fleet.addressing import parse_selection
from agent.fleet.view import BoardView, as_document
from agent.verbs.fleet import console
from agent.verbs.invocation import Invocation

_STYLES = {"online": "green", "busy": "yellow", "offline": "red"}
_CLASS_SHOWN = 8


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the actions of this module."""
    add("list", "List boards: what they are, what serves, when they last spoke", run_list, boards="*")


def run_list(call: Invocation) -> int:
    """Print the boards."""
    with console(call) as opened:
        boards = opened.view.sorted()
        if call.arguments.boards:
            boards = parse_selection(call.arguments.boards).of(boards)
        refused, why = opened.view.refused, opened.view.last_refusal
    if call.console.as_json:
        call.console.document(
            {"schema": "boardfit.fleet-list/1", "fleet": opened.settings.fleet, "refused": refused,
             "boards": [as_document(board) for board in boards]}
        )  # fmt: skip
        return 0
    if boards:
        call.console.columns(columns(boards, SystemClock().utc()))
    online = sum(board.reachable for board in boards)
    call.console.line(f"{len(boards)} boards, {online} online.")
    if refused:
        call.console.line(f"{refused} messages could not be read and were left out; the last: {why}", "yellow")
    return 0


def columns(boards: Sequence[BoardView], now: datetime) -> list[Column]:
    """Return the table of a list of boards."""
    return [
        Column("board", [board.name for board in boards]),
        Column("status", [_status(board) for board in boards]),
        Column("class", [(board.class_fingerprint or "–")[:_CLASS_SHOWN] for board in boards], leave_out=3),
        Column("soc", [board.soc or "–" for board in boards], leave_out=2),
        Column("ram", [format_quantity(board.memory_bytes, "bytes") for board in boards], right=True, leave_out=1),
        Column("groups", [", ".join(board.groups or ()) or "–" for board in boards], leave_out=4),
        Column("p95", [_p95(board) for board in boards], right=True, leave_out=6),
        Column("last seen", [ago(board.seen, now) for board in boards], right=True, leave_out=5),
        Column("task → candidate", [_serving(board) for board in boards], flexible=True),
    ]


def _status(board: BoardView) -> Cell:
    text = board.status or "unknown"
    return text, _STYLES.get(text, "dim")


def _serving(board: BoardView) -> str:
    parts = [f"{name} → {task.candidate or 'nothing'}" for name, task in sorted(board.tasks.items())]
    return ", ".join(parts) or "–"


def _p95(board: BoardView) -> str:
    values = [task.p95_s for _, task in sorted(board.tasks.items()) if task.candidate is not None]
    return ", ".join(format_quantity(value, "time") if value is not None else "–" for value in values) or "–"


def ago(time: str | None, now: datetime) -> str:
    """Return how long ago a board's own clock said it was, for a person."""
    if time is None:
        return "never"
    try:
        passed_s = (now - datetime.fromisoformat(time.replace("Z", "+00:00")).astimezone(timezone.utc)).total_seconds()
    except (ValueError, OverflowError):
        return "unknown"
    if passed_s < 1:
        return "now"
    if passed_s >= 2 * 86400:
        return f"{passed_s / 86400:.0f} d ago"
    return f"{format_quantity(passed_s, 'time', digits=2)} ago"
