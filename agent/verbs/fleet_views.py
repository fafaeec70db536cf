"""``fleet list``, ``show`` and ``watch``: what boards have told of themselves. Nothing is asked of them."""

from __future__ import annotations

import argparse
import heapq
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from datetime import datetime, timezone
from functools import lru_cache

from agent.clock import SystemClock, read_iso
from agent.console import Cell, Column
from agent.core.topics import fleet_filter
from agent.core.units import format_quantity
from agent.errors import ConfigError
from agent.fleet.addressing import Selection, parse_selection
from agent.fleet.view import BoardView, FleetView, as_document
from agent.verbs.fleet import RETAINED, console, kinds_for
from agent.verbs.invocation import Invocation

_STYLES = {"online": "green", "busy": "yellow", "offline": "red"}
_CLASS_SHOWN = 8


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the actions of this module."""
    add("show", "Show all that one board has told of itself", run_show, boards="+")
    add("watch", "Watch boards live, until Ctrl-C", run_watch, boards="*")
    add("list", "List boards: what they are, what serves, when they last spoke", run_list, boards="*")


def run_list(call: Invocation) -> int:
    """Print the boards."""
    with console(call, RETAINED if call.console.as_json else kinds_for(call.arguments.boards)) as opened:
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
    call.console.line(_counted(boards))
    if refused:
        call.console.line(f"{refused} messages could not be read and were left out; the last: {why}", "yellow")
    return 0


def _counted(boards: Collection[BoardView]) -> str:
    online = sum(board.reachable for board in boards)
    return f"{len(boards)} board{'s' * (len(boards) != 1)}, {online} online."


def run_show(call: Invocation) -> int:
    """Print boards one by one."""
    now = SystemClock().utc()
    with console(call) as opened:
        boards = opened.addressed(call.arguments.boards)[1]
    if call.console.as_json:
        call.console.document({"schema": "boardfit.fleet-show/1", "boards": [as_document(board) for board in boards]})
        return 0
    for board in boards:
        call.console.heading(board.name)
        for name, text in _told(board, now):
            call.console.line(f"{name:>12}: {text}")
        for name, task in sorted(board.tasks.items()):
            call.console.line(
                f"{name:>12}: {task.candidate or 'nothing'} serves ({task.phase or 'never deployed'}), "
                f"p95 {format_quantity(task.p95_s, 'time')}"
            )
            if task.outcome is not None:
                chosen = task.decided or "nothing"
                p95 = format_quantity(task.decided_p95_s, "time")
                call.console.line(f"{'':>12}  last decision: {chosen}, p95 {p95}; {task.reason}")
            for candidate, text in task.withheld:
                call.console.line(f"{'':>12}  kept out: {candidate}: {text}", "yellow")
    return 0


def _told(board: BoardView, now: datetime) -> list[tuple[str, str]]:
    """Return what a board has told, as pairs of a name and a text."""
    status = (board.status or "unknown") + (f", {board.reason}" if board.reason else "")
    versions = ", ".join(f"{scope} {version}" for scope, version in board.desired_versions.items())
    rows = (
        ("status", f"{status}; last seen {ago(board.seen, now)}"),
        ("agent", board.agent_version),
        ("model", board.model),
        ("profile", board.profile),
        ("soc", board.soc),
        ("class", board.class_fingerprint),
        ("cpu", None if board.cores is None else f"{board.cores} usable cores, {board.architecture or 'unknown'}"),
        ("ram", None if board.memory_bytes is None else format_quantity(board.memory_bytes, "bytes")),
        ("power mode", board.power_mode),
        ("engines", ", ".join(board.engines)),
        ("accelerators", ", ".join(board.accelerators)),
        ("traps", "; ".join(board.traps)),
        ("groups", ", ".join(board.groups or ())),
        ("desired", f"has taken {versions}" if versions else None),
        ("refused", board.desired_error),
        ("outbox", None if not board.outbox_messages else f"messages waiting: {board.outbox_messages}"),
    )
    return [(name, text) for name, text in rows if text]


def run_watch(call: Invocation) -> int:
    """Show boards as they change, until a stop is asked for."""
    if call.console.as_json:
        raise ConfigError("a live table is no JSON document", fix="use `boardfit fleet list --json`")
    selection = parse_selection(call.arguments.boards or ["all"])
    with console(call) as opened:
        for kind in ("telemetry", "job"):
            opened.link.hear(fleet_filter(opened.settings.fleet, kind), opened.view.take)
        terminal = call.console.rich.is_terminal
        watched = _Watched(opened.view, selection)
        said: dict[str, str] = {}
        with call.console.live() if terminal else nullcontext(None) as show:

            def tick() -> None:
                changed, now = watched.renew(), SystemClock().utc()
                if show is None:
                    _say_changes(call, changed, said, now)
                elif watched.due(changed):
                    state = opened.link.connection.last_error
                    boards, line = watched.shown(call.console.room)
                    show(
                        _live_columns(boards, now), line if state is None else f"{line} Not connected: {state.problem}"
                    )

            tick()
            while not call.stop():
                opened.link.wait(call.stop, 1.0, tick)
    return 0


class _Watched:
    """Those of a fleet's boards that are watched: only what was heard of since the last look is looked at again."""

    def __init__(self, view: FleetView, selection: Selection) -> None:
        self._view, self._selection = view, selection
        view.changed = set(view.boards)
        self._boards: dict[str, BoardView] = {}
        self._drawn_at = 0.0

    def renew(self) -> list[BoardView]:
        """Return the boards that have changed, in order."""
        changed, self._view.changed = self._view.changed or set(), set()
        for name in changed:
            board = self._view.boards.get(name)
            if board is not None and self._selection.test(board):
                self._boards[name] = board
            else:
                self._boards.pop(name, None)
        return [self._boards[name] for name in sorted(changed) if name in self._boards]

    def due(self, changed: Sequence[BoardView]) -> bool:
        """Return whether to draw again: something has changed, or times have grown by a second."""
        now = time.monotonic()
        if not changed and now - self._drawn_at < 1.0:
            return False
        self._drawn_at = now
        return True

    def shown(self, room: int) -> tuple[list[BoardView], str]:
        """Return the boards that fit into ``room`` lines, and the line below them."""
        boards = self._boards.values()
        line = f"{_counted(boards)} Ctrl-C ends this."
        if (hidden := len(boards) - room) > 0:
            line += f" {hidden} boards are not shown: those at work and away come first."
            return heapq.nsmallest(room, boards, key=lambda board: (_quiet(board), board.name)), line
        return sorted(boards, key=lambda board: board.name), line


