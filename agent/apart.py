"""Work done by a short-lived copy of this process, so that the modules and memory it needs go with the copy.

For what a long-lived process does once: reading YAML, settling what a power cut left. A copy is a fork: it has all that
this process has loaded, costs a few milliseconds, and cannot take this process down with it.

Rules:
- A copy is made only where it is safe: this process has one thread.
- The work touches no database or connection that this process has open; where it needs one it opens its own.
- None means that no answer came, whatever the cause: the caller then does the work itself.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


def done_apart(work: Callable[[], bytes]) -> bytes | None:
    """Return what ``work`` returned in a copy of this process; None: it raised, died, or there could be no copy."""
    if threading.active_count() > 1:
        return None
    try:
        receiver, sender = os.pipe()
        child = os.fork()
    except OSError:
        return None
    if child == 0:
        code = 1
        try:
            os.close(receiver)
            signal.set_wakeup_fd(-1)  # the parent's: its signals are not ours to report
            with os.fdopen(sender, "wb") as pipe:
                pipe.write(work())
            code = 0
        finally:
            os._exit(code)  # whatever happened, nothing of the parent's may be flushed, closed or said twice
    os.close(sender)
    with os.fdopen(receiver, "rb") as answers:
        answer = answers.read()
    _, status = os.waitpid(child, 0)
    return answer if status == 0 else None
