"""Memory of the board and of one process, in bytes.

Sources: proc/meminfo and proc/<pid>/status (torvalds/linux Documentation/filesystems/proc.rst); the kernel writes "kB"
and means KiB. Writing 5 to proc/<pid>/clear_refs resets VmHWM to the present RSS (same document).
"""

from __future__ import annotations

from agent.core.facts import MemoryFacts
from agent.core.ports import ProcessMemory
from agent.device import cgroup
from agent.device.root import SysRoot
from agent.errors import DeviceError

_KIB = 1024
_DEFAULT_PAGE_BYTES = 4096  # specified: MemoryFacts' default, used only for a tree that does not say


def _kib_fields(text: str) -> dict[str, int]:
    """Read ``Name:   123 kB`` lines into bytes; other lines are left out."""
    fields: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdecimal():
            fields[name.strip()] = int(words[0]) * _KIB
    return fields


def read_memory(root: SysRoot, page_size_bytes: int | None) -> MemoryFacts:
    """Read total, available, swap, CMA and the group's limit. Raises: DeviceError: no MemTotal."""
    fields = _kib_fields(root.try_text("proc/meminfo") or "")
    if "MemTotal" not in fields:
        raise DeviceError("proc/meminfo does not say how much memory there is", fix="mount procfs", root=str(root.path))
    limit = cgroup.read_memory_limit(root)
    return MemoryFacts(
        total_bytes=fields["MemTotal"],
        available_bytes=fields.get("MemAvailable"),
        swap_bytes=fields.get("SwapTotal"),
        limit_bytes=limit[0] if limit else None,
        limit_source=limit[1] if limit else None,
        page_size_bytes=page_size_bytes or _DEFAULT_PAGE_BYTES,
        cma_bytes=fields.get("CmaTotal") or None,
    )


def read_available_bytes(root: SysRoot) -> int | None:
    """Return MemAvailable now, None when the kernel does not say."""
    return _kib_fields(root.try_text("proc/meminfo") or "").get("MemAvailable")


def read_process_memory(root: SysRoot, pid: int) -> ProcessMemory | None:
    """Return one process's memory; None when it is gone or a zombie (which has no address space)."""
    fields = _kib_fields(root.try_text(f"proc/{pid}/status") or "")
    if "VmRSS" not in fields:
        return None
    return ProcessMemory(
        rss_bytes=fields["VmRSS"],
        peak_bytes=fields.get("VmHWM", fields["VmRSS"]),
        anonymous_bytes=fields.get("RssAnon"),
        file_bytes=fields.get("RssFile"),
        swap_bytes=fields.get("VmSwap"),
    )


def read_proportional_bytes(root: SysRoot, pid: int) -> int | None:
    """Return a process's memory, swapped memory included, each page divided by how many processes have it mapped.

    The sum over processes counts a shared page once. None where the kernel does not say: before 4.14, or of a process
    that is gone or another user's. Source: Pss and SwapPss of proc/<pid>/smaps_rollup
    (torvalds/linux Documentation/ABI/testing/procfs-smaps_rollup).
    """
    fields = _kib_fields(root.try_text(f"proc/{pid}/smaps_rollup") or "")
    return None if "Pss" not in fields else fields["Pss"] + fields.get("SwapPss", 0)


def reset_peak(root: SysRoot, pid: int) -> bool:
    """Reset VmHWM to the present RSS; False where the kernel refuses."""
    return root.write_text(f"proc/{pid}/clear_refs", "5")
