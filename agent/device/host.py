"""What this very process says about itself: figures that no file of a copied tree can answer.

A board judged from a copied tree gets a ``Host`` as a value (or none), so that the real machine never leaks into it.
"""

from __future__ import annotations

import ctypes
import os
import platform
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
    libc = " ".join(part for part in platform.libc_ver() if part)
    return Host(
        machine=os.uname().machine,
        page_size_bytes=os.sysconf("SC_PAGE_SIZE"),
        pointer_bits=struct.calcsize("P") * 8,
        python=platform.python_version(),
        libc=libc or None,
        affinity=tuple(sorted(os.sched_getaffinity(0))),
    )


_STA_UNSYNC = 0x0040  # linux/timex.h
_TIMEX_BYTES = 208  # sizeof(struct timex) on 64-bit Linux
_STATUS_OFFSET = 40  # of timex.status there: after modes, offset, freq, maxerror, esterror


def clock_synchronised() -> bool | None:
    """Ask the kernel whether its clock is disciplined by a time source.

    Returns: None where the call is not permitted (a hardened unit) or does not exist.
    Source: adjtimex(2); with ``modes`` 0 it only reads and needs no privilege.
    """
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    state = ctypes.create_string_buffer(_TIMEX_BYTES)
    if adjtimex(state) < 0:
        return None
    status = int.from_bytes(state.raw[_STATUS_OFFSET : _STATUS_OFFSET + 4], sys.byteorder)
    return not status & _STA_UNSYNC
