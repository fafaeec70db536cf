"""A rollout as a whole: which boards are given work, when a wave has proved itself, when to stop. Pure.

::

    running -> completed                     every board has ended, or was waited for long enough
    running <-> paused                       by the operator, or by a breach with ``pause``
    running | paused -> undoing -> rolled_back    a breach, or abort with undo: what this rollout switched goes back
    running | paused -> stopping -> aborted       abort without undo: what is at work ends, nothing more begins
    any of them -> superseded                a newer rollout of the task was started in its place

Rules:
- ``advance`` is level-triggered: it judges by what boards show now, not by which messages came. Messages lost or
  repeated, and a process that starts again with the stored state, change nothing.
- A track is what waves are counted in: all boards, or with ``per_class`` one class of boards. Tracks move by
  themselves, but a breach in one stops the rollout: it is one candidate, and one order.
- Only boards that are there are given work: the first one is the healthiest, the others follow by a hash of rollout and
  name. A wave has proved itself when it is full, its share of successes is reached, and the soak time has passed since
  its last success. Boards that are away are picked up when they come, and reported once they were waited for in vain.
- Rules are judged over the boards of one wave that were given work; a board that goes back later counts in its wave.
- What an operator has seen and resumed in spite of does not stop the rollout again, and proves nothing: another board
  takes its place in the wave.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

import msgspec

from agent.core.rollout_message import ROLLOUT_ENDED, RolloutStatus
from agent.errors import ConfigError
from agent.fleet.rollout_board import AT_WORK, SERVES, Board, Order, act, begin, cancel, observe, undo
from agent.fleet.rollout_calm import Calm
from agent.fleet.rollout_spec import RolloutSpec
from agent.fleet.rollout_view import BoardNow

Status = RolloutStatus
ENDED = ROLLOUT_ENDED
ALL = "all"
_NONE = 1e-9  # shares are compared as floats


class Track(msgspec.Struct, frozen=True, kw_only=True):
    """One line of waves. ``wave`` counts from 0; ``picked_at``: when it last got a board, or the wave began.

    ``soak_until``: until when its wave soaks, None where it does not; both in seconds since 1970.
    """

    name: str
    total: int
    targets: tuple[int, ...]
    wave: int = 0
    done: bool = False
    picked_at: float = 0.0
    reason: str = "not begun"
    soak_until: float | None = None


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known of a rollout. ``accepted``: boards whose failure an operator has resumed in spite of."""

    id: str
    fleet: str
    spec: RolloutSpec
    created_at: float
    status: Status = "running"
    reason: str = "started"
    tracks: dict[str, Track] = {}
    boards: dict[str, Board] = {}
    accepted: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing more is to happen."""
        return self.status in ENDED


def start(id_: str, fleet: str, spec: RolloutSpec, boards: Iterable[BoardNow], at: float) -> Rollout:
    """Return a new rollout over these boards. Args: at: seconds since 1970. Raises: ConfigError: no board."""
    made: dict[str, Board] = {}
    for now in sorted(boards, key=lambda one: one.name):
        track = (now.class_fingerprint or "unknown") if spec.per_class else ALL
        made[now.name] = Board(name=now.name, track=track)
    if not made:
        raise ConfigError("a rollout needs at least one board", fix="see `boardfit fleet list`")
    tracks: dict[str, Track] = {}
    for name in sorted({board.track for board in made.values()}):
        total = sum(board.track == name for board in made.values())
        tracks[name] = Track(name=name, total=total, targets=spec.targets(total), picked_at=at)
    return Rollout(id=id_, fleet=fleet, spec=spec, created_at=at, tracks=tracks, boards=made)


def advance(
    rollout: Rollout, views: Mapping[str, BoardNow], at: float, calm: Calm | None = None
) -> tuple[Rollout, tuple[Order, ...]]:
    """Return the rollout as it stands now, and the orders to send once that is stored.

    Args: views: boards as last heard; one that is missing was never heard. at: seconds since 1970. calm: of the steps
    before.
    """
    if rollout.ended:
        return rollout, ()
    spec, calm, before = rollout.spec, calm or Calm(), rollout.boards
    calm.begin(rollout.status)
    names = calm.restless(before, views, at)
    orders: tuple[Order, ...] = ()
    seen = {
        name: observe(spec, before[name], _view(views, name), at)
        for name in names
        if not (rollout.status == "paused" and before[name].due is not None)  # a pause keeps its order back
    }
    rollout = _with_boards(rollout, seen)
    if rollout.status == "running":
        rollout, begun = _next_boards(rollout, views, at)
        names += begun
    if rollout.status in ("running", "paused"):
        rollout = _stop_on_breach(rollout)
    if rollout.status == "running":
        rollout = _next_waves(rollout, views, at)
        rollout, orders = _with_orders(rollout, names, views, lambda board, now: act(spec, rollout.id, board, now, at))
    elif rollout.status in ("undoing", "stopping"):
        calm.begin(rollout.status)
        names = calm.restless(rollout.boards, views, at)
        rollout, orders = _wind_down(rollout, names, views, at)
    calm.note(rollout.status, names, before, rollout.boards, views, at)
    return rollout, orders


def times_of(rollout: Rollout, at: float) -> list[float]:
    """Return when time alone may move a wave on, in seconds since 1970."""
    going = [track for track in rollout.tracks.values() if not track.done]
    times = [track.picked_at + rollout.spec.wait_s for track in going]
    return [time for time in [*times, *(t.soak_until for t in going if t.soak_until is not None)] if time > at]


def pause(rollout: Rollout, reason: str) -> Rollout:
    """Give no more orders; what is at work goes on and is watched. Raises: ConfigError: it does not run."""
    _must_be(rollout, ("running",), "pause")
    return msgspec.structs.replace(rollout, status="paused", reason=reason)


def resume(rollout: Rollout, reason: str, at: float) -> Rollout:
    """Go on; failures so far stop it no more. Raises: ConfigError: it is not paused."""
    _must_be(rollout, ("paused",), "resume")
    failed = {board.name for board in rollout.boards.values() if board.kind is not None}
    tracks = {name: msgspec.structs.replace(track, picked_at=at) for name, track in rollout.tracks.items()}
    later = {
        name: board if board.due is None else msgspec.structs.replace(board, deadline_at=at + rollout.spec.wait_s)
        for name, board in rollout.boards.items()
    }
    accepted = tuple(sorted(failed | set(rollout.accepted)))
    return msgspec.structs.replace(
        rollout, status="running", reason=reason, tracks=tracks, boards=later, accepted=accepted
    )


def abort(rollout: Rollout, reason: str, *, give_back: bool) -> Rollout:
    """End it; with ``give_back`` what it has switched goes back. Raises: ConfigError: it has ended."""
    _must_be(rollout, ("running", "paused", "stopping", *(() if give_back else ("undoing",))), "abort")
    return msgspec.structs.replace(rollout, status="undoing" if give_back else "stopping", reason=reason)


def supersede(rollout: Rollout, by: str) -> Rollout:
    """Leave the task to a newer rollout: nothing more is ordered or watched for this one."""
    return msgspec.structs.replace(rollout, status="superseded", reason=f"{by} was started in its place")


def summary(rollout: Rollout) -> dict[str, int]:
    """Return how many boards stand in each phase."""
    counts: dict[str, int] = {}
    for board in rollout.boards.values():
        counts[board.phase] = counts.get(board.phase, 0) + 1
    return counts


def _must_be(rollout: Rollout, allowed: tuple[Status, ...], verb: str) -> None:
    if rollout.status not in allowed:
        raise ConfigError(
            f"{rollout.id} is {rollout.status}: there is nothing to {verb}",
            fix=f"see `boardfit fleet rollout show {rollout.id}`",
        )


def _picked(accepted: frozenset[str], boards: Iterable[Board]) -> int:
    """Return how many of these boards were given work and count."""
    return sum(board.wave is not None and board.name not in accepted for board in boards)


def _of_tracks(rollout: Rollout) -> dict[str, list[Board]]:
    """Return the boards of each track."""
    found: dict[str, list[Board]] = {name: [] for name in rollout.tracks}
    for board in rollout.boards.values():
        found[board.track].append(board)
    return found


def _view(views: Mapping[str, BoardNow], name: str) -> BoardNow:
    return views.get(name) or BoardNow(name=name)


def _next_boards(rollout: Rollout, views: Mapping[str, BoardNow], at: float) -> tuple[Rollout, list[str]]:
    """Give work to boards that are there, as many as the waves allow. Returns: their names too."""
    begun: dict[str, Board] = {}
    tracks, members, accepted = dict(rollout.tracks), _of_tracks(rollout), frozenset(rollout.accepted)
    for track in rollout.tracks.values():
        if track.done:
            continue
        room = track.targets[track.wave] - _picked(accepted, members[track.name])
        if room <= 0:
            continue
        there = [b for b in members[track.name] if b.wave is None and _view(views, b.name).orderable]
        there.sort(key=lambda board: _rank(rollout.id, track.wave, _view(views, board.name)))
        for board in there[:room]:
            begun[board.name] = begin(rollout.spec, board, views[board.name], track.wave, at)
            tracks[track.name] = msgspec.structs.replace(track, picked_at=at)
    if not begun:
        return rollout, []
    return msgspec.structs.replace(_with_boards(rollout, begun), tracks=tracks), list(begun)


def _rank(rollout: str, wave: int, now: BoardNow) -> tuple[int, int, str]:
    """Return the place in line: in the first wave the healthiest first, then by hash, the same on every machine."""
    order = hashlib.sha256(f"{rollout}\0{now.name}".encode()).hexdigest()
    return (now.troubles, int(now.busy), order) if wave == 0 else (0, 0, order)


def _stop_on_breach(rollout: Rollout) -> Rollout:
    reason = _breach(rollout)
    if reason is None:
        return rollout
    if rollout.spec.on_breach == "rollback":
        return msgspec.structs.replace(rollout, status="undoing", reason=f"{reason}; what was switched goes back")
    return rollout if rollout.status == "paused" else msgspec.structs.replace(rollout, status="paused", reason=reason)


def _breach(rollout: Rollout) -> str | None:
    """Return which rule a wave has broken, in words."""
    if all(board.kind is None for board in rollout.boards.values()):
        return None
    accepted, members = frozenset(rollout.accepted), _of_tracks(rollout)
    waves: dict[tuple[str, int], list[Board]] = {}
    for board in rollout.boards.values():
        if board.wave is not None and board.name not in accepted:
            waves.setdefault((board.track, board.wave), []).append(board)
    for (name, number), boards in sorted(waves.items()):
        track, bad = rollout.tracks[name], [board for board in boards if board.kind is not None]
        if not bad:
            continue
        where = _where(rollout, name, number)
        example = f"{bad[0].name}: {bad[0].reason}"
        for rule in rollout.spec.rules:
            count = sum(board.kind == rule.kind for board in bad)
            if count / len(boards) > rule.above + _NONE:
                share = f"{count} of {len(boards)} boards ({100 * count / len(boards):.3g}%)"
                return f"{where}: {rule.kind} on {share}, more than {100 * rule.above:g}% ({example})"
        full = track.targets[number] - (track.targets[number - 1] if number else 0)
        size = len(boards) if _settled(track, number, members[name], accepted) else max(len(boards), full)
        if len(bad) / size > 1 - rollout.spec.success + _NONE:
            wanted = f"{100 * rollout.spec.success:g}%"
            return f"{where}: {len(bad)} of {size} boards failed, {wanted} must succeed ({example})"
    return None


def _settled(track: Track, number: int, boards: list[Board], accepted: frozenset[str]) -> bool:
    """Whether all boards of a wave that are to come have come, and none is at work. Args: boards: the track's."""
    if any(board.wave == number and board.phase in AT_WORK for board in boards):
        return False
    picked = _picked(accepted, boards)
    return number < track.wave or picked >= track.targets[number] or not any(b.phase == "waiting" for b in boards)


