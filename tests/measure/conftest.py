from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.core.measurement import Measurement
from agent.measure.bench import measure_one
from agent.measure.settings import MeasureSettings
from tests.measure.board import RealClock, TestBoard
from tests.measure.models import LITERT_POINT, ONNX_POINT, candidate, facts

QUICK = {"min_runs": 20, "min_time_s": 0.05, "max_runs": 200, "max_time_s": 2.0, "block_s": 0.01, "contended": "flag"}


@pytest.fixture
def measure(tmp_path: Path) -> Callable[..., Measurement]:
    """Measure a model file with real processes and quick settings; a busy machine is flagged, not refused."""

    def run(path: Path, **options: Any) -> Measurement:
        manifest = options.pop("manifest", {})
        settings = MeasureSettings(**{**QUICK, **options.pop("settings", {})})
        point = options.pop("point", ONNX_POINT if path.suffix == ".onnx" else LITERT_POINT)
        board = options.pop("board", None) or TestBoard()
        return measure_one(
            options.pop("candidate", None) or candidate(path, **manifest),
            point,
            path,
            options.pop("golden", None),
            options.pop("evaluation", None),
            facts=options.pop("facts", None) or facts(),
            board=board,
            clock=RealClock(),
            settings=settings,
            **options,
        )

    return run


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Run code in every child before it starts, by way of ``sitecustomize``: faults that no model file can make."""

    def plant(code: str) -> None:
        folder = tmp_path / "fault"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return plant


@pytest.fixture
def real() -> Path:
    """Folder of real third-party models; a test that needs it is skipped where it is absent."""
    folder = Path(os.environ.get("BOARDFIT_REAL") or Path(__file__).resolve().parents[3] / "shared" / "real")
    if not folder.is_dir():
        folder = Path(__file__).resolve().parents[4] / "shared" / "real"
    if not folder.is_dir():
        pytest.skip("needs the real models: set BOARDFIT_REAL to their folder")
    return folder
