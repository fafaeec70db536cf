"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def real_models() -> Path:
    """The folder of real third-party models beside the repository; skipped by name without it."""
    path = Path(os.environ.get("BOARDFIT_REAL", ROOT.parent / "shared" / "real"))
    if not path.is_dir():
        pytest.skip("real models: no folder ../shared/real beside the repository (or BOARDFIT_REAL)")
    return path
