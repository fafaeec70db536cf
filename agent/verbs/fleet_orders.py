"""``fleet bench``, ``deploy``, ``pardon`` and the others of ``_SUMMARIES``: signed commands, followed on each board.

Rules:
- Each new state of a board is one line; on a terminal a bar counts the boards that have ended.
- The end says who succeeded, who failed and why, who did not answer. Exit code 0 only when every board succeeded.
- A stop leaves the jobs running, and says how to go on following them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agent.clock import SystemClock
from agent.core.command import VERBS
from agent.core.ports import ProgressEvent
from agent.core.units import parse_quantity
from agent.errors import ConfigError
from agent.fleet.following import Answer, Following
from agent.fleet.ledger import Ledger
from agent.fleet.sending import ANSWER_S, Sender, Wanted
from agent.fleet.settings import operator_name
from agent.fleet.view import BoardView
from agent.verbs.fleet import console, kinds_for, ledger_folder
from agent.verbs.invocation import Invocation

_SUMMARIES = {
    "profile": "Have boards tell what they are",
    "status": "Have boards tell what runs",
    "sync": "Have boards refresh their registry's metadata",
    "bench": "Have boards measure candidates",
    "select": "Have boards decide from what they have measured",
    "deploy": "Have boards put a candidate in place",
    "rollback": "Have boards go back to what served before",
    "pardon": "Let boards try models again that failed too often there, or were rolled back by hand",
    "leave-safe-mode": "Let agents that died again and again go back to work",
}
MOST_TOLD = 50  # boards whose every step is a line; of more only the end is
MOST_SHARING = 150  # boards, whose names stand in the command
_MORE_S = 60.0  # beyond a verb's own deadline
WORDS = {
    "SUCCEEDED": "done", "FAILED": "failed", "TIMED_OUT": "timed out", "REJECTED": "refused", "CANCELED": "canceled",
    "QUEUED": "queued", "IN_PROGRESS": "at work", "offline": "offline", "silent": "no answer", "waiting": "sent",
}  # fmt: skip


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the actions of this module."""
    for verb, summary in _SUMMARIES.items():
        parser = add(verb, summary, run_order, boards="+")
        parser.set_defaults(order=verb)
        needed = verb in ("deploy", "rollback", "pardon")
        if needed or verb in ("bench", "select"):
            text = "the task" if needed else "one task (default: all)"
            parser.add_argument("--task", required=needed, metavar="T", help=text)
        if verb == "bench":
            parser.add_argument("--candidate", action="append", default=[], metavar="C", help="only this; repeatable")
            parser.add_argument("--again", action="store_true", help="measure again what is measured already")
            parser.add_argument("--exhaustive", action="store_true", help="measure everything in full")
            parser.add_argument("--sustained", action="store_true", help="run until the board is as warm as it gets")
            parser.add_argument(
                "--slices", type=int, metavar="N", help="share the candidates out, N boards of the class to each"
            )
        if verb == "deploy":
            parser.add_argument("--candidate", metavar="C", help="this one (default: the last decision's winner)")
        if verb == "pardon":
            parser.add_argument("--candidate", metavar="C", help="this one only (default: all that are kept out)")
        order_options(parser)


def order_options(parser: argparse.ArgumentParser) -> None:
    """Add how a command is signed, and for how long it is followed."""
    group = parser.add_argument_group("the command")
    group.add_argument(
        "--key", type=Path, metavar="FILE", help="operator's key (default: ~/.config/boardfit/operator.key)"
    )
    group.add_argument("--operator", metavar="NAME", help="operator's name in the registry (default: as FILE.pub says)")
    group.add_argument("--timeout", metavar="T", help="follow no longer than this (default: the verb's own time)")
    group.add_argument("--answer", metavar="T", help=f"a board is silent after this (default: {ANSWER_S:g} s)")
    group.add_argument("--deadline", metavar="T", help="a board may work on it for this long")


def arguments_of_call(call: Invocation) -> dict[str, Any]:
    """Return the command's arguments as the wire has them, without what was not said."""
    given = vars(call.arguments)
    made: dict[str, Any] = {
        name: given[name] for name in ("task", "again", "exhaustive", "sustained") if given.get(name)
    }
    candidate = given.get("candidate")
    if candidate:
        made["candidates" if isinstance(candidate, list) else "candidate"] = candidate
    return made


def run_order(call: Invocation) -> int:
    """Send one command and follow it."""
    arguments = call.arguments
    deadline_s = seconds(arguments.deadline, "--deadline")
    wanted = Wanted(verb=arguments.order, arguments=arguments_of_call(call), deadline_s=deadline_s)
    return order(call, wanted)


