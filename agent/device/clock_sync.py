"""Whether the wall clock is disciplined by a time source; what to do with times of one that is not is left to others.

Rules:
- Where systemd-timesyncd runs, its flag file says it: a hardened unit (``ProtectClock=``) may not ask the kernel.
- Elsewhere the kernel is asked, at most every ten minutes and by a copy of this process: the foreign-function library
  that the call needs would stay with an idle agent for nothing else.
- None where nobody says.

Sources: systemd-timesyncd.service(8), FILES: the file is touched on each successful synchronisation; adjtimex(2): with
``modes`` 0 it only reads and needs no privilege.
"""

from __future__ import annotations

import sys

from agent.apart import done_apart
from agent.core.ports import Clock
from agent.device.root import SysRoot

_TIMESYNCD = "run/systemd/timesync"
_ASK_AGAIN_S = 600.0
_STA_UNSYNC = 0x0040  # linux/timex.h
_TIMEX_BYTES = 208  # sizeof(struct timex) on 64-bit Linux
_STATUS_OFFSET = 40  # of timex.status there: after modes, offset, freq, maxerror, esterror
_ANSWERS = {b"no": False, b"yes": True, b"unknown": None}


class ClockSync:
    """Asks who knows, and keeps the kernel's answer for a while. A copied tree's kernel is not asked."""

    def __init__(self, root: SysRoot, clock: Clock) -> None:
        self._root, self._clock = root, clock
        self._asked_at: float | None = None
        self._answer: bool | None = None

    def read(self) -> bool | None:
        """Return whether the clock is synchronised."""
        if self._root.exists(_TIMESYNCD):
            return self._root.exists(f"{_TIMESYNCD}/synchronized")
        if not self._root.is_real:
            return None
        now = self._clock.monotonic_s()
        if self._asked_at is None or now - self._asked_at >= _ASK_AGAIN_S:
            said = done_apart(_ask_kernel)
            self._answer = _ANSWERS[_ask_kernel() if said is None else said]
            self._asked_at = now
        return self._answer


def _ask_kernel() -> bytes:
    import ctypes  # not with whoever only asks about files

    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return b"unknown"
    state = ctypes.create_string_buffer(_TIMEX_BYTES)
    if adjtimex(state) < 0:
        return b"unknown"
    status = int.from_bytes(state.raw[_STATUS_OFFSET : _STATUS_OFFSET + 4], sys.byteorder)
    return b"no" if status & _STA_UNSYNC else b"yes"
