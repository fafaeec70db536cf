"""Neighbours made on purpose: processes that take a core, or memory bandwidth, from what is being measured.

    with Hogs([Hog("spin", 0), Hog("stream", 1)]): ...

Kinds: ``spin`` is a busy loop; ``stream`` copies 64 MiB to and fro, more than a last-level cache holds; ``cache``
copies 12 MiB to and fro, which evicts what shares a cache of 32 MiB. Every hog is a process in a session of its own,
as the kernel's autogroups share the cores out by session; it is at work when the ``with`` block begins and dead when
it ends.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from statistics import median
from types import TracebackType
from typing import NamedTuple, NoReturn

KINDS = {"spin": 0, "stream": 64 << 20, "cache": 12 << 20}  # bytes of each of its two buffers


class Hog(NamedTuple):
    """One neighbour and the core it stays on."""

    kind: str
    core: int


class Hogs:
    """Start hogs, end them again by their ids."""

    def __init__(self, hogs: Sequence[Hog]) -> None:
        self._hogs = hogs
        self.pids: list[int] = []

    def __enter__(self) -> Hogs:
        parent = os.getpid()
        for hog in self._hogs:
            ready, tell = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(ready)
                _work(hog, tell, parent)
            self.pids.append(pid)
            os.close(tell)
            said = os.read(ready, 1)
            os.close(ready)
            if not said:
                self.__exit__(None, None, None)
                raise OSError(f"the hog {hog} did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.pids.clear()


def _work(hog: Hog, tell: int, parent: int) -> NoReturn:
    """Be the hog until killed, or until the process that started it is gone."""
    try:
        os.setsid()
        os.sched_setaffinity(0, {hog.core})
        size = KINDS[hog.kind]
        first, second = memoryview(bytearray(size)), memoryview(bytearray(size))
        second[:] = first  # every page is there
        os.write(tell, b"1")
        os.close(tell)
        while os.getppid() == parent:
            if size:
                for _ in range(4):
                    second[:] = first
                    first[:] = second
            else:
                for _ in range(1_000_000):
                    pass
    finally:
        os._exit(1)


def two_cores() -> tuple[int, int | None]:
    """Return the core to measure on and another one, None where there is none."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[1] if len(usable) > 1 else None


def over_quiet(values: Sequence[float], quiet: Sequence[bool], near: int = 4) -> list[float]:
    """Return each value over the median of the quiet ones nearest to it in time, its own left out: drift cancels.

    Raises: ValueError: there are fewer than two quiet ones.
    """
    places = [place for place, calm in enumerate(quiet) if calm]
    if len(places) < 2:
        raise ValueError("need two quiet values or more")
    found = []
    for place, value in enumerate(values):
        nearest = sorted((other for other in places if other != place), key=lambda other: abs(other - place))[:near]
        found.append(value / median(values[other] for other in nearest))
    return found
