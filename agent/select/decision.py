"""The decision of one task, from stored measurements alone. Pure.

Rules:
- Only measurements of this task and of this board's class count; others are left out and counted in the reason.
- Nothing fits: there is no winner, and what runs keeps running. The nearest miss says what came closest.
- Of the options that do not fit, the nearest has the fewest budgets without any figure, then the smallest worst miss.
- Equal input gives an equal document: the id and the time are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from agent.core.budget import Budget, BudgetCheck, Objective
from agent.core.decision import Choice, Decision, NearestMiss, Option
from agent.core.measurement import Measurement
from agent.select.feasible import judge, miss_text
from agent.select.rank import is_incumbent, name_of, rank


def pinned_out(measurements: Sequence[Measurement], pin: str | None) -> dict[str, str]:
    """Return what may not be chosen while a candidate is pinned: every other artifact, with the reason."""
    others = [] if pin is None else [m for m in measurements if m.candidate != pin]
    return {m.artifact_sha256: f"{pin} is pinned by the desired state" for m in others}


def decide(
    task: str,
    measurements: Sequence[Measurement],
    budgets: Sequence[Budget],
    objectives: Sequence[Objective],
    *,
    incumbent: Choice | None = None,
    class_fingerprint: str,
    decided_at: str,
    decision_id: str,
    what_if: bool = False,
    allow_estimated_power: bool = False,
    withheld: Mapping[str, str] = MappingProxyType({}),
) -> Decision:
    """Decide what runs for one task.

    Args:
        measurements: any; those of other tasks or board classes are left out.
        incumbent: what is deployed now; it wins a tie.
        decided_at: UTC, ISO 8601 with Z.
        what_if: mark the document as an answer to a question, not to be deployed.
        withheld: artifacts (SHA-256) that may not be chosen, each with its reason.
        allow_estimated_power: let power of scope ``estimated`` decide power and energy budgets.

    Returns: the whole document; ``options`` are ordered by rank, then by standing.
    """
    usable = [m for m in measurements if m.task == task and m.class_fingerprint == class_fingerprint]
    left_out = sum(1 for m in measurements if m.task == task) - len(usable)
    options = rank(
        judge(usable, budgets, allow_estimated_power=allow_estimated_power, withheld=withheld), objectives, incumbent
    )
    winner = options[0] if options and options[0].rank == 1 else None
    miss = nearest_miss(options)
    outcome: Literal["chosen", "kept_incumbent", "nothing_fits", "nothing_measured"]
    if winner is not None:
        kept = is_incumbent(winner, incumbent)
        outcome, reason = ("kept_incumbent" if kept else "chosen"), _chosen_reason(winner, kept)
    elif options:
        outcome, reason = "nothing_fits", _nothing_fits_reason(options, miss)
    else:
        outcome, reason = "nothing_measured", f"no measurement of task {task} on this class of board"
    if left_out:
        reason += f" ({left_out} of other board classes left out)"
    return Decision(
        id=decision_id, task=task, decided_at=decided_at, class_fingerprint=class_fingerprint,
        outcome=outcome, reason=reason, budgets=tuple(budgets), objectives=tuple(objectives),
        options=options, winner=_choice(winner) if winner is not None else None, incumbent=incumbent,
        nearest_miss=miss, what_if=what_if,
    )  # fmt: skip


def nearest_miss(options: Sequence[Option]) -> NearestMiss | None:
    """Return the option that came closest to fitting among those over budget or unknown; None without one."""
    near = [option for option in options if option.standing in ("over_budget", "unknown")]
    if not near:
        return None
    option = min(near, key=_distance)
    check = max(option.checks, key=_severity)
    return NearestMiss(
        candidate=option.candidate, point=option.point, metric=check.metric,
        state="missed" if check.state == "missed" else "unknown", miss_ratio=check.miss_ratio,
        reason=miss_text(check) if check.state == "missed" else f"{check.metric} is unknown: {check.reason}",
    )  # fmt: skip


def _distance(option: Option) -> tuple[object, ...]:
    blocking = [check for check in option.checks if check.state != "met"]
    blind = sum(1 for check in blocking if check.value is None)
    worst = max((_excess(check) for check in blocking if check.value is not None), default=0.0)
    return (blind, worst, len(blocking), option.size_bytes, option.candidate, option.point, option.measurement_id)


def _excess(check: BudgetCheck) -> float:
    """Return how far past its limit a value lies; a value inside it that is not proven counts as no distance."""
    if check.miss_ratio is None or math.isnan(check.miss_ratio):
        return math.inf
    return max(0.0, check.miss_ratio)


def _severity(check: BudgetCheck) -> tuple[int, float, str]:
    order = ("met", "unknown", "missed")
    return (order.index(check.state), _excess(check), check.metric)


def _choice(option: Option) -> Choice:
    return Choice(candidate=option.candidate, artifact_sha256=option.artifact_sha256, point=option.point)


def _chosen_reason(winner: Option, kept: bool) -> str:
    return f"{name_of(winner)} {'stays' if kept else 'is chosen'}: it {_as_clause(winner.reason)}"


def _as_clause(reason: str) -> str:
    return "competes without a budget" + reason.removeprefix("no budget is set") if reason.startswith("no ") else reason


def _nothing_fits_reason(options: Sequence[Option], miss: NearestMiss | None) -> str:
    counts = {
        "over budget": sum(1 for option in options if option.standing == "over_budget"),
        "unknown": sum(1 for option in options if option.standing == "unknown"),
        "failed": sum(1 for option in options if option.standing == "failed"),
    }
    told = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    text = f"none of {len(options)} options fits: {told}"
    return text if miss is None else f"{text}; nearest is {miss.candidate} ({miss.point.label}): {miss.reason}"
