"""The decision of one task: what was chosen, and every candidate's reason. Pure.

History: ``boardfit.decision/1`` first version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from agent.core.budget import Budget, BudgetCheck, Estimate, Objective
from agent.core.measurement import OperatingPoint, Verdict

SCHEMA = "boardfit.decision/1"


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One (candidate x operating point) as the decision saw it.

    ``standing``: fits (every budget met), over_budget (one missed), unknown (none missed, one unknown),
    failed (its verdict is not ok). ``reason`` is a sentence for a person. ``rank`` counts from 1 among those that fit.
    """

    candidate: str
    artifact_sha256: str
    point: OperatingPoint
    measurement_id: str
    verdict: Verdict
    standing: Literal["fits", "over_budget", "unknown", "failed"]
    reason: str
    checks: tuple[BudgetCheck, ...] = ()
    estimates: dict[str, Estimate] = {}
    rank: int | None = None
    tied_with_winner: bool = False
    size_bytes: int = 0
    size_unpacked_bytes: int | None = None  # of a candidate that travels packed: the model file's own size


class Untried(msgspec.Struct, frozen=True, kw_only=True):
    """An option without a full measurement that the decision did without.

    ``could_matter``: whether measuring it could change the decision; if not, ``reason`` says why: with the best figures
    it could possibly have, the decision would be the same.
    """

    candidate: str
    artifact_sha256: str
    point: OperatingPoint
    reason: str
    could_matter: bool


def untried_groups(untried: Sequence[Untried], *, could_matter: bool) -> list[tuple[str, tuple[str, ...], str]]:
    """Return (candidate, labels of its points, reason), points of a candidate with one reason together, in order."""
    groups: dict[tuple[str, str], list[str]] = {}
    for option in untried:
        if option.could_matter is could_matter:
            groups.setdefault((option.candidate, option.reason), []).append(option.point.label)
    return [(candidate, tuple(labels), reason) for (candidate, reason), labels in groups.items()]


class NearestMiss(msgspec.Struct, frozen=True, kw_only=True):
    """The option that came closest to fitting, and what kept it out."""

    candidate: str
    point: OperatingPoint
    metric: str
    state: Literal["missed", "unknown"]
    miss_ratio: float | None
    reason: str


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate at an operating point."""

    candidate: str
    artifact_sha256: str
    point: OperatingPoint


class InCombination(msgspec.Struct, frozen=True, kw_only=True):
    """What sharing the board with other tasks did to a decision; ``id`` is the combination's.

    ``alone``: what it would have been without the others. ``metric``: the budget that made the difference, and
    ``excess_ratio`` by how much it would be missed otherwise. ``latency_p95_s``: while all of ``tasks`` ran.
    """

    id: str
    outcome: Literal["chosen", "nothing_fits", "unknown"]
    tasks: tuple[str, ...]
    reason: str
    alone: Choice | None = None
    metric: str | None = None
    excess_ratio: float | None = None
    latency_p95_s: float | None = None
    memory_bytes: float | None = None  # of all tasks together
    power_mean_w: float | None = None


class LadderRung(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of a ladder: what may serve in place of those above it while they cannot keep their promise.

    ``reason`` is a sentence for a person. Figures are those of the options, None where not known.
    """

    choice: Choice
    reason: str
    latency_p95_s: float | None = None
    energy_per_inference_j: float | None = None
    accuracy_top1: float | None = None


class ClassCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One option's own latency held against its class's, by a sequential test. ``ratio`` is own over class."""

    candidate: str
    artifact_sha256: str
    point: OperatingPoint
    state: Literal["agrees", "disagrees", "undecided"]
    ratio: float
    own_s: float  # the geometric mean of the looks
    looks: int  # processes that were timed here
    boards: int  # that the class's figure is of


class FromClass(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision owes to other boards of the class; no budget was met by it.

    ``use``: order (what to try first), bounds (what need not be tried, too), none. ``left_out``: options that were not
    measured in full because of the class's figures. ``reason`` is a sentence for a person.
    """

    boards: int
    use: Literal["none", "order", "bounds"]
    reason: str
    checks: tuple[ClassCheck, ...] = ()
    left_out: int = 0


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document. ``winner`` is None when nothing fits; what runs then keeps running.

    Where the task shares the board, ``winner`` is what it gets beside the others, and need not be of rank 1.
    """

    id: str
    task: str
    decided_at: str
    class_fingerprint: str
    outcome: Literal["chosen", "kept_incumbent", "nothing_fits", "nothing_measured"]
    reason: str
    budgets: tuple[Budget, ...]
    objectives: tuple[Objective, ...]
    options: tuple[Option, ...]
    winner: Choice | None = None
    incumbent: Choice | None = None
    nearest_miss: NearestMiss | None = None
    what_if: bool = False
    untried: tuple[Untried, ...] = ()
    combination: InCombination | None = None
    ladder: tuple[LadderRung, ...] = ()  # the winner first, each further one lighter; empty: no ladder is wanted
    from_class: FromClass | None = None  # None: nothing was known of the class, or everything was measured here
    schema: str = SCHEMA
