"""What an accelerator builds for a model, in an application. The provider that builds here is SIMULATED."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.client import DeploymentError, open_model
from agent.client import engines as module
from agent.core.measurement import OperatingPoint
from agent.runtimes.onnx import OnnxRuntime
from agent.runtimes.providers import provider_row
from tests.client import places
from tests.client.places import ONNX, ONNX_INT8, TASK, TFLITE
from tests.client.test_model import FAST, until


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the processor's provider keep 64 random bytes for each model. Returns: what each load did."""
    done: list[str] = []
    load: Callable[..., Any] = OnnxRuntime.load.__func__  # type: ignore[attr-defined]

    def simulated(kind: type[OnnxRuntime], path: Path, point: OperatingPoint, keep: Path | None = None) -> Any:
        if keep is None:
            done.append("unkept")
        elif (keep / "engine").exists():
            done.append("found")
            if (keep / "engine").read_bytes() == b"damaged":
                raise ValueError("the engine is damaged")
        else:
            (keep / "engine").write_bytes(os.urandom(64))
            done.append("built")
        return load(kind, path, point)

    monkeypatch.setattr(OnnxRuntime, "load", classmethod(simulated))
    row = provider_row("CPUExecutionProvider")._replace(cache_options=(("folder", "{folder}"),))
    monkeypatch.setattr(module, "provider_row", lambda name: row if name == row.name else provider_row(name))
    return done


def test_an_engine_is_built_once_in_the_folder_that_the_application_names(tmp_path: Path, loads: list[str]) -> None:
    places.deploy(tmp_path, ONNX)
    for engines in (None, tmp_path / "mine", str(tmp_path / "mine")):
        with open_model(TASK, state_dir=tmp_path, engines=engines) as model:
            assert model.from_images(places.digits()).dtype == np.float32
    assert loads == ["unkept", "built", "found"]
    (kept,) = (tmp_path / "mine").iterdir()
    (kept / "engine").write_bytes(b"damaged")
    with open_model(TASK, state_dir=tmp_path, engines=tmp_path / "mine"):
        assert loads[3:] == ["found", "built"]
    assert (kept / "engine").read_bytes() != b"damaged"


def test_a_swap_builds_its_own_and_only_a_few_are_kept(
    tmp_path: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 1)
    places.deploy(tmp_path, ONNX)
    with open_model(TASK, state_dir=tmp_path, engines=tmp_path / "mine", **FAST) as model:
        places.deploy(tmp_path, ONNX_INT8)
        until(lambda: model.swaps == 1)
    assert loads == ["built", "built"]
    assert len(list((tmp_path / "mine").iterdir())) == 1


def test_who_builds_nothing_gets_no_folder_and_a_folder_that_cannot_be_is_said(
    tmp_path: Path, loads: list[str]
) -> None:
    pytest.importorskip("ai_edge_litert")
    places.deploy(tmp_path, TFLITE)
    with open_model(TASK, state_dir=tmp_path, engines=tmp_path / "mine"):
        assert not (tmp_path / "mine").exists()
    places.deploy(tmp_path, ONNX)
    (tmp_path / "file").touch()
    with pytest.raises(DeploymentError, match="cannot keep what CPUExecutionProvider builds: Not a directory"):
        open_model(TASK, state_dir=tmp_path, engines=tmp_path / "file" / "mine")
    assert loads == []
