"""A ladder from the decision to the application: chosen, staged and proven by a pass; stepped by a real daemon."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent import pipeline
from agent.client import Model, open_model
from agent.config import load_config
from agent.core.decision import Decision
from agent.core.deployment import SOCKET_NAME, RungPlace, StagedLadder, StagedRung
from agent.core.histogram import bucket_of
from agent.core.live import LiveReport
from agent.core.manifest import Candidate
from agent.deploy.store import ReleaseStore
from agent.mqtt import BrokerSettings
from agent.site import Site
from tests.brokers import Listener, Mosquitto
from tests.client import places
from tests.client.places import ONNX, ONNX_INT8, TASK
from tests.scenarios.conftest import Installation
from tests.scenarios.test_daemon import WAIT_S, Service, start
from tests.select.measured import accuracy, measurement

__all__ = ["start"]  # the fixture
BUDGETS = {"latency_p95": "20 ms", "accuracy_top1": ">= 0.8"}
#: Figures for the three candidates of the registry, made up: (p95 in seconds, right of a thousand).
MADE_UP = {
    "densenet_bc-k8-onnx-f32": (0.016, 990),
    "mobilenet_v1-w025-tflite-f32": (0.008, 960),
    ONNX_INT8: (0.004, 900),
}


def measured(site: Site, found: Candidate) -> None:
    """Store a measurement with made-up figures under a candidate's real name and artifact."""
    p95_s, right = MADE_UP[found.manifest.name]
    facts = site.facts()
    point = msgspec.structs.replace(places.point_of(found.manifest.name), engine_version="1")
    site.records.add_measurement(
        measurement(
            found.manifest.name, p95_s=p95_s, id=f"made-up-{found.manifest.name}", artifact_sha256=found.sha256,
            class_fingerprint=facts.class_fingerprint, point=point, size_bytes=found.size_bytes,
            accuracy=accuracy([number < right for number in range(1000)]),
        )
    )  # fmt: skip


@pytest.fixture
def site(installation: Installation) -> Site:
    installation.write(tasks={TASK: {"budgets": BUDGETS, "ladder": {"rungs": 3}}})
    made = Site(load_config(installation.config), installation.state)
    pipeline.profile(made)
    pipeline.sync(made)
    for found in made.registry.candidates(TASK):
        measured(made, found)
    return made


def deployed(site: Site) -> Decision:
    facts = site.facts()
    decision = pipeline.choose(site, TASK, facts)
    assert decision.winner is not None
    pipeline.deploy(site, TASK, decision.winner, facts, ladder=decision.ladder)
    return decision


def test_a_pass_stages_and_proves_the_ladder_of_its_decision(site: Site) -> None:
    decision = deployed(site)
    names = [rung.choice.candidate for rung in decision.ladder]
    assert names == list(MADE_UP)
    status = site.deployer(site.config.task(TASK)).status(TASK)
    assert ([rung.candidate for rung in status.ladder], status.rung) == (names, 0)
    from agent.select.explain import explain

    assert f"  3. {ONNX_INT8} (onnxruntime/CPU x1): p95 4 ms instead of 8 ms of {names[1]}." in explain(decision)
    site.close()


def test_a_pass_in_the_middle_of_a_degradation_leaves_the_rung(site: Site) -> None:
    deployed(site)
    deployer = site.deployer(site.config.task(TASK))
    lower = deployer.status(TASK).ladder[1]
    deployer.step(TASK, lower.release, "calls are over 20 ms")
    decision = deployed(site)
    assert decision.outcome == "kept_incumbent"
    assert decision.incumbent is not None and decision.incumbent.candidate == "densenet_bc-k8-onnx-f32"
    status = deployer.status(TASK)
    assert (status.rung, status.current is not None and status.current.candidate) == (1, lower.candidate)
    site.close()


def test_who_orders_by_name_what_serves_already_leaves_its_ladder(site: Site) -> None:
    decision = deployed(site)
    assert decision.winner is not None
    status = pipeline.deploy(site, TASK, decision.winner, site.facts(), force=True)
    assert (status.outcome, len(status.ladder)) == ("unchanged", 3)
    site.close()


def prepared(installation: Installation) -> tuple[str, str]:
    """Lay a ladder of two real models with made-up figures, as a pass leaves it."""
    store, rungs = ReleaseStore(installation.state / "deploy"), []
    for number, (name, p95_s) in enumerate(((ONNX, 0.016), (ONNX_INT8, 0.008))):
        place = RungPlace(index=number, count=2)
        made = places.stage(installation.state, name, expected={"latency_p95_s": p95_s}, rung=place)
        rungs.append(StagedRung(release=made.release, candidate=name, point=made.point.label, latency_p95_s=p95_s))
    store.set_link(TASK, "current", rungs[0].release)
    store.keep_ladder(TASK, StagedLadder(task=TASK, rungs=tuple(rungs)))
    return rungs[0].release, rungs[1].release


def telling(state: Path, release: str, latency_s: float, until: Callable[[], bool], model: Model) -> None:
    """Tell, once a second as an application does, of calls that take so long, and go on calling the model."""
    x = np.zeros([max(1, size) for size in model.deployment.inputs[0].shape], np.float32)
    report = LiveReport(
        task=TASK, release=release, period_s=0.25, requests=50, latency=((bucket_of(int(latency_s * 1e9)), 50),)
    )
    end = time.monotonic() + WAIT_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(str(state / SOCKET_NAME))
        told_s = 0.0
        while not until():
            assert time.monotonic() < end
            model(x)
            if time.monotonic() - told_s >= 0.3:  # the agent takes four a second of a process
                told_s = time.monotonic()
                sender.send(msgspec.json.encode(report))


def test_a_daemon_steps_down_and_the_application_follows(
    start: Callable[..., Service],
    installation: Installation,
    broker: Mosquitto,
    listen: Callable[[BrokerSettings], Listener],
) -> None:
    fleet = listen(broker.settings())
    top, lower = prepared(installation)
    installation.registry = str(installation.folder / "nowhere")  # its passes fail: nothing else is switched
    service = start(tasks={TASK: {"budgets": BUDGETS, "ladder": {}}})
    service.wait_for("READY=1")
    with open_model(TASK, state_dir=installation.state, check_s=0.05, tell_s=1e6) as model:
        telling(installation.state, top, 0.040, lambda: model.rung == 1, model)
        assert model.deployment.release == lower
        text = installation("status").out
        assert "(rung 2 of 2)" in text
        assert (model.swaps, model.refused) == (1, None)  # up again is for a machine that nobody else uses

    def kinds() -> list[str]:
        return [msgspec.json.decode(one.payload)["kind"] for one in fleet.topic("/event")]

    fleet.wait(lambda: "ladder_stepped_down" in kinds() and bool(fleet.topic("/deployment/digits")), WAIT_S)
    told = msgspec.json.decode(fleet.topic("/deployment/digits")[-1].payload)
    assert (told["phase"], told["rung"], told["chosen_candidate"]) == ("stepped", 1, ONNX)
    errors = service.stop()
    assert service.process.returncode == 0, errors
    assert "Traceback" not in errors
