"""How the scheduler treated one process: CPU time, time spent waiting for a CPU, involuntary switches.

Sources: proc/<pid>/task/<tid>/schedstat (torvalds/linux Documentation/scheduler/sched-stats.rst: nanoseconds running,
nanoseconds waiting, timeslices) and nonvoluntary_ctxt_switches of task/<tid>/status. A thread that has ended takes its
counts with it, so differences hold only while the set of threads stays the same.
"""

from __future__ import annotations

from agent.core.ports import SchedulerCounters
from agent.device.root import SysRoot


def _involuntary(text: str | None) -> int:
    for line in (text or "").splitlines():
        name, _, value = line.partition(":")
        if name == "nonvoluntary_ctxt_switches" and value.strip().isdecimal():
            return int(value)
    return 0


def read_counters(root: SysRoot, pid: int) -> SchedulerCounters | None:
    """Sum over the threads of a process; None when it is gone or the kernel keeps no schedstat."""
    run_ns = wait_ns = switches = 0
    seen = False
    for tid in root.list_dir(f"proc/{pid}/task"):
        fields = (root.try_text(f"proc/{pid}/task/{tid}/schedstat") or "").split()
        if len(fields) < 2 or not (fields[0].isdecimal() and fields[1].isdecimal()):
            continue
        seen = True
        run_ns += int(fields[0])
        wait_ns += int(fields[1])
        switches += _involuntary(root.try_text(f"proc/{pid}/task/{tid}/status"))
    if not seen:
        return None
    return SchedulerCounters(run_s=run_ns / 1e9, wait_s=wait_ns / 1e9, involuntary_switches=switches)
