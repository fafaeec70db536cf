"""Simulated boards at a real broker: they judge signed commands as real ones do. What they measure is made up."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import msgspec

from agent.core.operators import Operator
from agent.core.topics import parse_topic
from agent.mqtt import BrokerSettings, Connection, Incoming, drive
from benchmarks.simulated.documents import BoardClass
from tests.fleet.simulated_fleet import FLEET, SimulatedBoard, Ways


class BoardsAtBroker:
    """Simulated boards over one connection, in a thread of its own."""

    def __init__(
        self, settings: BrokerSettings, operators: Iterable[Operator], boards: dict[str, tuple[str, Ways]]
    ) -> None:
        self._connection = Connection(msgspec.structs.replace(settings, client_id="simulated-boards"))
        self._connection.connect(10)
        listed = tuple(operators)
        self.members = {
            name: SimulatedBoard(
                name, BoardClass(name=kind, class_fingerprint=kind), ways, self._tell, operators=listed
            )
            for name, (kind, ways) in boards.items()
        }
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
        assert name is not None
        self.members[name].take(incoming.topic, incoming.payload)
