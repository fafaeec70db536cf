"""Steps on a Dask cluster: a real scheduler and real workers on loopback, killed, stopped and refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'boardfit[dask]'")
pytest.importorskip("onnx")
import psutil

from tests.compress.test_files import boardfit, recipe

ROOT = Path(__file__).resolve().parents[2]
CHAINS = [{"of": "net", "chain": [{"magnitude_pruning": {"share": 0.4}}]}]
# A step that is the first to begin says who it is and waits for ever.
HANG = """\
import ctypes, os, pathlib, signal, sys
began = pathlib.Path({began!r})
if "agent.compress.step" in sys.orig_argv:
    try:
        with began.open("x") as file:
            file.write(f"{{os.getpid()}} {{os.getppid()}}\\n")
        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # as a step itself does a moment later
        signal.pause()
    except FileExistsError:
        pass
"""
Start = Callable[..., tuple[str, list["subprocess.Popen[str]"]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a scheduler and workers. Returns: its address, and the processes, the scheduler first."""
    running: list[subprocess.Popen[str]] = []

    def spawn(module: str, waited: str, *arguments: str, path: Path) -> tuple[str, subprocess.Popen[str]]:
        environment = {
            **os.environ, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "DASK_DISTRIBUTED__DASHBOARD__LINK": "",
            "DASK_TEMPORARY_DIRECTORY": str(tmp_path),
        }  # fmt: skip
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, "--no-dashboard"], stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, text=True, env=environment, cwd=tmp_path, start_new_session=True,
        )  # fmt: skip
        running.append(child)
        assert child.stderr is not None
        for line in child.stderr:
            if waited in line:
                return line, child
        raise AssertionError(f"{module} ended")

    def begin(workers: int = 2, path: Path = tmp_path / "nothing") -> tuple[str, list[subprocess.Popen[str]]]:
        line, scheduler = spawn(
            "distributed.cli.dask_scheduler", "Scheduler at:", "--host", "127.0.0.1", "--port", "0", path=path
        )
        address = line.split()[-1]
        options = ("--nthreads", "1", "--no-nanny", "--memory-limit", "0")
        for _ in range(workers):
            spawn("distributed.cli.dask_worker", "Registered to:", address, *options, path=path)
        return address, [scheduler, *running[1:]]

    yield begin
    for child in reversed(running):
        child.kill()
        child.wait()
        if child.stderr is not None:
            child.stderr.close()


