"""What is written down of one run. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from benchmarks.closed_loop.schedule import Schedule


class Told(NamedTuple):
    """An event of the agent's: seconds since the first request was due."""

    at_s: float
    kind: str
    text: str


class Run(NamedTuple):
    """What became of one run. Columns of one row a request, in the order they were due; seconds since the first was.

    ``orders``: by phase, each order's verb, seconds until it had ended (None: it had not) and how.
    """

    mode: str
    phases: Schedule
    due_s: Any
    begin_s: Any
    end_s: Any
    correct: Any
    failed: Any
    served_by: Any
    errors: tuple[str, ...]
    told: tuple[Told, ...]
    orders: dict[str, tuple[tuple[str, float | None, str], ...]]
