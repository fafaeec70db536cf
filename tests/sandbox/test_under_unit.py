"""The sandbox inside of the unit's own filter: systemd's groups as this machine's systemd-analyze lists them."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.sandbox import landlock

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "systemd" / "boardfit.service"
_ENTER = """
import struct
from agent.confinement import forbid_new_privileges
from agent.sandbox import seccomp
from agent.sandbox.__main__ import main
forbid_new_privileges()
step = lambda code, value, yes=0, no=0: struct.pack('=HBBI', code, yes, no, value)
steps = step(0x20, 0) + b''.join(step(0x15, one, 0, 1) + step(0x06, 0x7fff0000) for one in {allowed!r})
assert seccomp.install(steps + step(0x06, 0x00050001)) is None  # SystemCallErrorNumber=EPERM
main()
"""


def group(name: str, analyze: str) -> set[str]:
    """Return the calls of a group, those of groups in it too."""
    done = subprocess.run([analyze, "syscall-filter", name], check=True, capture_output=True, text=True)
    found: set[str] = set()
    for word in (line.strip() for line in done.stdout.splitlines()[1:]):
        if word.startswith("@"):
            found |= group(word, analyze)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the numbers of x86-64")
@pytest.mark.parametrize("lines", ["as it is", "of an older unit"])
def test_the_sandbox_comes_into_force_under_the_unit(lines: str) -> None:
    analyze, compiler = shutil.which("systemd-analyze"), shutil.which("cc") or shutil.which("gcc")
    if analyze is None or compiler is None or not isinstance(landlock.abi(), int):
        pytest.skip("needs systemd-analyze, a C compiler with the kernel's headers, and Landlock")
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        if lines == "of an older unit" and "landlock" in line:
            continue
        for word in line.removeprefix("~").split():
            named = group(word, analyze) if word.startswith("@") else {word}
            allowed = allowed - named if line.startswith("~") else allowed | named
    header = subprocess.run(
        [compiler, "-E", "-dM", "-x", "c", "-"], check=True, input="#include <asm/unistd.h>\n",
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", header)}
    code = _ENTER.format(allowed=sorted(numbers[name] for name in allowed & numbers.keys()))
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    level = json.loads(done.stdout)
    assert "seccomp" in level["in_force"]
    if lines == "as it is":
        assert level["missing"] == []
        assert f"landlock_abi_{landlock.abi()}" in level["in_force"]
    else:
        assert [part for part, _, _ in level["missing"]] == ["landlock"]
        assert level["missing"][0][1] == "a filter on this service refuses Landlock's calls"
