"""Runs one connection by itself, for one-shot use: the daemon has its own loop and does the same there."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Protocol


class Drivable(Protocol):
    """What ``drive`` needs of a connection, or of something that wraps one."""

    def fileno(self) -> int | None:
        """Return the descriptor to watch, None while there is none."""

    def wants_write(self) -> bool:
        """Return whether to watch for writing too."""

    def on_readable(self) -> None:
        """Take what has arrived."""

    def on_writable(self) -> None:
        """Send what is waiting."""

    def on_timer(self) -> float | None:
        """Do what is due; return the monotonic time of the next call."""


def drive(
    what: Drivable, predicate: Callable[[], bool], timeout_s: float, clock: Callable[[], float] = time.monotonic
) -> bool:
    """Run one connection until ``predicate`` holds. Returns: False when ``timeout_s`` has passed first."""
    end = clock() + timeout_s
    while not predicate():
        deadline = what.on_timer()
        if predicate():
            return True
        now = clock()
        if now >= end:
            return False
        turn(what, max(0.0, (end if deadline is None else min(end, deadline)) - now) * 1000 + 0.5)
    return True


def turn(what: Drivable, wait_ms: float = 0.0) -> None:
    """Write what waits and take what has arrived, waiting ``wait_ms`` milliseconds at most for either."""
    descriptor = what.fileno()
    poll = select.poll()
    if descriptor is not None:
        poll.register(descriptor, select.POLLIN | (select.POLLOUT if what.wants_write() else 0))
    for _, events in poll.poll(wait_ms):
        if events & select.POLLOUT:
            what.on_writable()
        if events & ~select.POLLOUT:
            what.on_readable()
