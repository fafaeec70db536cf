"""What a run of all tasks together says about each one's budgets and the shared ones. Pure.

Rules:
- Latency and throughput of a task are judged by what it did while the others ran: its figures of a run alone decide
  nothing here. Its other budgets were met alone and do not depend on the others.
- The shared budgets are judged by what was seen of all at once. What was not seen is unknown, and unknown never passes.
- A member that failed fails the combination, whatever the others did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from agent.core.budget import Budget, BudgetCheck, Estimate, check_budget
from agent.core.combination import Attempt, Combination, JointMeasurement, JointMember
from agent.core.decision import Choice, Decision, InCombination, LadderRung
from agent.core.measurement import Figure
from agent.select.feasible import miss_text
from agent.select.ladder import ladder_of
from agent.select.rank import is_incumbent
from agent.select.shared import Posed, choices_of

LATENCIES = ("latency_p50", "latency_p90", "latency_p95", "latency_p99")


class Judged(NamedTuple):
    """``passed`` None where the run gave no figures. ``tasks``: each one's own budgets that were judged."""

    passed: bool | None
    reason: str
    tasks: dict[str, tuple[BudgetCheck, ...]]
    shared: tuple[BudgetCheck, ...]


def judged_budgets(combination: Combination, decisions: Sequence[Decision]) -> dict[str, tuple[Budget, ...]]:
    """Return the budgets of every task that has what meets them alone: those that stay as they are included.

    What serves a task that nothing fits misses its budgets already, and is no reason against the others.
    """
    judged = {}
    for decision in decisions:
        share = combination.share(decision.task)
        choice = None if share is None else share.choice
        fitting = [(one.artifact_sha256, one.point) for one in decision.options if one.standing == "fits"]
        if choice is not None and (choice.artifact_sha256, choice.point) in fitting:
            judged[decision.task] = decision.budgets
    return judged


def judge_joint(
    joint: JointMeasurement,
    shared: Sequence[Budget],
    own: Mapping[str, Sequence[Budget]],
    *,
    allow_estimated_power: bool = False,
) -> Judged:
    """Judge a run of all tasks together.

    Args: own: the budgets of each task that is to be judged, as ``judged_budgets`` has them.
    """
    if joint.verdict == "contended":
        return Judged(None, joint.reason or "other work took the processor", {}, ())
    if joint.verdict != "ok":
        return Judged(False, f"{joint.verdict.replace('_', ' ')}: {joint.reason}", {}, ())
    tasks = {member.task: _own_checks(member, own.get(member.task, ())) for member in joint.members}
    together = tuple(check_budget(one, _shared(joint, one.metric, allow_estimated_power)) for one in shared)
    named = [("all together", check) for check in together]
    named += [(task, check) for task, checks in tasks.items() for check in checks]
    wrong = [f"{task}: {_text(check)}" for task, check in named if check.state != "met"]
    if wrong:
        return Judged(False, "; ".join(wrong), tasks, together)
    return Judged(True, "every budget is met with all of them running", tasks, together)


def attempted(combination: Combination, joint: JointMeasurement | None, judged: Judged) -> Attempt:
    """Return the record of one combination that was run together."""
    tasks, choices = choices_of(combination)
    return Attempt(
        tasks=tasks, choices=choices, passed=judged.passed, reason=judged.reason,
        joint_id=None if joint is None else joint.id,
    )  # fmt: skip


def confirmed(
    combination: Combination, joint: JointMeasurement, judged: Judged, attempts: Sequence[Attempt]
) -> Combination:
    """Return a combination as it stands after its run together was judged and passed."""
    shares = tuple(
        msgspec.structs.replace(share, checks=judged.tasks.get(share.task, ())) for share in combination.shares
    )
    together = ", ".join(f"{check.metric} {check.reason}" for check in judged.shared)
    return msgspec.structs.replace(
        combination, shares=shares, together=judged.shared, attempts=tuple(attempts), joint_id=joint.id,
        reason=f"{combination.reason}; run together: {together}",
    )  # fmt: skip


def unproven(combination: Combination, attempts: Sequence[Attempt], reason: str) -> Combination:
    """Return a combination that nobody has seen run within its budgets: it is not to be deployed."""
    shares = tuple(
        msgspec.structs.replace(
            share, choice=None, rank=None, tier=None, loads={}, reason=f"nothing is switched: {reason}"
        )
        for share in combination.shares
    )
    return msgspec.structs.replace(
        combination, outcome="unknown", reason=reason, shares=shares, attempts=tuple(attempts)
    )  # fmt: skip


