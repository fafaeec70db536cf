"""A real daemon whose verbs are stood in for: ``service.py CONFIG STATE FOLDER [FAULT]``.

FAULT ends the process with SIGKILL: ``stored`` after a job was stored and before it is begun, ``beginning`` once it was
told as begun and before its child is started, ``begun`` after its child has done it, ``ended`` once its end was stored,
``canceled`` once a cancel was stored and before anything more is done about it.
``recover`` is no fault: that verb is the agent's own.
``hasty`` and ``short`` are no faults: whoever is asked, or works without an order, is given less than a second.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from agent import child as child_module
from agent import daemon as daemon_module
from agent.config import load_config
from agent.daemon import Daemon
from agent.notify import Notifier
from agent.orders.desk import Desk
from agent.orders.line import Line
from agent.site import Site

config, state, folder, *fault = sys.argv[1:]
STAND_IN = [sys.executable, str(Path(__file__).with_name("stand_in.py")), folder]
if fault == ["recover"]:
    start_child = daemon_module.Child

    def chosen(command: list[str], **named: Any) -> Any:
        own = [sys.executable, "-m", "agent"] if command[len(STAND_IN)] == "recover" else STAND_IN
        return start_child([*own, *command[len(STAND_IN) :]], **named)

    daemon_module.Child = chosen  # type: ignore[assignment,misc]
if "hasty" in fault:
    daemon_module.GIVE_WAY_S = 0.5
    child_module.STOP_GRACE_S = 0.5
if "short" in fault:
    started_by = Daemon._start.__kwdefaults__
    assert started_by is not None
    started_by["most_s"] = 0.5


def killed(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if fault == ["stored"]:
    Line.add = killed  # type: ignore[method-assign]
if fault == ["beginning"]:
    begin = Line.begin

    def beginning(self: Line, listed: Any) -> Any:
        words = begin(self, listed)
        return words if words is None else killed()

    Line.begin = beginning  # type: ignore[method-assign]
if fault == ["ended"]:
    finish = Line.finish

    def finished(self: Line, *arguments: Any, **named: Any) -> None:
        was_at_work = self.running is not None
        finish(self, *arguments, **named)
        if was_at_work:
            killed()

    Line.finish = finished  # type: ignore[method-assign]
if fault == ["canceled"]:
    store = Desk._store

    def stored(self: Desk, command: Any, *arguments: Any, **named: Any) -> None:
        store(self, command, *arguments, **named)
        if command.verb == "cancel":
            killed()

    Desk._store = stored  # type: ignore[method-assign]
if fault == ["begun"]:
    start = Daemon._start

    def started(self: Daemon, words: Any, work: Any, *, ordered: bool = False, **named: Any) -> None:
        start(self, words, work, ordered=ordered, **named)
        if ordered:
            assert self._child is not None
            self._child.process.wait()  # it has been done; only the daemon does not know it yet
            killed()

    Daemon._start = started  # type: ignore[method-assign]
with Site(load_config(Path(config)), Path(state)) as site:
    sys.exit(Daemon(site, Notifier({}), ["/bin/false"], agent=STAND_IN).run())
