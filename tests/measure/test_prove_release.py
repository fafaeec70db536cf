"""The proof of a staged release: the same worker, fewer phases."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.core.deployment import DeployedFile, Deployment
from agent.core.ports import Probe
from agent.measure.bench import prove_release
from benchmarks.make_tiny_models import tflite_bytes
from tests.faults.hostile import tflite_models as hostile
from tests.measure import models
from tests.measure.board import RealClock

prove: Probe = partial(prove_release, clock=RealClock())


def deployed(path: Path, name: str | None = None) -> DeployedFile:
    data = path.read_bytes()
    return DeployedFile(path=name or path.name, sha256=hashlib.sha256(data).hexdigest(), length=len(data))


def deployment(model: DeployedFile, golden: DeployedFile | None = None, **changes: Any) -> Deployment:
    form = Path(model.path).suffix.removeprefix(".")
    point = models.ONNX_POINT if form == "onnx" else models.LITERT_POINT
    fields: dict[str, Any] = {
        "release": "r",
        "task": "t",
        "candidate": "c",
        "format": form,
        "inputs": (),
        "outputs": (),
    }
    return Deployment(**{**fields, "model": model, "golden": golden, "point": point, **changes})


def golden(path: Path, difference: float) -> DeployedFile:
    a = np.ones((1, 4), np.float32)
    np.savez(path, input_0=a, input_1=a, output_0=a + a, output_1=a - a + difference)
    return deployed(path)


def test_a_release_that_gives_its_golden_outputs_is_proven(tmp_path: Path) -> None:
    model = deployed(models.two_inputs(tmp_path / "model.onnx"))
    result = prove(tmp_path, deployment(model, golden(tmp_path / "golden.npz", 0.0)))
    assert (result.passed, result.reason) == (True, "it loads, runs, and gives the golden outputs")
    assert result.golden is not None and result.golden.passed
    assert (result.load_time_s or 0) > 0
    assert (result.latency_p50_s or 0) > 0


def test_a_release_with_other_outputs_is_not(tmp_path: Path) -> None:
    model = deployed(models.two_inputs(tmp_path / "model.onnx"))
    result = prove(tmp_path, deployment(model, golden(tmp_path / "golden.npz", 1.0)))
    assert result.passed is False
    assert result.reason.startswith("golden outputs differ by 1 ")


def test_golden_data_that_cannot_be_compared_proves_nothing(tmp_path: Path) -> None:
    model = deployed(models.two_inputs(tmp_path / "model.onnx"))
    (tmp_path / "golden.npz").write_bytes(b"torn")
    result = prove(tmp_path, deployment(model, deployed(tmp_path / "golden.npz")))
    assert result.passed is False
    assert result.reason.startswith("golden data: ")


def test_without_golden_data_the_reason_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite_bytes())
    result = prove(tmp_path, deployment(deployed(path)))
    assert (result.passed, result.reason) == (True, "it loads and runs; there are no golden outputs to compare")


def test_a_release_that_kills_the_engine_is_not_proven(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    made = hostile.unpacked()
    made.subgraphs[0].operators[0].inputs = [-1, -1]
    path.write_bytes(hostile.packed(made))
    result = prove(tmp_path, deployment(deployed(path)))
    assert result.passed is False
    assert "SIGSEGV" in result.reason


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/hostname", "absent.onnx"])
def test_a_path_out_of_the_release_is_never_opened(tmp_path: Path, name: str) -> None:
    release = tmp_path / "release"
    release.mkdir()
    path = models.two_inputs(tmp_path / "model.onnx")
    model = DeployedFile(path=name, sha256=deployed(path).sha256, length=path.stat().st_size)
    result = prove(release, deployment(model, format="onnx", point=models.ONNX_POINT))
    assert result.passed is False
    assert "leads out of its release" in result.reason
