"""Simulated boards at a real broker: they judge signed commands as real ones do. What they measure is made up."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import msgspec

from agent.core.operators import Operator
from agent.core.topics import parse_topic
from agent.mqtt import BrokerSettings, Connection, Incoming, Publication, drive
from benchmarks.simulated.documents import BoardClass
from tests.fleet.simulated_fleet import FLEET, SimulatedBoard, Ways


class BoardsAtBroker:
    """Simulated boards over one connection, in a thread of its own."""

    def __init__(
        self, settings: BrokerSettings, operators: Iterable[Operator], boards: dict[str, tuple[str, Ways]]
    ) -> None:
        listed = tuple(operators)
        self.members: dict[str, SimulatedBoard] = {}
        self._unacked: list[tuple[str, bytes, bool, Publication | None]] = []
        self._connection = Connection(
            msgspec.structs.replace(settings, client_id="simulated-boards"), on_online=self._online
        )
        self._connection.connect(10)
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
        self._send()
        assert drive(self._connection, lambda: all(sent and sent.state == "acked" for *_, sent in self._unacked), 10)
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
            self._send()

    def _tell(self, topic: str, payload: bytes, retain: bool) -> None:
        self._unacked.append((topic, payload, retain, None))

    def _online(self) -> None:
        """Say what is retained anew, and again which jobs the broker has not taken, as a board's outbox does."""
        self._unacked = [(topic, payload, retain, None) for topic, payload, retain, _ in self._unacked if not retain]
        for member in self.members.values():
            member.hello()

    def _send(self) -> None:
        if self._connection.state != "online":
            return
        left = [one for one in self._unacked if one[3] is None or one[3].state != "acked"]
        self._unacked = [
            (topic, payload, retain, sent or self._connection.publish(topic, payload, retain=retain))
            for topic, payload, retain, sent in left
        ]

    def _received(self, incoming: Incoming) -> None:
        name = parse_topic(incoming.topic).device
        assert name is not None
        self.members[name].take(incoming.topic, incoming.payload)
