"""Golden replays of real releases in real confined children: agreeing, changed, damaged, and when they are due."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.core.deployment import DeployedFile, Deployment
from agent.core.drift import AGAIN_S, TIMES
from agent.core.schedule import Condition
from agent.core.watch import causes
from agent.deploy.store import CURRENT, ReleaseStore
from agent.errors import Interrupted
from agent.replay import Replays, replay
from agent.runtimes.table import runtime_class
from agent.watch.judging import conditions_now, with_outputs
from agent.watch.replaying import ReplayTimes
from benchmarks.zoo.files import artifact
from tests.client import places
from tests.client.places import ONNX, TASK
from tests.test_records import measurement
from tests.watch.test_live import Scene

DAY_S = 86400.0


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "state")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def served(scene: Scene, difference: float = 0.0, *, golden: bool = True, model: Path | None = None) -> Deployment:
    """Deploy a bundled model with golden outputs of its own engine, off by ``difference`` in two of four samples."""
    file, data = None, None
    if golden:
        data = scene.folder / "golden.npz"
        document = places.document_for(ONNX)
        runtime = runtime_class(document.point.engine).load(artifact(ONNX), document.point)
        inputs = np.random.default_rng(1).random((4, *(max(1, size) for size in runtime.inputs[0].shape)), np.float32)
        outputs = []
        for one in inputs:
            runtime.set_input(0, one)
            runtime.run()
            outputs.append(runtime.output(0).copy())
        made = np.stack(outputs)
        made[2:] += difference
        np.savez(data, input_0=inputs, output_0=made, tolerance=np.array([1e-3]))
        text = data.read_bytes()
        file = DeployedFile(path="golden.npz", sha256=hashlib.sha256(text).hexdigest(), length=len(text))
    document = places.document_for(ONNX, model, golden=file)
    store = ReleaseStore(scene.folder / "deploy")
    store.stage(document, model or artifact(ONNX), data)
    store.set_link(TASK, CURRENT, document.release)
    return document


def kinds(scene: Scene) -> list[str]:
    return [one["kind"] for one in scene.events()]


def test_outputs_that_agree_are_figures_and_no_event(scene: Scene) -> None:
    document = served(scene)
    found = replay(scene.site, TASK)
    assert found is not None
    assert (found.outcome, found.samples, found.samples_off, found.release) == ("agrees", 4, 0, document.release)
    assert found.max_abs_error is not None and found.max_abs_error <= 1e-3
    assert found.engine_version and found.good_engine_version == found.engine_version
    assert Replays(scene.site.database).all() == {TASK: found}
    assert kinds(scene) == []
    assert scene.site.ledger.today().bench_s >= 0.0


def test_outputs_that_changed_are_told_explained_and_measured_anew(scene: Scene) -> None:
    document = served(scene, 0.25)
    for number, engine in enumerate(("onnxruntime", "ai-edge-litert")):
        point = msgspec.structs.replace(document.point, engine=engine)
        scene.site.records.add_measurement(msgspec.structs.replace(measurement(number), point=point))
    for _ in range(TIMES):
        found = replay(scene.site, TASK)
    assert found is not None
    assert (found.outcome, found.samples_off, found.changed) == ("differs", 2, True)
    assert found.max_abs_error == pytest.approx(0.25, rel=1e-3)
    assert found.max_rel_error is not None and 0.0 < found.max_rel_error <= 1.0
    suspect, changed = scene.events()
    assert (suspect["kind"], suspect["level"], changed["kind"], changed["level"]) == (
        "outputs_differ", "warning", "outputs_changed", "error",
    )  # fmt: skip
    assert "2 of 4 golden samples are off by up to 0.25" in suspect["text"]
    assert "where 0.001 is allowed; its files are whole" in suspect["text"]
    assert "1 measurements on that engine are forgotten, and the next pass chooses anew" in changed["text"]
    assert [one.point.engine for one in scene.site.records.measurements("digits", "c")] == ["ai-edge-litert"]
    now = with_outputs(scene.site, document, conditions_now(scene.site, None, None, None))
    (first, *_) = causes(now, now)
    assert first.kind == "outputs" and first.text.startswith("outputs changed since ")
    other = msgspec.structs.replace(document, release="f" * 64)
    assert with_outputs(scene.site, other, now).outputs_changed == now.outputs_changed  # it adds, and takes nothing
    assert with_outputs(scene.site, other, conditions_now(scene.site, None, None, None)).outputs_changed is None


def test_outputs_that_agree_again_after_a_change_are_told_and_measured_anew(scene: Scene) -> None:
    served(scene)
    found = replay(scene.site, TASK)
    assert found is not None
    before = msgspec.structs.replace(found, outcome="differs", in_a_row=5, since=found.at, changed=True)
    Replays(scene.site.database).keep(before)
    scene.site.records.add_measurement(measurement(1))
    found = replay(scene.site, TASK)
    assert found is not None and (found.outcome, found.changed) == ("agrees", False)
    assert kinds(scene) == ["outputs_agree_again"]
    assert scene.site.records.measurements("digits", "c") == ()
    assert Replays(scene.site.database).asked() is not None
    assert Replays(scene.site.database).asked() is None  # once


def test_a_damaged_file_is_told_apart_and_nothing_is_run(scene: Scene) -> None:
    document = served(scene, 0.25)
    model = scene.folder / "deploy" / TASK / "current" / document.model.path
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    scene.site.records.add_measurement(measurement(1))
    found = replay(scene.site, TASK)
    assert found is not None
    assert (found.outcome, found.reason, found.samples) == ("damaged", "model.onnx: its SHA-256 differs", None)
    assert kinds(scene) == ["release_damaged"]
    assert len(scene.site.records.measurements("digits", "c")) == 1
    assert Replays(scene.site.database).asked() == f"a file of {ONNX}, which serves {TASK}, is damaged"


def test_a_model_that_no_longer_runs_is_no_damage(scene: Scene, tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"\x08\x07" + bytes(100))
    served(scene, model=broken)
    found = replay(scene.site, TASK)
    assert found is not None and found.outcome == "fails" and found.reason
    (event,) = scene.events()
    assert "no longer runs: " in event["text"]


def test_without_golden_outputs_only_the_files_are_looked_at(scene: Scene) -> None:
    served(scene, golden=False)
    found = replay(scene.site, TASK)
    assert found is not None and (found.outcome, found.samples) == ("no_golden", None)
    assert kinds(scene) == []


def test_one_that_is_stopped_leaves_no_trace(scene: Scene) -> None:
    served(scene)
    scene.site.stop = lambda: True
    with pytest.raises(Interrupted):
        replay(scene.site, TASK)
    assert Replays(scene.site.database).all() == {}


def test_nothing_is_replayed_where_nothing_serves(scene: Scene) -> None:
    assert replay(scene.site, TASK) is None


class Times:
    """When replays are due, with a clock that the test moves; what is handed out is carried out by the test."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.times, self.hindered = scene, ReplayTimes(scene.site), ""

    def after(self, seconds: float) -> tuple[str, str] | None:
        self.scene.clock.monotonic += seconds
        self.scene.clock.now += timedelta(seconds=seconds)
        return self.times.tend(self._hindered)

    def _hindered(self, when: tuple[Condition, ...]) -> str | None:
        assert [one.text for one in when] == ["load < 0.5"]
        return self.hindered or None

    def keep(self, outcome: str, **more: Any) -> None:
        store = Replays(self.scene.site.database)
        release = ReleaseStore(self.scene.folder / "deploy").linked(TASK, CURRENT)
        at = self.scene.clock.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = {"task": TASK, "release": release, "candidate": ONNX, "at": at, "outcome": outcome}
        store.keep(msgspec.convert({**fields, **more}, type=type(replayed())))


