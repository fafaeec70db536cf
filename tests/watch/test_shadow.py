"""Shadow runs with real processes: a real application lends, a confined worker runs the candidate, the rule decides."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from agent.client import open_model
from agent.config import parse_config
from agent.core.deployment import StagedLadder, StagedRung
from agent.core.manifest import Candidate, Manifest, TargetRef
from agent.core.shadow import Ask, Sample, ShadowPlan, Tensor
from agent.deploy.document import deployment_for
from agent.deploy.store import CURRENT, ReleaseStore
from agent.errors import DeploymentError, Interrupted
from agent.rehearsal import Shadows, rehearse
from agent.site import Site
from agent.watch.shadow import Desk, run_beside
from agent.watch.understudies import Stopped, Understudy
from benchmarks.zoo.files import artifact, bundled
from tests.client import places
from tests.client.places import ONNX, ONNX_INT8, TASK, TFLITE, TFLITE_INT8
from tests.client.test_lending import Calls
from tests.client.test_model import FAST

QUICK = ShadowPlan(requests=8, agreement=0.5, share=1.0, time_s=300.0)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with at(tmp_path) as made:
        yield made


def at(folder: Path, **task: Any) -> Site:
    document = {"device": {"id": "board"}, "mqtt": {"url": "mqtt://nowhere"}, "tasks": {TASK: task}}
    return Site(parse_config(document, path=None), folder)


def one_class(path: Path) -> Path:
    """A model of the digits' form that says the last class whatever it is shown."""
    bias = np.zeros((1, 10), np.float32)
    bias[0, 9] = 100.0
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["zero"]),
        helper.make_node("Add", ["zero", "b"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, 32, 32])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(np.zeros((1024, 10), np.float32), "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def files(folder: Path) -> set[str]:
    return {str(one.relative_to(folder)) for one in (folder / "deploy").rglob("*")}


@pytest.mark.parametrize("name", [ONNX_INT8, TFLITE_INT8])
def test_a_candidate_that_answers_alike_passes(site: Site, name: str) -> None:
    serving = places.deploy(site.state_dir, ONNX)
    before = files(site.state_dir)
    wanted = places.document_for(name)
    with (
        open_model(TASK, state_dir=site.state_dir, **FAST) as model,
        Calls(model, places.digits(), images=True) as calls,
    ):
        ran = run_beside(site, wanted, artifact(name), serving, QUICK)
    assert (ran.verdict, ran.problem) == ("passed", None)
    assert (ran.trial.metric, ran.trial.agreed) == ("top1", ran.trial.requests)
    assert ran.trial.requests >= 8
    assert calls.count >= ran.trial.requests
    assert files(site.state_dir) == before  # the socket is gone, and nothing was written


def test_one_that_answers_otherwise_is_refused_after_a_few(site: Site, tmp_path: Path) -> None:
    serving = places.deploy(site.state_dir, ONNX)
    file = one_class(tmp_path / "one.onnx")
    wanted = places.document_for(ONNX, file)
    with open_model(TASK, state_dir=site.state_dir, **FAST) as model, Calls(model, places.digits(), images=True):
        ran = run_beside(site, wanted, file, serving, QUICK)
    assert (ran.verdict, ran.trial.agreed) == ("refused", 0)
    assert ran.trial.requests <= 8


def test_one_that_does_not_take_what_is_fed_is_refused(site: Site) -> None:
    serving = places.deploy(site.state_dir, TFLITE_INT8)
    with (
        open_model(TASK, state_dir=site.state_dir, **FAST) as model,
        Calls(model, np.zeros((1, 32, 32, 1), np.int8)),
    ):
        ran = run_beside(site, places.document_for(TFLITE), artifact(TFLITE), serving, QUICK)
    assert ran.verdict == "refused"
    assert "it does not take what the application feeds: " in ran.trial.text("refused")


def test_without_labels_outputs_are_held_against_each_other(site: Site) -> None:
    plain = {"labels": (), "expected": {}}
    serving = places.deploy(site.state_dir, ONNX, **plain)
    wanted = places.document_for(ONNX_INT8, **plain)
    x = np.random.default_rng(1).random((1, 1, 32, 32), np.float32)
    with open_model(TASK, state_dir=site.state_dir, **FAST) as model, Calls(model, x):
        ran = run_beside(site, wanted, artifact(ONNX_INT8), serving, msgspec.structs.replace(QUICK, tolerance=1.0))
        strict = run_beside(site, wanted, artifact(ONNX_INT8), serving, msgspec.structs.replace(QUICK, tolerance=1e-9))
    assert (ran.trial.metric, ran.verdict, strict.verdict) == ("relative_error", "passed", "refused")
    assert ran.trial.figures()["rel_error_p95"]


def test_without_an_application_nothing_is_certain(site: Site) -> None:
    serving = places.deploy(site.state_dir, ONNX)
    short = msgspec.structs.replace(QUICK, time_s=0.1)
    ran = run_beside(site, places.document_for(ONNX_INT8), artifact(ONNX_INT8), serving, short)
    assert (ran.verdict, ran.trial.requests) == ("not_enough", 0)


def test_a_stop_ends_it_at_once(site: Site) -> None:
    serving = places.deploy(site.state_dir, ONNX)
    asked = threading.Event()
    site.stop = asked.is_set
    threading.Timer(0.5, asked.set).start()
    with pytest.raises(Stopped):
        run_beside(site, places.document_for(ONNX_INT8), artifact(ONNX_INT8), serving, QUICK)


def frame(**more: Any) -> bytes:
    fields = {"kind": "tensors", "inputs": (Tensor(dtype="int8", shape=(2,)),)}
    header = msgspec.json.encode(Sample(**{**fields, "outputs": (Tensor(dtype="int8", shape=(1,)),), **more}))
    return struct.pack(">I", len(header)) + header + b"abc"


@pytest.mark.parametrize(
    "data", [b"\xff" * 100, struct.pack(">I", 2) + b"{}", frame(kind="words"), frame() + b"more", frame() * 2]
)
def test_who_sends_what_is_no_sample_is_heard_no_longer(tmp_path: Path, data: bytes) -> None:
    with Desk(tmp_path, Ask(task=TASK, release="r")) as desk, socket.socket(socket.AF_UNIX) as end:
        end.connect(str(tmp_path / "shadow.sock"))
        assert desk.frames(1.0) == []
        assert msgspec.json.decode(end.recv(4096), type=Ask).release == "r"
        end.sendall(frame())  # nobody asked
        desk.frames(1.0)
        assert end.recv(1) == b""
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(tmp_path / "shadow.sock"))
            desk.frames(1.0)
            desk.ask_all()
            other.sendall(data)
            assert desk.frames(1.0) == []
            assert other.recv(4096).endswith(b"\n.")
            assert other.recv(1) == b""
        with socket.socket(socket.AF_UNIX) as third:
            third.connect(str(tmp_path / "shadow.sock"))
            desk.frames(1.0)
            desk.ask_all()
            third.sendall(frame())
            assert desk.frames(1.0) == [frame()]


