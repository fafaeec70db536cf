"""Simulated boards at a real broker: they judge signed commands as real ones do. What they measure is made up."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime, timezone

import msgspec

from agent.core.command import Recipient, judge, read_command
from agent.core.envelope import COMMAND_TYPE, open_envelope
from agent.core.operators import Operator
from agent.core.topics import parse_topic
from agent.errors import OrderError
from agent.fleet.rollout_board import Order
from agent.mqtt import BrokerSettings, Connection, Incoming, drive
from agent.signatures import verify_ed25519
from tests.fleet.simulated_fleet import FLEET, SimulatedBoard, Ways


class BoardsAtBroker:
    """Simulated boards over one connection, in a thread of its own."""

    def __init__(
        self, settings: BrokerSettings, operators: Iterable[Operator], boards: dict[str, tuple[str, Ways]]
    ) -> None:
        self._operators = {operator.keyid: operator for operator in operators}
        self._counters: dict[tuple[str, str], int] = {}
        self._connection = Connection(msgspec.structs.replace(settings, client_id="simulated-boards"))
        self._connection.connect(10)
        self.members = {name: SimulatedBoard(name, kind, ways, self._tell) for name, (kind, ways) in boards.items()}
        self._connection.subscribe(f"boardfit/v1/{FLEET}/+/cmd/+", self._received)
        assert drive(self._connection, lambda: self._connection.listening, 10)
        for member in self.members.values():
            member.hello()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._connection.close()

    def serving(self) -> dict[str, str | None]:
        return {name: member.serving for name, member in self.members.items()}

    def _run(self) -> None:
        while not self._stopping.is_set():
            drive(self._connection, self._stopping.is_set, 0.02)
            for member in self.members.values():
                member.work()

    def _tell(self, topic: str, payload: bytes, retain: bool) -> None:
        self._connection.publish(topic, payload, retain=retain)

    def _received(self, incoming: Incoming) -> None:
        name = parse_topic(incoming.topic).device
        sealed = open_envelope(incoming.payload, COMMAND_TYPE)
        operator = self._operators[sealed.keyid]
        assert name is not None
        assert verify_ed25519(operator.public_key, sealed.signature, sealed.signed_bytes)
        command, member = read_command(sealed.payload), self.members[name]
        order = Order(
            board=name, verb=command.verb, job=command.id, arguments=command.arguments, epoch=command.epoch,
            deadline_s=command.deadline_s or 0.0,
        )  # fmt: skip
        here = Recipient(
            fleet=FLEET, device=name, groups=(), epoch=member.epoch, now=datetime.now(timezone.utc), clock_synced=True
        )
        try:
            judge(command, operator, here, self._counters.get((name, operator.name), 0))
        except OrderError as error:
            member._job(order, "REJECTED", 1, reason=error.problem)
            return
        self._counters[name, operator.name] = command.counter
        member.order(order)
