"""What a store can be asked: the one way in which console, metrics and exports read it.

Rules:
- A board's row is the same ``BoardView`` that an operator's machine makes from retained messages, so that addresses and
  filters (``agent.fleet.addressing``) mean the same in both places.
- Documents are given as they were sent; what was never told is absent, never a zero.
- Several collectors write one store: what has changed is asked for by a cursor, not by what this process has seen.

Leaves how it is stored to ``agent.collector.store``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, Protocol

import msgspec

from agent.fleet.view import BoardView

Document = dict[str, Any]
History = Literal["measurement", "decision", "deployment", "event", "job", "telemetry"]


class ClassRow(msgspec.Struct, frozen=True, kw_only=True):
    """One class of boards, and how many of it there are."""

    class_fingerprint: str
    boards: int
    online: int
    profile: str | None = None
    model: str | None = None
    tasks: tuple[str, ...] = ()


class OptionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate x operating point on one class: the newest valid measurement of each board, taken together.

    Figures are medians over ``boards`` boards; None where no board measured it. Seconds, bytes, joules, share of 1.
    """

    candidate: str
    engine: str
    provider: str
    threads: int
    batch: int
    boards: int
    latency_p95_s: float | None = None
    latency_p95_least_s: float | None = None  # over boards
    latency_p95_most_s: float | None = None
    accuracy_top1: float | None = None
    energy_per_inference_j: float | None = None
    memory_peak_bytes: float | None = None
    size_bytes: float | None = None
    serving: int = 0  # how many boards of the class serve this candidate now


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What has changed after a cursor. ``whole``: too much to name; read all again."""

    cursor: int
    boards: frozenset[str] = frozenset()
    rollouts: frozenset[str] = frozenset()
    whole: bool = False


class Reader(Protocol):
    """A store, read. Every method raises StorageError where the database cannot be reached; times are UTC, ISO 8601."""

    def fleets(self) -> list[str]:
        """Return the names of the fleets stored."""
        ...

    def boards(self, fleet: str, names: Collection[str] | None = None) -> list[BoardView]:
        """Return boards by name; None: all."""
        ...

    def documents(self, fleet: str, board: str) -> dict[str, Document]:
        """Return a board's newest documents by the end of their topic: ``status``, ``decision/digits``, ..."""
        ...

    def history(
        self,
        fleet: str,
        kind: History,
        *,
        board: str | None = None,
        task: str | None = None,
        since: str | None = None,
        limit: int = 500,
    ) -> list[Document]:
        """Return stored documents of one kind, the newest first; of a job, its newest document only."""
        ...

    def classes(self, fleet: str) -> list[ClassRow]:
        """Return the classes of boards, the most frequent first."""
        ...

    def options(self, fleet: str, class_fingerprint: str, task: str) -> list[OptionFigures]:
        """Return what the boards of a class measured for a task."""
        ...

    def rollouts(self, fleet: str, limit: int = 50) -> list[Document]:
        """Return the rollouts that operators' machines told of, the newest first."""
        ...

    def changes(self, fleet: str, after: int) -> Changes:
        """Return what changed after a cursor; 0: only the cursor of now."""
        ...
