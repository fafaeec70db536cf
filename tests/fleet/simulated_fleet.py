"""A simulated fleet in memory: boards that take a rollout's orders and tell of themselves in real documents.

The boards are those of ``benchmarks.simulated``; here is a broker in memory, time that passes when somebody waits, and
a rollout's line to both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone

from agent.fleet.rollout_board import Order
from agent.fleet.rollout_view import BoardNow, RolloutView
from benchmarks.simulated.board import SimulatedBoard, Ways
from benchmarks.simulated.documents import NEW, OLD, TASK, BoardClass

__all__ = [
    "FLEET", "NEW", "OLD", "TASK", "SimulatedBoard", "SimulatedClock", "SimulatedFleet", "SimulatedPort", "Ways",
    "of_classes",
]  # fmt: skip

FLEET = "plant"


class SimulatedClock:
    """Time that passes when somebody waits. ``now_s``: seconds since 1970."""

    def __init__(self, now_s: float = 1.8e9) -> None:
        self.now_s = now_s

    def monotonic_s(self) -> float:
        return self.now_s

    def utc(self) -> datetime:
        return datetime.fromtimestamp(self.now_s, timezone.utc)


def _never() -> bool:
    return False


class SimulatedFleet:
    """A fleet and its broker: what is retained reaches every view, what is not only those that listen.

    ``lost`` says of each job document whether it is lost; ``orders`` lists what was sent.
    """

    def __init__(self, boards: Mapping[str, tuple[str, Ways]], clock: SimulatedClock) -> None:
        self.clock = clock
        self.retained: dict[str, bytes] = {}
        self.lost: Callable[[], bool] = _never
        self.orders: list[Order] = []
        self.views: list[RolloutView] = []
        self.members = {
            name: SimulatedBoard(name, BoardClass(name=kind, class_fingerprint=kind), ways, self._hear, clock=clock.utc)
            for name, (kind, ways) in boards.items()
        }
        for member in self.members.values():
            member.hello()

    def view(self, rollout: str) -> RolloutView:
        """Return a new console's view, after the retained replay."""
        made = RolloutView(FLEET, TASK, rollout)
        for topic, payload in self.retained.items():
            made.take(topic, payload)
        self.views = [made]
        return made

    def _hear(self, topic: str, payload: bytes, retain: bool) -> None:
        if retain:
            self.retained[topic] = payload
        elif self.lost():
            return
        for view in self.views:
            view.take(topic, payload)

    def serving(self) -> dict[str, str | None]:
        return {name: member.serving for name, member in self.members.items()}


class SimulatedPort:
    """A rollout's line to a simulated fleet: every wait lets each board do one thing."""

    def __init__(self, fleet: SimulatedFleet, rollout: str) -> None:
        self.fleet = fleet
        self._view = fleet.view(rollout)

    @property
    def heard(self) -> int:
        return self._view.heard

    def boards(self) -> Mapping[str, BoardNow]:
        return self._view.boards

    def send(self, orders: Sequence[Order]) -> None:
        for order in orders:
            self.fleet.orders.append(order)
            self.fleet.members[order.board].order(order)

    def wait(self, timeout_s: float) -> None:
        busy = any(member.online and member.waiting for member in self.fleet.members.values())
        self.fleet.clock.now_s += timeout_s if busy else 10 * timeout_s
        for member in self.fleet.members.values():
            member.work()


def of_classes(classes: Iterable[str], each: int, ways: Callable[[str, int], Ways]) -> dict[str, tuple[str, Ways]]:
    """Return boards by class, named ``<class>-<number>``."""
    return {f"{kind}-{number}": (kind, ways(kind, number)) for kind in classes for number in range(each)}
