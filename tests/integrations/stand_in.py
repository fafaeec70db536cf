"""A simulated fleet, and a simulated store in memory: made-up boards, told by real messages. No figure here is real."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from agent.collector.reading import Changes, ClassRow, Document, OptionFigures
from agent.core.facts import BoardIdentity, CpuFacts, DeviceFacts, MemoryFacts, OsFacts
from agent.core.messages import encode
from agent.core.payloads import DecisionMessage, DeploymentMessage, Job, Profile, Status, Telemetry
from agent.core.rollout_message import RolloutMessage, RolloutOrder
from agent.core.summaries import BudgetSummary
from agent.core.topics import address, topic_for
from agent.fleet.view import BoardView, FleetView

RECORDED = Path(__file__).with_name("recorded") / "board.jsonl"
TIME = "2026-11-22T12:00:00.000Z"


def recorded() -> list[dict[str, Any]]:
    """What a real agent sent; see ``record``."""
    return [json.loads(line) for line in RECORDED.read_text().splitlines()]


class SimulatedStore:
    """Keeps what it is told in memory. ``asked``: which boards' documents were read."""

    def __init__(self) -> None:
        self.views: dict[str, FleetView] = {}
        self.told: dict[tuple[str, str], dict[str, Document]] = {}
        self.changed: list[tuple[str, str]] = []
        self.running: dict[str, list[Document]] = {}
        self.asked: list[str] = []

    def take(self, topic: str, payload: bytes) -> None:
        fleet, board, end = topic.split("/", 4)[2:]
        view = self.views.setdefault(fleet, FleetView(fleet))
        if not payload and end == "status":
            self.told.pop((fleet, board), None)
        else:
            self.told.setdefault((fleet, board), {})[end] = json.loads(payload)
        view.take(topic, payload)
        assert view.refused == 0, view.last_refusal
        self.changed.append((fleet, board))

    def fleets(self) -> list[str]:
        return sorted(self.views)

    def boards(self, fleet: str, names: Collection[str] | None = None) -> list[BoardView]:
        return [board for board in self.views[fleet].sorted() if names is None or board.name in names]

    def documents(self, fleet: str, board: str) -> dict[str, Document]:
        self.asked.append(board)
        return self.told.get((fleet, board), {})

    def history(self, fleet: str, kind: Any, **_: Any) -> list[Document]:
        raise NotImplementedError

    def classes(self, fleet: str) -> list[ClassRow]:
        raise NotImplementedError

    def options(self, fleet: str, class_fingerprint: str, task: str) -> list[OptionFigures]:
        raise NotImplementedError

    def rollouts(self, fleet: str, limit: int = 50) -> list[Document]:
        return self.running.get(fleet, [])[:limit]

    def changes(self, fleet: str, after: int) -> Changes:
        names = frozenset(board for where, board in self.changed[after:] if where == fleet)
        return Changes(cursor=len(self.changed), boards=names if after else frozenset())


def messages(
    name: str,
    *,
    fleet: str = "plant-7",
    model: str = "simulated board",
    class_fingerprint: str = "c1" * 32,
    state: Any = "online",
    celsius: float | None = 51.5,
    power_w: float | None = 4.2,
    p95_s: float | None = 0.012,
    energy_j: float | None = 0.031,
    candidate: str | None = "small",
    task: str = "digits",
    throttle_now: str | None = "",
    job: Any = "SUCCEEDED",
) -> Iterator[tuple[str, bytes]]:
    """Yield what a simulated board tells, as topic and payload."""
    at = address(fleet, name)
    who: dict[str, Any] = {"fleet": fleet, "device": name, "boot_id": "b", "time": TIME}
    facts = DeviceFacts(
        board=BoardIdentity(model=model, profile="simulated", matched_on="nothing", soc="sim1"),
        cpu=CpuFacts(architecture="aarch64", present=(0, 1), usable=(0, 1)), memory=MemoryFacts(total_bytes=2**30),
        os=OsFacts(name="simulated"), class_fingerprint=class_fingerprint,
    )  # fmt: skip
    yield (
        topic_for(at, "status"),
        encode(
            Status(**who, state=state, agent_version="0.1.0", outbox_messages=3, outbox_bytes=2048, outbox_dropped=1)
        ),
    )
    profile = Profile(
        **who, class_fingerprint=class_fingerprint, profile="simulated", facts=facts, model=model, soc="sim1",
        architecture="aarch64", cores_usable=2, memory_total_bytes=2**30, agent_version="0.1.0",
    )  # fmt: skip
    yield topic_for(at, "profile"), encode(profile)
    telemetry = Telemetry(
        **who, group="board", temperature_celsius=celsius, power_w=power_w, throttle_now=throttle_now, supply_ok=True,
        clock_hz=2.4e9, load_1min=0.5, memory_available_bytes=5 * 10**8, outbox_messages=3,
    )  # fmt: skip
    yield topic_for(at, "telemetry", "board"), encode(telemetry)
    limit = BudgetSummary(metric="latency_p95", limit=0.02, text="latency_p95 <= 20 ms", state="met", miss_ratio=-0.4)
    decision = DecisionMessage(
        **who, id="d1", task=task, decided_at=TIME, class_fingerprint=class_fingerprint, outcome="chosen",
        reason="made up", options_total=1, options_fitting=1, options=(), budgets=(limit,), objectives=(),
        candidate=candidate, latency_p95_s=p95_s, energy_per_inference_j=energy_j,
    )  # fmt: skip
    yield topic_for(at, "decision", task), encode(decision)
    deployment = DeploymentMessage(
        **who, task=task, phase="done", changed_at=TIME, candidate=candidate, release="r1",
        expected_latency_p95_s=p95_s,
    )  # fmt: skip
    yield topic_for(at, "deployment", task), encode(deployment)
    yield topic_for(at, "job", "j1"), encode(Job(**who, id="j1", verb="bench", state=job))


def rollout(status: Any = "running") -> Document:
    """Return what an operator's machine tells of a made-up rollout."""
    order = RolloutOrder(
        address="all", waves=("1", "100%"), success_ratio=0.99, abort_on=(), soak_s=0.0, per_class=False,
        on_breach="rollback", wait_s=60.0,
    )  # fmt: skip
    told = RolloutMessage(
        fleet="plant-7", id="r-1", task="digits", operator="anna", status=status, reason="made up", started_at=TIME,
        updated_at=TIME, order=order, candidate="small", boards_total=7, phases={"serves": 2, "waiting": 5},
    )  # fmt: skip
    made: Document = json.loads(encode(told))
    return made


def told_of_fleet(boards: int) -> Iterator[tuple[str, bytes]]:
    """Yield what the recorded board and simulated ones in two classes tell."""
    for one in recorded():
        yield one["topic"], json.dumps(one["payload"]).encode()
    for number in range(boards):
        state = ("online", "busy", "offline")[number % 3]
        yield from messages(
            f"sim-{number}", state=state, class_fingerprint=("c1" if number % 2 else "c2") * 32,
            celsius=None if number == 1 else 50.0 + number, job="FAILED" if number == 3 else "SUCCEEDED",
            energy_j=None if number == 2 else 0.03, p95_s=0.01 + number / 1000,
        )  # fmt: skip


def fleet(boards: int = 6) -> SimulatedStore:
    """Return a store that was told of the recorded board and of simulated ones, and of a rollout."""
    store = SimulatedStore()
    for topic, payload in told_of_fleet(boards):
        store.take(topic, payload)
    store.running["plant-7"] = [rollout()]
    return store
