"""Running on until the board is warm: what counts, by simulated boards; and real children for the whole run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from agent.clock import iso
from agent.core.budget import parse_budgets
from agent.core.measurement import ContextReading, SustainedFigures
from agent.measure.heat import HeatPolicy
from agent.measure.protocol import Block
from agent.measure.settings import MeasureSettings
from agent.measure.sustained import Soak, carried, hopeful, measure_sustained
from agent.select.feasible import judge
from benchmarks.thermal_model import ONE_NODE, TWO_NODES, Build, Model, SimulatedBoard
from tests.measure.board import RealClock, ScriptedMeter, TestBoard
from tests.measure.models import ONNX_POINT, candidate, endless_loop, facts, identity_classifier
from tests.select.measured import measurement

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
#: Anything is steady after half a second: for the way of a run, not for its figures.
HASTY = HeatPolicy(window_s=0.5, steady_trend=1e9, settled_celsius_per_s=1e9)


def soaked(
    build: Build, extra_w: float, *, blind: bool = False, longest_s: float = 3600.0
) -> tuple[Soak, SimulatedBoard]:
    """Run a simulated model of 10 ms on a simulated board until it is called steady."""
    board, soak = SimulatedBoard(build, 3), Soak(HeatPolicy(), 0.1)
    while not soak.steady().steady and board.now_s < longest_s:
        seen, readings = board.run(Model("simulated", extra_w, 0.01, 5.0))
        nanoseconds = tuple(int(latency * 1e9) for latency in seen)
        block = Block(latencies_ns=nanoseconds, runs=500, at_s=board.now_s, wall_s=5.0, waited_s=0.0)
        soak.add(block, None if blind else readings[-1].temperature_celsius)
    return soak, board


@pytest.mark.parametrize("build", [ONE_NODE, TWO_NODES])
def test_a_simulated_board_that_throttles_is_figured_as_slow_as_it_becomes(build: Build) -> None:
    soak, board = soaked(build, 7.0)
    window, _ = soak.window()
    p50 = sorted(ns for block in window for ns in block.latencies_ns)[len(window) * 5 // 2]
    assert board.clock < 0.9
    assert p50 / 1e9 == pytest.approx(0.01 / board.clock, rel=0.08)
    assert 60.0 < board.now_s < 1800.0, soak.steady().why


def test_without_a_zone_a_flat_latency_is_believed_late_and_says_so() -> None:
    soak, board = soaked(ONE_NODE, 1.0, blind=True)
    assert board.now_s == pytest.approx(600.0, abs=60.0)  # noise may look like a trend for a while
    assert "this board tells no temperature" in soak.steady().why
    early, _ = soaked(ONE_NODE, 1.0, blind=True, longest_s=300.0)
    assert early.steady().why == "latency alone is no proof before 600 s"


def test_blocks_that_waited_for_a_core_are_no_figures() -> None:
    soak = Soak(HeatPolicy(), 0.1)
    for number in range(60):
        waited = 2.0 if number % 2 else 0.0
        soak.add(Block(latencies_ns=(10,), runs=1, at_s=5.0 * (number + 1), wall_s=5.0, waited_s=waited), 50.0)
    assert (soak.blocks, soak.contended) == (60, 30)
    assert len(soak.window()[0]) <= 31


def run(
    path: Path, board: TestBoard, most_s: float = 60.0, stop: Callable[[], bool] | None = None
) -> SustainedFigures | None:
    return measure_sustained(
        candidate(path), ONNX_POINT, path, facts=facts(), board=board, clock=RealClock(),
        settings=MeasureSettings(contended="flag", sustained_max_s=most_s), policy=HASTY, blind_s=0.5, block_s=0.02,
        stop=stop or (lambda: False),
    )  # fmt: skip


def test_a_real_child_runs_on_and_its_last_window_is_the_figure(tmp_path: Path) -> None:
    warming = [ContextReading(monotonic_s=0.0, temperature_celsius=40.0 + number) for number in range(3)]
    found = run(identity_classifier(tmp_path / "m.onnx"), TestBoard(meter=ScriptedMeter([3.0]), contexts=warming))
    assert found is not None and found.steady, found
    assert found.latency_p95_s is not None and found.latency_p50_s is not None
    assert 0.0 < found.latency_p50_s.value <= found.latency_p95_s.value < 0.1
    assert (found.temperature_before_celsius, found.temperature_after_celsius) == (40.0, 42.0)
    assert found.power_mean_w is not None and found.power_mean_w.value == pytest.approx(3.0)
    assert found.duration_s >= 0.5 and found.n > 0 and found.throughput_per_s is not None


def test_what_is_not_steady_in_time_has_no_figure(tmp_path: Path) -> None:
    found = run(identity_classifier(tmp_path / "m.onnx"), TestBoard(), most_s=0.1)
    assert found is not None and not found.steady and found.latency_p95_s is None
    assert "not steady within" in found.reason and "it ran for less than 0.5 s" in found.reason
    assert found.power_reason == "the test board has no power meter"


def test_a_stop_leaves_nothing(tmp_path: Path) -> None:
    assert run(endless_loop(tmp_path / "m.onnx"), TestBoard(), stop=lambda: True) is None


def test_a_model_that_cannot_be_loaded_gives_the_reason(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nonsense")
    found = run(tmp_path / "m.onnx", TestBoard())
    assert found is not None and not found.steady
    assert "the model is refused" in found.reason


FOUND = SustainedFigures(measured_at=iso(NOW), steady=True, reason="no trend", duration_s=60.0, window_s=60.0)
UNSTEADY = msgspec.structs.replace(FOUND, steady=False, reason="not steady within 60 s: the zone moves")


def standing(sustained: SustainedFigures | None, limit: str = "20 ms") -> tuple[str, str]:
    budgets = parse_budgets({"latency_p95_sustained": limit}, where="test")
    (option,) = judge([measurement(sustained=sustained)], budgets)
    return option.standing, option.reason


def test_a_budget_on_sustained_latency_is_judged_by_it_and_unknown_without() -> None:
    figure = {"value": 0.015, "low": 0.014, "high": 0.016}
    known = msgspec.convert({**msgspec.to_builtins(FOUND), "latency_p95_s": figure}, SustainedFigures)
    assert standing(known)[0] == "fits"
    assert standing(known, "10 ms")[0] == "over_budget"
    assert standing(None) == ("unknown", "latency_p95_sustained is unknown: sustained latency was not measured")
    assert standing(UNSTEADY)[0] == "unknown"
    assert "the zone moves" in standing(UNSTEADY)[1]
    budgets = parse_budgets({"latency_p95_sustained": "1 ms"}, where="test")
    assert [option.standing for option in judge(hopeful([measurement()]), budgets)] == ["fits"]


def test_a_new_measurement_keeps_the_sustained_figures_while_they_are_young() -> None:
    before, new = measurement(sustained=FOUND), measurement()
    assert carried(new, before, NOW + timedelta(days=1), 86400.0 * 2).sustained == FOUND
    assert carried(new, before, NOW + timedelta(days=3), 86400.0 * 2).sustained is None
    assert carried(new, before, NOW - timedelta(days=1), 86400.0 * 2).sustained is None
    assert carried(measurement(threads=2), before, NOW, 86400.0).sustained is None