def in_combination(decision: Decision, combination: Combination, joint: JointMeasurement | None) -> Decision:
    """Return a task's decision as it is beside the others: its winner is what the combination gives it."""
    share = combination.share(decision.task)
    if share is None:
        return decision
    tasks, _ = choices_of(combination)
    member = None if joint is None else next((one for one in joint.members if one.task == decision.task), None)
    part = InCombination(
        id=combination.id,
        outcome=combination.outcome,
        tasks=tasks or tuple(one.task for one in combination.shares if one.role != "out"),
        reason=share.reason,
        alone=share.alone,
        metric=share.metric,
        excess_ratio=share.excess_ratio,
        latency_p95_s=_value(None if member is None else member.latency_p95_s),
        memory_bytes=None if joint is None else joint.memory_bytes,
        power_mean_w=_value(None if joint is None else joint.power_mean_w),
    )
    if share.role == "out" or decision.winner is None:
        return msgspec.structs.replace(decision, combination=part)
    if share.choice is None or share.role == "held":
        reason = f"{share.reason}; alone {decision.reason}"
        return msgspec.structs.replace(
            decision, outcome="nothing_fits", winner=None, reason=reason, combination=part
        )  # fmt: skip
    if share.choice == decision.winner:
        return msgspec.structs.replace(decision, combination=part)
    return _given(decision, share.choice, share.reason, part)


def ladder_beside(posed: Posed, decision: Decision, most: int) -> tuple[LadderRung, ...]:
    """Return the ladder of a task that shares: what it got first, then only what adds no more to any shared budget.

    Args: decision: as it is beside the others. most: rungs. The latencies of the rungs are those of runs alone.
    """
    loads = posed.loads_of(decision.task, decision.winner) if decision.winner is not None else None
    if loads is None:
        return ()
    able = []
    for option in decision.options:
        choice = Choice(candidate=option.candidate, artifact_sha256=option.artifact_sha256, point=option.point)
        theirs = None if option.rank is None else posed.loads_of(decision.task, choice)
        if choice == decision.winner:
            able.append(msgspec.structs.replace(option, rank=0))
        elif theirs is not None and all(own <= most_ for own, most_ in zip(theirs, loads, strict=True)):
            able.append(option)
    return ladder_of(able, most)


def _given(decision: Decision, choice: Choice, reason: str, part: InCombination) -> Decision:
    stays = any(
        is_incumbent(option, decision.incumbent)
        for option in decision.options
        if (option.artifact_sha256, option.point) == (choice.artifact_sha256, choice.point)
    )
    verb = "stays" if stays else "is chosen"
    return msgspec.structs.replace(
        decision, winner=choice, combination=part, outcome="kept_incumbent" if stays else "chosen",
        reason=f"{choice.candidate} ({choice.point.label}) {verb} beside the other tasks: {decision.task} {reason}",
    )  # fmt: skip


def _own_checks(member: JointMember, budgets: Sequence[Budget]) -> tuple[BudgetCheck, ...]:
    judged = [budget for budget in budgets if budget.metric in (*LATENCIES, "throughput")]
    return tuple(check_budget(budget, _own(member, budget.metric)) for budget in judged)


def _own(member: JointMember, metric: str) -> Estimate:
    if metric == "throughput":
        rate = member.throughput_per_s  # counted over the whole window
        return Estimate.unknown("it was not run") if rate is None else Estimate.exact(rate)
    figure: Figure | None = getattr(member, f"{metric}_s")
    if figure is None:
        return Estimate.unknown(f"it made {member.n} runs while all ran: too few")
    return Estimate(value=figure.value, low=figure.low, high=figure.high)


def _shared(joint: JointMeasurement, metric: str, allow_estimated_power: bool) -> Estimate:
    if metric == "memory_peak":
        if joint.memory_bytes is None:
            return Estimate.unknown(joint.memory_reason or "memory was not read")
        return Estimate.exact(float(joint.memory_bytes))
    power = joint.power_mean_w
    if power is None:
        return Estimate.unknown(joint.power_reason or "power was not measured")
    if joint.power_scope == "estimated" and not allow_estimated_power:
        return Estimate.unknown(f"{power.value:.3g} W is estimated, not measured")
    return Estimate(value=power.value, low=power.low, high=power.high, scope=joint.power_scope)


def _text(check: BudgetCheck) -> str:
    return miss_text(check) if check.state == "missed" else f"{check.metric} is unknown: {check.reason}"


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else figure.value
