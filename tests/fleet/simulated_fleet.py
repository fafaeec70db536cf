"""A simulated fleet in memory: boards that take a rollout's orders and tell of themselves in real documents.

What they measure and how deployments end is made up, said beforehand per board (``Ways``). What is real: the documents
on their topics, that an id is taken once, that an old epoch is refused, how a rollback exchanges two deployments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import msgspec

from agent.core.facts import BoardIdentity, CpuFacts, DeviceFacts, MemoryFacts, OsFacts
from agent.core.messages import encode
from agent.core.payloads import (
    BudgetSummary,
    DecisionMessage,
    DeploymentMessage,
    Job,
    OptionSummary,
    Profile,
    Status,
)
from agent.core.topics import address, topic_for
from agent.fleet.rollout_board import Order
from agent.fleet.rollout_view import BoardNow, RolloutView

FLEET, TASK, OLD, NEW = "plant", "digits", "net-old", "net-new"
NOW = "2026-01-01T00:00:00Z"


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """How a simulated board fares with the new candidate.

    ``standing``: what its decision says once it has measured. ``ends``: deployed, rolled_back, failed, or silent (gone
    in the middle). ``goes_back``: a rollback that is ordered succeeds. ``measured``: it knows the candidate before
    anybody asks. ``bare``: nothing served there before.
    """

    standing: str = "fits"
    ends: str = "deployed"
    measured: bool = False
    bare: bool = False
    p95_s: float = 0.004
    serves: str = OLD
    healthy: bool = True
    goes_back: bool = True


class SimulatedBoard:
    """One board; ``did`` lists the verbs it carried out with their job ids."""

    def __init__(self, name: str, kind: str, ways: Ways, tell: Callable[[str, bytes, bool], None]) -> None:
        self.name, self.kind, self.ways = name, kind, ways
        self.at = address(FLEET, name)
        self._tell = tell
        self.online, self.starts = True, 1
        self.serving, self.previous = (None if ways.bare else ways.serves), None
        self.phase, self.outcome, self.changes, self.decisions = "done", "deployed", 0, 0
        self.knows = ways.measured
        self.known_jobs: set[str] = set()
        self.told: dict[str, bytes] = {}
        self.waiting: list[Order] = []
        self.did: list[tuple[str, str]] = []
        self.switched: list[str] = []

    @property
    def epoch(self) -> str:
        return f"{self.name}-start-{self.starts}"

    def hello(self) -> None:
        """Tell everything that is retained."""
        self.tell_status()
        facts = DeviceFacts(
            board=BoardIdentity(model="simulated", profile="simulated", matched_on="nothing"),
            cpu=CpuFacts(architecture="aarch64", present=(0,), usable=(0,)), memory=MemoryFacts(total_bytes=2**30),
            os=OsFacts(name="simulated"), class_fingerprint=self.kind,
        )  # fmt: skip
        self._say("profile", Profile(**self._origin(), class_fingerprint=self.kind, profile="simulated", facts=facts))
        self.tell_deployment()
        if self.decisions:
            self.tell_decision()
        elif self.knows:
            self.decide()

    def tell_status(self) -> None:
        state: Any = "online" if self.online else "offline"
        reason = None if self.ways.healthy else "the outbox is full"
        self._say(
            "status", Status(**self._origin(), state=state, epoch=self.epoch if self.online else None, reason=reason)
        )

    def tell_deployment(self) -> None:
        self._say(
            "deployment",
            DeploymentMessage(
                **self._origin(), task=TASK, phase=self.phase, changed_at=f"change {self.changes}",
                candidate=self.serving, release=self._release(self.serving), outcome=self.outcome,
                previous_release=self._release(self.previous),
            ),
            TASK,
        )  # fmt: skip

    def decide(self) -> None:
        """Make a decision as if it had been measured."""
        self.decisions += 1
        self.tell_decision()

    def tell_decision(self) -> None:
        """Tell of the last decision."""
        options = [self._option(OLD, "fits", 0.005)]
        if self.knows:
            options.append(self._option(NEW, self.ways.standing, self.ways.p95_s))
        best = NEW if self.knows and self.ways.standing == "fits" else OLD
        decision = DecisionMessage(
            **self._origin(), id=f"{self.name}-d{self.decisions}", task=TASK, decided_at=NOW,
            class_fingerprint=self.kind, outcome="chosen", reason="simulated", options_total=len(options),
            options_fitting=1, options=tuple(options),
            budgets=(BudgetSummary(metric="latency_p95", limit=0.02, text="<= 20 ms"),), objectives=(), candidate=best,
        )  # fmt: skip
        self._say("decision", decision, TASK)

    def order(self, order: Order) -> None:
        """Take a command as a board does: once per id, none that names an old epoch; asked again, it tells again."""
        if not self.online:
            return
        if order.job in self.known_jobs:
            self._tell(topic_for(self.at, "job", order.job), self.told[order.job], False)
            return
        if order.epoch is not None and order.epoch != self.epoch:
            self._job(order, "REJECTED", 1, reason="it does not name the present epoch of this board")
            return
        self.known_jobs.add(order.job)
        if order.verb == "cancel":
            self._cancel(order)
            return
        self.waiting.append(order)
        self._job(order, "QUEUED", 1)

    def work(self) -> None:
        """Carry out what waits first."""
        if not self.online or not self.waiting:
            return
        order = self.waiting.pop(0)
        self._job(order, "IN_PROGRESS", 2)
        self.did.append((order.verb, order.job))
        getattr(self, f"_{order.verb}")(order)

    def restart(self) -> None:
        """Go away and come back with a new epoch; what waited for the old one is given up."""
        self.starts += 1
        for order in self.waiting:
            if order.epoch is not None:
                self._job(order, "FAILED", 5, reason="the epoch it named ended with a restart")
        self.waiting = [order for order in self.waiting if order.epoch is None]
        self.online = True
        self.tell_status()

    def leave(self) -> None:
        """Be gone."""
        self.online = False
        self.tell_status()

    def go_back(self) -> None:
        """Go back by itself, as a failed probation does."""
        self.serving, self.previous = self.previous, self.serving
        self._change("rolled_back", "rolled_back")

    def _bench(self, order: Order) -> None:
        self.knows = True
        self._job(order, "SUCCEEDED", 3, exit_code=0, result={"measured": 1})

    def _select(self, order: Order) -> None:
        self.decide()
        self._job(order, "SUCCEEDED", 3, exit_code=0, result={"decision": f"{self.name}-d{self.decisions}"})

    def _deploy(self, order: Order) -> None:
        candidate = order.arguments["candidate"]
        if self.ways.ends == "silent":
            self.leave()
            return
        if self.ways.ends == "failed":
            self._change("failed", "failed")
            self._job(order, "FAILED", 3, exit_code=1, reason="the proof failed: golden outputs differ", began=True)
            return
        if self.serving != candidate:
            self.switched.append(candidate)
            self.serving, self.previous = candidate, self.serving
            self._change("probation", None)
            if self.ways.ends == "rolled_back":
                self.go_back()
                self._job(order, "FAILED", 3, exit_code=5, reason="the probation failed", began=True)
                return
            self._change("done", "deployed")
        self._job(order, "SUCCEEDED", 3, exit_code=0, began=True)

    def _rollback(self, order: Order) -> None:
        if not self.ways.goes_back:
            self._job(order, "FAILED", 3, exit_code=1, reason="the previous deployment is damaged", began=True)
            return
        self.switched.append("back")
        self.go_back()
        self._job(order, "SUCCEEDED", 3, exit_code=0, began=True)

    def _cancel(self, order: Order) -> None:
        for waiting in list(self.waiting):
            if waiting.job == order.arguments["job"]:
                self.waiting.remove(waiting)
                self._job(waiting, "CANCELED", 3, reason="canceled before it began")
        self._job(order, "SUCCEEDED", 1)

    def _change(self, phase: str, outcome: str | None) -> None:
        self.changes += 1
        self.phase, self.outcome = phase, outcome
        self.tell_deployment()

    def _job(self, order: Order, state: Any, revision: int, *, began: bool = False, **more: Any) -> None:
        started = NOW if began or state == "IN_PROGRESS" else None
        job = Job(
            **self._origin(), id=order.job, verb=order.verb, state=state, revision=revision, started_at=started, **more
        )
        self.told[order.job] = encode(job)
        self._tell(topic_for(self.at, "job", order.job), self.told[order.job], False)

    def _say(self, kind: Any, message: Any, parameter: str | None = None) -> None:
        self._tell(topic_for(self.at, kind, parameter), encode(message), True)

    def _origin(self) -> dict[str, Any]:
        return {"fleet": FLEET, "device": self.name, "boot_id": "b", "time": NOW}

    @staticmethod
    def _option(candidate: str, standing: Any, p95_s: float) -> OptionSummary:
        return OptionSummary(
            candidate=candidate, point="simulated", standing=standing, verdict="ok", reason=f"{standing}, simulated",
            latency_p95_s=p95_s,
        )  # fmt: skip

    @staticmethod
    def _release(candidate: str | None) -> str | None:
        return None if candidate is None else candidate.encode().hex().ljust(64, "0")


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
        self.members = {name: SimulatedBoard(name, kind, ways, self._hear) for name, (kind, ways) in boards.items()}
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
