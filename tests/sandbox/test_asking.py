"""What of the sandbox comes into force, as `doctor` asks it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.sandbox import asking, landlock
from agent.sandbox.asking import ask_level
from agent.sandbox.entry import code_paths


def test_a_child_tells_what_came_into_force() -> None:
    level = ask_level()
    told = {*level.in_force, *(one.part for one in level.missing)}
    assert any(name.startswith("landlock") for name in told)
    assert "seccomp" in told
    if isinstance(landlock.abi(), int):
        assert f"landlock_abi_{landlock.abi()}" in level.in_force
    assert all(one.reason and one.fix for one in level.missing)


@pytest.mark.parametrize("answer", [b"", b"{}", b"nonsense"])
def test_a_child_that_says_nothing_counts_for_nothing(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    done = subprocess.CompletedProcess([], 1, answer, b"")
    monkeypatch.setattr(asking.subprocess, "run", lambda *given, **more: done)
    level = ask_level()
    assert level.in_force == ()
    assert [one.part for one in level.missing] == ["sandbox"]


def test_code_is_readable_and_what_lies_beside_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setattr(sys, "path", [str(root), "/", "", *sys.path])
    found = code_paths()
    assert root / "agent" in found
    assert root not in found and Path("/") not in found
    assert Path(sys.prefix) in found


_CHMOD = """
import os, stat, sys
from pathlib import Path
from agent.confinement import forbid_new_privileges
from agent.sandbox.entry import enter
forbid_new_privileges()
level = enter((), writable=(Path(sys.argv[1]),), devices=True)
for path in sys.argv[2:]:
    os.chmod(path, 0o666)
    assert stat.S_IMODE(os.stat(path).st_mode) != 0o666, path
os.link(sys.argv[2], sys.argv[1] + "/second")
"""


def test_modes_of_files_are_only_said_to_be_changed(tmp_path: Path) -> None:
    """An engine that keeps what it built sets the file's mode, and would give up; nothing else is let through."""
    if not isinstance(landlock.abi(), int):
        pytest.skip("needs Landlock")
    (tmp_path / "kept").mkdir()
    for name in ("kept/blob", "secret"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o400)
    given = [str(tmp_path / name) for name in ("kept", "kept/blob", "secret")]
    done = subprocess.run([sys.executable, "-c", _CHMOD, *given], check=False, capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1].startswith("PermissionError: [Errno 1]"), done.stderr
    assert "kept/second" in done.stderr, "only the link was refused, which came last"
