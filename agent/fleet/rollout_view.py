"""What boards have told, as far as a rollout of one task must know it. Pure: fed with topics and payloads.

Rules:
- Of a board's status, profile, deployment and decision the newest counts; a what-if decision does not.
- Of a job's documents the greatest revision holds; jobs that are not of this rollout are passed over.
- What a board says is text from outside: it is made plain and cut before it is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from agent.core.messages import decode
from agent.core.payloads import DecisionMessage, DeploymentMessage, Job, Profile, Scalar, Status
from agent.core.topics import Topic, parse_topic
from agent.deploy.phases import is_settled
from agent.errors import ReportError
from agent.fleet.plain import LONG, plain

_settled = lru_cache(maxsize=64)(is_settled)  # asked of every board at every step


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """A board's deployment document in short: what serves and how the last attempt stands."""

    candidate: str | None
    release: str | None
    previous: str | None
    phase: str
    changed_at: str
    reason: str | None = None

    @property
    def settled(self) -> bool:
        """Whether no attempt is going on."""
        return _settled(self.phase)

    def differs(self, other: Serving | None) -> bool:
        """Whether anything has happened since ``other``."""
        return other is None or (self.candidate, self.release, self.phase, self.changed_at) != (
            other.candidate, other.release, other.phase, other.changed_at
        )  # fmt: skip


class Opinion(msgspec.Struct, frozen=True, kw_only=True):
    """What a board's decision says of one candidate. ``slow``: its p95 is over the board's budget for it."""

    standing: str  # fits, over_budget, unknown, failed
    reason: str
    p95_s: float | None = None
    slow: bool = False


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """A board's last decision: its winner, and what it says of the candidates it measured (the best of each)."""

    id: str
    candidate: str | None
    reason: str
    opinions: dict[str, Opinion] = {}


class JobNow(msgspec.Struct, frozen=True, kw_only=True):
    """How one job stands. ``begun``: the board had started on it."""

    state: str
    revision: int
    begun: bool = False
    exit_code: int | None = None
    reason: str | None = None
    result: dict[str, Scalar] = {}

    @property
    def final(self) -> bool:
        """Whether nothing more is to come."""
        return self.state not in ("QUEUED", "IN_PROGRESS")


class BoardNow(msgspec.Struct, frozen=True, kw_only=True):
    """One board as it was last heard. ``troubles`` counts what speaks against it as the first to try."""

    name: str
    reachable: bool = False
    busy: bool = False
    epoch: str | None = None
    class_fingerprint: str | None = None
    troubles: int = 0
    serving: Serving | None = None
    decided: Decided | None = None
    jobs: dict[str, JobNow] = {}

    @property
    def orderable(self) -> bool:
        """Whether it can be told to switch: it is there, and has said in which start of its agent."""
        return self.reachable and self.epoch is not None


class RolloutView:
    """All boards of a fleet, for one task. ``prefix``: how the ids of this rollout's jobs begin."""

    def __init__(self, fleet: str, task: str, prefix: str) -> None:
        self.fleet, self.task, self.prefix = fleet, task, prefix
        self.boards: dict[str, BoardNow] = {}
        self.heard = 0  # documents that have changed something

    def take(self, topic: str, payload: bytes) -> bool:
        """Take one message. Returns: whether it changed anything."""
        try:
            place = parse_topic(topic)
            taker = _TAKE.get(place.kind)
            if taker is None or place.fleet != self.fleet or place.device is None or not payload:
                return False
            if place.kind in ("decision", "deployment") and place.parameter != self.task:
                return False
            if place.kind == "job" and not (place.parameter or "").startswith(self.prefix):
                return False
            board = self.boards.get(place.device) or BoardNow(name=place.device)
            changed = taker(board, place, decode(topic, payload, place.kind))
        except ReportError:
            return False
        if self.boards.get(place.device) == changed:
            return False
        self.boards[place.device] = changed
        self.heard += 1
        return True


def _take_status(board: BoardNow, _place: Topic, message: Status) -> BoardNow:
    if message.state == "offline":  # a last will was written before, and knows less
        return msgspec.structs.replace(board, reachable=False, busy=False)
    troubles = sum((message.reason is not None, bool(message.outbox_dropped), (message.outbox_messages or 0) > 100))
    return msgspec.structs.replace(
        board, reachable=True, busy=message.state == "busy", epoch=plain(message.epoch), troubles=troubles
    )


def _take_profile(board: BoardNow, _place: Topic, message: Profile) -> BoardNow:
    return msgspec.structs.replace(board, class_fingerprint=plain(message.class_fingerprint))


def _take_deployment(board: BoardNow, _place: Topic, message: DeploymentMessage) -> BoardNow:
    stepped = message.chosen_release is not None  # a lower rung of what was chosen serves: that is nobody's doing
    serving = Serving(
        candidate=plain(message.chosen_candidate if stepped else message.candidate),
        release=plain(message.chosen_release if stepped else message.release),
        previous=plain(message.previous_release), phase=plain(message.phase),
        changed_at=plain(message.changed_at), reason=plain(message.reason, LONG),
    )  # fmt: skip
    return msgspec.structs.replace(board, serving=serving)


def _take_decision(board: BoardNow, _place: Topic, message: DecisionMessage) -> BoardNow:
    if message.what_if:
        return board
    limit = next((budget.limit for budget in message.budgets if budget.metric == "latency_p95"), None)
    opinions: dict[str, Opinion] = {}
    order = ("fits", "over_budget", "unknown", "failed")
    for option in sorted(message.options, key=lambda one: order.index(one.standing)):
        slow = limit is not None and option.latency_p95_s is not None and option.latency_p95_s > limit
        said = Opinion(
            standing=option.standing, reason=plain(option.reason, LONG), p95_s=option.latency_p95_s, slow=slow
        )
        opinions.setdefault(plain(option.candidate), said)
    decided = Decided(
        id=plain(message.id), candidate=plain(message.candidate), reason=plain(message.reason, LONG), opinions=opinions
    )
    return msgspec.structs.replace(board, decided=decided)


def _take_job(board: BoardNow, place: Topic, message: Job) -> BoardNow:
    known = board.jobs.get(message.id)
    if place.parameter != message.id or (known is not None and (known.final or known.revision >= message.revision)):
        return board
    job = JobNow(
        state=message.state, revision=message.revision, begun=message.started_at is not None,
        exit_code=message.exit_code, reason=plain(message.reason, LONG),
        result={plain(k): plain(v) if isinstance(v, str) else v for k, v in list(message.result.items())[:16]},
    )  # fmt: skip
    return msgspec.structs.replace(board, jobs={**board.jobs, message.id: job})


_TAKE: dict[str, Callable[[BoardNow, Topic, Any], BoardNow]] = {
    "status": _take_status,
    "profile": _take_profile,
    "deployment": _take_deployment,
    "decision": _take_decision,
    "job": _take_job,
}
