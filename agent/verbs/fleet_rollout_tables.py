"""How a rollout looks: its waves as a table, its boards that need looking at, its history, and as a document."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from agent.clock import iso
from agent.console import Cell, Column, Console
from agent.core.units import format_quantity
from agent.fleet.rollout import ALL, Rollout, Track, summary
from agent.fleet.rollout_board import AT_WORK, SERVES, Board, Phase
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


def wave_columns(rollout: Rollout, *, at: float | None = None, most: int | None = None) -> list[Column]:
    """Return one row for each wave of each track.

    Args: at: the time now, seconds since 1970, to say how long a wave soaks yet. most: rows there is room for; of more,
    each track has its present wave only, those still going first.
    """
    members: dict[str, list[Board]] = {name: [] for name in rollout.tracks}
    for board in rollout.boards.values():
        members[board.track].append(board)
    whole = most is None or len(rollout.tracks) * (len(rollout.spec.waves) + 1) <= most
    tracks = sorted(rollout.tracks.values(), key=lambda track: (not whole and track.done, track.name))
    counts = Counter(board.phase for board in rollout.boards.values())
    phases = [phase for phase in _SHOWN if counts[phase] or phase in SERVES]
    rows: list[tuple[Cell, ...]] = []
    for track in tracks[:most]:
        rows += _rows(rollout, track, members[track.name], phases, at, whole=whole)
    names = ("class", "wave", "boards", "at work", *(phase.replace("_", " ") for phase in phases), "state")
    last = len(names) - 1
    return [
        Column(name, [row[place] for row in rows], right=2 <= place < last, flexible=place == last)
        for place, name in enumerate(names)
    ]  # fmt: skip


def _rows(
    rollout: Rollout, track: Track, boards: list[Board], phases: Sequence[Phase], at: float | None, *, whole: bool
) -> list[tuple[Cell, ...]]:
    name = "all" if track.name == ALL else track.name[:8]
    rows: list[tuple[Cell, ...]] = []
    for number, (wave, target) in enumerate(zip(rollout.spec.waves, track.targets, strict=True)):
        if not whole and number != track.wave:
            continue
        counts = Counter(board.phase for board in boards if board.wave == number)
        before = track.targets[number - 1] if number else 0
        at_work = sum(counts[phase] for phase in AT_WORK)
        state = (
            "through"
            if track.done or number < track.wave
            else ""
            if number > track.wave
            else _state(rollout, track, at)
        )
        rows.append(
            (
                name, f"{number + 1}: {wave.text}", f"{sum(counts.values())}/{target - before}", _figure(at_work),
                *((_figure(counts[phase]), _STYLES.get(phase, "")) for phase in phases), state,
            )
        )  # fmt: skip
    away = sum(board.wave is None and board.phase == "unreachable" for board in boards)
    if away and whole:
        rows.append((name, "–", str(away), *("",) * (len(phases) + 1), "not reached"))
    return rows


def _state(rollout: Rollout, track: Track, at: float | None) -> str:
    if rollout.status not in ("running", "paused"):
        return ""  # what the wave waited for is waited for no more
    if track.soak_until is None or at is None:
        return track.reason
    return f"soaks for another {format_quantity(max(0.0, math.ceil(track.soak_until - at)), 'time', digits=3)}"


def waves_line(rollout: Rollout, most: int) -> str:
    """Return how it stands in one line. Args: most: rows there was room for."""
    counted = ", ".join(f"{count} {phase.replace('_', ' ')}" for phase, count in sorted(summary(rollout).items()))
    hidden = len(rollout.tracks) - most
    more = f" {hidden} more classes are not shown." if hidden > 0 else ""
    reason = "" if rollout.reason == "started" else f" {rollout.reason}."
    return f"{rollout.id}, {rollout.status.replace('_', ' ')}: {counted}.{more}{reason} Ctrl-C leaves it as it stands."


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
    console.line(f"{rollout.id} is {rollout.status.replace('_', ' ')}: {rollout.reason}.")


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
        if state is before:
            return
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


def _time(at: float) -> str:
    return iso(datetime.fromtimestamp(at, timezone.utc))
