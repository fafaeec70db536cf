"""The command line: verbs, help, and the one place where errors become exit codes.

Rules:
- ``--json``: standard output is exactly one JSON document, an error included; everything else goes to standard error.
- An error of ours is one sentence and what to do next, never a traceback.
- SIGINT and SIGTERM ask the work to stop; what was finished is stored. SIGUSR1 asks it to give way: the same, but a
  deployment that has begun goes on to its end.

Leaves what each verb does to ``agent.verbs``.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import agent.lean  # noqa: F401 - first: how the libraries are loaded is decided there
from agent import __version__
from agent.console import Console
from agent.errors import (
    BoardfitError,
    ConfigError,
    Interrupted,
    NoFeasibleCandidateError,
    RolledBackError,
    TrustError,
)
from agent.verbs.invocation import Invocation

if TYPE_CHECKING:
    import argparse

EXIT_CODES = """exit codes:
  0 done   1 failed   2 usage or configuration   3 no candidate fits
  4 registry not trusted   5 deployment rolled back"""
_EXIT: tuple[tuple[type[BoardfitError], int], ...] = (
    (ConfigError, 2),
    (NoFeasibleCandidateError, 3),
    (TrustError, 4),
    (RolledBackError, 5),
    (BoardfitError, 1),
)
#: Which module of ``agent.verbs`` has which verb, in the order that help shows them.
_MODULES = {
    "demo": "demo",
    "profile": "board",
    "doctor": "board",
    "sync": "passes",
    "bench": "passes",
    "select": "passes",
    "deploy": "passes",
    "rollback": "passes",
    "pardon": "passes",
    "recover": "passes",
    "once": "passes",
    "replay": "replaying",
    "run": "daemon",
    "status": "views",
    "explain": "views",
    "report": "views",
    "setup": "setup",
    "enroll": "enroll",
    "registry": "authoring",
    "compress": "compression",
    "fleet": "fleet",
}
_DESCRIPTION = """Which compressed model, run how, is the best that fits this very board under its budgets?
boardfit measures the signed candidates of a registry on this board, decides by the figures, puts the winner in
place with proof and rollback, and tells the fleet."""
_FIRST_STEPS = """first steps:
  boardfit demo                        the whole job on bundled candidates: no configuration, no network
  boardfit profile                     what this board is
  boardfit once --config agent.yaml    profile, pull, measure, select, deploy, report

"""


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; ``handler`` in its result runs the verb.

    Args: verb: load this verb's module only, so that the daemon's process does not carry the other verbs' imports;
        None or an unknown one loads all.
    """
    import argparse

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="boardfit", description=_DESCRIPTION, epilog=_FIRST_STEPS + EXIT_CODES, formatter_class=raw
    )
    parser.add_argument("--version", action="version", version=f"boardfit {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("common options")
    group.add_argument("--config", type=Path, metavar="FILE", help="configuration (default: /etc/boardfit/agent.yaml)")
    group.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="where state is kept (default: $STATE_DIRECTORY, /var/lib/boardfit for root, ~/.local/state/boardfit)",
    )
    group.add_argument("--json", action="store_true", help="print exactly one JSON document on standard output")
    group.add_argument("-v", "--verbose", action="count", default=0, help="log more to standard error")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    wanted = [_MODULES[verb]] if verb in _MODULES else dict.fromkeys(_MODULES.values())
    for module in wanted:
        import_module(f"agent.verbs.{module}").register(verbs, common)
    return parser


def plain_run(given: Sequence[str]) -> SimpleNamespace | None:
    """Read ``run --config FILE --state-dir DIR`` as a service manager starts it; None for whatever else is given.

    The parser would stay with the idle daemon, and weighs as much as its outbox, its schedule and its database.
    """
    if not given or given[0] != "run":
        return None
    options: dict[str, Path | None] = {"config": None, "state_dir": None}
    verbose, words = 0, iter(given[1:])
    for word in words:
        name = word.removeprefix("--").replace("-", "_")
        if word in ("-v", "--verbose"):
            verbose += 1
        elif not word.startswith("--") or name not in options or (value := next(words, "-")).startswith("-"):
            return None
        else:
            options[name] = Path(value)
    from agent.verbs.daemon import run_daemon

    return SimpleNamespace(**options, verbose=verbose, json=False, handler=run_daemon)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    verb = next((word for word in given if not word.startswith("-")), None)
    parsed = plain_run(given) or build_parser(verb).parse_args(given)
    _set_up_logging(parsed.verbose)
    stop = _StopFlag()
    console = Console(as_json=parsed.json, record=getattr(parsed, "svg", None) is not None)
    invocation = Invocation(arguments=parsed, console=console, stop=stop, halt=stop.halt)
    handler: Callable[[Invocation], int] = parsed.handler
    try:
        with stop:
            return handler(invocation)
    except BoardfitError as error:
        return _say(error, console)
    except BrokenPipeError:
        # The reader of our output went away (`boardfit ... | head`): not a fault of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _say(Interrupted("stopped by Ctrl-C", fix="what was finished is stored; run it again to go on"), console)


def exit_code(error: BoardfitError) -> int:
    """Return the exit code of an error's class."""
    return next(code for kind, code in _EXIT if isinstance(error, kind))


def _say(error: BoardfitError, console: Console) -> int:
    code = exit_code(error)
    if console.as_json:
        document: dict[str, object] = {"schema": "boardfit.error/1", "error": error.problem, "fix": error.fix}
        document |= {"kind": type(error).__name__, "exit_code": code}
        if "result" in error.facts:
            document["result"] = error.facts["result"]
        console.document(document)
    else:
        sys.stdout.flush()
    print(f"boardfit: {error}", file=sys.stderr)  # noqa: T201 - the one sentence an error is
    return code


class _StopFlag:
    """True once SIGINT, SIGTERM or SIGUSR1 came; a second SIGINT interrupts at once."""

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self._asked = False
        self._give_way = False

    def __call__(self) -> bool:
        return self._asked or self._give_way

    def halt(self) -> bool:
        """Return whether even what must not give way is to stop."""
        return self._asked

    def __enter__(self) -> None:
        for number in self._NUMBERS:
            signal.signal(number, self._ask)

    def __exit__(self, *_: object) -> None:
        for number in self._NUMBERS:
            signal.signal(number, signal.SIG_DFL)

    def _ask(self, number: int, _frame: object) -> None:
        if number == signal.SIGUSR1:
            self._give_way = True
            return
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True


def _set_up_logging(verbosity: int) -> None:
    """Log to standard error; under systemd's journal each line carries its priority as ``<N>``."""
    level = logging.WARNING if verbosity == 0 else logging.INFO if verbosity == 1 else logging.DEBUG
    handler = logging.StreamHandler(sys.stderr)
    if os.environ.get("JOURNAL_STREAM"):
        level = min(level, logging.INFO)
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("boardfit").setLevel(level)


class _JournalFormatter(logging.Formatter):
    """Prefixes syslog's priority, as sd-daemon(3) describes."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line with its priority."""
        priority = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return f"<{priority}>{super().format(record)}"
