"""Stands in for ``boardfit <verb>`` below a real daemon: writes down that it was called, waits where a test says so.

Called as ``stand_in.py FOLDER VERB ...``. Where there is a pipe FOLDER/hold-VERB it tells one step and waits until
somebody writes to it. Where there is FOLDER/deaf-VERB it hears no signal but SIGKILL. Results are made up; only how
they travel is looked at.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from agent.core.ports import ProgressEvent, no_progress
from agent.orders.progress import told_to_parent

folder, verb = Path(sys.argv[1]), sys.argv[2]
RESULTS = {
    "bench": {"schema": "boardfit.bench/1", "measurements": [{}, {}], "untried": [{}]},
    "select": {
        "schema": "boardfit.select/1",
        "decisions": [{"id": "d1", "task": "digits", "winner": {"candidate": "a"}}],
    },
    "sync": {"schema": "boardfit.sync/1", "status": {"candidates": 3, "reachable": True, "versions": {"targets": 7}}},
}
RESULTS |= {
    "pardon": {"schema": "boardfit.pardon/1", "pardoned": [{"candidate": "a"}, {"candidate": "b"}]},
    "recover": {"schema": "boardfit.recovery/1", "settled": []},
}
DEPLOYED = {
    "schema": "boardfit.deployment-status/1",
    "phase": "ACTIVE",
    "outcome": "deployed",
    "current": {"candidate": "a"},
}


def leave(number: int, _frame: FrameType | None) -> None:
    with (folder / "calls").open("a") as calls:
        calls.write(f"{signal.Signals(number).name} {verb}\n")
    sys.stdout.write(json.dumps({"schema": "boardfit.error/1", "error": "stopped on request", "exit_code": 1}))
    sys.stdout.flush()
    os._exit(1)


def deaf(number: int, _frame: FrameType | None) -> None:
    with (folder / "calls").open("a") as calls:
        calls.write(f"{signal.Signals(number).name} {verb}\n")


for asked in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(asked, deaf if (folder / f"deaf-{verb}").exists() else leave)
tell = told_to_parent(no_progress)
with (folder / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[2:]) + "\n")
hold = folder / f"hold-{verb}"
if hold.exists():
    tell(ProgressEvent(stage="measure", text="a candidate", done=1, total=4))
    with hold.open() as pipe:
        pipe.read()
refusal = folder / f"fail-{verb}"
if refusal.exists():
    sys.stdout.write(json.dumps({"schema": "boardfit.error/1", "error": "no candidate fits", "fix": "loosen a budget"}))
    sys.exit(3)
sys.stdout.write(json.dumps(RESULTS.get(verb, DEPLOYED)))
