"""What became of a candidate, and what engines say of it: the document between making, showing and proposing. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.core.measurement import AccuracyFigures
from agent.core.units import format_sizes


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine says of a candidate's file: accuracy on the evaluation pack and latency, or why it has none."""

    engine: str
    accuracy: AccuracyFigures | None = None
    latency_p50_s: float | None = None
    reason: str | None = None


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one candidate. ``reason``: why there is none, or why it is left out though it was made.

    ``packed_bytes``: of the file as it is published; None where it is not asked to travel packed, or no smaller so.
    ``search``: what trials found for the training of its model, where the recipe asked for that.
    """

    name: str
    format: str
    model: str
    parent: str | None
    chain: tuple[dict[str, Any], ...]
    path: str | None = None
    size_bytes: int | None = None
    packed_bytes: int | None = None
    parameters: int | None = None
    judged: tuple[Judged, ...] = ()
    reason: str | None = None
    search: dict[str, Any] | None = None

    @property
    def transfer_bytes(self) -> int | None:
        """What a board transfers to have it: the packed file's size where it is packed."""
        return self.size_bytes if self.packed_bytes is None else self.packed_bytes

    @property
    def is_packed(self) -> bool:
        """Tell whether it is published packed."""
        return self.packed_bytes is not None

    @property
    def size_text(self) -> str:
        """The size for a person, both of a packed one; a dash where there is none."""
        if self.transfer_bytes is None:
            return "–"
        return format_sizes(self.transfer_bytes, None if self.packed_bytes is None else self.size_bytes)

    @property
    def accuracy(self) -> AccuracyFigures | None:
        """Accuracy under the first engine that gave any."""
        return next((one.accuracy for one in self.judged if one.accuracy is not None), None)
