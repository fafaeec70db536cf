"""How a rollout stands, made into the message that others see (``agent.core.rollout_message``). Pure.

Rules:
- First what somebody must look at: of boards those not in order, of transitions the last, of tracks those still going.
- It fits into ``MAX_BYTES``, whatever the fleet: where it does not, less is named, and what is left out is counted.

Leaves when it is told to ``agent.fleet.rollout_notices``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

import msgspec

from agent.clock import iso
from agent.core.rollout_message import (
    RolloutBoard,
    RolloutMessage,
    RolloutOrder,
    RolloutTrack,
    RolloutTransition,
    RolloutWave,
)
from agent.fleet.plain import LONG, plain
from agent.fleet.rollout import ALL, Rollout, Track, summary
from agent.fleet.rollout_board import Board
from agent.fleet.rollout_store import Transition

MAX_BYTES = 32 * 1024  # a quarter of what a message may have: it is sent up to once a second
MOST = 50  # boards, and transitions
MOST_WAVES = 200


class Teller(msgspec.Struct, frozen=True, kw_only=True):
    """Who tells: the operator's name in the registry, and the machine's."""

    operator: str
    machine: str | None = None


def out_of_order(boards: Iterable[Board]) -> list[Board]:
    """Return the boards that are not as the rollout wants them: those that failed first, then those not reached."""
    named = sorted(boards, key=lambda board: board.name)
    bad = [board for board in named if board.kind is not None or board.gave_up]
    away = [board for board in named if board.phase == "unreachable" and board.kind is None and not board.gave_up]
    return bad + away


def message_of(
    rollout: Rollout, last: Sequence[Transition], left_out: int, teller: Teller, at: float, *, driven: bool
) -> RolloutMessage:
    """Return a rollout's message. Args: last: its newest transitions, the oldest first. left_out: how many came before.

    at: seconds since 1970.
    """
    boards, waves, most = out_of_order(rollout.boards.values()), MOST_WAVES, MOST
    tracks = _tracks(rollout)
    while True:
        told = _message(rollout, teller, at, driven)
        shown = _bounded(tracks, waves)
        kept = last[-most:] if most else ()
        told = msgspec.structs.replace(
            told,
            tracks=tuple(shown),
            tracks_left_out=len(tracks) - len(shown),
            boards=tuple(_board(board) for board in boards[:most]),
            boards_left_out=max(0, len(boards) - most),
            transitions=tuple(_transition(row) for row in kept),
            transitions_left_out=left_out + len(last) - len(kept),
        )
        if len(msgspec.json.encode(told)) <= MAX_BYTES or waves == 0:
            return told
        waves, most = waves // 2, most // 2


def _message(rollout: Rollout, teller: Teller, at: float, driven: bool) -> RolloutMessage:
    spec = rollout.spec
    order = RolloutOrder(
        address=plain(spec.address, LONG),
        waves=tuple(wave.text for wave in spec.waves[:MOST]),
        success_ratio=spec.success,
        abort_on=tuple(rule.text for rule in spec.rules),
        soak_s=spec.soak_s,
        per_class=spec.per_class,
        on_breach=spec.on_breach,
        wait_s=spec.wait_s,
    )
    return RolloutMessage(
        fleet=rollout.fleet,
        id=rollout.id,
        task=spec.task,
        candidate=spec.candidate,
        operator=teller.operator,
        machine=teller.machine,
        status=rollout.status,
        reason=plain(rollout.reason, 2 * LONG),
        started_at=_time(rollout.created_at),
        updated_at=_time(at),
        driven=driven,
        order=order,
        boards_total=len(rollout.boards),
        phases=summary(rollout),
    )


def _tracks(rollout: Rollout) -> list[RolloutTrack]:
    """Return all tracks with all their waves, those still going first."""
    given: dict[tuple[str, int | None], Counter[str]] = {}
    for board in rollout.boards.values():
        given.setdefault((board.track, board.wave), Counter())[board.phase] += 1
    known = sorted(rollout.tracks.values(), key=lambda track: (track.done, track.name))
    return [_track(rollout, track, given) for track in known]


def _track(rollout: Rollout, track: Track, given: dict[tuple[str, int | None], Counter[str]]) -> RolloutTrack:
    sizes = [target - before for before, target in zip((0, *track.targets), track.targets, strict=False)]
    waves = tuple(
        RolloutWave(number=number + 1, text=wave.text, boards=size, phases=dict(given.get((track.name, number), {})))
        for number, (wave, size) in enumerate(zip(rollout.spec.waves, sizes, strict=True))
    )
    soaks = rollout.status == "running" and track.soak_until is not None
    return RolloutTrack(
        name=track.name,
        class_fingerprint=None if track.name in (ALL, "unknown") else track.name,
        total=track.total,
        wave=track.wave + 1,
        done=track.done,
        reason=plain(track.reason, LONG),
        soak_until=_time(track.soak_until) if soaks and track.soak_until is not None else None,
        waves=waves,
        idle=dict(given.get((track.name, None), {})),
    )


def _bounded(tracks: list[RolloutTrack], most: int) -> list[RolloutTrack]:
    """Return as many tracks as have ``most`` waves together; of a track with more of them those from its own on."""
    shown: list[RolloutTrack] = []
    for track in tracks:
        if most <= 0:
            break
        first = min(track.wave - 1, max(0, len(track.waves) - most))
        kept = track.waves[first : first + most]
        shown.append(msgspec.structs.replace(track, waves=kept, waves_left_out=len(track.waves) - len(kept)))
        most -= len(kept)
    return shown


def _board(board: Board) -> RolloutBoard:
    return RolloutBoard(
        name=board.name,
        phase=board.phase,
        track=board.track,
        wave=None if board.wave is None else board.wave + 1,
        kind=board.kind,
        reason=plain(board.reason, LONG),
    )


def _transition(row: Transition) -> RolloutTransition:
    return RolloutTransition(
        at=_time(row.at),
        subject=row.subject,
        before=row.before,
        after=row.after,
        reason=plain(row.reason, LONG),
        verb=row.verb,
        job=row.job,
    )


def _time(at: float) -> str:
    return iso(datetime.fromtimestamp(at, timezone.utc))
