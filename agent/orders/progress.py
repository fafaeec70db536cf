"""A child's progress, told to the daemon that started it over a pipe: one JSON line for each step worth telling.

Rules:
- A step is told when its stage changes, and else at most twice a second. A full pipe drops it: work never waits.
- A child whose daemon has died asks itself to stop, as SIGTERM does, so that nothing goes on that nobody watches: work
  that nobody ordered neither.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import msgspec

from agent.child import PROGRESS_VARIABLE
from agent.confinement import die_with_parent
from agent.core.ports import Progress, ProgressEvent

VARIABLE = PROGRESS_VARIABLE  # the descriptor to write to, and the daemon's process id
_PERIOD_S = 0.5


def told_to_parent(shown: Progress) -> Progress:
    """Return a progress callback that also tells the daemon; the given one where no daemon started us."""
    descriptor, _, parent = os.environ.pop(VARIABLE, "").partition(":")
    if not descriptor:
        return shown
    die_with_parent(signal.SIGTERM)
    if os.getppid() != int(parent):
        signal.raise_signal(signal.SIGTERM)
    pipe = int(descriptor)
    last: tuple[str, float] = ("", 0.0)
    os.set_blocking(pipe, False)
    os.set_inheritable(pipe, False)

    def tell(event: ProgressEvent) -> None:
        nonlocal last
        shown(event)
        now = time.monotonic()
        if event.stage == last[0] and now - last[1] < _PERIOD_S:
            return
        last = (event.stage, now)
        with suppress(OSError):
            os.write(pipe, msgspec.json.encode(event)[:4000] + b"\n")

    return tell
