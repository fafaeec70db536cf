"""What a container or a unit withholds: memory limit, CPU quota and CPU set, of cgroup v1, v2 and the mix of both.

Rules:
- A limit anywhere up the tree binds, so every parent is asked up to the mount and the smallest wins.
- Inside a container the path of proc/self/cgroup may not exist below the mount: what exists of it is asked.

Source: torvalds/linux Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{memory,cpusets}.rst,
Documentation/scheduler/sched-bwc.rst.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.device.root import SysRoot

_MOUNT = "sys/fs/cgroup"
_MOST_CPUS = 1 << 16  # chosen: above CONFIG_NR_CPUS of any kernel; keeps a garbled range from filling memory
_NO_LIMIT_BYTES = 1 << 60  # v1 writes "unlimited" as the largest page-aligned signed 64-bit number


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Read a kernel CPU list such as ``0,3-5``. Raises: ValueError: no such list, or a number no machine has."""
    cpus: set[int] = set()
    for part in text.split(","):
        if part.strip():
            first, _, last = part.strip().partition("-")
            low, high = int(first), int(last or first)
            if not 0 <= low <= high < _MOST_CPUS:
                raise ValueError(f"{part.strip()!r} is not a range of CPUs")
            cpus.update(range(low, high + 1))
    return tuple(sorted(cpus))


def _memberships(root: SysRoot) -> dict[str, str]:
    paths: dict[str, str] = {}
    for line in (root.try_text("proc/self/cgroup") or "").splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            paths[fields[1]] = fields[2]
    return paths


def _v2_mount(root: SysRoot) -> str | None:
    return next((base for base in (_MOUNT, f"{_MOUNT}/unified") if root.exists(f"{base}/cgroup.controllers")), None)


def _up(base: str, path: str) -> Iterator[str]:
    parts = [part for part in path.split("/") if part and part != ".."]
    for count in range(len(parts), -1, -1):
        yield "/".join((base, *parts[:count]))


def levels(root: SysRoot, controller: str) -> Iterator[tuple[int, str]]:
    """Yield (version, folder) from our own group up to the mount, for the hierarchy that holds the controller."""
    memberships = _memberships(root)
    for controllers, path in memberships.items():
        if controller in controllers.split(","):
            for name in (controllers, controller):
                if root.exists(f"{_MOUNT}/{name}"):
                    yield from ((1, folder) for folder in _up(f"{_MOUNT}/{name}", path))
                    return
    mount = _v2_mount(root)
    if mount is not None:
        yield from ((2, folder) for folder in _up(mount, memberships.get("", "/")))


def memory_controller_on(root: SysRoot) -> bool | None:
    """Whether the kernel accounts memory per group; None when no cgroup file system is there to tell.

    Source: raspberrypi/linux issue 6980: without CONFIG_MEMCG_V1 proc/cgroups never lists memory, so ask v2 first.
    """
    mount = _v2_mount(root)
    if mount is not None and "memory" in (root.try_text(f"{mount}/cgroup.controllers") or "").split():
        return True
    if any("memory" in names.split(",") for names in _memberships(root)):
        return True
    return None if mount is None else False


def read_memory_limit(root: SysRoot) -> tuple[int, str] | None:
    """Return the tightest memory limit in bytes and where it stands; None without one."""
    best: tuple[int, str] | None = None
    for version, folder in levels(root, "memory"):
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        limit = root.try_int(f"{folder}/{name}")  # "max" is no number: no limit here
        if limit is not None and limit < _NO_LIMIT_BYTES and (best is None or limit < best[0]):
            best = (limit, f"cgroup v{version} {folder.removeprefix(_MOUNT) or '/'} {name}")
    return best


def read_cpu_quota_cores(root: SysRoot) -> float | None:
    """Return the tightest CPU quota as a number of cores; None without one."""
    quotas: list[float] = []
    for version, folder in levels(root, "cpu"):
        if version == 2:
            fields = (root.try_text(f"{folder}/cpu.max") or "").split()
            pair = (int(fields[0]), int(fields[1])) if len(fields) == 2 and all(f.isdecimal() for f in fields) else None
        else:
            quota, period = root.try_int(f"{folder}/cpu.cfs_quota_us"), root.try_int(f"{folder}/cpu.cfs_period_us")
            pair = (quota, period) if quota is not None and period is not None else None
        if pair is not None and pair[0] > 0 and pair[1] > 0:
            quotas.append(pair[0] / pair[1])
    return min(quotas, default=None)


def read_cpuset(root: SysRoot) -> tuple[int, ...] | None:
    """Return the CPUs our group may use; None when no group says so."""
    for version, folder in levels(root, "cpuset"):
        names = ("cpuset.cpus.effective",) if version == 2 else ("cpuset.effective_cpus", "cpuset.cpus")
        for name in names:
            text = root.try_text(f"{folder}/{name}")
            if text:
                try:
                    return parse_cpu_list(text)
                except ValueError:
                    continue
    return None
