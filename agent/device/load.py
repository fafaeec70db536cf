"""How busy the machine is, and how much time the hypervisor took from us.

Sources: proc/loadavg and the first line of proc/stat (torvalds/linux Documentation/filesystems/proc.rst). guest and
guest_nice are already part of user and nice, so they are left out of the total.
"""

from __future__ import annotations

from typing import NamedTuple

from agent.device.root import SysRoot

_STEAL_FIELD = 7
_FIELDS = 8  # user nice system idle iowait irq softirq steal


class CpuTicks(NamedTuple):
    """Ticks since boot over all CPUs."""

    total: int
    steal: int


def read_load_1min(root: SysRoot) -> float | None:
    """Return the one-minute load average, None when it cannot be read."""
    fields = (root.try_text("proc/loadavg") or "").split()
    try:
        return float(fields[0]) if fields else None
    except ValueError:
        return None


def read_ticks(root: SysRoot) -> CpuTicks | None:
    """Return the tick counters, None when the kernel does not count steal."""
    lines = (root.try_text("proc/stat") or "").splitlines()
    fields = lines[0].split()[1:] if lines and lines[0].startswith("cpu ") else []
    if len(fields) < _FIELDS or not all(field.isdecimal() for field in fields[:_FIELDS]):
        return None
    return CpuTicks(total=sum(int(field) for field in fields[:_FIELDS]), steal=int(fields[_STEAL_FIELD]))


def steal_ratio(before: CpuTicks | None, after: CpuTicks | None) -> float | None:
    """Return the share of time stolen between two readings, 0..1; None without two readings apart in time."""
    if before is None or after is None or after.total <= before.total:
        return None
    return max(0.0, (after.steal - before.steal) / (after.total - before.total))
