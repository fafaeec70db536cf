"""A rollback ordered while a deployment is on probation, by real verbs: it ends the probation, whoever began it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from agent.clock import iso
from agent.core.command import Audience, Command
from agent.core.payloads import DeploymentMessage, Event, Job, Status
from agent.core.topics import address, topic_for
from agent.database import FILE_NAME, Database
from agent.deploy.journal import Journal
from agent.fleet.signing import OperatorKey
from agent.mqtt import BrokerSettings, drive
from tests.brokers import Listener, Mosquitto
from tests.scenarios.conftest import CANDIDATES, QUICK, ROOT, Installation, run

WAIT_S = 60.0
SMALL, OTHER = CANDIDATES[0], CANDIDATES[1]
ONLY_SMALL = {"digits": {"budgets": {"size": "<= 60 KiB"}, "probation": "1 h"}}


class Scene:
    """A board with a daemon, where ``OTHER`` was put in place by hand and the pass wants ``SMALL``."""

    def __init__(self, installation: Installation, fleet: Listener, key: OperatorKey) -> None:
        self.installation, self.fleet, self.key = installation, fleet, key
        self.counter = 0
        files = ["--config", installation.config, "--state-dir", installation.state]
        self.daemon = subprocess.Popen([sys.executable, "-m", "agent", "run", *files], cwd=ROOT)
        fleet.wait(lambda: bool(fleet.topic("/board/status")), WAIT_S)

    def order(self, verb: str, **arguments: Any) -> str:
        self.counter, now = self.counter + 1, datetime.now(timezone.utc)
        epoch = msgspec.json.decode(self.fleet.topic("/board/status")[-1].payload, type=Status).epoch
        command = Command(
            schema="boardfit.command/1", id=f"job-{self.counter:04}", verb=verb, issuer="otto", counter=self.counter,  # type: ignore[arg-type]
            audience=Audience(fleet="test", device="board"), issued_at=iso(now), epoch=epoch,
            expires_at=iso(now + timedelta(minutes=9)), arguments={"task": "digits", **arguments},
        )  # fmt: skip
        topic = topic_for(address("test", "board"), "cmd", verb)
        sent = self.fleet.connection.publish(topic, self.key.sign_command(command))
        self.fleet.wait(lambda: sent.state == "acked", WAIT_S)
        return command.id

    def ended(self, job_id: str) -> Job:
        def documents() -> list[Job]:
            return [msgspec.json.decode(one.payload, type=Job) for one in self.fleet.topic(f"/job/{job_id}")]

        self.fleet.wait(lambda: any(job.finished_at for job in documents()), WAIT_S)
        return next(job for job in documents() if job.finished_at)

    def wait_for_probation(self) -> None:
        """Wait for what is in the journal and is told to nobody while it lasts."""
        end, phase = time.monotonic() + WAIT_S, None
        while phase != "probation":
            assert time.monotonic() < end, phase
            drive(self.fleet.connection, lambda: False, 0.1)
            with Database(self.installation.state / FILE_NAME) as database:
                record = Journal(database).read("digits")
            phase = None if record is None else record.phase

    def withdrawn(self) -> list[str]:
        with Database(self.installation.state / FILE_NAME) as database:
            return [one.candidate for one in Journal(database).failures() if one.reason == "rolled back by hand"]

    def serving(self) -> DeploymentMessage:
        return msgspec.json.decode(self.fleet.topic("/deployment/digits")[-1].payload, type=DeploymentMessage)

    def events(self, kind: str) -> list[str]:
        found = [msgspec.json.decode(one.payload, type=Event) for one in self.fleet.topic("/board/event")]
        return [one.text for one in found if one.kind == kind]


@pytest.fixture
def scene(
    installation: Installation,
    registry: Path,
    broker: Mosquitto,
    listen: Callable[[BrokerSettings], Listener],
    tmp_path: Path,
) -> Iterator[Scene]:
    pem = tmp_path / "otto.pem"
    listed = run("registry", "operators", "add", registry, "--name", "otto", "--role", "operator", "--make", pem)
    assert listed.code == 0, listed.err
    quick = {**QUICK, "processes": 1}
    installation.write(measure=quick)
    assert installation("bench", "--candidate", SMALL, "--candidate", OTHER).code == 0
    assert installation("deploy", "--task", "digits", "--candidate", OTHER).code == 0
    installation.tasks = ONLY_SMALL
    installation.write(mqtt={"url": broker.settings().url, "fleet": "test"}, device={"id": "board"}, measure=quick)
    made = Scene(installation, listen(broker.settings()), OperatorKey.load(pem))
    try:
        yield made
    finally:
        made.daemon.terminate()
        assert made.daemon.wait(60) == 0


def test_a_rollback_ends_a_probation_and_a_child_that_died_in_one_leaves_nothing_unfinished(scene: Scene) -> None:
    scene.wait_for_probation()  # of the pass at start-up, which nobody ordered
    back = scene.ended(scene.order("rollback"))
    assert (back.state, back.result["candidate"]) == ("SUCCEEDED", OTHER), back.reason
    assert scene.withdrawn() == [SMALL]
    deploying = scene.order("deploy", candidate=SMALL)
    scene.wait_for_probation()
    back = scene.ended(scene.order("rollback"))
    assert (back.state, back.result["candidate"]) == ("SUCCEEDED", OTHER), back.reason
    canceled = scene.ended(deploying)
    assert (canceled.state, canceled.reason) == (
        "CANCELED", "otto ordered a rollback before it was confirmed; what ran before is back",
    )  # fmt: skip
    assert scene.withdrawn() == [SMALL]
    deploying = scene.order("deploy", candidate=SMALL)
    scene.wait_for_probation()
    for child in psutil.Process(scene.daemon.pid).children():
        child.kill()
    assert scene.ended(deploying).state == "FAILED"
    scene.fleet.wait(lambda: bool(scene.events("deployment_recovered")), WAIT_S)
    scene.fleet.wait(lambda: scene.serving().candidate == OTHER, WAIT_S)
    assert scene.serving().phase == "rolled_back"
    assert scene.serving().withheld == {SMALL: "quarantined after 4 failures, the last: interrupted in phase probation"}
    pardoned = scene.ended(scene.order("pardon"))
    assert (pardoned.state, pardoned.result) == ("SUCCEEDED", {"pardoned": 1, "candidates": SMALL}), pardoned.reason
    scene.fleet.wait(lambda: not scene.serving().withheld, WAIT_S)
    assert scene.events("model_pardoned") == [f"{SMALL} may be tried again"]
