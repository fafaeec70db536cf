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
