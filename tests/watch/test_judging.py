"""Degradations and recoveries of a real daemon's windows, on fixture boards: told once, with figures and cause."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.core.deployment import Deployment
from agent.device.board import Board
from agent.device.root import SysRoot
from agent.watch.judging import LOOK_S, conditions_then
from tests.client import places
from tests.client.places import ONNX
from tests.watch.test_live import Scene

BOARDS = Path(__file__).resolve().parents[1] / "boards"
GOOD, SLOW = (0.9,) * 20, (3.0,) * 20


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    (tmp_path / "state").mkdir()
    made = Scene(tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def on_board(scene: Scene, tmp_path: Path) -> Callable[[str], Path]:
    """Put the agent on a copy of a fixture board, free to be changed."""

    def put(name: str) -> Path:
        tree = tmp_path / "board"
        shutil.copytree(BOARDS / name, tree, symlinks=True)
        scene.site.__dict__["board"] = Board(SysRoot(tree), clock=scene.clock)
        return tree

    return put


def tell(scene: Scene, served: Deployment, latencies: tuple[float, ...], times: int, **more: object) -> None:
    for _ in range(times):
        scene.clock.monotonic += 1.0
        scene.tell(served.release, latencies, **more)
        scene.live.tend()


def watched(scene: Scene) -> list[tuple[str, str]]:
    return [(one["kind"], one["text"]) for one in scene.events() if one["kind"].startswith("watch_")]


def degrade(scene: Scene) -> str:
    served = places.deploy(scene.folder, ONNX)
    tell(scene, served, GOOD, 10)
    assert watched(scene) == []
    tell(scene, served, SLOW, 10)
    ((kind, text),) = watched(scene)
    assert kind == "watch_degraded"
    return text


def test_a_degradation_is_told_once_with_its_figures_and_so_is_the_recovery(
    scene: Scene, on_board: Callable[[str], Path]
) -> None:
    on_board("unknown-arm64")
    served = places.deploy(scene.folder, ONNX)
    tell(scene, served, GOOD, 10)
    tell(scene, served, SLOW, 60)
    ((_, text),) = watched(scene)
    assert text.startswith(f"{ONNX} serves digits worse: calls take longer than when it was measured (p95 ")
    assert "1 ms when measured, budget 20 ms" in text
    assert "Likely the model or what it is fed" in text
    (one,) = scene.live.figures()
    assert (one.degraded or "").startswith("the model")
    tell(scene, served, GOOD, 30)
    kinds = [kind for kind, _ in watched(scene)]
    assert kinds == ["watch_degraded", "watch_recovered"]
    assert scene.live.figures()[0].degraded is None


def test_one_that_comes_and_goes_is_told_once_a_minute(scene: Scene, on_board: Callable[[str], Path]) -> None:
    on_board("unknown-arm64")
    served = places.deploy(scene.folder, ONNX)
    for _ in range(12):  # five minutes
        tell(scene, served, SLOW, 10)
        assert scene.live.figures()[0].degraded is not None
        tell(scene, served, GOOD, 15)
        assert scene.live.figures()[0].degraded is None
    kinds = [kind for kind, _ in watched(scene)]
    assert kinds == ["watch_degraded", "watch_recovered"] * 4


def test_the_board_is_looked_at_only_then(scene: Scene, on_board: Callable[[str], Path]) -> None:
    on_board("raspberry-pi-4b")
    served = places.deploy(scene.folder, ONNX)
    tell(scene, served, GOOD, 1)
    reads: list[str] = []
    root = scene.site.board.root
    real = root.read_bytes
    root.read_bytes = lambda rel: (reads.append(rel), real(rel))[1]  # type: ignore[method-assign]
    tell(scene, served, GOOD, 50)
    assert reads == []
    tell(scene, served, SLOW, 5)
    assert scene.live.deadline() == scene.clock.monotonic + LOOK_S
    scene.clock.monotonic += LOOK_S
    scene.live.tend()
    assert "proc/pressure/memory" in reads
    assert [kind for kind, _ in watched(scene)] == ["watch_degraded"]


@pytest.mark.parametrize("name", ["raspberry-pi-5-weak-supply", "jetson-orin-nx-over-current"])
def test_a_weak_supply_is_the_cause(scene: Scene, on_board: Callable[[str], Path], name: str) -> None:
    on_board(name)
    assert "Likely supply: the board says " in degrade(scene)


@pytest.mark.parametrize("name", ["rock-5b-hot", "coral-dev-board-hot"])
def test_heat_is_the_cause(scene: Scene, on_board: Callable[[str], Path], name: str) -> None:
    on_board(name)
    assert "Likely heat: the board slows itself down (" in degrade(scene)


def test_memory_pressure_is_the_cause(scene: Scene, on_board: Callable[[str], Path]) -> None:
    tree = on_board("unknown-arm64")
    place = tree / "proc/pressure"
    place.mkdir(parents=True, exist_ok=True)
    (place / "memory").write_text(
        "some avg10=41.27 avg60=12.00 avg300=3.00 total=99\nfull avg10=30.00 avg60=9.00 avg300=2.00 total=80\n"
    )
    assert "Likely memory is short: 41% of the time" in degrade(scene)


def test_another_process_is_the_cause(scene: Scene, on_board: Callable[[str], Path]) -> None:
    tree = on_board("unknown-arm64")
    pid = tree / f"proc/{os.getpid()}"
    pid.mkdir(parents=True)
    served = places.deploy(scene.folder, ONNX)

    def ticks(busy: int, idle: int, ours: int) -> None:
        (tree / "proc/stat").write_text(f"cpu {busy} 0 0 {idle} 0 0 0 0 0 0\n")
        (pid / "stat").write_text(f"1 (a b) S {' '.join(['1'] + ['0'] * 9 + [str(ours), '0', '0', '0'] + ['0'] * 8)}\n")

    ticks(1000, 1000, 100)
    tell(scene, served, SLOW, 5)
    ticks(1180, 1020, 120)
    scene.clock.monotonic += LOOK_S
    scene.live.tend()
    ((_, text),) = watched(scene)
    assert "another process: others use 80% of the processors" in text


def test_an_application_that_is_hidden_does_not_pass_for_another_process(
    scene: Scene, on_board: Callable[[str], Path]
) -> None:
    tree = on_board("unknown-arm64")
    (tree / "proc/stat").write_text("cpu 1000 0 0 1000 0 0 0 0 0 0\n")
    served = places.deploy(scene.folder, ONNX)
    tell(scene, served, SLOW, 5)
    (tree / "proc/stat").write_text("cpu 2000 0 0 1000 0 0 0 0 0 0\n")
    place = tree / "proc/pressure"
    place.mkdir(parents=True, exist_ok=True)
    (place / "cpu").write_text("some avg10=71.00 avg60=12.00 avg300=3.00 total=99\n")
    scene.clock.monotonic += LOOK_S
    scene.live.tend()
    ((_, text),) = watched(scene)
    assert "another process, likely: 71% of the time somebody waits for a core" in text


def test_an_updated_engine_and_failing_calls_are_said(scene: Scene, on_board: Callable[[str], Path]) -> None:
    on_board("unknown-arm64")
    point = msgspec.structs.replace(places.point_of(ONNX), engine_version="1.20.0")
    served = places.deploy(scene.folder, ONNX, point=point)
    tell(scene, served, GOOD, 15, errors=3, engine_version="1.24.0")
    ((_, text),) = watched(scene)
    assert "too many calls fail" in text
    assert "Likely the engine is 1.24.0, and was 1.20.0" in text


def test_a_replaced_model_ends_its_degradation(scene: Scene, on_board: Callable[[str], Path]) -> None:
    on_board("unknown-arm64")
    degrade(scene)
    new = places.deploy(scene.folder, places.ONNX_INT8)
    tell(scene, new, GOOD, 1)
    assert [kind for kind, _ in watched(scene)] == ["watch_degraded", "watch_recovered"]


def test_a_board_that_was_never_profiled_compares_engines_alone(scene: Scene) -> None:
    served = places.deploy(scene.folder, ONNX)
    then = conditions_then(scene.site, served)
    assert (then.engine_version, then.temperature_celsius, then.kernel) == (served.point.engine_version, None, None)
