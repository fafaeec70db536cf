"""The process that carries out orders and dies of them, and a folder where they do not wait for a disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.killing import Orders


@pytest.fixture
def tmp_path(folder_in_memory: Path) -> Path:
    """What is proved is which calls are made and in what order; that a disk obeys them is not ours to prove."""
    return folder_in_memory


@pytest.fixture(scope="session")
def run_killed() -> Iterator[Orders]:
    orders = Orders()
    yield orders
    orders.close()
