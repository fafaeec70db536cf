"""What other machines are shown of the rollouts driven here, and what is shown here of theirs.

Rules:
- Of one task one rollout at a time: where another machine tells of an open one, ``start`` refuses until it is told to
  go on. That is a courtesy among operators, not a lock: nothing here can stop a rollout that is driven elsewhere.
- Where a process drives a rollout, that one tells of it; where none does, whoever has changed it tells.
- Not being able to tell is a warning; a rollout goes on without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone

from agent.clock import SystemClock, read_iso
from agent.console import Column
from agent.core.rollout_message import RolloutMessage
from agent.errors import BusyError, ConfigError, ReportError
from agent.fleet.link import Link
from agent.fleet.rollout import Rollout, summary
from agent.fleet.rollout_notices import AGAIN_S, Notices, read_notices, this_machine
from agent.fleet.rollout_store import RolloutStore
from agent.fleet.settings import operator_name
from agent.locks import exclusive
from agent.verbs.fleet import ledger_folder, settings_of
from agent.verbs.invocation import Invocation

KEPT = 20  # ended rollouts of this machine that others still see


def refuse_second(call: Invocation, store: RolloutStore, told: Mapping[str, RolloutMessage], made: Rollout) -> None:
    """Refuse a rollout of a task that another machine has an open one of. Raises: BusyError."""
    own = set(store.ids(made.fleet))
    for other in told.values():
        if other.ended or other.task != made.spec.task or other.id in own:
            continue
        problem = f"{other.id} of {other.task} has not ended; {driven_from(other)}"
        if not call.arguments.supersede:
            fix = f"abort it there, or `boardfit fleet rollout forget {other.id} --gone` where that machine is gone"
            raise BusyError(problem, fix=f"{fix}, or start with --supersede")
        call.console.line(f"{problem}; nothing here stops it: abort it there.", "yellow")


def retire(store: RolloutStore, told: Mapping[str, RolloutMessage], fleet: str) -> list[str]:
    """Return which rollouts of this machine others need see no more: all but the newest that have ended."""
    own = set(store.ids(fleet))
    return [one.id for one in told.values() if one.ended and one.id in own][KEPT:]


def tell_undriven(
    call: Invocation, store: RolloutStore, rollouts: Iterable[Rollout], emptied: Iterable[str] = ()
) -> None:
    """Tell others how rollouts stand that no process drives."""
    undriven, gone = [one for one in rollouts if not _is_driven(call, one.id)], list(emptied)
    if not undriven and not gone:
        return
    settings = settings_of(call)
    try:
        with Link(settings.broker, settings.fleet, call.stop) as link:
            link.connect()
            notices = Notices(link, store, this_machine(operator_name(settings)), SystemClock())
            for rollout in undriven:
                notices.leave(rollout)
            for name in gone:
                notices.empty(name)
    except ReportError as error:
        call.console.line(f"Others do not see it: {error.problem}.", "yellow")


def told_last(notices: Notices, rollout: Rollout) -> str | None:
    """Tell how a rollout stands that is driven no more. Returns: why others do not see it, None where they do."""
    try:
        notices.leave(rollout)
    except ReportError as error:
        return str(error)
    return None


def elsewhere(call: Invocation, store: RolloutStore) -> tuple[list[RolloutMessage], str | None]:
    """Return the rollouts that other machines tell of, or why they are not known."""
    settings = settings_of(call)
    try:
        with Link(settings.broker, settings.fleet, call.stop) as link:
            link.connect()
            told = read_notices(link)
    except ReportError as error:
        return [], error.problem
    own = set(store.ids(settings.fleet))
    return [one for one in told.values() if one.id not in own], None


def one_elsewhere(call: Invocation, store: RolloutStore) -> RolloutMessage | None:
    """Return the other machines' rollout that the command names, or None."""
    start = call.arguments.rollout
    found = [one for one in elsewhere(call, store)[0] if start is None or one.id.startswith(start)]
    return found[0] if found and (start is None or len(found) == 1) else None


