"""Tables of what was tried and how it ended, printed when all tests are over (by the hook in tests/conftest.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.table import render

PROPERTY = "table"


def show(
    record: Callable[[str, object], None], title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Keep a table for the end of the run. Args: record: pytest's ``record_property``."""
    record(PROPERTY, f"{title}\n{render(heads, rows, markdown=False, left=len(heads))}")