def hanging(tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder for PYTHONPATH in which the first step hangs, and the file it then writes."""
    folder, began = tmp_path / "hang", tmp_path / "began"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HANG.format(began=str(began)))
    return folder, began


def started(path: Path, address: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "agent", "compress", "run", str(path), "--dask", address, "--json"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def until(child: subprocess.Popen[str], there: Path) -> tuple[psutil.Process, psutil.Process]:
    """Read progress, a line each second, until a step hangs. Returns: it and the worker it runs on."""
    assert child.stderr is not None
    for _ in child.stderr:
        if there.exists() and there.read_text().endswith("\n"):
            step, worker = map(int, there.read_text().split())
            return psutil.Process(step), psutil.Process(worker)
    raise AssertionError("the run ended")


def figures(output: str) -> list[dict[str, Any]]:
    """Return candidates without what differs from run to run."""
    candidates = json.loads(output)["candidates"]
    for one in candidates:
        one["path"] = Path(one["path"]).read_bytes()
        for judged in one["judged"]:
            del judged["latency_p50_s"]
    return candidates


def test_a_cluster_makes_what_this_machine_makes(tmp_path: Path, start: Start) -> None:
    address, _ = start()
    path = recipe(tmp_path / "job", {"of": "net"}, *CHAINS)
    there = boardfit("compress", "run", path, "--dask", address, "--json")
    assert there.returncode == 0, there.stderr
    assert "make 0/4" in there.stderr  # plain lines come once a second, so that any but the first may be left out
    here = boardfit("compress", "run", path, "--work", tmp_path / "here", "--json")
    assert figures(there.stdout) == figures(here.stdout)
    kept = {file.name for file in path.with_suffix(".work").rglob("*")}
    assert not [name for name in kept if name.startswith(("attempt-", ".shared-", ".making-"))]


def test_a_dead_workers_step_is_made_elsewhere(tmp_path: Path, start: Start) -> None:
    folder, began = hanging(tmp_path)
    address, _ = start(path=folder)
    path = recipe(tmp_path / "job", {"of": "net"}, *CHAINS)
    child = started(path, address)
    step, worker = until(child, began)
    worker.kill()
    output, said = child.communicate(timeout=120)
    assert child.returncode == 0, said
    assert {one["reason"] for one in json.loads(output)["candidates"]} == {None}
    psutil.wait_procs([step], timeout=30)
    assert not step.is_running()  # it ended with its worker


def test_a_lost_scheduler_is_one_sentence_and_the_next_run_goes_on(tmp_path: Path, start: Start) -> None:
    folder, began = hanging(tmp_path)
    address, (scheduler, *_) = start(path=folder)
    path = recipe(tmp_path / "job", {"of": "net"}, *CHAINS)
    work = path.with_suffix(".work")
    done = boardfit("compress", "run", recipe(tmp_path / "other", {"of": "net"}), "--work", work, "--json")
    assert done.returncode == 0, done.stderr
    finished = {file: file.stat().st_mtime_ns for file in work.glob("*/record.json")}
    assert len(finished) == 2
    child = started(path, address, DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="2s")
    until(child, began)
    scheduler.kill()
    _, said = child.communicate(timeout=120)
    assert child.returncode == 1
    assert f"the Dask scheduler at {address} is gone. Start it and run again: finished steps are kept." in said.replace(
        "The Dask", "the Dask"
    )
    assert "Traceback" not in said
    again = boardfit("compress", "run", path, "--json")
    assert again.returncode == 0, again.stderr
    assert {file: file.stat().st_mtime_ns for file in finished} == finished


def test_a_stop_ends_the_step_on_its_worker(tmp_path: Path, start: Start) -> None:
    folder, began = hanging(tmp_path)
    address, _ = start(1, path=folder)
    path = recipe(tmp_path / "job", {"of": "net"})
    child = started(path, address)
    step, worker = until(child, began)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 1
    assert "stopped on request" in said.lower()
    assert "Traceback" not in said
    psutil.wait_procs([step], timeout=30)
    assert not step.is_running()
    assert worker.is_running()
    done = boardfit("compress", "run", path, "--dask", address, "--json")
    assert done.returncode == 0, done.stderr


def test_a_killed_run_leaves_no_step_behind(tmp_path: Path, start: Start) -> None:
    folder, began = hanging(tmp_path)
    address, _ = start(1, path=folder)
    child = started(recipe(tmp_path / "job", {"of": "net"}), address)
    step, worker = until(child, began)
    child.kill()
    child.communicate()
    psutil.wait_procs([step], timeout=60)
    assert not step.is_running()
    assert worker.is_running()


def test_who_cannot_take_part_is_refused_in_one_sentence(tmp_path: Path, start: Start) -> None:
    path = recipe(tmp_path / "job", {"of": "net"})

    def refused(address: str) -> str:
        done = boardfit("compress", "run", path, "--dask", address)
        assert done.returncode in (1, 2), done.stderr
        assert "Traceback" not in done.stderr
        assert not list(path.with_suffix(".work").glob(".shared-*"))
        return done.stderr

    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in refused("tcp://127.0.0.1:9").replace(
        "No Dask", "no Dask"
    )
    assert "--dask nonsense://x is no scheduler's address" in refused("nonsense://x")
    old = tmp_path / "old" / "onnx-1.0.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: onnx\nVersion: 1.0\n")
    address, _ = start(0)
    assert f"has no workers. Start some: dask worker {address}" in refused(address)
    address, _ = start(1, path=old.parent)
    assert "has onnx 1.0 instead of" in refused(address)
