"""The same from the outside: under which point a whole measurement of a fallback stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.core.facts import EngineFacts
from agent.core.measurement import Measurement
from agent.measure.engine_cache import EngineCache
from tests.measure import models
from tests.runtimes.split_model import SIDE, split_model

Measure = Callable[..., Measurement]


def with_provider(name: str) -> tuple[object, object]:
    """A point of onnxruntime with that provider, and a board on which it is said to be proven."""
    engine = EngineFacts(name="onnxruntime", formats=("onnx",), version="0", providers=(name,), proven=True)
    return msgspec.structs.replace(models.ONNX_POINT, provider=name), models.facts(engines=(engine,))


def golden(path: Path) -> Path:
    """What the split model gives, with its Unique or without."""
    x = np.arange(SIDE * SIDE, dtype=np.float32).reshape(1, SIDE, SIDE)
    np.savez(path, input_0=x, output_0=np.full_like(x, (x * x).max()))
    return path


def offered(name: str) -> bool:
    return name in pytest.importorskip("onnxruntime").get_available_providers()


def test_no_figure_ever_stands_under_a_provider_that_took_no_node(measure: Measure, tmp_path: Path) -> None:
    if not offered("AzureExecutionProvider"):
        pytest.skip("this onnxruntime offers no provider that places nothing")
    point, facts = with_provider("AzureExecutionProvider")
    proof = golden(tmp_path / "golden.npz")
    result = measure(split_model(tmp_path / "split.onnx"), point=point, facts=facts, golden=proof)
    assert result.verdict == "load_failed"
    assert result.reason == "loading the model failed: AzureExecutionProvider takes none of its 6 nodes"
    assert result.latency is result.memory is result.load_time_s is None


def test_a_model_that_falls_back_in_part_stands_under_both_providers(measure: Measure, tmp_path: Path) -> None:
    if not offered("OpenVINOExecutionProvider"):
        pytest.skip("onnxruntime-openvino: not installed (it takes the place of onnxruntime)")
    point, facts = with_provider("OpenVINOExecutionProvider")
    given = {"point": point, "facts": facts, "golden": golden(tmp_path / "golden.npz")}
    result = measure(split_model(tmp_path / "split.onnx"), **given)
    assert (result.verdict, result.reason) == ("ok", None)
    assert result.point.provider == "OpenVINOExecutionProvider+CPUExecutionProvider"
    assert result.placement is not None and result.placement.fallback is False
    assert result.placement.nodes["CPUExecutionProvider"] == 1
    whole = measure(split_model(tmp_path / "whole.onnx", whole=True), **given)
    assert (whole.verdict, whole.point) == ("ok", point)


def test_what_a_real_provider_builds_again_is_not_timed_apart(measure: Measure, tmp_path: Path) -> None:
    """OpenVINO 2025.4 writes what it built, reads it at the next load, throws it away and builds it again."""
    if not offered("OpenVINOExecutionProvider"):
        pytest.skip("onnxruntime-openvino: not installed (it takes the place of onnxruntime)")
    point, facts = with_provider("OpenVINOExecutionProvider")
    result = measure(
        split_model(tmp_path / "whole.onnx", whole=True), point=point, facts=facts,
        golden=golden(tmp_path / "golden.npz"), engines=EngineCache(tmp_path / "engines"),
    )  # fmt: skip
    assert (result.verdict, result.reason) == ("ok", None)
    left = list((tmp_path / "engines").rglob("*.blob"))
    if result.engine_build_s is not None:
        assert left and result.engine_build_reason is None
    else:
        assert left == []
        assert "built it again at the next load" in (result.engine_build_reason or "")