def _next_waves(rollout: Rollout, views: Mapping[str, BoardNow], at: float) -> Rollout:
    """Move each track on as far as it has proved itself, and say what it waits for."""
    members, accepted = _of_tracks(rollout), frozenset(rollout.accepted)
    for name, boards in members.items():
        while not rollout.tracks[name].done:
            before = rollout.tracks[name].wave
            mine = [rollout.boards[board.name] for board in boards]
            rollout = _next_wave(rollout, rollout.tracks[name], mine, accepted, views, at)
            if rollout.tracks[name].wave == before:
                break
    if all(track.done for track in rollout.tracks.values()):
        counts = summary(rollout)
        text = ", ".join(f"{count} {phase.replace('_', ' ')}" for phase, count in sorted(counts.items()))
        return msgspec.structs.replace(rollout, status="completed", reason=f"every wave is through: {text}")
    return rollout


def _next_wave(  # noqa: PLR0917 - what a wave is judged by
    rollout: Rollout, track: Track, boards: list[Board], accepted: frozenset[str], views: Mapping[str, BoardNow],
    at: float,
) -> Rollout:  # fmt: skip
    mine = [board for board in boards if board.wave == track.wave]
    at_work = sum(board.phase in AT_WORK for board in mine)
    room = track.targets[track.wave] - _picked(accepted, boards)
    away = [board for board in boards if board.wave is None and board.phase == "waiting"]
    if at_work:
        return _saying(rollout, track, f"{at_work} of {len(mine)} boards at work")
    if room > 0 and away:
        if any(_view(views, board.name).orderable for board in away):
            return _saying(rollout, track, "boards are there to be given work")
        if at < track.picked_at + rollout.spec.wait_s:
            more = f"{min(room, len(away))} more boards are needed, and those left are away or tell no epoch"
            return _saying(rollout, track, more)
        lost = {
            board.name: msgspec.structs.replace(board, phase="unreachable", reason=_why_away(_view(views, board.name)))
            for board in away
        }
        rollout = _with_boards(rollout, lost)
        return _saying(rollout, track, "those left were waited for in vain")
    good = [board for board in mine if board.phase in SERVES]
    counted = [board for board in mine if board.name not in accepted]
    if counted and sum(board.phase in SERVES for board in counted) / len(counted) < rollout.spec.success - _NONE:
        return _saying(rollout, track, "too few boards of the wave have succeeded")
    last = max((board.served_at or 0.0 for board in good), default=None)
    if last is not None and at < last + rollout.spec.soak_s:
        until = last + rollout.spec.soak_s
        return _saying(rollout, track, f"soaks for {rollout.spec.soak_s:g} s since its last success", until)
    kept = {board.name: msgspec.structs.replace(board, phase="succeeded") for board in good if board.phase == "soaking"}
    rollout = _with_boards(rollout, kept)
    if track.wave + 1 < len(track.targets):
        return _with_track(
            rollout,
            msgspec.structs.replace(
                track, wave=track.wave + 1, picked_at=at, reason="the wave begins", soak_until=None
            ),
        )
    return _with_track(rollout, msgspec.structs.replace(track, done=True, reason="through", soak_until=None))


