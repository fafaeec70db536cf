"""Memory of the board and of one process, in bytes.

Sources: proc/meminfo and proc/<pid>/status (torvalds/linux Documentation/filesystems/proc.rst); the kernel writes "kB"
and means KiB. Writing 5 to proc/<pid>/clear_refs resets VmHWM to the present RSS (same document).
"""

from __future__ import annotations

from agent.core.facts import MemoryFacts
from agent.core.ports import MappedMemory, ProcessMemory
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


def read_mapped(root: SysRoot, pid: int) -> MappedMemory | None:
    """Return what a process holds, what it has for itself apart from the files it has mapped; None when not said.

    Pss is of no use for several processes together: it divides a page by everybody who has it, applications that are
    not asked about among them. Source: Size, Rss, Anonymous and Swap of each mapping in proc/<pid>/smaps
    (torvalds/linux Documentation/filesystems/proc.rst); pages copied on write count as Anonymous there.
    """
    text = root.try_text(f"proc/{pid}/smaps")
    if not text:
        return None
    own, files = 0, dict[str, tuple[int, int]]()
    place: str | None = None
    seen = {"Size": 0, "Rss": 0}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in seen:
            seen[name] = int(rest.split()[0]) * _KIB
        elif name == "Anonymous":
            copied = int(rest.split()[0]) * _KIB
            own += seen["Rss"] if place is None else copied
            if place is not None:
                key = f"{place} {seen['Size']}"
                files[key] = (files.get(key, (0, 0))[0] + seen["Rss"] - copied, seen["Size"])
        elif name == "Swap":
            own += int(rest.split()[0]) * _KIB
        elif _is_mapping(line):
            _, _, offset, device, inode = line.split(None, 5)[:5]
            place = None if inode == "0" else f"{device} {inode} {offset}"
    return MappedMemory(own_bytes=own, files=files)


def _is_mapping(line: str) -> bool:
    """Tell a mapping's first line from those that follow it: it begins with its addresses."""
    first, _, rest = line.partition(" ")
    return "-" in first and len(rest.split(None, 4)) >= 4


def reset_peak(root: SysRoot, pid: int) -> bool:
    """Reset VmHWM to the present RSS; False where the kernel refuses."""
    return root.write_text(f"proc/{pid}/clear_refs", "5")
