"""Memory on accelerators: the driver's library is a simulated one, compiled here; Tegra's list is a fixture."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.device.accelerator_memory import AcceleratorMemory

NVIDIA = {"proc/driver/nvidia/version": "NVRM version: simulated\n"}
TEGRA = {"proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0"}
CLIENTS = "sys/kernel/debug/nvmap/iovmm/clients"
LISTED = "CLIENT              PROCESS      PID        SIZE\nuser                python3     4242     153600K\n"

SIMULATED_NVML = """
#include <string.h>
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } info;
static long card[2] = {0, 1};
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = &card[i]; return 0; }
#ifndef OLD
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *n, info *list) {
    if (*n < 100) { *n = 100; return 7; }
    long number = *(long *)h;
    *n = 2;
    list[0].pid = 7; list[0].used = 1000 + number;
    list[1].pid = 8; list[1].used = ~0ULL;
    return CODE;
}
#endif
"""


def build(folder: Path, *flags: str) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("C compiler: none here to build a simulated driver library with")
    source, library = folder / "nvml.c", folder / "libsimulated.so"
    source.write_text(SIMULATED_NVML)
    subprocess.run([compiler, "-shared", "-fPIC", *flags, "-o", library, source], check=True)
    return str(library)


def test_all_cards_of_a_process_are_added(tree: Any, tmp_path: Path) -> None:
    memory = AcceleratorMemory(tree(NVIDIA), build(tmp_path, "-DCODE=0"))
    for _ in range(2):
        used, note = memory.read(7)
        assert (used, note.startswith("NVML usedGpuMemory")) == (2001, True)
    assert "keeps no peak" in note


@pytest.mark.parametrize(
    ("flags", "pid", "words"),
    [
        (("-DCODE=0",), 8, "does not tell the memory of single processes"),
        (("-DCODE=0",), 9, "knows nothing of this process"),
        (("-DCODE=15",), 7, "nvmlDeviceGetComputeRunningProcesses_v3 returned 15"),
        (("-DOLD",), 7, "has no nvmlDeviceGetComputeRunningProcesses_v3"),
    ],
)
def test_a_driver_that_does_not_tell_is_a_reason(
    tree: Any, tmp_path: Path, flags: tuple[str, ...], pid: int, words: str
) -> None:
    used, note = AcceleratorMemory(tree(NVIDIA), build(tmp_path, *flags)).read(pid)
    assert used is None and words in note


def test_without_the_library_there_is_a_reason(tree: Any) -> None:
    used, note = AcceleratorMemory(tree(NVIDIA), "libnosuchthing.so").read(1)
    assert used is None and "does not load" in note


def test_without_an_accelerator_nothing_is_loaded(tree: Any) -> None:
    memory = AcceleratorMemory(tree({}), "libnosuchthing.so")
    assert memory.read(1) == (None, "no accelerator here tells how much memory a process has on it")


def test_a_tegra_says_that_its_memory_is_the_boards(tree: Any) -> None:
    used, note = AcceleratorMemory(tree({**TEGRA, CLIENTS: LISTED})).read(4242)
    assert used == 153600 * 1024
    assert "shares the board's memory" in note


@pytest.mark.parametrize(("files", "words"), [({}, "cannot be read"), ({CLIENTS: LISTED}, "lists no allocation")])
def test_a_tegra_that_does_not_tell_is_a_reason(tree: Any, files: dict[str, str], words: str) -> None:
    used, note = AcceleratorMemory(tree({**TEGRA, **files})).read(7)
    assert used is None
    assert "shares the board's memory" in note and words in note
