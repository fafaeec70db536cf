"""Fetch every wheel that a lock names for one kind of board, so that it can install without the internet.

Decides which lines of the lock that board needs; what is in the lock, and its hashes, are ``make lock``'s.
Rules: pip evaluates a requirement's markers for the Python it runs under, whatever ``--python-version`` says
(pypa/pip#11664), so they are evaluated here; hashes are always required; nothing is ever built from source.

    python package/wheelhouse.py --python 3.13 --arch aarch64 --glibc 2.41 DIRECTORY
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement

LOCK = Path(__file__).resolve().parent.parent / "requirements" / "agent.lock"


def needed(lock: str, python: str, arch: str) -> str:
    """Return the lines of a lock that a board with this Python (3.13) and processor (aarch64) needs, markers gone."""
    environment = {
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": arch,
        "python_version": python,
        "python_full_version": f"{python}.0",
    }
    entries = re.sub(r"(?m)^\s*#.*\n", "", lock).replace("\\\n", " ").splitlines()
    chosen = []
    for entry in filter(str.strip, entries):
        words, *hashes = re.split(r"\s+--hash=", entry.strip())
        requirement = Requirement(words)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            chosen.append(
                " ".join([f"{requirement.name}{requirement.specifier}", *(f"--hash={one}" for one in hashes)])
            )
    return "\n".join(chosen) + "\n"


def main() -> int:
    """Fetch the wheels; pip's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path, help="where the wheels go")
    parser.add_argument("--python", default="{}.{}".format(*sys.version_info), help="the board's Python, such as 3.11")
    parser.add_argument("--arch", default=platform.machine(), help="the board's processor: aarch64 or x86_64")
    parser.add_argument("--glibc", default="2.36", help="the board's glibc (Debian 12: 2.36, Debian 13: 2.41)")
    parser.add_argument("--lock", type=Path, default=LOCK)
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    newest = int(given.glibc.partition(".")[2])
    platforms = [f"manylinux_2_{minor}_{given.arch}" for minor in range(newest, 16, -1)]
    platforms += [f"manylinux2014_{given.arch}", f"linux_{given.arch}"]
    abi = "cp" + given.python.replace(".", "")
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "board.lock"
        lock.write_text(needed(given.lock.read_text(encoding="utf-8"), given.python, given.arch), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--only-binary", ":all:", "--dest", str(given.directory), "--requirement", str(lock)]
        command += ["--python-version", given.python, "--implementation", "cp"]
        for name in (abi, "abi3", "none"):
            command += ["--abi", name]
        for name in platforms:
            command += ["--platform", name]
        return subprocess.run(command, check=False, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
