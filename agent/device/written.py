"""How many bytes a process has sent towards storage, its ended children included.

Source: proc/<pid>/io (torvalds/linux Documentation/filesystems/proc.rst, 3.3): ``write_bytes`` counts what was caused
to be sent to the storage layer, page by page, when pages become dirty; ``cancelled_write_bytes`` is what was truncated
away again and is not taken off here. A process takes over the figures of a child when it takes leave of it
(kernel/exit.c, wait_task_zombie). Needs CONFIG_TASK_IO_ACCOUNTING.
"""

from __future__ import annotations

from agent.device.root import SysRoot


def read_written_bytes(root: SysRoot, pid: int) -> int | None:
    """Return the bytes, None where the kernel does not count them or the process is gone."""
    for line in (root.try_text(f"proc/{pid}/io") or "").splitlines():
        name, _, value = line.partition(":")
        if name == "write_bytes" and value.strip().isdecimal():
            return int(value)
    return None
