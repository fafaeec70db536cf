"""Orders end to end: a registry lists an operator, a board syncs, and does with its real verbs what he signs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec

from agent.clock import iso
from agent.core.command import Audience, Command
from agent.core.payloads import Job, Status
from agent.core.topics import address, topic_for
from agent.fleet.signing import OperatorKey
from agent.mqtt import BrokerSettings
from tests.brokers import Listener, Mosquitto
from tests.scenarios.conftest import CANDIDATES, ROOT, Installation, run

WAIT_S = 120.0


def test_a_listed_operator_is_obeyed_until_he_is_taken_out(
    installation: Installation,
    registry: Path,
    broker: Mosquitto,
    listen: Callable[[BrokerSettings], Listener],
    tmp_path: Path,
) -> None:
    pem = tmp_path / "otto.pem"
    listed = run("registry", "operators", "add", registry, "--name", "otto", "--role", "operator", "--make", pem)
    assert listed.code == 0, listed.err
    key, fleet, counter = OperatorKey.load(pem), listen(broker.settings()), 0
    installation.write(mqtt={"url": broker.settings().url, "fleet": "test"}, device={"id": "board"})
    files = ["--config", installation.config, "--state-dir", installation.state]
    daemon = subprocess.Popen([sys.executable, "-m", "agent", "run", *files], cwd=ROOT)

    def order(verb: str, **arguments: Any) -> str:
        nonlocal counter
        counter, now = counter + 1, datetime.now(timezone.utc)
        epoch = msgspec.json.decode(fleet.topic("/board/status")[-1].payload, type=Status).epoch
        command = Command(
            schema="boardfit.command/1", id=f"job-{counter:04}", verb=verb, issuer="otto", counter=counter,  # type: ignore[arg-type]
            audience=Audience(fleet="test", device="board"), issued_at=iso(now),
            expires_at=iso(now + timedelta(minutes=9)),
            epoch=epoch if verb in ("deploy", "rollback") else None, arguments=arguments,
        )  # fmt: skip
        topic = topic_for(address("test", "board"), "cmd", verb)
        sent = fleet.connection.publish(topic, key.sign_command(command))
        fleet.wait(lambda: sent.state == "acked", WAIT_S)
        return command.id

    def documents(job_id: str) -> list[Job]:
        return [msgspec.json.decode(one.payload, type=Job) for one in fleet.topic(f"/job/{job_id}")]

    def ended(job_id: str) -> Job:
        fleet.wait(lambda: any(job.finished_at for job in documents(job_id)), WAIT_S)
        return documents(job_id)[-1]

    try:
        fleet.wait(lambda: bool(fleet.topic("/deployment/digits")), WAIT_S)  # the pass at start-up: it has synced, too
        fleet.wait(lambda: bool(fleet.topic("/board/profile")), WAIT_S)  # it has ended
        status = ended(order("status"))
        assert status.result["digits.candidate"] in CANDIDATES
        assert ended(order("profile")).result["class_fingerprint"]
        chosen = ended(order("select", task="digits"))
        assert (chosen.state, chosen.result["candidate"]) == ("SUCCEEDED", status.result["digits.candidate"])
        other = next(name for name in CANDIDATES if name != status.result["digits.candidate"])
        measured = ended(order("bench", task="digits", candidates=[other]))
        assert measured.state == "SUCCEEDED", measured.reason
        assert measured.result["measured"] == 1
        deployed = ended(order("deploy", task="digits", candidate=other))
        assert (deployed.state, deployed.result["candidate"]) == ("SUCCEEDED", other), deployed.reason
        back = ended(order("rollback", task="digits"))
        assert (back.state, back.result["candidate"]) == ("SUCCEEDED", status.result["digits.candidate"]), back.reason
        assert run("registry", "operators", "remove", registry, "--name", "otto").code == 0
        synced = ended(order("sync"))
        assert (synced.state, synced.result["candidates"]) == ("SUCCEEDED", len(CANDIDATES))
        unheard = order("status")
        fleet.wait(lambda: any(b"orders_ignored" in one.payload for one in fleet.topic("/board/event")), WAIT_S)
        assert documents(unheard) == []
    finally:
        daemon.terminate()
        assert daemon.wait(60) == 0
    assert "takes no commands" in installation("doctor").out
