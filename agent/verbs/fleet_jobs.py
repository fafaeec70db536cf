"""``fleet jobs`` and ``fleet cancel``: what became of commands sent before, and ending what goes on."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable

from agent.clock import SystemClock
from agent.errors import ConfigError
from agent.fleet.attaching import attach, recalled
from agent.fleet.following import FINAL
from agent.fleet.ledger import Ledger, Sent
from agent.fleet.sending import Wanted
from agent.verbs.fleet import ledger_folder, settings_of
from agent.verbs.fleet_orders import WORDS, Teller, order, order_options, seconds, tell_end
from agent.verbs.fleet_views import ago
from agent.verbs.invocation import Invocation

_FOLLOW_S = 6 * 3600.0
_MOST_TAKEN_UP = 10  # commands whose kept answers are fetched for a list


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the actions of this module."""
    parser = add("jobs", "Show the commands sent from here; with an ID, go on following that one", run_jobs)
    parser.add_argument("id", nargs="?", metavar="ID", help="a command's id, or its beginning")
    parser.add_argument("--timeout", metavar="T", help="follow no longer than this (default: 6 h)")
    parser = add("cancel", "End the jobs of a command on every board, or on some", run_cancel)
    parser.add_argument("id", metavar="ID", help="a command's id, or its beginning")
    parser.add_argument("boards", nargs="*", metavar="BOARDS", help="only there (default: where it has not ended)")
    order_options(parser)


def run_jobs(call: Invocation) -> int:
    """List, or follow one."""
    settings, clock = settings_of(call), SystemClock()
    with Ledger(ledger_folder(call), clock) as ledger:
        if call.arguments.id:
            sent = _find(ledger, settings.fleet, call.arguments.id)
            timeout_s = seconds(call.arguments.timeout, "--timeout") or _FOLLOW_S
            with call.console.progress() as progress:
                teller = Teller(call, len(sent.boards), progress)
                following = attach(
                    settings, ledger, sent, stop=call.stop, told=teller.told, now=clock.utc(), wait_s=timeout_s
                )
            return tell_end(call, sent.verb, following)
        known = ledger.sent(settings.fleet)
        rows, taken_up = [], 0
        for sent in known:
            following = recalled(ledger, sent)
            if not following.ended and taken_up < _MOST_TAKEN_UP:
                taken_up += 1
                following = attach(
                    settings, ledger, sent, stop=call.stop, told=lambda _: None, now=clock.utc(), wait_s=0.0
                )
            rows.append((sent, Counter(answer.state for answer in following.answers.values())))
    if call.console.as_json:
        commands = [{"command": sent, "states": dict(states)} for sent, states in rows]
        call.console.document({"schema": "boardfit.fleet-jobs/1", "fleet": settings.fleet, "commands": commands})
        return 0
    if not rows:
        call.console.line(f"No command was sent to {settings.fleet} from here.")
        return 0
    now = clock.utc()
    call.console.table(
        ("id", "sent", "verb", "task", "to", "boards"),
        [
            (sent.id, ago(sent.sent_at, now), sent.verb, sent.task or "–", sent.address, _counted(states))
            for sent, states in rows
        ],
    )
    return 0


def run_cancel(call: Invocation) -> int:
    """Send a cancel for one command's jobs."""
    settings = settings_of(call)
    with Ledger(ledger_folder(call), SystemClock()) as ledger:
        sent = _find(ledger, settings.fleet, call.arguments.id)
        following = recalled(ledger, sent)
    if not call.arguments.boards:
        call.arguments.boards = [name for name, answer in following.answers.items() if answer.state not in FINAL]
    if not call.arguments.boards:
        raise ConfigError(f"{sent.id} has ended on every board", fix=f"see `boardfit fleet jobs {sent.id}`")
    return order(call, Wanted(verb="cancel", arguments={"job": sent.id}))


def _find(ledger: Ledger, fleet: str, start: str) -> Sent:
    found = ledger.find(fleet, start)
    if len(found) == 1:
        return found[0]
    problem = f"no command sent from here begins with {start!r}" if not found else f"{start!r} begins several ids"
    raise ConfigError(problem, fix="see `boardfit fleet jobs`")


def _counted(states: Counter[str]) -> str:
    return ", ".join(f"{count} {WORDS.get(state, state)}" for state, count in states.most_common())
