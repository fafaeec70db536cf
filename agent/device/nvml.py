"""The NVIDIA driver's own library, libnvidia-ml: loaded, started and called, its codes told apart.

Leaves what is asked of it to ``power_nvml`` and ``accelerator_memory``, which load it where the driver is running and
only when a pass wants meters or a worker is measured: the idle agent never does.

Source: NVIDIA NVML API reference, nvmlReturn_t (3 not supported, 7 the array is too small, 13 no such function, 15 the
card is lost, 999 unknown), nvmlInit_v2, nvmlDeviceGetCount_v2, nvmlDeviceGetHandleByIndex_v2.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
NOT_SUPPORTED = 3
TOO_SMALL = 7
FUNCTION_NOT_FOUND = 13  # also for a function that a library older than it does not have


class NvmlError(Exception):
    """The driver's library does not answer; the text says how."""


class NvmlAbsentError(NvmlError):
    """The library is not there, or older than what is asked of it."""


class Driver:
    """The library, started. Args: library: another one for a test. Raises: NvmlError: it does not load or start."""

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library: Any = ctypes.CDLL(library)
        except OSError as error:
            raise NvmlAbsentError(f"the driver's library does not load: {error}") from error
        self.call("nvmlInit_v2")

    def call(self, function: str, *arguments: Any, accept: Collection[int] = ()) -> int:
        """Return the code of one call: 0, or one of ``accept``. Raises: NvmlError: any other."""
        entry = getattr(self._library, function, None)
        code = FUNCTION_NOT_FOUND if entry is None else int(entry(*arguments))
        if code == 0 or code in accept:
            return code
        if code == FUNCTION_NOT_FOUND:
            raise NvmlAbsentError(f"the driver's library has no {function}")
        raise NvmlError(f"the driver's library failed: {function} returned {code}")

    def count(self) -> int:
        """Return how many cards there are. Raises: NvmlError."""
        count = ctypes.c_uint()
        self.call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        return count.value

    def handle(self, card: int) -> ctypes.c_void_p:
        """Return what stands for a card in calls; numbers start at 0. Raises: NvmlError."""
        handle = ctypes.c_void_p()
        self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(card), ctypes.byref(handle))
        return handle
