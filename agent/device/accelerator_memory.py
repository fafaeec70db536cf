"""How much memory one process has on an accelerator, apart from what it has in the board's.

Rules:
- A card with memory of its own (NVIDIA's driver) is asked through the driver's library, which is loaded when a worker
  is first measured and never in the idle agent. It tells what is in use now; it keeps no peak.
- A Tegra's GPU has no memory of its own. What it allocates is the board's, and is not in the resident set of the
  process: the kernel's nvmap says how much, to root only.
- Otherwise there is no figure, and the reason is given.

Sources: NVIDIA NVML API reference, nvmlDeviceGetComputeRunningProcesses (nvmlProcessInfo_t; usedGpuMemory all ones:
not available; 7: the array is too small); sys/kernel/debug/nvmap/iovmm/clients: lines "user NAME PID SIZEK", NVIDIA's
kernel-nvidia drivers/video/tegra/nvmap/nvmap_dev.c.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from agent.device.root import SysRoot

_LIBRARY = "libnvidia-ml.so.1"
_NVMAP = "sys/kernel/debug/nvmap/iovmm/clients"
_NOT_AVAILABLE = (1 << 64) - 1
_TOO_SMALL = 7
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


class DriverError(Exception):
    """The driver's library does not answer; the text says how."""


class AcceleratorMemory:
    """Reads one board. Args: library: NVML's; another one for a test."""

    def __init__(self, root: SysRoot, library: str = _LIBRARY) -> None:
        self._root = root
        self._name = library
        self._library: Any = None

    def read(self, pid: int) -> Used:
        """Return what a process has on accelerators now."""
        if "tegra" in " ".join(self._root.device_tree("compatible")):
            return _nvmap(self._root, pid)
        if not self._root.exists("proc/driver/nvidia/version"):
            return Used(None, "no accelerator here tells how much memory a process has on it")
        try:
            used = self._ask_driver(pid)
        except DriverError as error:
            return Used(None, str(error))
        if used is None:
            return Used(None, "the driver knows nothing of this process (in a container it knows others' numbers)")
        return Used(used, "NVML usedGpuMemory, in use at the end of the timed runs; the driver keeps no peak")

    def _ask_driver(self, pid: int) -> int | None:
        """Add up all cards; None where no card knows the process. Raises: DriverError."""
        count = ctypes.c_uint()
        if self._library is None:
            try:
                library = ctypes.CDLL(self._name)
            except OSError as error:
                raise DriverError(f"the driver's library does not load: {error}") from error
            self._call(library, "nvmlInit_v2")
            self._library = library
        self._call(self._library, "nvmlDeviceGetCount_v2", ctypes.byref(count))
        found = [used for card in range(count.value) for number, used in self._processes(card) if number == pid]
        if any(used == _NOT_AVAILABLE for used in found):
            raise DriverError("the driver does not tell the memory of single processes here")
        return sum(found) if found else None

    def _processes(self, card: int) -> list[tuple[int, int]]:
        handle = ctypes.c_void_p()
        self._call(self._library, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(card), ctypes.byref(handle))
        size = 64
        while size <= _MOST_PROCESSES:
            found, listed = ctypes.c_uint(size), (_ProcessInfo * size)()
            ask = ("nvmlDeviceGetComputeRunningProcesses_v3", handle, ctypes.byref(found), listed)
            if self._call(self._library, *ask, accept=_TOO_SMALL) == 0:
                return [(listed[place].pid, listed[place].used_bytes) for place in range(min(found.value, size))]
            size *= 4
        raise DriverError("the driver lists too many processes")

    @staticmethod
    def _call(library: Any, function: str, *arguments: Any, accept: int = 0) -> int:
        try:
            code = int(getattr(library, function)(*arguments))
        except AttributeError as error:
            raise DriverError(f"the driver's library has no {function}") from error
        if code not in (0, accept):
            raise DriverError(f"the driver's library failed: {function} returned {code}")
        return code


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
