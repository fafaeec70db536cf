"""What this very process says about itself: figures that no file of a copied tree can answer.

A board judged from a copied tree gets a ``Host`` as a value (or none), so that the real machine never leaks into it.
"""

from __future__ import annotations

import os
import struct
import sys

import msgspec


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Process-level facts; None is "not known", as in a copied tree."""

    machine: str | None = None
    page_size_bytes: int | None = None
    pointer_bits: int | None = None
    python: str | None = None
    libc: str | None = None
    affinity: tuple[int, ...] | None = None


def this_host() -> Host:
    """Ask the running process and kernel."""
    return Host(
        machine=os.uname().machine,
        page_size_bytes=os.sysconf("SC_PAGE_SIZE"),
        pointer_bits=struct.calcsize("P") * 8,
        python=".".join(map(str, sys.version_info[:3])),
        libc=_libc(),
        affinity=tuple(sorted(os.sched_getaffinity(0))),
    )


def _libc() -> str | None:
    """Return name and version of the C library, such as ``glibc 2.36``; only glibc tells it (confstr(3))."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (OSError, ValueError):
        return None
