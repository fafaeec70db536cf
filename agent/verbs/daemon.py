"""``run``: the daemon."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from agent.daemon import serve
from agent.heap import steady_heap
from agent.verbs.invocation import Invocation, Verbs

if TYPE_CHECKING:
    import argparse


def register(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    """Add the verb."""
    text = (
        "Runs a pass at start and then by the schedule, publishes, and answers systemd (READY, WATCHDOG, STOPPING). "
        "SIGTERM stops it cleanly, in the middle of a pass too; SIGHUP takes a new configuration."
    )
    parser = verbs.add_parser("run", parents=[common], help="the daemon", description=text)
    parser.set_defaults(handler=run_daemon)


def run_daemon(call: Invocation) -> int:
    """Serve until told to stop."""
    arguments = call.arguments
    restart = [sys.executable, "-m", "agent", "run", "--state-dir", str(call.state_dir)]
    if arguments.config is not None:
        restart += ["--config", str(arguments.config)]
    restart += ["-v"] * arguments.verbose
    steady_heap()
    return serve(call.config(), call.state_dir, restart)