def _say_changes(call: Invocation, changed: Sequence[BoardView], said: dict[str, str], now: datetime) -> None:
    """Say the line of each board that reads otherwise than before, where there is no terminal."""
    if not changed:
        return
    kept = [column.cells for column in _live_columns(changed, now) if column.name != "last seen"]
    for board, row in zip(changed, zip(*kept, strict=True), strict=True):
        text = "  ".join(cell if isinstance(cell, str) else cell[0] for cell in row)
        if said.get(board.name) != text:
            said[board.name] = text
            call.console.line(text)


def _quiet(board: BoardView) -> int:
    """Return the place of a board where not all can be shown; equal ones stay in order."""
    at_work = board.status == "busy" or board.job_state in ("QUEUED", "IN_PROGRESS")
    return 0 if at_work else 1 if not board.reachable or board.reason or board.desired_error else 2


def _live_columns(boards: Sequence[BoardView], now: datetime) -> list[Column]:
    """Return the live table."""
    kept = [column for column in columns(boards, now) if column.name not in ("soc", "ram", "groups")]
    job = [
        f"{board.job} {(board.job_state or '').lower().replace('_', ' ')}" if board.job else board.doing or "–"
        for board in boards
    ]
    heat = ["–" if (t := board.temperature_celsius) is None else format_quantity(t, "temperature") for board in boards]
    return [*kept[:-1], Column("temperature", heat, right=True, leave_out=4), Column("job", job), kept[-1]]


def columns(boards: Sequence[BoardView], now: datetime) -> list[Column]:
    """Return the table of a list of boards."""
    return [
        Column("board", [board.name for board in boards]),
        Column("status", [_status(board) for board in boards]),
        Column("class", [(board.class_fingerprint or "–")[:_CLASS_SHOWN] for board in boards], leave_out=3),
        Column("soc", [board.soc or "–" for board in boards], leave_out=2),
        Column("ram", [_quantity(board.memory_bytes, "bytes") for board in boards], right=True, leave_out=1),
        Column("groups", [", ".join(board.groups or ()) or "–" for board in boards], leave_out=4),
        Column("p95", [_p95(board) for board in boards], right=True, leave_out=6),
        Column("last seen", [ago(board.seen, now) for board in boards], right=True, leave_out=5),
        Column("task → candidate", [_serving(board) for board in boards], flexible=True),
    ]


def _status(board: BoardView) -> Cell:
    text = board.status or "unknown"
    return text, _STYLES.get(text, "dim")


def _serving(board: BoardView) -> str:
    parts = []
    for name, task in sorted(board.tasks.items()):
        kept_out = f" ({len(task.withheld)} kept out)" if task.withheld else ""
        parts.append(f"{name} → {task.candidate or 'nothing'}{kept_out}")
    return ", ".join(parts) or "–"


def _p95(board: BoardView) -> str:
    values = [task.p95_s for _, task in sorted(board.tasks.items()) if task.candidate is not None]
    return ", ".join(_quantity(value, "time") if value is not None else "–" for value in values) or "–"


#: Boards of a class have the same figures, or nearly so.
_quantity = lru_cache(maxsize=4096)(format_quantity)


def ago(time: str | None, now: datetime) -> str:
    """Return how long ago a board's own clock said it was, for a person; to the second."""
    if time is None:
        return "never"
    return _ago(f"{time[:19]}Z" if time.endswith("Z") else time, now)


@lru_cache(maxsize=4096)  # a fleet's boards spoke in the same few seconds
def _ago(time: str, now: datetime) -> str:
    try:
        passed_s = (now - read_iso(time).astimezone(timezone.utc)).total_seconds()
    except (ValueError, OverflowError):
        return "unknown"
    if passed_s < 1:
        return "now"
    if passed_s >= 2 * 86400:
        return f"{passed_s / 86400:.0f} d ago"
    return f"{format_quantity(passed_s, 'time', digits=2)} ago"