def forget(call: Invocation, store: RolloutStore) -> None:
    """Empty what others see of one rollout. Raises: ConfigError: it has not ended, or nobody tells of it."""
    settings, start = settings_of(call), call.arguments.rollout
    with Link(settings.broker, settings.fleet, call.stop) as link:
        link.connect()
        found = [one for one in read_notices(link).values() if one.id.startswith(start)]
        if len(found) != 1:
            problem = f"{start!r} begins several rollouts" if found else f"nobody tells of a rollout {start!r}"
            raise ConfigError(problem, fix="see `boardfit fleet rollout status`")
        (one,) = found
        if not one.ended and not call.arguments.gone:
            fix = "abort it there; say --gone where that machine will not come back"
            raise ConfigError(f"{one.id} has not ended; {driven_from(one)}", fix=fix)
        Notices(link, store, this_machine(operator_name(settings)), SystemClock()).empty(one.id)
    if call.console.as_json:
        call.console.document({"schema": "boardfit.rollout-forgotten/1", "id": one.id, "fleet": settings.fleet})
    else:
        call.console.line(f"{one.id} is shown to others no more.")


def driven_from(other: RolloutMessage) -> str:
    """Return who drives another machine's rollout, and when it was last heard of."""
    who = f"{other.operator} drives it" if other.driven else f"{other.operator} has left it"
    return f"{who} on {other.machine or 'another machine'}, last told {_ago(other.updated_at)}"


def status_rows(known: Iterable[Rollout], others: Iterable[RolloutMessage]) -> list[tuple[str, ...]]:
    """Return the rollouts as rows: id, task, candidate, where it is driven, status, boards, reason."""
    rows: list[tuple[str, ...]] = [
        (one.id, one.spec.task, one.spec.candidate or "each its own", "here", one.status, _counted(summary(one)),
         one.reason)
        for one in known
    ]  # fmt: skip
    for other in others:
        status = other.status if other.ended or _fresh(other) else f"{other.status}, {_ago(other.updated_at)}"
        rows.append(
            (other.id, other.task, other.candidate or "each its own", _who(other), status, _counted(other.phases),
             other.reason)
        )  # fmt: skip
    return rows


def show_elsewhere(call: Invocation, other: RolloutMessage) -> None:
    """Print what another machine tells of its rollout."""
    console = call.console
    if console.as_json:
        console.document(other)
        return
    console.heading(f"Rollout {other.id} of {other.candidate or 'what each board chooses'} for {other.task}")
    rows = [
        (track.name[:8], f"{wave.number}: {wave.text}", f"{sum(wave.phases.values())}/{wave.boards}",
         _counted(wave.phases) or ("through" if track.done else ""))
        for track in other.tracks
        for wave in track.waves
    ]  # fmt: skip
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    names = ("class", "wave", "boards", "which are")
    console.columns(
        [Column(name, cells, right=name == "boards", flexible=name == "which are")
         for name, cells in zip(names, columns, strict=True)]
    )  # fmt: skip
    for board in other.boards:
        console.line(f"{board.phase.replace('_', ' ')}: {board.name}: {board.reason}", "red")
    if other.boards_left_out:
        console.line(f"and {other.boards_left_out} more")
    for row in other.transitions:
        what = row.after if row.before in (None, row.after) else f"{row.before} → {row.after}"
        console.line(f"{row.at}  {row.subject}: {what}{f': {row.reason}' if row.reason else ''}")
    console.line(f"{other.id} is {other.status}: {other.reason}. {driven_from(other)}.")


def _is_driven(call: Invocation, rollout: str) -> bool:
    try:
        with exclusive(ledger_folder(call) / f"rollout-{rollout}.lock", f"rollout {rollout}"):
            return False
    except BusyError:
        return True


def _who(other: RolloutMessage) -> str:
    return f"{other.operator}@{other.machine}" if other.machine else other.operator


def _fresh(other: RolloutMessage) -> bool:
    age_s = _age_s(other.updated_at)
    return age_s is not None and age_s < 3 * AGAIN_S


def _age_s(time: str) -> float | None:
    try:
        return max(0.0, (datetime.now(timezone.utc) - read_iso(time)).total_seconds())
    except (ValueError, TypeError):
        return None


def _ago(time: str) -> str:
    from agent.verbs.fleet_views import ago

    return ago(time, SystemClock().utc())


def _counted(phases: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {phase.replace('_', ' ')}" for phase, count in sorted(phases.items()))
