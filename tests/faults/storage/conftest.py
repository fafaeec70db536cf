"""The warm process and the ground that both suites stand on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.faults.storage.at_work import Works
from tests.faults.storage.ground import Ground

NOWHERE = Path("/nonexistent")


@pytest.fixture(scope="package")
def works() -> Iterator[Works]:
    works = Works()
    try:
        works(["--version"], NOWHERE)
    except RuntimeError as error:
        pytest.skip(f"needs seccomp user notification (Linux 5.5): {error}")
    yield works
    works.close()


@pytest.fixture(scope="package")
def ground(works: Works, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    def run(state: Path, words: Sequence[str]) -> int:
        end = works([*words, "--json", "--state-dir", str(state)], NOWHERE)
        assert end.code == 0, end.err
        return end.code

    return Ground(tmp_path_factory.mktemp("ground"), run)
