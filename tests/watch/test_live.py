"""Windows of what applications tell: of what serves, for a minute; the schedule, status and telemetry read them."""

from __future__ import annotations

import json
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.client import open_model
from agent.config import parse_config
from agent.core.deployment import SOCKET_NAME, Deployment
from agent.core.histogram import bucket_of
from agent.core.live import WINDOW_S, LiveReport
from agent.report.outbox import Entry
from agent.site import Site
from agent.watch.asking import ask_live
from agent.watch.live import KEY, Live
from agent.watch.receiver import MOST_AT_ONCE, REST_S
from tests.client import places
from tests.client.places import ONNX, ONNX_INT8, TASK
from tests.test_timetable import ManualClock


class Scene:
    """A site with a deployment, and its live windows."""

    def __init__(self, folder: Path, **config: Any) -> None:
        document = {
            "device": {"id": "board"}, "mqtt": {"url": "mqtt://nowhere"},
            "tasks": {TASK: {"budgets": {"latency_p95": "20 ms"}}}, **config,
        }  # fmt: skip
        self.clock = ManualClock()
        self.folder = folder
        self.site = Site(parse_config(document, path=None), folder, clock=self.clock)
        self.live = Live(self.site)
        self.selector = selectors.DefaultSelector()
        self.live.open(self.selector)
        self.end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.end.connect(str(folder / SOCKET_NAME))

    def close(self) -> None:
        self.end.close()
        self.live.close()
        self.site.close()

    def turn(self) -> bool:
        """Do what the daemon does when something came."""
        keys = [key.data for key, _ in self.selector.select(0)]
        if KEY in keys:
            self.live.on_readable()
        return KEY in keys

    def tell(self, release: str, latencies_ms: tuple[float, ...] = (), **more: Any) -> None:
        counts: dict[int, int] = {}
        for one in latencies_ms:
            index = bucket_of(int(one * 1e6))
            counts[index] = counts.get(index, 0) + 1
        fields = {"task": TASK, "release": release, "period_s": 1.0, "requests": len(latencies_ms), **more}
        report = LiveReport(**fields, latency=tuple(sorted(counts.items())))
        self.end.send(msgspec.json.encode(report))
        assert self.turn()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(one.payload) for one in self.queued() if one.topic.endswith("/event")]

    def queued(self) -> tuple[Entry, ...]:
        assert self.site.outbox is not None
        return self.site.outbox.pending(limit=1000)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


@pytest.fixture
def served(scene: Scene) -> Deployment:
    return places.deploy(scene.folder, ONNX)


def test_a_window_is_of_the_newest_minute_of_what_serves(scene: Scene, served: Deployment) -> None:
    scene.tell(served.release, (1.0,) * 95 + (5.0,) * 5)
    scene.clock.monotonic += 30
    scene.tell(served.release, (2.0,) * 100, errors=2)
    (one,) = scene.live.figures()
    assert (one.requests, one.errors, one.senders, one.idle_s) == (200, 2, 1, 0.0)
    assert one.latency_p50_s == pytest.approx(2e-3, rel=0.05)
    assert (one.expected_latency_p95_s, one.budget_latency_p95_s) == (0.001, 0.02)
    scene.clock.monotonic += WINDOW_S - 20
    (one,) = scene.live.figures()
    assert (one.requests, one.errors) == (100, 2)
    scene.clock.monotonic += WINDOW_S
    (one,) = scene.live.figures()
    assert (one.requests, one.senders, one.latency_p95_s) == (0, 0, None)


def test_a_new_release_begins_anew_and_the_old_one_is_heard_no_longer(scene: Scene, served: Deployment) -> None:
    scene.tell(served.release, (1.0,) * 10)
    new = places.deploy(scene.folder, ONNX_INT8)
    scene.tell(new.release, (2.0,) * 3)
    scene.tell(served.release, (1.0,) * 10)
    (one,) = scene.live.figures()
    assert (one.release, one.requests) == (new.release, 3)
    assert scene.live.answer().refused == {"of a release that does not serve": 1}


def test_reports_of_what_is_not_here_are_counted_and_kept_nowhere(scene: Scene, served: Deployment) -> None:
    for number in range(5):
        scene.tell(served.release, (1.0,), task=f"made-up-{number}")
    scene.tell(served.release, (1.0,), task="../../etc")
    scene.tell("b" * 64, (1.0,))
    assert scene.live.figures() == ()
    assert scene.live.idle_s() is None
    assert scene.live.answer().refused == {"of no task here": 6, "of a release that does not serve": 1}