def _why_away(now: BoardNow) -> str:
    if now.reachable:
        return "it tells no epoch: no operator is listed for it, or its agent is too old"
    return "it was away all the time"


def _wind_down(
    rollout: Rollout, names: Iterable[str], views: Mapping[str, BoardNow], at: float
) -> tuple[Rollout, tuple[Order, ...]]:
    """Let what is at work end, give back what is to be given back, and end."""
    spec, giving_back = rollout.spec, rollout.status == "undoing"

    def wound(board: Board, now: BoardNow) -> tuple[Board, Order | None]:
        if board.phase in AT_WORK:
            board, order = cancel(rollout.id, board, now)
            if giving_back or board.phase == "measuring" or board.due is not None:
                board = undo(spec, board, now, at)
            return board, order
        if giving_back:
            board = undo(spec, board, now, at)
        return act(spec, rollout.id, board, now, at) if board.phase == "undoing" else (board, None)

    rollout, orders = _with_orders(rollout, names, views, wound)
    if any(board.phase in AT_WORK or board.phase == "undoing" for board in rollout.boards.values()):
        return rollout, orders
    status: Status = "rolled_back" if giving_back else "aborted"
    return msgspec.structs.replace(rollout, status=status), orders


def _with_orders(
    rollout: Rollout, names: Iterable[str], views: Mapping[str, BoardNow],
    acting: Callable[[Board, BoardNow], tuple[Board, Order | None]],
) -> tuple[Rollout, tuple[Order, ...]]:  # fmt: skip
    changed: dict[str, Board] = {}
    orders: list[Order] = []
    for name in names:
        changed[name], order = acting(rollout.boards[name], _view(views, name))
        if order is not None:
            orders.append(order)
    return _with_boards(rollout, changed), tuple(orders)


def _with_boards(rollout: Rollout, changed: Mapping[str, Board]) -> Rollout:
    """Return the rollout with some boards changed; the very same one where none is."""
    news = {name: board for name, board in changed.items() if board is not rollout.boards[name]}
    return msgspec.structs.replace(rollout, boards={**rollout.boards, **news}) if news else rollout


def _saying(rollout: Rollout, track: Track, reason: str, soak_until: float | None = None) -> Rollout:
    if (track.reason, track.soak_until) == (reason, soak_until):
        return rollout
    return _with_track(rollout, msgspec.structs.replace(track, reason=reason, soak_until=soak_until))


def _with_track(rollout: Rollout, track: Track) -> Rollout:
    return msgspec.structs.replace(rollout, tracks={**rollout.tracks, track.name: track})


def _where(rollout: Rollout, track: str, number: int) -> str:
    wave = f"wave {number + 1} of {len(rollout.spec.waves)}"
    return wave if track == ALL else f"{wave} of class {track[:8]}"