def replayed() -> Any:
    from agent.core.drift import Replay

    return Replay(task=TASK, release="", candidate="", at="", outcome="agrees")


@pytest.fixture
def times(scene: Scene) -> Times:
    document = served(scene, golden=False)
    made = scene.folder / "deploy" / TASK / "releases" / document.release / "deployment.json"
    proven_s = scene.clock.now.timestamp()
    os.utime(made, (proven_s, proven_s))
    return Times(scene)


def test_it_is_due_a_day_after_the_proof_and_after_each_replay(times: Times) -> None:
    assert times.after(DAY_S - 60) is None
    assert times.after(61) == ("replay", "golden outputs are due")
    times.keep("agrees")
    assert times.after(60) is None
    assert times.after(DAY_S - 120) is None
    assert times.after(60) == ("replay", "golden outputs are due")


def test_it_waits_for_the_conditions(times: Times) -> None:
    times.hindered = "load is 2"
    assert times.after(DAY_S + 1) is None
    times.hindered = ""
    assert times.after(30) is None  # judged once a minute
    assert times.after(31) is not None


def test_one_that_disagreed_is_due_soon_and_a_change_asks_for_a_pass(times: Times) -> None:
    assert times.after(DAY_S + 1) is not None
    times.keep("differs", in_a_row=1)
    assert times.after(AGAIN_S - 1) is None
    assert times.after(1) is not None
    times.keep("differs", in_a_row=TIMES, changed=True, asks="its outputs changed")
    assert times.after(1) == ("pass", "its outputs changed")
    assert times.after(AGAIN_S) is None
    assert times.after(DAY_S - AGAIN_S) is not None


def test_a_replay_that_leaves_no_result_is_not_begun_at_once(times: Times) -> None:
    assert times.after(DAY_S + 1) is not None
    assert times.after(1) is None
    assert times.after(AGAIN_S) is not None


def test_a_clock_that_is_set_puts_it_off_by_a_day_at_most(times: Times) -> None:
    assert times.after(1) is None
    times.scene.clock.now -= timedelta(days=300)
    times.times = ReplayTimes(times.scene.site)
    assert times.after(0) is None
    assert times.after(DAY_S + 1) is not None


def test_where_nothing_is_deployed_nothing_is_replayed_until_something_is(scene: Scene) -> None:
    times = Times(scene)
    for _ in range(5):
        assert times.after(DAY_S) is None
    served(scene, golden=False)
    for _ in range(3):
        due = times.after(DAY_S)
    assert due is not None


def test_off_is_never(tmp_path: Path) -> None:
    (tmp_path / "off").mkdir()
    scene = Scene(tmp_path / "off", replay={"every": False})
    served(scene, golden=False)
    times = Times(scene)
    assert times.times.deadline(0.0) is None
    assert times.after(30 * DAY_S) is None
    scene.close()
