"""Which provider ran which nodes, and under which name the figures of such a run may stand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.core.measurement import OperatingPoint, Placement
from agent.measure.record import _really
from agent.runtimes.onnx import CPU, OnnxRuntime, _placement
from agent.runtimes.onnx_nodes import Nodes, engine_log, nodes_logged, nodes_told, read_log, why_dropped
from agent.runtimes.table import (
    EngineUnavailableError,
    PlacementError,
    mixed_provider,
    plain_point,
    runtime_class,
    split_provider,
)
from benchmarks.zoo.files import artifact
from tests.runtimes.split_model import SIDE, split_model

OPENVINO = "OpenVINOExecutionProvider"
MIXED = f"{OPENVINO}+{CPU}"
RECORDED = Path(__file__).parent / "recorded"


def point(provider: str, engine: str = "onnxruntime") -> OperatingPoint:
    return OperatingPoint(engine=engine, engine_version="0", provider=provider, threads=1)


@pytest.fixture
def openvino() -> None:
    """The wheel ``onnxruntime-openvino``, whose second provider runs on any x86-64 processor."""
    engine = pytest.importorskip("onnxruntime")
    if OPENVINO not in engine.get_available_providers():
        pytest.skip("onnxruntime-openvino: not installed (it takes the place of onnxruntime)")


def recorded_session() -> SimpleNamespace:
    """What a session of onnxruntime-openvino 1.24.1 said of the split model."""

    def nodes(part: dict[str, Any]) -> list[SimpleNamespace]:
        return [SimpleNamespace(**node) for node in part["nodes"]]

    said = json.loads((RECORDED / "openvino_1.24.1_split.json").read_text())
    parts = [
        SimpleNamespace(ep_name=part["ep_name"], get_nodes=lambda part=part: nodes(part)) for part in said["subgraphs"]
    ]
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)


def test_a_recorded_split_is_counted_node_by_node() -> None:
    placement = _placement(OPENVINO, nodes_told(recorded_session()))
    assert placement.nodes == {CPU: 1, OPENVINO: 5}
    assert placement.share == pytest.approx(5 / 6)
    assert (placement.nodes_delegated, placement.nodes_total) == (5, 6)
    assert (placement.actual, placement.fallback) == ((OPENVINO, CPU), True)
    assert placement.method is not None and "get_provider_graph_assignment_info" in placement.method


def test_a_recorded_log_of_an_older_version_says_who_runs_something_and_no_share() -> None:
    nodes = nodes_logged((RECORDED / "openvino_1.23.0_split.log").read_bytes())
    assert nodes is not None and nodes.by_provider == {CPU: 1, OPENVINO: 2}, "each compiled part is one node"
    placement = _placement(OPENVINO, nodes)
    assert (placement.share, placement.reason) == (None, "a compiled part counts as one node")
    assert placement.fallback is True
    whole = nodes_logged(b"IsAssignedToAnEp]  All nodes placed on [CUDAExecutionProvider]. Number of nodes: 7")
    assert whole is not None and whole.by_provider == {"CUDAExecutionProvider": 7}
    assert nodes_logged(b"nothing of the kind") is None


def test_what_the_engine_writes_is_caught_and_standard_error_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    import os

    with engine_log() as log:
        os.write(2, b"caught")
        assert read_log(log) == b"caught"
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"


def test_a_provider_without_a_node_is_a_refusal() -> None:
    with pytest.raises(PlacementError, match=f"{OPENVINO} takes none of its 3 nodes"):
        _placement(OPENVINO, Nodes({CPU: 3}, True, "told"))


def test_a_run_on_two_providers_stands_under_both_names() -> None:
    told = _placement(OPENVINO, nodes_told(recorded_session()))
    named, placement = _really(point(OPENVINO), told)
    assert named == point(MIXED)
    assert named.label == "onnxruntime/OpenVINO+CPU x1"
    assert placement == msgspec.structs.replace(told, fallback=False)
    again = _placement(MIXED, nodes_told(recorded_session()))
    assert _really(named, again) == (named, again)
    assert again.fallback is False, "asked for by its own name it is no fallback"


def test_a_run_of_which_nobody_knows_where_it_was_keeps_its_mark() -> None:
    unknown = _placement(OPENVINO, None)
    assert (unknown.fallback, unknown.nodes, unknown.share) == (True, {}, None)
    assert unknown.reason is not None
    assert _really(point(OPENVINO), unknown) == (point(OPENVINO), unknown)


def test_names_of_mixed_points() -> None:
    assert split_provider(MIXED) == (OPENVINO, CPU)
    assert mixed_provider(MIXED, CPU) == MIXED
    assert plain_point(point(OPENVINO)) == point(MIXED)
    assert plain_point(point(MIXED)) is None
    assert plain_point(point(CPU)) is None
    assert plain_point(point("XNNPACK", "ai-edge-litert")) == point("builtin", "ai-edge-litert")
    assert plain_point(point("builtin", "ai-edge-litert")) is None


def test_a_measurement_of_before_still_reads() -> None:
    old = msgspec.json.decode(b'{"requested": "CPU", "actual": ["CPU"], "fallback": false}', type=Placement)
    assert (old.nodes, old.share, old.method, old.reason) == ({}, None, None, None)


def test_the_stock_wheels_remote_provider_is_never_named(tmp_path: Path) -> None:
    engine = pytest.importorskip("onnxruntime")
    if "AzureExecutionProvider" not in engine.get_available_providers():
        pytest.skip("this onnxruntime offers no provider that places nothing")
    with pytest.raises(PlacementError, match="AzureExecutionProvider takes none of its"):
        OnnxRuntime.load(split_model(tmp_path / "split.onnx"), point("AzureExecutionProvider"))
    assert OnnxRuntime.load(tmp_path / "split.onnx", point(CPU)).placement().actual == (CPU,)


def test_the_engines_own_fallback_is_off(tmp_path: Path) -> None:
    """With it a failing accelerator is exchanged for the CPU in the middle of a run, and nobody is told."""
    pytest.importorskip("onnxruntime")
    assert OnnxRuntime.load(split_model(tmp_path / "split.onnx"), point(CPU))._session._enable_fallback is False


def test_a_real_second_provider_takes_its_nodes_and_leaves_the_others(openvino: None, tmp_path: Path) -> None:
    model = OnnxRuntime.load(split_model(tmp_path / "split.onnx"), point(OPENVINO))
    placement = model.placement()
    assert (placement.actual, placement.fallback) == ((OPENVINO, CPU), True)
    assert set(placement.nodes) == {OPENVINO, CPU}
    if placement.reason is None:
        assert placement.nodes == {OPENVINO: 5, CPU: 1}
        assert placement.share == pytest.approx(5 / 6)
    assert OnnxRuntime.load(tmp_path / "split.onnx", point(MIXED)).placement().fallback is False
    x = np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    model.set_input(0, x)
    model.run()
    assert np.allclose(model.output(0), (x * x).max())


def test_a_real_second_provider_that_takes_all_is_named_alone(openvino: None, tmp_path: Path) -> None:
    placement = OnnxRuntime.load(split_model(tmp_path / "whole.onnx", whole=True), point(OPENVINO)).placement()
    assert (placement.actual, placement.fallback, placement.share) == ((OPENVINO,), False, 1.0)


@pytest.mark.parametrize("engine", ["ai-edge-litert", "tflite-runtime"])
@pytest.mark.parametrize("provider", ["XNNPACK", "builtin"])
def test_tflite_counts_the_nodes_each_delegate_took(engine: str, provider: str) -> None:
    try:
        kind = runtime_class(engine)
    except EngineUnavailableError as error:
        pytest.skip(f"{engine}: {error}")
    placement = kind.load(artifact("mobilenet_v1-w025-tflite-f32"), point(provider, engine)).placement()
    assert sum(placement.nodes.values()) == placement.nodes_total
    assert placement.share == placement.nodes.get(provider, 0) / (placement.nodes_total or 1)
    assert (placement.share == 1.0) or provider == "XNNPACK"
    assert placement.method is not None


def test_a_recorded_log_says_which_library_a_provider_lacks() -> None:
    """Written by onnxruntime-gpu 1.31.1 on a machine without a card: it offers CUDA, and runs on the processor."""
    log = (RECORDED / "gpu_1.31.1_without_cuda.log").read_bytes()
    cuda, tensorrt = (part for part in log.split(b"\n\x1b[m") if b"cannot open shared object file" in part)
    assert why_dropped(cuda) == "libcublasLt.so.13 is not here"
    assert why_dropped(tensorrt) == "libcublas.so.13 is not here"
    assert why_dropped(b"[E:onnxruntime:Default, x.cc:1 f()] CUDA failure 100: no CUDA-capable device is detected") == (
        "CUDA failure 100: no CUDA-capable device is detected"
    )
    assert why_dropped(b"") is None


def test_a_provider_that_cannot_be_made_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    engine = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in engine.get_available_providers():
        pytest.skip("onnxruntime-gpu: not installed (it takes the place of onnxruntime)")
    try:
        found = OnnxRuntime.load(split_model(tmp_path / "split.onnx"), point("CUDAExecutionProvider"))
    except EngineUnavailableError as error:
        assert "onnxruntime dropped CUDAExecutionProvider: " in str(error)
    else:
        assert found.placement().nodes["CUDAExecutionProvider"] > 0
