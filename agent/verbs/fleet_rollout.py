"""``fleet rollout start | run | status | show | pause | resume | abort | forget``: a candidate brought in waves.

Rules:
- ``start`` stores the rollout and drives it, ``run`` goes on with one after whatever ended the process before; Ctrl-C
  leaves it as it stands, and says so. One process drives a rollout; the other actions work beside it.
- ``resume`` and ``abort`` drive on by themselves where no other process does.
- Others see how it stands on the broker; what they are told changes nothing here (``fleet_rollout_others``).
- Exit code 0: every board of the rollout serves what it should; 5: it was rolled back; 1: anything else.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import msgspec

from agent.clock import SystemClock
from agent.core.command import DeployArguments
from agent.errors import BusyError, ConfigError
from agent.fleet.ledger import Ledger
from agent.fleet.rollout import Rollout, abort, pause, resume, start, summary
from agent.fleet.rollout_drive import drive
from agent.fleet.rollout_link import LinkPort
from agent.fleet.rollout_notices import Notices, read_notices, this_machine
from agent.fleet.rollout_spec import (
    DEFAULT_RULES,
    KINDS,
    RolloutSpec,
    parse_deadline,
    parse_duration,
    parse_rules,
    parse_success,
    parse_waves,
)
from agent.fleet.rollout_store import RolloutStore
from agent.fleet.rollout_view import BoardNow
from agent.fleet.settings import operator_name
from agent.fleet.signing import OperatorKey
from agent.locks import exclusive
from agent.verbs.fleet import console, ledger_folder, settings_of
from agent.verbs.fleet_rollout_others import (
    elsewhere,
    forget,
    one_elsewhere,
    refuse_second,
    retire,
    show_elsewhere,
    status_rows,
    tell_undriven,
    told_last,
)
from agent.verbs.fleet_rollout_tables import changes, document, show_history, show_state, wave_columns, waves_line
from agent.verbs.invocation import Invocation

TEXT = """Brings a candidate to boards in waves. Each board proves by its own figures that the candidate fits there
before it is switched, and by its own deployment that it holds; a wave that breaks a rule stops the rollout."""

Add = Callable[..., argparse.ArgumentParser]


def register(add: Add) -> None:
    """Add the actions below ``fleet rollout``."""
    parser = add("start", "Start a rollout and drive it until it ends", run_start, boards="*")
    parser.add_argument("--task", required=True, metavar="T", help="the task")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--candidate", metavar="C", help="this candidate, wherever the board's own figures allow it")
    what.add_argument("--select", action="store_true", help="on each board what its own decision chooses")
    waves = "boards, or shares of them, from the start (default: 1,5%%,25%%,100%%)"
    parser.add_argument("--waves", default="1,5%,25%,100%", metavar="W", help=waves)
    success = "share of each wave's boards that must succeed (default: 99%%)"
    parser.add_argument("--success", default="99%", metavar="S", help=success)
    rules = f"stop when more do so: {', '.join(KINDS)} (default: {DEFAULT_RULES[0].replace('%', '%%')}); repeatable"
    parser.add_argument("--abort-on", action="append", metavar="RULE", help=rules)
    parser.add_argument("--soak", default="30min", metavar="T", help="watch each wave for this long (default: 30min)")
    parser.add_argument("--per-class", action="store_true", help="count waves in each class of boards by itself")
    breach = "what was switched goes back, or everything stops and waits (default: rollback)"
    parser.add_argument("--on-breach", choices=("rollback", "pause"), default="rollback", help=breach)
    parser.add_argument("--wait", default="24h", metavar="T", help="wait for boards that are away (default: 24h)")
    parser.add_argument("--bench-deadline", metavar="T", help="a board may measure for this long (default: 6 h)")
    parser.add_argument("--deploy-deadline", metavar="T", help="a board may deploy for this long (default: 1 h)")
    parser.add_argument("--supersede", action="store_true", help="take the place of one that has not ended")
    _driving(parser)
    _named(add("run", "Go on driving a rollout until it ends", run_run), detach=False)
    add("status", "List the rollouts started from here, and those of other machines", run_status)
    _named(add("show", "Show a rollout: its waves, its boards, and all that happened", run_show), drives=False)
    _named(add("pause", "Give no more orders; what is at work is watched", run_pause), drives=False)
    _named(add("resume", "Go on in spite of what has failed so far", run_resume))
    parser = _named(add("abort", "End a rollout", run_abort))
    parser.add_argument("--undo", action="store_true", help="what it has switched goes back to what served before")
    parser = add("forget", "Take a rollout that has ended out of what others see; its history stays here", run_forget)
    parser.add_argument("rollout", metavar="ID", help="its id, or the beginning")
    gone = "also one that has not ended: the machine that drove it will not come back"
    parser.add_argument("--gone", action="store_true", help=gone)


def _named(parser: argparse.ArgumentParser, *, drives: bool = True, detach: bool = True) -> argparse.ArgumentParser:
    parser.add_argument("rollout", nargs="?", metavar="ID", help="its id, or the beginning (default: the newest)")
    if drives:
        _driving(parser, detach=detach)
    return parser


def _driving(parser: argparse.ArgumentParser, *, detach: bool = True) -> None:
    key = "operator's key (default: ~/.config/boardfit/operator.key)"
    parser.add_argument("--key", type=Path, metavar="FILE", help=key)
    parser.add_argument(
        "--operator", metavar="NAME", help="operator's name in the registry (default: as FILE.pub says)"
    )
    if detach:
        parser.add_argument("--detach", action="store_true", help="only store it; `fleet rollout run` drives it")


def run_start(call: Invocation) -> int:
    """Store a new rollout, and drive it."""
    arguments, clock = call.arguments, SystemClock()
    settings = settings_of(call)
    operator_name(settings)
    OperatorKey.load(settings.key)  # what would stop it later stops it now
    with console(call, ("status", "profile", "reported", "decision", "deployment")) as opened:
        selection, boards = opened.addressed(arguments.boards or ["all"])
        told = read_notices(opened.link)
    spec = _spec(call, selection.text)
    found = [BoardNow(name=board.name, class_fingerprint=board.class_fingerprint) for board in boards]
    made = start(f"r{os.urandom(4).hex()}", settings.fleet, spec, found, clock.utc().timestamp())
    with RolloutStore(ledger_folder(call)) as store:
        refuse_second(call, store, told, made)
        superseded = store.create(made, in_place=arguments.supersede)
        tell_undriven(call, store, superseded, emptied=retire(store, told, settings.fleet))
        return _go_on(call, store, made)


def _spec(call: Invocation, address: str) -> RolloutSpec:
    given = call.arguments
    try:
        msgspec.convert({"task": given.task, "candidate": given.candidate}, DeployArguments)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--task, --candidate: {error}", fix="give their names as the registry has them") from error
    limits = {
        name: parse_deadline(text, f"--{name.removesuffix('_s')}-deadline")
        for name, text in (("bench_s", given.bench_deadline), ("deploy_s", given.deploy_deadline))
        if text is not None
    }
    return RolloutSpec(
        task=given.task, candidate=given.candidate, address=address, waves=parse_waves(given.waves),
        success=parse_success(given.success), rules=parse_rules(given.abort_on or DEFAULT_RULES),
        soak_s=parse_duration(given.soak, "--soak"), per_class=given.per_class, on_breach=given.on_breach,
        wait_s=parse_duration(given.wait, "--wait"), **limits,
    )  # fmt: skip


def run_run(call: Invocation) -> int:
    """Drive one that is stored."""
    with RolloutStore(ledger_folder(call)) as store:
        found = store.find(settings_of(call).fleet, call.arguments.rollout)
        return _end(call, found) if found.ended else _drive(call, store, found)


def run_status(call: Invocation) -> int:
    """List the rollouts."""
    settings = settings_of(call)
    with RolloutStore(ledger_folder(call)) as store:
        known, others, problem = store.newest(settings.fleet), *elsewhere(call, store)
    if call.console.as_json:
        listed = [document(one, boards=False) for one in known]
        call.console.document(
            {"schema": "boardfit.rollouts/1", "fleet": settings.fleet, "rollouts": listed, "elsewhere": others,
             "elsewhere_problem": problem}
        )  # fmt: skip
        return 0
    if not known:
        call.console.line(f"No rollout was started for {settings.fleet} from here.")
    if known or others:
        names = ("id", "task", "candidate", "driven from", "status", "boards", "reason")
        call.console.table(names, status_rows(known, others))
    if problem is not None:
        call.console.line(f"What other machines drive is not known: {problem}.", "yellow")
    return 0


def run_show(call: Invocation) -> int:
    """Show one, with its history."""
    with RolloutStore(ledger_folder(call)) as store:
        try:
            found = store.find(settings_of(call).fleet, call.arguments.rollout)
        except ConfigError:
            if (other := one_elsewhere(call, store)) is None:
                raise
            show_elsewhere(call, other)
            return 0
        history = store.history(found.id)
    if call.console.as_json:
        call.console.document({**document(found), "history": history})
        return 0
    show_state(call.console, found)
    show_history(call.console, history)
    return 0


def run_pause(call: Invocation) -> int:
    """Pause one."""
    return _change(call, lambda found, by, _at: pause(found, f"paused by {by}"), drives=False)


def run_resume(call: Invocation) -> int:
    """Resume one."""
    return _change(call, lambda found, by, at: resume(found, f"resumed by {by}", at))


def run_abort(call: Invocation) -> int:
    """End one."""
    undo = call.arguments.undo
    return _change(call, lambda found, by, _at: abort(found, f"aborted by {by}", give_back=undo))


def run_forget(call: Invocation) -> int:
    """Take one out of what others see."""
    with RolloutStore(ledger_folder(call)) as store:
        forget(call, store)
    return 0


def _change(call: Invocation, made: Callable[[Rollout, str, float], Rollout], *, drives: bool = True) -> int:
    settings, at = settings_of(call), SystemClock().utc().timestamp()
    by = operator_name(settings)
    with RolloutStore(ledger_folder(call)) as store:
        found = store.find(settings.fleet, call.arguments.rollout)
        changed, _ = store.change(found.id, lambda before: (made(before, by, at), ()), at)
        if drives:
            return _go_on(call, store, changed)
        tell_undriven(call, store, [changed])
        if call.console.as_json:
            call.console.document(document(changed))
        else:
            call.console.line(f"{changed.id} is {changed.status}.")
    return 0


def _go_on(call: Invocation, store: RolloutStore, rollout: Rollout) -> int:
    """Drive it unless that is not wanted, or another process does it."""
    said = f"{rollout.id} is {rollout.status}"
    if not call.arguments.detach:
        try:
            return _drive(call, store, rollout)
        except BusyError:
            said += "; the process that drives it goes on"
    else:
        tell_undriven(call, store, [rollout])
        said += f"; drive it with: boardfit fleet rollout run {rollout.id}"
    if call.console.as_json:
        call.console.document(document(rollout))
    else:
        call.console.line(said)
    return 0


def _drive(call: Invocation, store: RolloutStore, rollout: Rollout) -> int:
    clock, settings, folder = SystemClock(), settings_of(call), ledger_folder(call)
    live = call.console.rich.is_terminal and not call.console.as_json
    with (
        exclusive(folder / f"rollout-{rollout.id}.lock", f"rollout {rollout.id}"),
        Ledger(folder, clock) as ledger,
        LinkPort(settings, ledger, clock, call.stop, rollout.id, rollout.spec.task) as port,
        call.console.live(transient=True) if live else nullcontext(None) as show,
    ):
        say = changes(call.console, rollout)
        notices = Notices(port.link, store, this_machine(operator_name(settings)), clock)

        def told(state: Rollout) -> None:
            notices.offer(state)
            if show is None:
                say(state)
            else:
                problem = f" No connection: {port.problem}." if port.problem else ""
                columns = wave_columns(state, at=clock.utc().timestamp(), most=call.console.room)
                show(columns, waves_line(state, call.console.room) + problem)

        if show is None:
            call.console.rich.print(f"rollout {rollout.id} of {rollout.spec.task}: {len(rollout.boards)} boards")
        ended = drive(store, rollout.id, port, clock, call.stop, told)
        unseen = told_last(notices, ended)
        if ended.ended:
            port.forget()
    if unseen is not None:
        call.console.line(f"Others do not see how it stands: {unseen}", "yellow")
    return _end(call, ended)


def _end(call: Invocation, rollout: Rollout) -> int:
    if call.console.as_json:
        call.console.document(document(rollout))
    else:
        show_state(call.console, rollout)
        if not rollout.ended:
            call.console.line(f"It waits as it stands; go on with: boardfit fleet rollout run {rollout.id}", "yellow")
    if rollout.status == "rolled_back":
        return 5
    return 0 if rollout.status == "completed" and set(summary(rollout)) == {"succeeded"} else 1
