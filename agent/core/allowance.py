"""How much a board may do by itself in a day: seconds of measuring, bytes fetched, bytes written. Pure.

Rules:
- Days are UTC days and never go back: after the clock was set back, counting goes on in the newest day seen until a day
  has passed on the monotonic clock, so that neither an unset clock nor one that was far ahead opens or closes the
  allowance for long.
- A figure that cannot be counted (a kernel without I/O accounting) reaches its limit at once: unknown never passes.
"""

from __future__ import annotations

from datetime import datetime, timezone

import msgspec

from agent.core.units import format_quantity

_DAY_S = 86400.0


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one day; None is no limit."""

    bench_s: float | None = None
    download_bytes: int | None = None
    written_bytes: int | None = None


class DayUse(msgspec.Struct, frozen=True, kw_only=True):
    """What was used on one day. ``began_s`` is monotonic seconds of the boot ``boot_id``."""

    day: str  # 2026-01-31
    boot_id: str | None = None
    began_s: float = 0.0
    bench_s: float = 0.0
    download_bytes: int = 0
    written_bytes: int = 0


def day_at(use: DayUse | None, wall: datetime, monotonic_s: float, boot_id: str | None) -> DayUse:
    """Return the day that counts at a moment: the one given, or a fresh one."""
    today = wall.astimezone(timezone.utc).date().isoformat()
    fresh = DayUse(day=today, boot_id=boot_id, began_s=monotonic_s)
    if use is None or today > use.day:
        return fresh
    if today == use.day:
        return use
    if boot_id is None or use.boot_id != boot_id:
        return msgspec.structs.replace(use, boot_id=boot_id, began_s=monotonic_s)
    return fresh if monotonic_s - use.began_s >= _DAY_S else use


def cap_reached(caps: Caps, use: DayUse, *, written_now: int = 0, written_known: bool = True) -> str | None:
    """Return which limit of the day is reached, as a sentence, or None.

    Args: written_now: bytes of work under way that ``use`` does not hold yet.
    """
    if caps.bench_s is not None and use.bench_s >= caps.bench_s:
        return f"today's {format_quantity(caps.bench_s, 'time')} of measuring are used up (caps.bench_time)"
    if caps.download_bytes is not None and use.download_bytes >= caps.download_bytes:
        return f"today's {format_quantity(caps.download_bytes, 'bytes')} of downloads are used up (caps.download)"
    if caps.written_bytes is not None:
        if not written_known:
            return "bytes written cannot be counted: this kernel keeps no I/O figures of a process (caps.written)"
        if use.written_bytes + written_now >= caps.written_bytes:
            return f"today's {format_quantity(caps.written_bytes, 'bytes')} of writing are used up (caps.written)"
    return None
