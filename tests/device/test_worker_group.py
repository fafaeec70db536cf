"""A worker's own memory group: on fixture trees of both versions, and on this machine where it lets us."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.device.board import this_board
from agent.device.root import SysRoot
from agent.device.worker_group import WorkerGroup, open_group

SLICE = "sys/fs/cgroup/system.slice/boardfit.service"
OWN = f"{SLICE}/agent"
FRESH = {
    1: {
        "cgroup.procs": "", "memory.usage_in_bytes": "0", "memory.max_usage_in_bytes": "0",
        "memory.limit_in_bytes": "9223372036854771712", "memory.memsw.limit_in_bytes": "9223372036854771712",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
    },
    2: {
        "cgroup.procs": "", "memory.current": "0", "memory.peak": "0", "memory.max": "max", "memory.swap.max": "max",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    },
}  # fmt: skip
V2 = {
    "bin/sh": "",
    "proc/self/cgroup": "0::/system.slice/boardfit.service/agent\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n",
    "sys/fs/cgroup/cgroup.procs": "1\n",
    f"{SLICE}/cgroup.procs": "",
    f"{SLICE}/cgroup.controllers": "memory pids\n",
    f"{SLICE}/cgroup.subtree_control": "",
    f"{OWN}/cgroup.procs": "42\n",
    f"{OWN}/cgroup.controllers": "",
}
V1 = {
    "bin/sh": "",
    "proc/self/cgroup": "4:memory:/unit\n0::/\n",
    "sys/fs/cgroup/memory/cgroup.procs": "1\n",
    "sys/fs/cgroup/memory/unit/cgroup.procs": "42\n",
}


def kernel(version: int) -> Callable[[Path], None]:
    """Make a folder as that version's file system would: with its files in it."""

    def make(path: Path) -> None:
        path.mkdir()
        for name, text in FRESH[version].items():
            (path / name).write_text(text)

    return make


def delegate(root: SysRoot, folder: str) -> None:
    try:
        os.setxattr(root.locate(folder), "user.delegate", b"1")
    except OSError:
        pytest.skip("extended attributes: this file system takes none")


def opened(root: SysRoot, version: int) -> WorkerGroup:
    group = open_group(root, make=kernel(version), remove=shutil.rmtree)
    assert isinstance(group, WorkerGroup), group
    return group


def set_file(group: WorkerGroup, name: str, text: str) -> None:
    (group.entry.parent / name).write_text(text)


def get_file(group: WorkerGroup, name: str) -> str:
    return (group.entry.parent / name).read_text()


def test_a_v2_group_stands_beside_the_agents_own(tree: Any) -> None:
    root = tree(V2)
    delegate(root, SLICE)
    group = opened(root, 2)
    assert group.entry.parent.parent == root.locate(SLICE)
    assert root.read_text(f"{SLICE}/cgroup.subtree_control") == "+memory"
    assert root.read_text(f"{OWN}/cgroup.procs") == "42", "the agent stays where it is"
    assert group.limits
    set_file(group, "memory.peak", "123456\n")
    set_file(group, "cgroup.procs", "77\n")
    assert (group.peak_bytes(), group.holds(77), group.holds(7)) == (123456, True, False)
    assert "v2 memory.peak" in group.method
    set_file(group, "memory.current", "1000\n")
    assert group.limit(500)
    assert (get_file(group, "memory.max")[:4], get_file(group, "memory.swap.max")[:1]) == ("1500", "0")
    set_file(group, "memory.events", "oom 3\noom_kill 2\noom_group_kill 1\n")
    assert group.oom_kills() == 2
    group.close()
    assert not group.entry.parent.exists()
    group.close()


def test_an_agent_in_the_delegated_group_moves_into_one_below_it(tree: Any) -> None:
    files = {**V2, "proc/self/cgroup": "0::/system.slice/boardfit.service\n", f"{SLICE}/cgroup.procs": "42\n"}
    root = tree({name: text for name, text in files.items() if not name.startswith(OWN)})
    delegate(root, SLICE)
    group = opened(root, 2)
    assert root.read_text(f"{SLICE}/boardfit-agent/cgroup.procs") == "42"
    assert group.entry.parent.parent == root.locate(SLICE)


def test_a_kernel_without_a_peak_per_group_gives_none(tree: Any) -> None:
    root = tree(V2)
    delegate(root, SLICE)
    group = opened(root, 2)
    (group.entry.parent / "memory.peak").unlink()
    assert group.peak_bytes() is None


def test_a_v1_group_is_limited_with_its_swap(tree: Any) -> None:
    group = opened(tree(V1), 1)
    assert "v1 memory.max_usage_in_bytes" in group.method
    set_file(group, "memory.usage_in_bytes", "1000")
    assert group.limit(24)
    for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        assert get_file(group, name).startswith("1024")
    set_file(group, "memory.max_usage_in_bytes", "2048\n")
    set_file(group, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert (group.peak_bytes(), group.oom_kills()) == (2048, 1)


def test_what_a_dead_agent_left_is_removed(tree: Any) -> None:
    root = tree(V1)
    old = root.locate("sys/fs/cgroup/memory/unit/boardfit-worker-1-0")
    kernel(1)(old)
    opened(root, 1)
    assert not old.exists()


def test_what_another_living_agent_made_stays(tree: Any) -> None:
    root = tree({**V1, "proc/2/stat": ""})
    others = root.locate("sys/fs/cgroup/memory/unit/boardfit-worker-2-0")
    kernel(1)(others)
    opened(root, 1)
    assert others.exists()


def refuse(path: Path) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("files", "make", "words"),
    [
        ({}, kernel(2), "no shell"),
        ({"bin/sh": ""}, kernel(2), "no memory cgroup is mounted"),
        ({**V2, SLICE + "/x": ""}, kernel(2), "not delegated to it"),
        (V1, refuse, "no group can be made below /memory/unit: Permission denied"),
        (V1, os.mkdir, "accounts no memory"),
    ],
)
def test_where_none_can_be_had_the_reason_is_given(
    tree: Any, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], make: Callable[[Path], None], words: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)  # as root, owning a folder says nothing
    found = open_group(tree(files), make=make, remove=shutil.rmtree)
    assert isinstance(found, str) and words in found


def test_a_group_without_the_controller_is_left_alone(tree: Any) -> None:
    root = tree({**V2, f"{SLICE}/cgroup.controllers": "pids\n"})
    delegate(root, SLICE)
    found = open_group(root, make=kernel(2), remove=shutil.rmtree)
    assert isinstance(found, str) and "no memory controller" in found
    assert root.read_text(f"{SLICE}/cgroup.subtree_control") == ""


def test_a_group_of_this_machine_counts_what_a_process_uses() -> None:
    board = this_board()
    group = board.worker_group()
    if group is None:
        pytest.skip(f"memory cgroup: {open_group(board.root)}")
    try:
        enter = ["sh", "-c", "echo 0 > $0; echo in; read line; head -c 20000000 /dev/zero | tail -c 19000000 | wc -c"]
        with subprocess.Popen(
            [*enter, str(group.entry)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdin is not None and child.stdout is not None
            child.stdout.readline()
            assert group.holds(child.pid) and not group.holds(os.getpid())
            seen = board.process_memory(child.pid)
            assert seen is not None and seen.group_peak_bytes is not None and seen.group_peak_bytes < 19_000_000
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline().strip() == "19000000"
        assert (group.peak_bytes() or 0) > 19_000_000, "tail holds all of it"
    finally:
        group.close()
    assert not group.entry.exists()
