"""What an application tells moves its task along the ladder: told with its causes, without an inference that fails."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.client import open_model
from agent.core.deployment import Deployment, RungPlace, StagedLadder, StagedRung
from agent.core.ladder import BREACH_S, DWELL_S
from agent.core.measurement import ContextReading
from agent.deploy.store import CURRENT, ReleaseStore
from agent.device.neighbours import Ticks as NeighbourTicks
from agent.locks import exclusive
from tests.client import places
from tests.client.places import ONNX, ONNX_INT8, TASK, TFLITE
from tests.watch.test_live import Scene as LiveScene

NAMES = (ONNX, ONNX_INT8, TFLITE)
P95_S = (0.016, 0.008, 0.004)


class Scene(LiveScene):
    """A site whose task has a ladder of three real models, with made-up figures (named so by being round)."""

    def __init__(self, folder: Path, budget: str | None = "20 ms", **task: Any) -> None:
        budgets = {} if budget is None else {"latency_p95": budget}
        folder.mkdir(exist_ok=True)
        super().__init__(folder, tasks={TASK: {"budgets": budgets, "ladder": {}, **task}})
        self.wishes: list[str] = []
        self.live.on_wish = self.wishes.append
        self.store = ReleaseStore(folder / "deploy")
        self.rungs: list[Deployment] = [
            places.stage(folder, name, expected={"latency_p95_s": p95_s}, rung=RungPlace(index=number, count=3))
            for number, (name, p95_s) in enumerate(zip(NAMES, P95_S, strict=True))
        ]
        self.lay()
        self.temperature = 50.0
        board = self.site.board
        board.read_context = self._reading  # type: ignore[method-assign]
        self.others, self.total, self.busy, self.own = 0.0, 1000.0, 100.0, 100.0  # of the processors; ticks
        board.processor_ticks = self._ticks  # type: ignore[method-assign]
        board.processor_pressure = board.memory_pressure = lambda: None  # type: ignore[method-assign]

    def lay(self) -> None:
        self.store.set_link(TASK, CURRENT, self.rungs[0].release)
        staged = tuple(
            StagedRung(
                release=one.release, candidate=one.candidate, point=one.point.label,
                latency_p95_s=one.expected["latency_p95_s"],
            )
            for one in self.rungs
        )  # fmt: skip
        self.store.keep_ladder(TASK, StagedLadder(task=TASK, rungs=staged))

    def _reading(self) -> ContextReading:
        states = ("soft_temp_limit",) if self.temperature > 80 else ()
        return ContextReading(monotonic_s=0.0, temperature_celsius=self.temperature, throttle_now=states)

    def _ticks(self, pid: int) -> NeighbourTicks:
        return NeighbourTicks(total=int(self.total), busy=int(self.busy), ours=int(self.own))

    @property
    def rung(self) -> int:
        release = self.store.linked(TASK, CURRENT)
        return next(number for number, one in enumerate(self.rungs) if one.release == release)

    def serve(self, seconds: int, slow: float, errors: int = 0) -> None:
        """Let an application that runs what serves tell of so many seconds."""
        for _ in range(seconds):
            self.clock.monotonic += 1.0
            self.total, self.own, self.busy = self.total + 200, self.own + 20, self.busy + 20 + 200 * self.others
            rung = self.rung
            self.tell(self.rungs[rung].release, (slow * P95_S[rung] * 1e3,) * 50, errors=errors)
            self.live.tend()

    def kinds(self) -> list[str]:
        return [one["kind"] for one in self.events()]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


def test_down_at_the_alarm_and_up_when_the_cause_is_gone(scene: Scene) -> None:
    scene.serve(20, 1.0)
    scene.serve(5, 2.0)
    assert scene.rung == 1
    (degraded, down) = scene.events()
    assert (degraded["kind"], down["kind"], down["level"]) == ("watch_degraded", "ladder_stepped_down", "warning")
    assert down["text"].startswith(
        f"digits steps down from {ONNX} to {ONNX_INT8} (rung 2 of 3): calls are over 20 ms, 2.0"
    )
    assert "Likely " in down["text"]
    assert (down["facts"]["rung"], down["facts"]["rungs"]) == (1, 3)
    assert down["facts"]["causes"] == "model"
    told = [json.loads(one.payload) for one in scene.queued() if one.topic.endswith("/deployment/digits")][-1]
    assert (told["phase"], told["rung"], told["rungs"], told["chosen_candidate"]) == ("stepped", 1, 3, ONNX)
    assert (told["candidate"], told["chosen_release"]) == (ONNX_INT8, scene.rungs[0].release)
    scene.serve(int(DWELL_S) + 30, 1.0)
    assert scene.rung == 0
    assert scene.kinds()[-1] == "ladder_stepped_up"
    (one,) = scene.live.figures()
    assert one.rungs == 3


def test_telemetry_and_status_name_the_rung(scene: Scene) -> None:
    scene.serve(5, 10.0)
    scene.serve(1, 1.0)
    (one,) = scene.live.figures()
    assert (one.rung, one.rungs) == (2, 3)
    scene.live.tell()
    told = json.loads(scene.queued()[-1].payload)
    assert (told["live_rung"], told["live_rungs"]) == (2, 3)
    status = scene.site.deployer(scene.site.config.task(TASK)).status(TASK)
    assert (status.rung, [rung.candidate for rung in status.ladder]) == (2, list(NAMES))


def test_heat_holds_a_task_down_until_it_is_gone(scene: Scene) -> None:
    scene.temperature = 85.0
    scene.serve(5, 2.0)
    down = scene.events()[-1]
    assert (down["facts"]["causes"].split(",")[0], scene.rung) == ("heat", 1)
    scene.serve(300, 1.0)
    assert scene.rung == 1
    scene.temperature = 55.0
    scene.serve(int(DWELL_S) + 10, 1.0)
    assert scene.rung == 0


def test_a_neighbour_holds_a_task_down_until_it_is_gone(scene: Scene) -> None:
    scene.others = 0.9
    scene.serve(5, 2.0)
    down = scene.events()[-1]
    assert (down["facts"]["causes"], scene.rung) == ("neighbour", 1)
    scene.serve(300, 1.05)  # the lighter one hardly feels it
    assert scene.rung == 1
    scene.others = 0.3  # as somebody always does there
    scene.serve(int(DWELL_S) + 10, 1.0)
    assert scene.rung == 0


def test_calls_that_fail_and_calls_within_the_budget_are_no_reason(scene: Scene) -> None:
    scene.serve(20, 1.2)
    scene.serve(20, 1.0, errors=50)
    assert (scene.rung, scene.kinds()) == (0, ["watch_degraded"])


def test_without_a_budget_what_was_measured_of_the_chosen_is_the_promise(tmp_path: Path) -> None:
    scene = Scene(tmp_path, budget=None)
    scene.serve(5, 1.5)
    assert scene.rung == 1
    scene.serve(20, 1.5)  # slower than this rung was measured, and within what was promised
    assert scene.rung == 1
    assert scene.live.figures()[0].degraded is None
    scene.close()


def test_without_a_ladder_in_the_configuration_nothing_steps(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ladder=None)
    scene.serve(20, 5.0)
    assert scene.rung == 0
    scene.close()


def test_a_ladder_that_is_laid_anew_below_what_serves_is_the_one_to_step_along(scene: Scene) -> None:
    scene.serve(2, 1.0)
    del scene.rungs[1]
    scene.lay()
    scene.serve(5, 2.0)
    assert scene.store.linked(TASK, CURRENT) == scene.rungs[1].release
    (one,) = scene.live.figures()
    assert one.rungs == 2


def test_in_safe_mode_nothing_steps(scene: Scene) -> None:
    scene.live.may_step = lambda: False
    scene.serve(10, 5.0)
    assert (scene.rung, scene.kinds()) == (0, ["watch_degraded"])


def test_something_else_that_is_switched_goes_first(scene: Scene) -> None:
    with exclusive(scene.folder / "switch.lock", "a deployment"):
        scene.serve(10, 2.0)
        assert scene.rung == 0
    scene.serve(1, 2.0)
    assert scene.rung == 1


def test_nothing_lighter_left_and_another_engine_ask_for_a_pass(scene: Scene) -> None:
    scene.serve(5, 10.0)
    scene.serve(int(BREACH_S) + 20, 10.0)
    assert scene.rung == 2
    assert [one.partition(":")[0] for one in scene.wishes] == [TASK]
    assert "nothing lighter is left" in scene.wishes[0]
    assert scene.kinds().count("reselection_wanted") == 1


def test_an_application_with_another_engine_asks_for_a_pass_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    point = places.point_of(ONNX)
    import msgspec

    document = places.deploy(tmp_path, ONNX, point=msgspec.structs.replace(point, engine_version="1.0.0"))
    for number in range(3):
        scene.clock.monotonic += 1.0
        scene.tell(document.release, (1.0,), engine_version=f"1.{number + 1}.0")
    assert scene.wishes == [f"{TASK}: an application runs onnxruntime 1.1.0, not 1.0.0"]
    scene.close()


def test_a_restart_goes_on_from_the_rung_that_serves(scene: Scene) -> None:
    scene.serve(5, 2.0)
    from agent.watch.live import Live

    scene.live.close()
    scene.live = Live(scene.site)
    scene.selector.close()
    import selectors

    scene.selector = selectors.DefaultSelector()
    scene.live.open(scene.selector)
    scene.end.connect(str(scene.folder / "live.sock"))
    scene.serve(int(DWELL_S) + 10, 1.0)
    assert scene.rung == 0


def test_a_hook_is_run_by_a_child_and_its_failure_takes_the_step_back(tmp_path: Path) -> None:
    log = tmp_path / "hook.log"
    script = f'echo "$BOARDFIT_EVENT $BOARDFIT_CANDIDATE" >> {log}; test "$BOARDFIT_EVENT" != stepped'
    hook = {"command": ["/bin/sh", "-c", script]}
    config = tmp_path / "agent.json"
    config.write_text(json.dumps({"tasks": {TASK: {"budgets": {"latency_p95": "20 ms"}, "ladder": {}, "hook": hook}}}))
    scene = Scene(tmp_path / "state", hook=hook)
    command = f"import sys; from agent.cli import main; sys.exit(main([*sys.argv[1:], '--config', {str(config)!r}]))"
    scene.live._agent = [sys.executable, "-c", command]
    scene.serve(5, 2.0)
    assert scene.rung == 1  # at once: nobody waits for the hook
    finisher = scene.live._finisher
    assert finisher is not None
    while finisher._wanted or finisher._child is not None:
        scene.live.tend()
    assert log.read_text().splitlines() == [f"stepped {ONNX_INT8}", f"rolled_back {ONNX}"]
    assert scene.rung == 0
    scene.close()


def test_a_real_application_is_told_and_no_call_fails(tmp_path: Path) -> None:
    scene = Scene(tmp_path, budget="1 ms")  # which no call of a quarter second keeps
    changed = threading.Event()
    told: list[int] = []

    def on_change(document: Deployment) -> None:
        told.append(document.rung_index)
        changed.set()

    with open_model(TASK, state_dir=scene.folder, check_s=0.01, tell_s=1e6, on_change=on_change) as model:
        assert model.rung == 0
        x = np.zeros((1, 1, 32, 32), np.float32)
        model(x)
        for _ in range(5):
            scene.tell(scene.rungs[0].release, (250.0,) * 50)
            scene.clock.monotonic += 1.0
        while not changed.is_set():
            model(x)
        assert (model.rung, told) == (2, [2])
        model.from_images(places.digits())
    scene.close()