def candidate(name: str, model: Path | None = None) -> Candidate:
    manifest = msgspec.convert(bundled()[name].manifest, Manifest)
    document = places.document_for(name, model)
    target = TargetRef(path=f"{name}.model", sha256=document.model.sha256, length=document.model.length)
    return Candidate(manifest=manifest, target=target)


def rehearsed(site: Site, name: str, model: Path | None = None) -> Any:
    return rehearse(site, candidate(name, model), places.point_of(name), model or artifact(name), None)


def events(site: Site) -> list[tuple[str, str]]:
    assert site.outbox is not None
    found = [msgspec.json.decode(one.payload) for one in site.outbox.pending(limit=100)]
    return [(one["kind"], one["text"]) for one in found if "kind" in one]


def test_a_refusal_keeps_the_incumbent_and_withholds_the_model(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"\x08\x07" + bytes(100))
    (tmp_path / "state").mkdir()
    with at(tmp_path / "state", shadow={"time": "30 s"}) as site:
        places.deploy(site.state_dir, ONNX)
        with pytest.raises(DeploymentError, match="was refused by its shadow run: "):
            rehearsed(site, ONNX_INT8, broken)
        ((kind, text),) = events(site)
        assert kind == "shadow_refused" and text.endswith(f". {ONNX} stays")
        kept = site.deployer(site.config.task(TASK)).status(TASK).withheld
        assert kept[ONNX_INT8].startswith("refused by its shadow run: ")
        with pytest.raises(DeploymentError, match="is refused by its shadow run"):
            rehearsed(site, ONNX_INT8, broken)
        assert Shadows(site.database).all()[TASK].verdict == "refused"


