"""What a decision's message says of each option, budget and rung, in short. Pure. The rest is ``payloads``'."""

from __future__ import annotations

from typing import Literal

import msgspec

from agent.core.measurement import Verdict


class OptionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate x operating point in short."""

    candidate: str
    point: str
    standing: Literal["fits", "over_budget", "unknown", "failed"]
    verdict: Verdict
    reason: str
    rank: int | None = None
    latency_p95_s: float | None = None
    accuracy_top1: float | None = None
    energy_per_inference_j: float | None = None
    size_bytes: int | None = None
    size_unpacked_bytes: int | None = None
    artifact_sha256: str | None = None


class BudgetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A limit, and how the winner stands to it (null without a winner)."""

    metric: str
    limit: float
    text: str
    state: Literal["met", "missed", "unknown"] | None = None
    miss_ratio: float | None = None


class RungSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One rung of a decision's ladder."""

    candidate: str
    point: str
    latency_p95_s: float | None = None
    accuracy_top1: float | None = None