def test_an_application_that_keeps_the_old_model_is_one_event(scene: Scene, served: Deployment) -> None:
    places.deploy(scene.folder, ONNX_INT8)
    from agent.deploy.store import CURRENT, PREVIOUS, ReleaseStore

    store = ReleaseStore(scene.folder / "deploy")
    store.set_link(TASK, PREVIOUS, served.release)
    new = store.linked(TASK, CURRENT)
    for number in range(3):
        scene.tell(served.release, (1.0,), refused_release=new, refused_reason="the engine refuses the model.")
        scene.tell(served.release, (1.0,), refused_release=f"{number:064x}", refused_reason="made up")
    (event,) = scene.events()
    assert (event["kind"], event["task"]) == ("application_kept_old_model", TASK)
    assert event["text"] == f"an application keeps {ONNX}: the engine refuses the model."


def test_telemetry_tells_of_each_task_that_was_used(scene: Scene, served: Deployment) -> None:
    scene.live.tell()
    scene.tell(served.release, (1.0,) * 10)
    scene.live.tell()
    (queued,) = scene.queued()
    told = json.loads(queued.payload)
    assert queued.topic.endswith("/telemetry/task.digits")
    assert (told["task"], told["live_requests"], told["live_errors"]) == (TASK, 10, 0)
    assert told["live_latency_p95_s"] == pytest.approx(1e-3, rel=0.02)
    assert told["live_budget_latency_p95_s"] == 0.02


def test_a_flood_rests_and_is_heard_again(scene: Scene, served: Deployment) -> None:
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            scene.end.send(b"{}")

    thread = threading.Thread(target=flood)
    thread.start()
    while scene.live.deadline() is None:
        scene.turn()
    assert not scene.turn()  # it is not even looked at
    assert scene.live.deadline() == scene.clock.monotonic + REST_S
    scene.clock.monotonic += REST_S
    scene.live.tend()
    assert scene.live.deadline() is None
    stop.set()
    while thread.is_alive():
        scene.live.on_readable()
        scene.clock.monotonic += REST_S
        scene.live.tend()
    thread.join()
    assert sum(scene.live.answer().refused.values()) >= MOST_AT_ONCE


def test_status_asks_the_daemon_and_says_why_where_it_cannot(scene: Scene, served: Deployment, tmp_path: Path) -> None:
    assert ask_live(tmp_path / "nowhere") == "the agent is not running"
    assert ask_live(scene.folder, patience_s=0.01) == "the agent did not answer"
    scene.turn()  # too late for that one
    scene.tell(served.release, (1.0,) * 10)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(ask_live(scene.folder, patience_s=30.0)))
    thread.start()
    while thread.is_alive():
        scene.turn()
    thread.join()
    assert [one.requests for one in answers[0].tasks] == [10]


def test_a_real_application_is_heard(scene: Scene, served: Deployment) -> None:
    with open_model(TASK, state_dir=scene.folder, check_s=0.01, tell_s=0.01) as model:
        for _ in range(20):
            model(np.zeros((1, 1, 32, 32), np.float32))
    while scene.turn():
        scene.clock.monotonic += 1.0
    (one,) = scene.live.figures()
    assert (one.requests, one.errors, one.release) == (20, 0, served.release)
    assert scene.live.idle_s() is not None


@pytest.mark.parametrize(
    ("idle_s", "says"),
    [
        (None, "no request for 30 s cannot be judged: no application tells of its requests (agent.client does)"),
        (5.0, "no request for 30 s does not hold: there was one 5 s ago"),
        (30.0, None),
        (float("inf"), None),
    ],
)
def test_serving_load_is_a_condition_of_the_schedule(idle_s: float | None, says: str | None) -> None:
    from agent.core.schedule import Readings, condition_failure, parse_condition

    condition = parse_condition("serving", "none", where="when")
    assert condition_failure((condition,), Readings(serving_idle_s=idle_s)) == says
    assert parse_condition("serving", "none for 5 min", where="when").limit == 300.0


def test_scheduled_work_waits_while_an_application_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.timetable import Timetable
    from tests.test_timetable import Scene as Plan

    idle: list[float | None] = [0.0]
    entry = {"name": "nightly", "action": "bench", "cron": "0 3 * * *", "when": {"serving": "none"}}
    plan = Plan(tmp_path, monkeypatch, schedule=[entry])
    plan.timetable = Timetable(plan.site, lambda: idle[0])
    plan.timetable.plan()
    assert plan.tend(minutes=2) is None
    idle[0] = 60.0
    work = plan.tend(minutes=2)
    assert work is not None
    plan.timetable.begin(work, 1)
    assert plan.watch(looks=2) is None
    idle[0] = 1.0
    assert "there was one 1 s ago" in (plan.watch(looks=2) or "")
