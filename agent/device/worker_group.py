"""A memory group (cgroup) of its own for one measuring process, where ours may have groups below it.

Rules:
- A fresh group per worker counts from its first byte, so its peak is never reset: v1 can (write 0), v2 only from 6.12
  on and only per open file.
- Version 2 gives a group's processes and its children no memory accounting at once: the agent itself then stands in a
  group beside the worker's, below one that was delegated. Delegated is what says so (systemd's attribute) or belongs
  to our user; a group of somebody else's is never touched.
- A group whose agent died is empty and is removed before the next one is made; one of another agent that lives may be
  empty too, as its worker has yet to enter it, and stays.
- A group's peak holds anonymous memory, kernel memory and the files it touched first, swap not: it is what the kernel
  kills for, and neither more nor less than a resident set by any rule.

Sources: torvalds/linux Documentation/admin-guide/cgroup-v2.rst (memory.peak from 5.19, memory.max, memory.swap.max,
memory.events, "no internal process"), cgroup-v1/memory.rst (max_usage_in_bytes, memsw, oom_control); systemd
docs/CGROUP_DELEGATION.md (user.delegate, trusted.delegate).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

from agent.device import cgroup
from agent.device.root import SysRoot

_PREFIX = "boardfit-worker-"
_AGENT = "boardfit-agent"
_numbers = count()


class _Files(NamedTuple):
    """What a version calls its files; ``unlimited`` is what lifts a limit."""

    usage: str
    peak: str
    limit: str
    swap_limit: str
    events: str
    unlimited: str


_FILES = {
    1: _Files(
        "memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes",
        "memory.oom_control", "-1",
    ),
    2: _Files("memory.current", "memory.peak", "memory.max", "memory.swap.max", "memory.events", "max"),
}  # fmt: skip


class WorkerGroup:
    """One group below ours. Implements ``agent.core.ports.WorkerGroup``."""

    def __init__(self, root: SysRoot, version: int, folder: str, remove: Callable[[Path], None]) -> None:
        self._root = root
        self._version = version
        self._folder = folder
        self._files = _FILES[version]
        self._remove = remove
        self.entry = root.locate(f"{folder}/cgroup.procs")
        self.limits = root.write_text(f"{folder}/{self._files.limit}", self._files.unlimited)

    @property
    def method(self) -> str:
        """Where the peak is read."""
        return f"cgroup v{self._version} {self._files.peak} of a group of its own, since spawn"

    def holds(self, pid: int) -> bool:
        """Whether a process stands in this group."""
        return str(pid) in (self._root.try_text(f"{self._folder}/cgroup.procs") or "").split()

    def peak_bytes(self) -> int | None:
        """Return the most this group ever used, in bytes; None where the kernel does not keep it (v2 before 5.19)."""
        return self._root.try_int(f"{self._folder}/{self._files.peak}")

    def limit(self, growth_bytes: int) -> bool:
        """Allow this many bytes beyond what is used now, and no swap; False where the kernel takes no such limit."""
        used = self._root.try_int(f"{self._folder}/{self._files.usage}")
        if used is None:
            return False
        limit = str(used + growth_bytes)
        if not self._root.write_text(f"{self._folder}/{self._files.limit}", limit):
            return False
        # Without swap there is no such file, and none to forbid.
        self._root.write_text(f"{self._folder}/{self._files.swap_limit}", limit if self._version == 1 else "0")
        return True

    def oom_kills(self) -> int | None:
        """Return how many processes of this group the kernel has killed for memory; None where it does not say."""
        for line in (self._root.try_text(f"{self._folder}/{self._files.events}") or "").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.strip().isdecimal():
                return int(value)
        return None

    def close(self) -> None:
        """Remove the group; one in which something still ends is removed before the next is made."""
        with contextlib.suppress(OSError):
            self._remove(self._root.locate(self._folder))


def open_group(
    root: SysRoot, *, make: Callable[[Path], None] = os.mkdir, remove: Callable[[Path], None] = os.rmdir
) -> WorkerGroup | str:
    """Make a group for one worker.

    Args: make, remove: for a tree that is no kernel's.
    Returns: the group, or why there is none.
    """
    if not root.exists("bin/sh"):
        return "there is no shell to start a worker inside of a group"
    found = _place(root, make)
    if isinstance(found, str):
        return found
    version, base = found
    for name in root.list_dir(base):
        if name.startswith(_PREFIX) and not _is_anothers(root, name):
            with contextlib.suppress(OSError):
                remove(root.locate(f"{base}/{name}"))
    folder = f"{base}/{_PREFIX}{os.getpid()}-{next(_numbers)}"
    try:
        make(root.locate(folder))
    except OSError as error:
        return f"no group can be made below {base.removeprefix('sys/fs/cgroup')}: {error.strerror}"
    if not root.exists(f"{folder}/{_FILES[version].usage}"):
        with contextlib.suppress(OSError):
            remove(root.locate(folder))
        return "the kernel accounts no memory to groups here"
    return WorkerGroup(root, version, folder, remove)


def _is_anothers(root: SysRoot, name: str) -> bool:
    """Tell whether the process that made a group is there and is not this one."""
    maker = name.removeprefix(_PREFIX).partition("-")[0]
    return maker != str(os.getpid()) and root.exists(f"proc/{maker}")


def _place(root: SysRoot, make: Callable[[Path], None]) -> tuple[int, str] | str:
    """Return the version and the folder below which groups of workers may stand, or why there is none."""
    levels = [level for level in cgroup.levels(root, "memory") if root.exists(f"{level[1]}/cgroup.procs")]
    if not levels:
        return "no memory cgroup is mounted"
    version, own = levels[0]
    if version == 1:
        return version, own
    parent = own.rpartition("/")[0]
    if _is_delegated(root, own):
        if not _move_in(root, own, make):
            return "the agent could not enter a group of its own"
        base = own
    elif len(levels) > 1 and _is_delegated(root, parent):
        base = parent
    else:
        return "the agent's memory cgroup is not delegated to it (Delegate=memory in its unit)"
    if "memory" not in (root.try_text(f"{base}/cgroup.controllers") or "").split():
        return "the agent's memory cgroup has no memory controller"
    if "memory" in (root.try_text(f"{base}/cgroup.subtree_control") or "").split():
        return version, base
    if not root.write_text(f"{base}/cgroup.subtree_control", "+memory"):
        return "the memory controller cannot be passed on to groups below the agent's"
    return version, base


def _is_delegated(root: SysRoot, folder: str) -> bool:
    path = root.locate(folder)
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(path, name) == b"1":
                return True
    try:
        return os.geteuid() != 0 and path.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _move_in(root: SysRoot, own: str, make: Callable[[Path], None]) -> bool:
    """Move every process of our group into one below it."""
    try:
        make(root.locate(f"{own}/{_AGENT}"))
    except FileExistsError:
        pass
    except OSError:
        return False
    pids = (root.try_text(f"{own}/cgroup.procs") or "").split()
    return all(root.write_text(f"{own}/{_AGENT}/cgroup.procs", pid) for pid in pids)
