"""A real daemon whose verbs are stood in for: ``service.py CONFIG STATE FOLDER [FAULT]``.

FAULT ends the process with SIGKILL: ``stored`` after a job was stored and before it is begun, ``begun`` after its child
was started.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from agent.config import load_config
from agent.daemon import Daemon
from agent.notify import Notifier
from agent.orders.line import Line
from agent.site import Site

config, state, folder, *fault = sys.argv[1:]
STAND_IN = [sys.executable, str(Path(__file__).with_name("stand_in.py")), folder]


def killed(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if fault == ["stored"]:
    Line.add = killed  # type: ignore[method-assign]
if fault == ["begun"]:
    start = Daemon._start

    def started(self: Daemon, words: Any, work: Any, *, ordered: bool = False) -> None:
        start(self, words, work, ordered=ordered)
        if ordered:
            assert self._child is not None
            self._child.process.wait()  # it has been done; only the daemon does not know it yet
            killed()

    Daemon._start = started  # type: ignore[method-assign]
with Site(load_config(Path(config)), Path(state)) as site:
    sys.exit(Daemon(site, Notifier({}), ["/bin/false"], agent=STAND_IN).run())
