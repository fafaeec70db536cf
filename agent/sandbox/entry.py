"""Enters the sandbox: which files engines need, in which order the parts are set, and what is in force afterwards.

Rules:
- Called by a child on itself, before its first thread and before an engine is imported.
- Readable are the interpreter and its packages, the system's libraries, what describes the processor and this process,
  and the files of the work at hand. Not readable: homes, /etc but for a few files, other processes, this agent's state.
- With ``devices`` also accelerators' device nodes, drivers' files and sysfs, and the name of what is in force says so.

Which files the engines read: strace of onnxruntime, ai-edge-litert and tflite-runtime, on x86-64; for ARM the sources
of cpuinfo (pytorch/cpuinfo src/arm/linux) and XNNPACK.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import agent
from agent.sandbox import landlock, seccomp

_SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/os-release")
_KERNEL = (
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/filesystems",
    "/proc/sys/kernel/osrelease", "/proc/sys/vm", "/proc/device-tree", "/sys/devices/system/cpu",
    "/sys/devices/system/node", "/sys/devices/soc0", "/sys/firmware/devicetree", "/sys/kernel/mm/transparent_hugepage",
    "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip
_BUSES = (
    "/sys/bus/pci/devices",
    "/sys/class/drm",
)  # onnxruntime looks for cards at its import, and warns if it may not
_DRIVERS = (
    "/sys", "/opt/nvidia", "/opt/rocm", "/opt/intel", "/var/nvidia", "/etc/alternatives", "/etc/OpenCL", "/etc/vulkan",
    "/etc/nv_tegra_release", "/proc/driver", "/proc/devices", "/proc/modules", "/proc/sys/kernel", "/proc/cmdline",
)  # fmt: skip
_DEVICE_NODES = (
    "nvidia*", "nvhost*", "nvmap", "nvgpu*", "nvsciipc", "tegra*", "host1x*", "dri", "dxg", "kfd", "mali*", "accel",
    "apex_*", "dma_heap",
)  # fmt: skip
_DEVICE_CACHES = (".nv",)  # in HOME; compiled kernels, where the folder is there
_CAP_VERSION, _CAP_DAC_READ_SEARCH = 0x20080522, 2  # linux/capability.h


class Missing(NamedTuple):
    """A part that is not in force: why, and what to do about it."""

    part: str
    reason: str
    fix: str


class Level(NamedTuple):
    """What is in force, by name, and what is not."""

    in_force: tuple[str, ...]
    missing: tuple[Missing, ...]


def enter(readable: Sequence[Path | int], *, writable: Sequence[Path] = (), devices: bool = False) -> Level:
    """Confine this process for good; needs no_new_privs set.

    Args: readable: the files of the work, as descriptors or paths. writable: folders. devices: accelerators are used.
    """
    in_force, missing = [], []
    suffix = "_devices" if devices else ""
    if drop_capabilities():
        in_force.append("capabilities_dropped")
    version = landlock.abi()
    if isinstance(version, int):
        try:
            landlock.restrict(version, _rules(readable, writable, devices=devices))
            in_force.append(f"landlock_abi_{version}{suffix}")
            if version < 4:
                reason = f"this kernel's Landlock (ABI {version}) leaves TCP to the filter of system calls"
                missing.append(Missing("landlock_tcp", reason, "Linux 6.7 has it; the filter alone suffices"))
        except OSError as error:
            missing.append(_without_landlock(f"the kernel refuses Landlock's rules: {error.strerror}"))
    else:
        missing.append(_without_landlock(version))
    refused = seccomp.enter(writes=bool(writable), devices=devices)
    if refused is None:
        in_force.append(f"seccomp{suffix}")
    else:
        fix = "use a 64-bit system whose kernel has CONFIG_SECCOMP_FILTER; until then measure models you trust only"
        missing.append(Missing("seccomp", refused, fix))
    return Level(tuple(in_force), tuple(missing))


def _without_landlock(reason: str) -> Missing:
    fix = "add landlock to lsm= on the kernel's command line, or update the kernel and the unit file"
    return Missing("landlock", reason, f"{fix}; until then measure models you trust only")


def drop_capabilities() -> bool:
    """Give up all capabilities but that of reading. Returns: whether none other is left.

    Reading stays, since who starts boardfit as root may have it in a home that only its owner enters: Landlock says
    what is read. Source: capset(2).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", _CAP_VERSION, 0)
    data = ctypes.create_string_buffer(24)
    if libc.capget(header, data) != 0:
        return False
    permitted = struct.unpack("=6I", data.raw)[1]
    kept = permitted & (1 << _CAP_DAC_READ_SEARCH)
    return bool(libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0)) == 0)


def _rules(
    readable: Iterable[Path | int], writable: Iterable[Path], *, devices: bool
) -> Iterator[tuple[Path | int, int]]:
    # Kept open for good: the rule for this process's own folder in /proc holds while the kernel remembers that folder.
    os.open("/proc/self", os.O_PATH | os.O_CLOEXEC)
    for one in readable:
        yield one, landlock.READ
    for folder in writable:
        yield folder, landlock.WRITE
    for name in (*_SYSTEM, *_KERNEL):
        yield Path(name), landlock.READ
    for name in _BUSES:
        yield Path(name), landlock.READ
        for link in Path(name).glob("*"):
            yield link, landlock.READ  # of what it leads to
    yield Path("/dev/null"), landlock.USE_DEVICE
    for path in code_paths():
        yield path, landlock.READ
    if devices:
        for name in _DRIVERS:
            yield Path(name), landlock.READ
        for pattern in _DEVICE_NODES:
            for path in Path("/dev").glob(pattern):
                yield path, landlock.USE_DEVICE
        for name in _DEVICE_CACHES:
            yield Path.home() / name, landlock.WRITE


def code_paths() -> tuple[Path, ...]:
    """Return where this interpreter's code lies: its own folders, its module path, LD_LIBRARY_PATH, and this package.

    Of a source tree only the package itself: beside it lie things that no model needs to read.
    """
    package = Path(agent.__file__).resolve().parent
    given = [sys.prefix, sys.base_prefix, *sys.path, *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
    found = {package}
    for name in given:
        path = Path(name)
        source_tree = path.resolve() == package.parent and path.name not in ("site-packages", "dist-packages")
        if path.is_absolute() and not source_tree and path.resolve() not in _too_wide():
            found.add(path)
    return tuple(sorted(found))


def _too_wide() -> frozenset[Path]:
    """Return folders that are never given whole, whatever the module path says."""
    return frozenset(Path(name) for name in ("/", "/etc", "/home", "/var", "/root", os.environ.get("HOME") or "/root"))
