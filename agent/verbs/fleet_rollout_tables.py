"""How a rollout looks: its waves as a table, its boards that need looking at, its history, and as a document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from agent.clock import iso
from agent.console import Cell, Column, Console
from agent.fleet.rollout import ALL, Rollout, summary
from agent.fleet.rollout_board import AT_WORK, Board, Phase
from agent.fleet.rollout_store import Transition
from agent.fleet.rollout_telling import out_of_order

_STYLES = {"succeeded": "green", "soaking": "yellow", "failed": "red", "rolled_back": "red", "unreachable": "yellow"}
_SHOWN: tuple[Phase, ...] = ("soaking", "succeeded", "failed", "rolled_back", "unreachable", "undoing", "undone")
_MOST_BOARDS = 20


def document(rollout: Rollout, *, boards: bool = True) -> dict[str, Any]:
    """Return a rollout as a JSON document. Args: boards: with every board."""
    made: dict[str, Any] = {
        "schema": "boardfit.rollout/1", "id": rollout.id, "fleet": rollout.fleet, "status": rollout.status,
        "reason": rollout.reason, "created_at": _time(rollout.created_at), "spec": rollout.spec,
        "tracks": [rollout.tracks[name] for name in sorted(rollout.tracks)], "phases": summary(rollout),
    }  # fmt: skip
    if boards:
        made["boards"] = [
            {name: getattr(board, name) for name in ("name", "track", "wave", "phase", "kind", "reason", "target")}
            for _, board in sorted(rollout.boards.items())
        ]
    return made


def wave_columns(rollout: Rollout) -> list[Column]:
    """Return one row for each wave of each track."""
    rows: list[tuple[Cell, ...]] = []
    for name, track in sorted(rollout.tracks.items()):
        mine = [board for board in rollout.boards.values() if board.track == name]
        for number, (wave, target) in enumerate(zip(rollout.spec.waves, track.targets, strict=True)):
            counts = Counter(board.phase for board in mine if board.wave == number)
            before = track.targets[number - 1] if number else 0
            at_work = sum(counts[phase] for phase in AT_WORK)
            state = "through" if track.done or number < track.wave else "" if number > track.wave else track.reason
            rows.append(
                (
                    "all" if name == ALL else name[:8], f"{number + 1}: {wave.text}",
                    f"{sum(counts.values())}/{target - before}", _figure(at_work),
                    *((_figure(counts[phase]), _STYLES.get(phase, "")) for phase in _SHOWN), state,
                )
            )  # fmt: skip
        away = sum(board.wave is None and board.phase == "unreachable" for board in mine)
        if away:
            blank = ("",) * (len(_SHOWN) + 1)
            rows.append(("all" if name == ALL else name[:8], "–", str(away), *blank, "not reached"))
    names = ("class", "wave", "boards", "at work", *(phase.replace("_", " ") for phase in _SHOWN), "state")
    last = len(names) - 1
    return [
        Column(
            name, [row[place] for row in rows], right=2 <= place < last, flexible=place == last,
            leave_out=1 if 2 < place < last and all(_text(row[place]) in ("–", "") for row in rows) else 0,
        )
        for place, name in enumerate(names)
    ]  # fmt: skip


def waves_line(rollout: Rollout) -> str:
    """Return how it stands in one line."""
    return f"{rollout.id}: {rollout.status}; {rollout.reason}. Ctrl-C leaves it as it stands."


def show_state(console: Console, rollout: Rollout) -> None:
    """Print the waves, and the boards that did not succeed with their reasons."""
    spec = rollout.spec
    console.heading(f"Rollout {rollout.id} of {spec.candidate or 'what each board chooses'} for {spec.task}")
    console.columns(wave_columns(rollout))
    bad = out_of_order(rollout.boards.values())
    for board in bad[:_MOST_BOARDS]:
        console.line(f"{board.phase.replace('_', ' ')}: {board.name}: {board.reason}", _STYLES.get(board.phase, "red"))
    if len(bad) > _MOST_BOARDS:
        console.line(f"and {len(bad) - _MOST_BOARDS} more; see `boardfit fleet rollout show {rollout.id} --json`")
    console.line(f"{rollout.id} is {rollout.status}: {rollout.reason}.")


def show_history(console: Console, history: Sequence[Transition]) -> None:
    """Print every transition."""
    console.heading("What happened")
    for row in history:
        what = row.after if row.before in (None, row.after) else f"{row.before} → {row.after}"
        order = f", ordered {row.verb} ({row.job})" if row.job else ""
        reason = f": {row.reason}" if row.reason else ""
        console.line(f"{_time(row.at)}  {row.subject}: {what}{order}{reason}")


def changes(console: Console, rollout: Rollout) -> Callable[[Rollout], None]:
    """Return what says each change as a line, where there is no terminal."""
    last = [rollout]

    def say(state: Rollout) -> None:
        before, last[0] = last[0], state
        lines = [_line(board) for name, board in state.boards.items() if board.phase != before.boards[name].phase]
        for name, track in state.tracks.items():
            if (track.wave, track.done) != (before.tracks[name].wave, before.tracks[name].done):
                where = "" if name == ALL else f" of class {name[:8]}"
                lines.append(f"wave {before.tracks[name].wave + 1}{where} is through")
        if (state.status, state.reason) != (before.status, before.reason):
            lines.append(f"{state.status}: {state.reason}")
        for line in lines:
            console.rich.print(line, markup=False, soft_wrap=True)

    return say


def _line(board: Board) -> str:
    reason = f": {board.reason}" if board.reason else ""
    return f"{board.name}: {board.phase.replace('_', ' ')}{reason}"


def _figure(count: int) -> str:
    return str(count) if count else "–"


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _time(at: float) -> str:
    return iso(datetime.fromtimestamp(at, timezone.utc))