@pytest.mark.parametrize("policy", ["skip", "require"])
def test_too_little_traffic_is_for_the_task_to_judge(tmp_path: Path, policy: str) -> None:
    with at(tmp_path, shadow={"time": "100 ms", "without_traffic": policy}) as site:
        places.deploy(site.state_dir, ONNX)
        if policy == "skip":
            assert rehearsed(site, ONNX_INT8).verdict == "not_enough"
        else:
            with pytest.raises(DeploymentError, match="was not deployed: no application gave it a request"):
                rehearsed(site, ONNX_INT8)
        ((kind, text),) = events(site)
        assert kind == "shadow_not_enough"
        assert ("goes on" in text) == (policy == "skip")
        assert site.deployer(site.config.task(TASK)).status(TASK).withheld == {}


def test_no_run_where_none_is_asked_for_nothing_serves_or_it_serves_already(tmp_path: Path) -> None:
    with at(tmp_path) as site:
        places.deploy(site.state_dir, ONNX)
        assert rehearsed(site, ONNX_INT8) is None
    with at(tmp_path / "other", shadow={}) as site:
        assert rehearsed(site, ONNX_INT8) is None
        document = deployment_for(candidate(ONNX), places.point_of(ONNX), None, None)
        store = ReleaseStore(site.state_dir / "deploy")
        store.stage(document, artifact(ONNX), None)
        store.set_link(TASK, CURRENT, document.release)
        assert rehearsed(site, ONNX) is None
        lower = deployment_for(candidate(ONNX_INT8), places.point_of(ONNX_INT8), None, None)
        store.stage(lower, artifact(ONNX_INT8), None)
        rungs = [StagedRung(release=one.release, candidate=one.candidate, point="") for one in (document, lower)]
        store.keep_ladder(TASK, StagedLadder(task=TASK, rungs=tuple(rungs)))
        store.set_link(TASK, CURRENT, lower.release)
        assert rehearsed(site, ONNX) is None, "it was stepped down from, which is no switch"


def test_one_that_is_stopped_switches_nothing_and_blames_nobody(tmp_path: Path) -> None:
    with at(tmp_path, shadow={}) as site:
        places.deploy(site.state_dir, ONNX)
        site.stop = lambda: True
        with pytest.raises(Interrupted):
            rehearsed(site, ONNX_INT8)
        assert Shadows(site.database).all() == {}
        assert events(site) == []


def test_the_settings_are_checked() -> None:
    from agent.errors import ConfigError

    bad: list[dict[str, Any]] = [{"agreement": 1.5}, {"share": 0}, {"requests": 0}, {"time": 5}, {"without": "skip"}]
    for shadow in bad:
        with pytest.raises(ConfigError, match=r"shadow"):
            parse_config({"tasks": {TASK: {"shadow": shadow}}}, path=None)


def test_the_worker_is_confined_and_at_idle_priority(site: Site) -> None:
    wanted = places.document_for(ONNX_INT8)
    also: dict[str, object] = {"classifies": True, "tolerance": 0.1, "incumbent_label_offset": 0}
    with Understudy(
        wanted, artifact(ONNX_INT8), also, clock=site.clock, stop=site.stop, growth_bytes=None
    ) as understudy:
        pid = understudy._process.pid
        threads = [int(one.name) for one in Path(f"/proc/{pid}/task").iterdir()]
        assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_IDLE}
        status = Path(f"/proc/{pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert [fd.name for fd in Path(f"/proc/{pid}/fd").iterdir() if "socket" in str(fd.readlink())] == []
    assert not Path(f"/proc/{pid}").exists()
