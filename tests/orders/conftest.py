"""A board under a real daemon and a real broker, and operators with real keys."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.clock import iso
from agent.core.command import Audience, Command
from agent.core.desired import Desired, DesiredAudience, DesiredSettings
from agent.core.operators import Operator, OperatorList
from agent.core.payloads import Job, Reported, Status
from agent.core.topics import address, broadcast_topic, desired_topic, topic_for
from agent.database import FILE_NAME, Database
from agent.fleet.signing import OperatorKey
from agent.records import Records
from tests.brokers import Listener, Mosquitto

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0
KEYS = {name: OperatorKey(Ed25519PrivateKey.generate()) for name in ("vera", "otto", "anna", "mallory")}
ROLES = {"vera": "viewer", "otto": "operator", "anna": "admin"}  # mallory is on no list


def operator_list(*names: str) -> bytes:
    """Return the document of a list of some of them."""
    later = iso(datetime.now(timezone.utc) + timedelta(days=30))
    listed = [Operator(name=n, public_key=KEYS[n].public_key, role=ROLES[n], valid_until=later) for n in names]
    return msgspec.json.encode(OperatorList(operators=tuple(listed)))


class Board:
    """One board ``pi`` of the fleet ``plant`` in the group ``line-2``, and what is heard of it."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.folder = folder
        self.config = folder / "agent.yaml"
        self.state = folder / "state"
        self.process: subprocess.Popen[bytes] | None = None
        self.fleet = Listener(broker.settings())
        self._counters = count(1)
        mqtt = {"url": broker.settings().url, "fleet": "plant", "group": ["line-2"]}
        self.document = {
            "device": {"id": "pi"},
            "mqtt": mqtt,
            "tasks": {"digits": {"budgets": {"latency_p95": "20 ms"}}},
        }
        self.config.write_text(yaml.safe_dump(self.document))
        self.list_operators(*ROLES)

    def list_operators(self, *names: str) -> None:
        """Put a list on the board as a sync does."""
        with Database(self.state / FILE_NAME) as database:
            Records(database).keep_operators(operator_list(*names))

    def start(self, fault: str = "", *, stores: bool = True) -> Board:
        """Start the daemon and wait until the fleet knows of it. Args: stores: whether its disk takes what is told."""
        before, said = len(self.fleet.topic("/status")), len(self.fleet.topic("/reported"))
        command = [
            sys.executable,
            "-m",
            "tests.orders.service",
            self.config,
            self.state,
            self.folder,
            *filter(None, [fault]),
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        self.fleet.wait(
            lambda: (
                any(one.state != "offline" for one in self.statuses[before:])
                and (len(self.fleet.topic("/reported")) > said or not stores)
            ),
            WAIT_S,
        )
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the daemon and wait until the fleet knows that, too."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for the daemon's end."""
        assert self.process is not None
        code = self.process.wait(WAIT_S)
        self.fleet.wait(lambda: self.statuses[-1].state == "offline", WAIT_S)
        return code

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.fleet.connection.close()

    @property
    def statuses(self) -> list[Status]:
        return [msgspec.json.decode(one.payload, type=Status) for one in self.fleet.topic("/pi/status")]

    @property
    def epoch(self) -> str:
        return next(one.epoch for one in reversed(self.statuses) if one.epoch)

    @property
    def reported(self) -> Reported:
        return msgspec.json.decode(self.fleet.topic("/pi/reported")[-1].payload, type=Reported)

    def calls(self, verb: str) -> list[str]:
        """Return the command lines of a verb that were begun."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition(" --json")[0] for line in lines if line.split()[0] == verb]

    def command(self, verb: str, issuer: str = "otto", **changes: Any) -> Command:
        """Return a command that this board obeys, but for what is changed."""
        number = next(self._counters)
        now = datetime.now(timezone.utc)
        made: dict[str, Any] = {
            "schema": "boardfit.command/1", "id": f"job-{number:04}", "verb": verb, "issuer": issuer, "counter": number,
            "audience": Audience(fleet="plant", device="pi"), "issued_at": iso(now),
            "expires_at": iso(now + timedelta(minutes=10)),
            "epoch": self.epoch if verb in ("deploy", "rollback") else None,
            "arguments": {"task": "digits"} if verb in ("deploy", "rollback") else {},
        }  # fmt: skip
        return Command(**made | changes)

    def publish(self, command: Command, envelope: bytes, *, retain: bool = False) -> str:
        """Publish an envelope where its command belongs. Returns: the job's id."""
        to = command.audience
        topic = broadcast_topic("plant", command.verb, to.group)
        if to.device is not None:
            topic = topic_for(address("plant", "pi"), "cmd", command.verb)
        self._send(topic, envelope, retain=retain)
        return command.id

    def _send(self, topic: str, envelope: bytes, *, retain: bool) -> None:
        sent = self.fleet.connection.publish(topic, envelope, retain=retain)
        self.fleet.wait(lambda: sent.state == "acked")

    def order(self, verb: str, issuer: str = "otto", **changes: Any) -> str:
        """Send a command. Returns: the job's id."""
        command = self.command(verb, issuer, **changes)
        return self.publish(command, KEYS[issuer].sign_command(command))

    def jobs(self, job_id: str) -> list[Job]:
        """Return a job's documents as they came."""
        return [msgspec.json.decode(one.payload, type=Job) for one in self.fleet.topic(f"/job/{job_id}")]

    def wait(self, job_id: str, *states: str) -> Job:
        """Wait for a job's state. Returns: the document that tells it."""
        self.fleet.wait(lambda: any(job.state in states for job in self.jobs(job_id)), WAIT_S)
        return next(job for job in self.jobs(job_id) if job.state in states)

    def desire(self, version: int, settings: dict[str, Any], issuer: str = "anna", group: str | None = None) -> None:
        """Publish a retained desired state of the board, or of a group."""
        audience = DesiredAudience(fleet="plant", device=None if group else "pi", group=group)
        wanted = Desired(
            schema="boardfit.desired/1", version=version, issuer=issuer, audience=audience,
            issued_at=iso(datetime.now(timezone.utc)), settings=msgspec.convert(settings, DesiredSettings),
        )  # fmt: skip
        topic = desired_topic("plant", None if group else "pi", group)
        self._send(topic, KEYS[issuer].sign_desired(wanted), retain=True)

    def hold(self, verb: str) -> Hold:
        """Let a verb wait."""
        return Hold(self.folder / f"hold-{verb}")


class Hold:
    """Where a verb waits until it is let go."""

    def __init__(self, pipe: Path) -> None:
        self._pipe = pipe
        os.mkfifo(pipe)

    def reached(self) -> IO[bytes]:
        """Wait until a verb stands here. Returns: what lets it go on when it is closed."""
        return self._pipe.open("wb")  # opens when somebody reads

    def release(self) -> None:
        """Wait until a verb stands here, and let it and all later ones go on."""
        with self.reached():
            self._pipe.unlink()


@pytest.fixture
def board(tmp_path: Path, broker: Mosquitto) -> Iterator[Board]:
    made = Board(tmp_path, broker)
    yield made
    made.close()
