"""What became of a candidate, and what engines say of it: the document between making, showing and proposing. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.core.measurement import AccuracyFigures


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine says of a candidate's file: accuracy on the evaluation pack and latency, or why it has none."""

    engine: str
    accuracy: AccuracyFigures | None = None
    latency_p50_s: float | None = None
    reason: str | None = None


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one candidate.

    ``reason``: why there is none, or why it is left out though it was made. ``search``: what trials found for the
    training of its model, where the recipe asked for that.
    """

    name: str
    format: str
    model: str
    parent: str | None
    chain: tuple[dict[str, Any], ...]
    path: str | None = None
    size_bytes: int | None = None
    parameters: int | None = None
    judged: tuple[Judged, ...] = ()
    reason: str | None = None
    search: dict[str, Any] | None = None

    @property
    def accuracy(self) -> AccuracyFigures | None:
        """Accuracy under the first engine that gave any."""
        return next((one.accuracy for one in self.judged if one.accuracy is not None), None)
