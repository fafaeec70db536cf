"""Asks a child what of the sandbox comes into force here: tried, and not read off a version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from agent.sandbox.entry import Level, Missing

_DEADLINE_S = 20.0
_MOST_BYTES = 64 * 1024


def ask_level() -> Level:
    """Let a child enter the sandbox as a worker does, and return what was in force in it."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "agent.sandbox"],
            check=False, capture_output=True, timeout=_DEADLINE_S, cwd="/", env=environment,
        )  # fmt: skip
        said = json.loads(done.stdout[:_MOST_BYTES])
        return Level(tuple(said["in_force"]), tuple(Missing(*one) for one in said["missing"]))
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        reason = f"a child that entered it did not come back: {error or type(error).__name__}"
        return Level((), (Missing("sandbox", reason, "run `python -m agent.sandbox` and report what it says"),))
