"""A hostile model, or what takes a worker over: its class, its name, its bytes and the verdicts right for it."""

from __future__ import annotations

from typing import NamedTuple

REFUSED = frozenset({"load_failed"})
VOID = frozenset({"load_failed", "crashed", "out_of_memory"})  # refused, or ended without harm: the engine's choice


class Hostile(NamedTuple):
    """``code`` is run by the worker itself once it is confined, in the place of a model that took it over."""

    kind: str
    name: str
    suffix: str
    data: bytes
    verdicts: frozenset[str] = VOID
    code: str | None = None
    says: str = ""  # part of the reason

    @property
    def label(self) -> str:
        """How the table names it."""
        return f"{self.kind}: {self.name} ({self.suffix.removeprefix('.')})"
