"""Drives a rollout: look at the boards, decide, store, send, wait; until it has ended or a stop is asked for.

Rules:
- Stored first, sent then. What is sent may be lost or sent twice: ``agent.fleet.rollout`` asks again for what nobody
  has answered, and a job's id has one effect.
- One process drives a rollout at a time, by a lock that ends with it; others pause, resume and abort through the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from agent.core.ports import Clock, StopRequested
from agent.fleet.rollout import Rollout, advance, times_of
from agent.fleet.rollout_board import Order
from agent.fleet.rollout_calm import Calm
from agent.fleet.rollout_store import RolloutStore
from agent.fleet.rollout_view import BoardNow

STEP_S = 2.0  # how often times are looked at while nothing is heard


class FleetPort(Protocol):
    """How a rollout reaches the boards."""

    @property
    def heard(self) -> int:
        """Return a count of what has changed in ``boards``."""

    def boards(self) -> Mapping[str, BoardNow]:
        """Return the boards as they were last heard."""

    def send(self, orders: Sequence[Order]) -> None:
        """Send commands, as far as the line allows; what is not sent is asked for again."""

    def wait(self, timeout_s: float) -> None:
        """Return when something was heard, or after this time."""


def _step(port: FleetPort, calm: Calm, at: float, before: Rollout) -> tuple[Rollout, tuple[Order, ...]]:
    if calm.rests(before, port.heard, at):
        return before, ()
    after, orders = advance(before, port.boards(), at, calm)
    if after is before and not orders:
        calm.note_whole(before, port.heard, times_of(before, at))
    return after, orders


def drive(  # noqa: PLR0917 - who takes part, in the order of the module's first line
    store: RolloutStore, rollout: str, port: FleetPort, clock: Clock, stop: StopRequested,
    told: Callable[[Rollout], None] = lambda _: None,
) -> Rollout:  # fmt: skip
    """Drive a rollout. Returns: its state, ended unless a stop was asked for. Raises: StorageError, ReportError."""
    calm = Calm()
    while True:
        at = clock.utc().timestamp()
        state, orders = store.change(rollout, partial(_step, port, calm, at), at)
        port.send(orders)
        told(state)
        if state.ended or stop():
            return state
        port.wait(STEP_S)
