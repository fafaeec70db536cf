"""How a rollout stands, as the machine that drives it tells others. Pure. ``agent.core.messages`` has the table.

Rules:
- It is a display. Nobody obeys it: a board takes signed commands only, and a rollout's state is in the store of the
  machine that drives it. Emptying or forging it changes what is shown and nothing else.
- It is bounded, however many boards there are: what was left out is counted.
- Waves count from 1. Times are the driving machine's, UTC, ISO 8601 with Z.
"""

from __future__ import annotations

from typing import Literal

import msgspec

RolloutStatus = Literal[
    "running", "paused", "undoing", "stopping", "completed", "rolled_back", "aborted", "superseded",
]  # fmt: skip
#: Nothing more is to happen.
ROLLOUT_ENDED: tuple[RolloutStatus, ...] = ("completed", "rolled_back", "aborted", "superseded")


class RolloutOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator asked for. Shares are 0 to 1."""

    address: str  # which boards, in the operator's words
    waves: tuple[str, ...]  # like 1, 5%, 25%, 100%
    success_ratio: float
    abort_on: tuple[str, ...]  # like rollback>1%
    soak_s: float
    per_class: bool
    on_breach: str  # rollback or pause
    wait_s: float


class RolloutWave(msgspec.Struct, frozen=True, kw_only=True):
    """One wave of a track. ``boards``: how many it holds when it is full; ``phases``: of those given work."""

    number: int
    text: str
    boards: int
    phases: dict[str, int] = {}


class RolloutTrack(msgspec.Struct, frozen=True, kw_only=True):
    """One line of waves: all boards, or one class. ``idle``: phases of its boards that were given no work."""

    name: str  # all, a class fingerprint, or unknown
    total: int
    wave: int
    done: bool
    reason: str
    class_fingerprint: str | None = None  # null: all boards, or boards that never told theirs
    soak_until: str | None = None  # null: it does not soak now
    waves: tuple[RolloutWave, ...] = ()
    waves_left_out: int = 0
    idle: dict[str, int] = {}


class RolloutBoard(msgspec.Struct, frozen=True, kw_only=True):
    """A board that is not as the rollout wants it."""

    name: str
    phase: str
    track: str
    wave: int | None = None
    kind: str | None = None
    reason: str | None = None


class RolloutTransition(msgspec.Struct, frozen=True, kw_only=True):
    """Something that changed. ``subject``: a board, ``track <name>``, or ``rollout``; ``job``: an order given to it."""

    at: str
    subject: str
    after: str
    before: str | None = None
    reason: str | None = None
    verb: str | None = None
    job: str | None = None


class RolloutMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout in short. Retained by the machine that drives it, until that rollout is forgotten.

    ``driven``: a process drove it at ``updated_at``, which it renews once a minute at least; a killed one tells nothing
    any more. ``phases``: how many boards stand in each.
    """

    fleet: str
    id: str
    task: str
    operator: str
    status: RolloutStatus
    reason: str
    started_at: str
    updated_at: str
    order: RolloutOrder
    schema: Literal["boardfit.rollout-message/1"] = "boardfit.rollout-message/1"
    candidate: str | None = None  # null: on each board what its own decision chooses
    machine: str | None = None
    driven: bool = False
    boards_total: int = 0
    phases: dict[str, int] = {}
    tracks: tuple[RolloutTrack, ...] = ()
    tracks_left_out: int = 0
    boards: tuple[RolloutBoard, ...] = ()
    boards_left_out: int = 0
    transitions: tuple[RolloutTransition, ...] = ()  # the last ones, in their order
    transitions_left_out: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more is to happen."""
        return self.status in ROLLOUT_ENDED
