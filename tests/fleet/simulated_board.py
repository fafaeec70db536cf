"""A simulated board: the real protocol code of a board over a real broker, and no agent behind it. Results are made up.

It tells a retained status and profile, judges commands as a board does (``agent.core.command.judge``), and ends each
job as ``ends`` says, unless ``holds`` keeps it at work.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.clock import iso
from agent.core.command import Command, Recipient, judge, read_command
from agent.core.envelope import COMMAND_TYPE, open_envelope
from agent.core.facts import BoardIdentity, CpuFacts, DeviceFacts, EngineFacts, MemoryFacts, OsFacts
from agent.core.messages import encode
from agent.core.operators import Operator
from agent.core.payloads import DecisionMessage, DeploymentMessage, Job, Origin, Profile, Reported, Status
from agent.core.topics import address, inbound_filters, parse_topic, topic_for
from agent.errors import OrderError
from agent.mqtt import BrokerSettings, Connection, Incoming, Will, drive

EPOCH = "e" * 32


class SimulatedBoard:
    """One board in a thread of its own."""

    def __init__(
        self,
        settings: BrokerSettings,
        name: str,
        operators: Iterable[Operator] = (),
        *,
        groups: tuple[str, ...] = (),
        soc: str = "bcm2712",
        ends: str = "SUCCEEDED",
        holds: bool = False,
        silent: bool = False,
    ) -> None:
        self.at = address("plant", name)
        self.groups = groups
        self.soc = soc
        self.ends = ends
        self.holds = holds
        self.silent = silent
        self.commands: list[Command] = []
        self._operators = {operator.keyid: operator for operator in operators}
        self._counter = 0
        self._stopping = threading.Event()
        will = Will(topic=topic_for(self.at, "status"), payload=encode(self._status("offline")))
        self._connection = Connection(msgspec.structs.replace(settings, client_id=name), will=will)
        self._connection.connect(10)
        for pattern in inbound_filters(self.at, groups):
            self._connection.subscribe(pattern, self._received)
        assert drive(self._connection, lambda: self._connection.listening, 10)
        told = [
            self._tell("status", self._status("online")),
            self._tell("profile", self._profile()),
            self._tell("reported", Reported(**self._origin(), version=1, agent_version="0.1.0", groups=groups)),
        ]
        assert drive(self._connection, lambda: all(one.state == "acked" for one in told), 10)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            drive(self._connection, self._stopping.is_set, 0.05)

    def stop(self, *, goodbye: bool = True) -> None:
        """Leave; without a goodbye the broker publishes the last will."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._thread.join()
        if not goodbye:
            self._connection._drop_socket()
        self._connection.close()

    def tell_task(self, task: str, candidate: str, p95_s: float) -> None:
        """Tell of a deployment and the decision before it; call it before anybody listens."""
        now = iso(datetime.now(timezone.utc))
        self._tell(
            "deployment",
            DeploymentMessage(**self._origin(), task=task, phase="ACTIVE", changed_at=now, candidate=candidate),
            task,
        )
        decision = DecisionMessage(
            **self._origin(), id="d1", task=task, decided_at=now, class_fingerprint="c", outcome="chosen",
            reason="made up", options_total=1, options_fitting=1, options=(), budgets=(), objectives=(),
            candidate=candidate, latency_p95_s=p95_s,
        )  # fmt: skip
        self._tell("decision", decision, task)

    def _origin(self) -> dict[str, Any]:
        time = iso(datetime.now(timezone.utc))
        return msgspec.structs.asdict(Origin(fleet="plant", device=self.at.device, boot_id="b", time=time))

    def _status(self, state: Any) -> Status:
        return Status(**self._origin(), state=state, agent_version="0.1.0", epoch=EPOCH)

    def _profile(self) -> Profile:
        facts = DeviceFacts(
            board=BoardIdentity(model="simulated", profile="simulated", matched_on="nothing", soc=self.soc),
            cpu=CpuFacts(architecture="aarch64", present=(0, 1, 2, 3), usable=(0, 1, 2, 3)),
            memory=MemoryFacts(total_bytes=8 * 1024**3),
            os=OsFacts(name="simulated"),
            class_fingerprint=f"{self.soc.encode().hex():0<64}",
            engines=(EngineFacts(name="onnxruntime", formats=("onnx",), proven=True),),
        )
        return Profile(
            **self._origin(), class_fingerprint=facts.class_fingerprint, profile="simulated", facts=facts,
            model="simulated", soc=self.soc, architecture="aarch64", cores_usable=4, memory_total_bytes=8 * 1024**3,
        )  # fmt: skip

    def _tell(self, kind: Any, message: Origin, parameter: str | None = None) -> Any:
        retain = kind != "job"
        return self._connection.publish(topic_for(self.at, kind, parameter), encode(message), retain=retain)

    def _received(self, incoming: Incoming) -> None:
        if parse_topic(incoming.topic).kind != "cmd":
            return
        sealed = open_envelope(incoming.payload, COMMAND_TYPE)
        operator = self._operators.get(sealed.keyid)
        if operator is None or self.silent:
            return
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(operator.public_key)).verify(
                sealed.signature, sealed.signed_bytes
            )
        except InvalidSignature:
            return
        command = read_command(sealed.payload)
        here = Recipient(
            fleet="plant", device=self.at.device, groups=self.groups, epoch=EPOCH, now=datetime.now(timezone.utc)
        )
        try:
            judge(command, operator, here, self._counter)
        except OrderError as error:
            self._job(command, "REJECTED", 1, reason=error.problem)
            return
        self._counter = command.counter
        self.commands.append(command)
        self._job(command, "QUEUED", 1)
        self._job(command, "IN_PROGRESS", 2, stage="measure", done=1, total=4)
        if not self.holds:
            self.end(command)

    def end(self, command: Command) -> None:
        """End a job as ``ends`` says."""
        reason = None if self.ends == "SUCCEEDED" else "no candidate fits"
        self._job(command, self.ends, 3, reason=reason, exit_code=0 if reason is None else 3)

    def _job(self, command: Command, state: Any, revision: int, **more: Any) -> None:
        job = Job(**self._origin(), id=command.id, verb=command.verb, state=state, revision=revision, **more)
        self._tell("job", job, command.id)
