"""How busy everybody else keeps the processor while our own children work; load averages count those too.

Rules:
- Ours is a process and everything below it: its own ticks, those of children it has taken leave of, and the same of
  every live process below it, so that a worker's ticks move up the tree when it ends and none is counted twice.
- It is a share of time, so it never passes 1 per core, where a load average counts everybody who waits: below 1 the two
  can be held against the same limit.

Sources: proc/stat (user nice system idle iowait irq softirq steal) and proc/<pid>/stat, fields 4 ppid, 14 to 17 utime,
stime, cutime, cstime (torvalds/linux Documentation/filesystems/proc.rst, table 1-4).
"""

from __future__ import annotations

from typing import NamedTuple

from agent.device.root import SysRoot

_BUSY = (0, 1, 2, 5, 6)  # of proc/stat: neither idle, nor waiting for a disk, nor stolen
_FIELDS = 8
_PPID, _TIMES = 1, slice(11, 15)  # counted behind the name, which may hold spaces and brackets


class Ticks(NamedTuple):
    """Ticks since boot over all processors: all of them, the busy ones, and those of ours."""

    total: int
    busy: int
    ours: int


def read_ticks(root: SysRoot, pid: int) -> Ticks | None:
    """Return the counters now, ours being ``pid`` and what is below it; None when the kernel does not say."""
    lines = (root.try_text("proc/stat") or "").splitlines()
    fields = lines[0].split()[1:] if lines and lines[0].startswith("cpu ") else []
    if len(fields) < _FIELDS or not all(field.isdecimal() for field in fields[:_FIELDS]):
        return None
    counts = [int(field) for field in fields[:_FIELDS]]
    return Ticks(total=sum(counts), busy=sum(counts[n] for n in _BUSY), ours=_ours(root, pid))


def others_share(before: Ticks | None, after: Ticks | None) -> float | None:
    """Return the share of the processors' time that others used between two readings, 0..1; None without two."""
    if before is None or after is None or after.total <= before.total:
        return None
    others = (after.busy - before.busy) - (after.ours - before.ours)
    return min(1.0, max(0.0, others / (after.total - before.total)))


def _ours(root: SysRoot, pid: int) -> int:
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for name in root.list_dir("proc"):
        if not name.isdecimal():
            continue
        fields = (root.try_text(f"proc/{name}/stat") or "").rpartition(")")[2].split()
        if len(fields) > _TIMES.stop:
            parents[int(name)] = int(fields[_PPID])
            ticks[int(name)] = sum(int(field) for field in fields[_TIMES])
    return sum(count for process, count in ticks.items() if _is_below(process, pid, parents))


def _is_below(process: int, top: int, parents: dict[int, int]) -> bool:
    seen: set[int] = set()
    while process != top:
        if process in seen or process not in parents:
            return False
        seen.add(process)
        process = parents[process]
    return True
