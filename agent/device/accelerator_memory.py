"""How much memory one process has on an accelerator, apart from what it has in the board's.

Rules:
- A card with memory of its own (NVIDIA's driver) is asked through the driver's library (``nvml``). It tells what is in
  use now; it keeps no peak.
- A Tegra's GPU has no memory of its own. What it allocates is the board's, and is not in the resident set of the
  process: the kernel's nvmap says how much, to root only.
- Otherwise there is no figure, and the reason is given.

Sources: NVIDIA NVML API reference, nvmlDeviceGetComputeRunningProcesses (nvmlProcessInfo_t; usedGpuMemory all ones:
not available); sys/kernel/debug/nvmap/iovmm/clients: lines "user NAME PID SIZEK", NVIDIA's
kernel-nvidia drivers/video/tegra/nvmap/nvmap_dev.c.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from agent.device.nvml import LIBRARY, TOO_SMALL, Driver, NvmlError
from agent.device.root import SysRoot

_NVMAP = "sys/kernel/debug/nvmap/iovmm/clients"
_NOT_AVAILABLE = (1 << 64) - 1
_MOST_PROCESSES = 4096  # chosen: a card with more is not measured on
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Used(NamedTuple):
    """Bytes in use, or None; ``note`` says how they were had, or why there are none."""

    used_bytes: int | None
    note: str


class _ProcessInfo(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class AcceleratorMemory:
    """Reads one board. Args: library: NVML's; another one for a test."""

    def __init__(self, root: SysRoot, library: str = LIBRARY) -> None:
        self._root, self._library = root, library
        self._driver: Driver | None = None

    def read(self, pid: int) -> Used:
        """Return what a process has on accelerators now."""
        if "tegra" in " ".join(self._root.device_tree("compatible")):
            return _nvmap(self._root, pid)
        if not self._root.exists("proc/driver/nvidia/version"):
            return Used(None, "no accelerator here tells how much memory a process has on it")
        try:
            used = self._ask_driver(pid)
        except NvmlError as error:
            return Used(None, str(error))
        if used is None:
            return Used(None, "the driver knows nothing of this process (in a container it knows others' numbers)")
        return Used(used, "NVML usedGpuMemory, in use at the end of the timed runs; the driver keeps no peak")

    def _ask_driver(self, pid: int) -> int | None:
        """Add up all cards; None where no card knows the process. Raises: NvmlError."""
        driver = self._driver = self._driver or Driver(self._library)
        found = [used for card in range(driver.count()) for number, used in _processes(driver, card) if number == pid]
        if any(used == _NOT_AVAILABLE for used in found):
            raise NvmlError("the driver does not tell the memory of single processes here")
        return sum(found) if found else None


def _processes(driver: Driver, card: int) -> list[tuple[int, int]]:
    """Return process numbers and the bytes that each has on a card. Raises: NvmlError."""
    handle, size = driver.handle(card), 64
    while size <= _MOST_PROCESSES:
        found, listed = ctypes.c_uint(size), (_ProcessInfo * size)()
        ask = ("nvmlDeviceGetComputeRunningProcesses_v3", handle, ctypes.byref(found), listed)
        if driver.call(*ask, accept=(TOO_SMALL,)) == 0:
            return [(listed[place].pid, listed[place].used_bytes) for place in range(min(found.value, size))]
        size *= 4
    raise NvmlError("the driver lists too many processes")


def _nvmap(root: SysRoot, pid: int) -> Used:
    shared = "the GPU shares the board's memory (Tegra), outside of the process's resident set"
    text = root.try_text(_NVMAP)
    if text is None:
        return Used(None, f"{shared}; /{_NVMAP} cannot be read")
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 4 and fields[2] == str(pid) and fields[3][:-1].isdecimal() and fields[3][-1] in _UNITS:
            return Used(int(fields[3][:-1]) * _UNITS[fields[3][-1]], f"nvmap iovmm clients; {shared}")
    return Used(None, f"{shared}; nvmap lists no allocation of this process")
