"""Several tasks on one board: what was measured with all of them running, and which option each of them got. Pure.

Rules:
- A joint measurement is of its members together and of nothing else: another point of one of them is another one.
- Memory is the most that all can have had at one moment: of a file that several have mapped no more than its length.
  Beside it stands the largest rise of a single one above that: one that loads anew while the others stand. Latency is
  each member's own, while all others ran.
- What was not seen is None with its reason, never 0.

History: ``boardfit.joint/1`` and ``boardfit.combination/1`` first versions.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agent.core.budget import Budget, BudgetCheck
from agent.core.decision import Choice
from agent.core.measurement import Context, Figure, Measurement, OperatingPoint, Verdict

JOINT_SCHEMA = "boardfit.joint/1"
SCHEMA = "boardfit.combination/1"

Outcome = Literal["chosen", "nothing_fits", "unknown"]


class JointMember(msgspec.Struct, frozen=True, kw_only=True):
    """One task's model while all ran, in seconds and bytes. ``n`` runs stood in the window in which all did."""

    task: str
    candidate: str
    artifact_sha256: str
    point: OperatingPoint
    n: int = 0
    latency_p50_s: Figure | None = None
    latency_p90_s: Figure | None = None
    latency_p95_s: Figure | None = None
    latency_p99_s: Figure | None = None
    throughput_per_s: float | None = None
    wait_ratio: float | None = None  # time its threads were runnable without a core / wall: the others' doing
    memory_bytes: int | None = None  # VmRSS, the most at one reading
    peak_bytes: int | None = None  # VmHWM since spawn


class JointMeasurement(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document. ``verdict`` is ok, or that of the member that failed, which ``reason`` names."""

    id: str
    class_fingerprint: str
    members: tuple[JointMember, ...]
    verdict: Verdict
    started_at: str  # UTC, ISO 8601 with Z
    duration_s: float
    schema: str = JOINT_SCHEMA
    reason: str | None = None
    window_s: float | None = None  # in which all of them ran
    memory_bytes: int | None = None
    memory_readings: int = 0
    memory_method: str | None = None
    memory_reason: str | None = None
    power_mean_w: Figure | None = None
    power_source: str | None = None
    power_scope: str | None = None
    power_reason: str | None = None
    others_share: float | None = None  # of the processors' time that others used meanwhile, 0..1
    context: Context | None = None
    agent_version: str | None = None
    boot_id: str | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What a newer one replaces: the board class, and each member's task, artifact and point."""
        return (self.class_fingerprint, *sorted((m.task, m.artifact_sha256, m.point) for m in self.members))


class TaskShare(msgspec.Struct, frozen=True, kw_only=True):
    """What one task got, and what it would have got alone.

    ``role``: shares; ``held`` stays with what serves it (nothing fits it, or only another task was asked for); ``out``
    has nothing that fits and nothing that serves. ``rank`` is its place in the task's own order. ``metric`` is the
    budget that made the difference and ``excess_ratio`` by how much what it would get alone misses it. ``loads`` are
    what it adds to each shared budget, in SI; ``checks`` its own budgets as judged with all running.
    """

    task: str
    role: Literal["shares", "held", "out"]
    reason: str
    choice: Choice | None = None
    alone: Choice | None = None
    rank: int | None = None
    tier: int | None = None
    metric: str | None = None
    excess_ratio: float | None = None
    loads: dict[str, float] = {}
    checks: tuple[BudgetCheck, ...] = ()


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A combination that was run together, or would have to be; ``passed`` None: nobody knows."""

    tasks: tuple[str, ...]
    choices: tuple[Choice, ...]
    passed: bool | None
    reason: str
    joint_id: str | None = None


class Combination(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document: one decision over all tasks that share. ``shares`` stand in the order of priority.

    ``alone``: the shared budgets if each task had what it would get alone; ``planned``: as sums of what was measured
    alone; ``together``: as measured with all running. ``tiers`` and ``bound``: no combination is better than ``bound``,
    compared in order; where both are equal and ``exact``, there is no better one.
    """

    id: str
    decided_at: str
    class_fingerprint: str
    outcome: Outcome
    reason: str
    budgets: tuple[Budget, ...]
    shares: tuple[TaskShare, ...]
    alone: tuple[BudgetCheck, ...] = ()
    planned: tuple[BudgetCheck, ...] = ()
    together: tuple[BudgetCheck, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    joint_id: str | None = None
    tiers: tuple[int, ...] = ()
    bound: tuple[int, ...] = ()
    exact: bool = True
    combinations: int = 0  # of options that fit their own task's budgets
    schema: str = SCHEMA

    def share(self, task: str) -> TaskShare | None:
        """Return a task's part, None where it does not share."""
        return next((one for one in self.shares if one.task == task), None)


class CombinationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What sharing the board did to one task's decision, in short; ``id`` is the same for all tasks that share.

    ``metric``: the budget that made the difference to ``alone_candidate``, missed by ``excess_ratio`` with it.
    ``latency_p95_s`` is the task's while all ran; memory and power are those of all together, and null where unknown.
    """

    id: str
    outcome: Outcome
    tasks: tuple[str, ...]
    reason: str
    alone_candidate: str | None = None
    alone_point: str | None = None
    metric: str | None = None
    excess_ratio: float | None = None
    latency_p95_s: float | None = None
    memory_bytes: float | None = None
    power_mean_w: float | None = None


def as_together(measurement: Measurement, member: JointMember | None) -> Measurement:
    """Return a measurement with the latency that was seen while all ran: what an application can hold the model to."""
    latency = measurement.latency
    if latency is None or member is None or member.latency_p50_s is None or member.latency_p95_s is None:
        return measurement
    together = msgspec.structs.replace(
        latency, p50_s=member.latency_p50_s, p95_s=member.latency_p95_s,
        throughput_per_s=member.throughput_per_s or latency.throughput_per_s,
    )  # fmt: skip
    return msgspec.structs.replace(measurement, latency=together)
