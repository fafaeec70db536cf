"""Stand-ins at the edges: a clock that stands still, a root that answers chosen files with chosen errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path

import pytest

from agent.device.root import SysRoot


class StillClock:
    """Time moves only when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def utc(self) -> datetime:
        return datetime(2025, 1, 1, tzinfo=timezone.utc)


class FaultyRoot(SysRoot):
    """A tree in which some reads fail as kernel files do; permissions cannot be used, tests may run as root."""

    def __init__(self, path: Path, errors: Mapping[str, int]) -> None:
        super().__init__(path)
        self.errors = dict(errors)

    def read_bytes(self, rel: str) -> bytes:
        if rel in self.errors:
            raise OSError(self.errors[rel], os.strerror(self.errors[rel]), rel)
        return super().read_bytes(rel)


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., FaultyRoot]:
    """Build a small tree from {relative name: text}, with errors for some names."""

    def build(files: Mapping[str, str], errors: Mapping[str, int] | None = None) -> FaultyRoot:
        for rel, text in files.items():
            path = tmp_path / rel
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return FaultyRoot(tmp_path, errors or {})

    return build
