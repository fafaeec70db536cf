from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.extent import Extent
from tests.measure.conftest import fault, measure

__all__ = ["fault", "measure"]

#: What takes minutes outside of the slice, the longest first. Each process is given two tests to begin with: behind the
#: soak stands what takes less than one.
LONG = (
    "soak/", "test_downloads.py", "storage/test_disk.py::test_every", "test_parsers.py", "kills.py",
    "kills_telling.py", "test_power.py", "test_mutants.py", "test_promised.py", "test_candidates.py", "spool/",
    "forged/",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the longest begin first: where several processes share the work, the last of them is then a short one."""
    if config.getoption("--faults") != "slice":
        items.sort(key=lambda item: next((n for n, part in enumerate(LONG) if part in item.nodeid), len(LONG)))


@pytest.fixture
def extent(request: pytest.FixtureRequest) -> Extent:
    """How much to try, and from which seed."""
    return Extent(request.config.getoption("--faults"), request.config.getoption("--faults-seed"))


@pytest.fixture
def in_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Run code in every measuring worker before it begins, by way of ``sitecustomize``; nowhere else."""

    def plant(code: str) -> None:
        folder = tmp_path / "in-worker"
        folder.mkdir()
        guarded = "import sys\nif 'agent.measure.worker' in sys.orig_argv:\n"
        (folder / "sitecustomize.py").write_text(guarded + "".join(f"    {line}\n" for line in code.splitlines()))
        root = Path(__file__).resolve().parents[2]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder), str(root))))

    return plant