def order(call: Invocation, wanted: Wanted) -> int:
    """Send, follow, and say how it ended. Returns: the exit code."""
    arguments, clock = call.arguments, SystemClock()
    usual_s = (wanted.deadline_s or VERBS[wanted.verb].deadline_s) + _MORE_S
    timeout_s = seconds(arguments.timeout, "--timeout") or usual_s
    answer_s = seconds(arguments.answer, "--answer") or ANSWER_S
    with console(call, kinds_for(arguments.boards)) as opened, Ledger(ledger_folder(call), clock) as ledger:
        settings = opened.settings
        selection, boards = opened.addressed(arguments.boards)
        away = [board.name for board in boards if not board.reachable]
        slices = getattr(arguments, "slices", None)
        if slices is not None:
            wanted = msgspec.structs.replace(wanted, arguments={**wanted.arguments, **_shared_out(boards, slices)})
        opened.link.close()
        with call.console.progress() as progress:
            teller = Teller(call, len(boards), progress)
            sender = Sender(
                settings, operator_name(settings), ledger, clock, call.stop, told=teller.told, answer_s=answer_s
            )
            if away:
                teller.line(f"offline: {names_text(away)}")
            following = sender.send(wanted, selection, boards, timeout_s)
    return tell_end(call, wanted.verb, following)


def _shared_out(boards: Sequence[BoardView], overlap: int) -> dict[str, Any]:
    """Return the arguments by which each board finds its slice. Raises: ConfigError: they cannot share."""
    here = [board for board in boards if board.reachable]
    classes = {board.class_fingerprint for board in here}
    if len(classes) != 1 or None in classes:
        raise ConfigError(
            f"these boards are of {len(classes)} classes, and only boards of one can share a benchmark",
            fix="address one: class:FINGERPRINT, see `boardfit fleet classes`",
        )
    if not 1 <= overlap <= len(here) <= MOST_SHARING:
        raise ConfigError(
            f"{len(here)} boards are there to share, {overlap} of them for each candidate",
            fix=f"give --slices between 1 and the number of boards, and {MOST_SHARING} boards at most",
        )
    return {"among": [board.name for board in here], "overlap": overlap}


def tell_end(call: Invocation, verb: str, following: Following) -> int:
    """Print who succeeded, failed, and did not answer. Returns: the exit code."""
    summary = following.summary()
    if call.console.as_json:
        call.console.document(
            {
                "schema": "boardfit.fleet-result/1",
                "id": following.command,
                "verb": verb,
                **msgspec.structs.asdict(summary),
                "boards": [following.answers[name] for name in sorted(following.answers)],
            }
        )
    else:
        for names, word, style in (
            (summary.succeeded, "succeeded", "green"),
            (summary.unfinished, "not finished", "yellow"),
            (summary.silent, "no answer", "yellow"),
        ):
            if names:
                call.console.line(f"{word}: {names_text(names)}", style)
        for name in summary.failed:
            answer = following.answers[name]
            call.console.line(f"{WORDS[answer.state]}: {name}: {answer.reason or 'no reason given'}", "red")
        call.console.line(f"{verb}: {summary.text}.")
        if summary.unfinished:
            call.console.line(f"The jobs go on without us; follow them with: boardfit fleet jobs {following.command}")
    return 0 if summary.all_succeeded else 1


class Teller:
    """Says each new state of a board: a line, and how many have ended."""

    def __init__(self, call: Invocation, total: int, progress: Callable[[ProgressEvent], None]) -> None:
        self._call, self._total, self._progress = call, total, progress
        self._ended: set[str] = set()
        self._said: dict[str, str] = {}

    def line(self, text: str) -> None:
        """Say something of the whole."""
        self._call.console.rich.print(text, markup=False, soft_wrap=True)

    def told(self, answer: Answer) -> None:
        """Say how it stands on one board."""
        if answer.ended or answer.state == "silent":
            self._ended.add(answer.board)
        elif self._total > MOST_TOLD:
            return
        text = f"{answer.board}: {WORDS.get(answer.state, answer.state)}"
        if answer.stage and not answer.ended:
            text += f" ({answer.stage})"
        if answer.reason and answer.state != "silent":
            text += f": {answer.reason}"
        if answer.state == "SUCCEEDED" and answer.result:
            told = [f"{name} {value}" for name, value in answer.result.items() if value is not None]
            text += f" ({', '.join(told)})"
        if self._said.get(answer.board) != text:
            self._said[answer.board] = text
            self.line(text)
        if self._call.console.rich.is_terminal:
            done, total = len(self._ended), self._total
            self._progress(ProgressEvent(stage="boards", text="ended", done=done, total=total))


def names_text(names: Iterable[str]) -> str:
    """Return names for a sentence, a dozen at most."""
    shown = list(names)
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")


def seconds(text: str | None, where: str) -> float | None:
    """Return an option's time in seconds, None where it is not given. Raises: ConfigError."""
    if text is None:
        return None
    found = parse_quantity(text, "time", where=where)
    if found <= 0:
        raise ConfigError(f"{where}: {text!r} must be above zero")
    return found
