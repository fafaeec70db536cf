"""``boardfit`` on a fixture board: the command line and the daemon as they are, with the root that is read replaced.

    BOARDFIT_FIXTURE_ROOT=DIR python -m benchmarks.closed_loop.fixture_agent VERB ...

Only for what is simulated and says so. The daemon's children are this command, too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import agent.lean  # first, as in the command line
import agent.site
from agent.cli import main
from agent.clock import SystemClock
from agent.config import load_config
from agent.daemon import Daemon
from agent.device.board import Board
from agent.device.host import this_host
from agent.device.root import SysRoot
from agent.heap import steady_heap
from agent.notify import Notifier
from agent.site import Site

ROOT_VARIABLE = "BOARDFIT_FIXTURE_ROOT"
COMMAND = (sys.executable, "-m", "benchmarks.closed_loop.fixture_agent")


def fixture_board(**more: Any) -> Board:
    """Return the board below the root that the environment names."""
    host = this_host()
    root = SysRoot(Path(os.environ[ROOT_VARIABLE]))
    return Board(root, affinity=host.affinity, clock=SystemClock(), host=host, **more)


def serve(config: Path, state_dir: Path) -> int:
    """Run the daemon until SIGTERM."""
    steady_heap()
    with Site(load_config(config), state_dir) as site:
        return Daemon(site, Notifier(os.environ), ["/bin/false"], COMMAND).run()


if __name__ == "__main__":
    agent.site.this_board = fixture_board
    if sys.argv[1] == "run":
        raise SystemExit(serve(Path(sys.argv[2]), Path(sys.argv[3])))
    raise SystemExit(main())
