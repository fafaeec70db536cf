"""The same from the outside: under which point a whole measurement of a fallback stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.core.facts import EngineFacts
from agent.core.measurement import Measurement
from tests.measure import models
from tests.runtimes.split_model import split_model

Measure = Callable[..., Measurement]


def with_provider(name: str) -> tuple[object, object]:
    """A point of onnxruntime with that provider, and a board on which it is said to be proven."""
    engine = EngineFacts(name="onnxruntime", formats=("onnx",), version="0", providers=(name,), proven=True)
    return msgspec.structs.replace(models.ONNX_POINT, provider=name), models.facts(engines=(engine,))


def offered(name: str) -> bool:
    return name in pytest.importorskip("onnxruntime").get_available_providers()


def test_no_figure_ever_stands_under_a_provider_that_took_no_node(measure: Measure, tmp_path: Path) -> None:
    if not offered("AzureExecutionProvider"):
        pytest.skip("this onnxruntime offers no provider that places nothing")
    point, facts = with_provider("AzureExecutionProvider")
    result = measure(split_model(tmp_path / "split.onnx"), point=point, facts=facts)
    assert result.verdict == "load_failed"
    assert result.reason == "loading the model failed: AzureExecutionProvider takes none of its 6 nodes"
    assert result.latency is result.memory is result.load_time_s is None


def test_a_model_that_falls_back_in_part_stands_under_both_providers(measure: Measure, tmp_path: Path) -> None:
    if not offered("OpenVINOExecutionProvider"):
        pytest.skip("onnxruntime-openvino: not installed (it takes the place of onnxruntime)")
    point, facts = with_provider("OpenVINOExecutionProvider")
    result = measure(split_model(tmp_path / "split.onnx"), point=point, facts=facts)
    assert (result.verdict, result.reason) == ("ok", None)
    assert result.point.provider == "OpenVINOExecutionProvider+CPUExecutionProvider"
    assert result.placement is not None and result.placement.fallback is False
    assert result.placement.nodes["CPUExecutionProvider"] == 1
    whole = measure(split_model(tmp_path / "whole.onnx", whole=True), point=point, facts=facts)
    assert (whole.verdict, whole.point) == ("ok", point)
