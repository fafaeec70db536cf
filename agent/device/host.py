"""What this very process says about itself: figures that no file of a copied tree can answer.

A board judged from a copied tree gets a ``Host`` as a value (or none), so that the real machine never leaks into it.
"""

from __future__ import annotations

import os
import platform
import struct
import time
from datetime import datetime, timezone

import msgspec


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Process-level facts; None is "not known", as in a copied tree."""

    machine: str | None = None
    page_size_bytes: int | None = None
    pointer_bits: int | None = None
    python: str | None = None
    libc: str | None = None
    affinity: tuple[int, ...] | None = None


class SystemClock:
    """The real clocks."""

    def monotonic_s(self) -> float:
        """Return seconds on CLOCK_MONOTONIC."""
        return time.monotonic()

    def utc(self) -> datetime:
        """Return the wall time, aware, UTC."""
        return datetime.now(timezone.utc)


def this_host() -> Host:
    """Ask the running process and kernel."""
    libc = " ".join(part for part in platform.libc_ver() if part)
    return Host(
        machine=os.uname().machine,
        page_size_bytes=os.sysconf("SC_PAGE_SIZE"),
        pointer_bits=struct.calcsize("P") * 8,
        python=platform.python_version(),
        libc=libc or None,
        affinity=tuple(sorted(os.sched_getaffinity(0))),
    )
