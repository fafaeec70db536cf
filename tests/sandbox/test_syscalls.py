"""The numbers of system calls against the headers of this machine; a wrong one would allow another call."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess

import pytest

from agent.sandbox.seccomp import program
from agent.sandbox.syscalls import ARCHITECTURES

_GENERIC = """
#define __ARCH_WANT_NEW_STAT
#define __ARCH_WANT_SET_GET_RLIMIT
#define __ARCH_WANT_SYS_CLONE3
#define __BITS_PER_LONG 64
#include <asm-generic/unistd.h>
"""


@pytest.mark.parametrize("machine", sorted(ARCHITECTURES))
def test_numbers_are_those_of_the_headers(machine: str) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler and the kernel's headers (gcc, linux-libc-dev)")
    if machine != platform.machine() and machine == "x86_64":
        pytest.skip("the numbers of x86-64 are in the headers of x86-64 machines only")
    source = _GENERIC if machine == "aarch64" else "#include <asm/unistd.h>\n"
    command = [compiler, "-E", "-dM", "-x", "c", "-"]
    done = subprocess.run(command, check=False, input=source, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("needs the kernel's headers (linux-libc-dev)")
    raw = dict(re.findall(r"#define (__NR\w+) (\S+)", done.stdout))

    def number(name: str) -> int | None:
        value = raw.get(f"__NR_{name}")
        while value is not None and not value.isdecimal():
            value = raw.get(value)
        return None if value is None else int(value)

    numbers = ARCHITECTURES[machine].numbers
    assert {name: number(name) for name in numbers} == numbers


@pytest.mark.parametrize("machine", sorted(ARCHITECTURES))
@pytest.mark.parametrize("wide", [{}, {"writes": True}, {"devices": True}], ids=str)
def test_a_filter_is_what_a_kernel_takes(machine: str, wide: dict[str, bool]) -> None:
    steps = program(ARCHITECTURES[machine], 4711, **wide)
    count, rest = divmod(len(steps), 8)
    assert rest == 0 and 100 < count < 4096, "BPF_MAXINSNS"
    for at in range(count):
        code, on_true, on_false = steps[8 * at] | steps[8 * at + 1] << 8, steps[8 * at + 2], steps[8 * at + 3]
        if code & 0x07 == 0x05:
            assert at + 1 + max(on_true, on_false) < count, "no jump leads past the end"
    assert steps[-8:-4] == b"\x06\0\0\0", "the last step returns"
