"""A simulated collector: stores what devices send in a real SQLite file over a real connection, then gives receipts."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path

import msgspec

from agent.core.collecting import CollectorStatus, Receipt
from agent.core.topics import address, collector_topic, parse_topic, topic_for
from agent.mqtt import BrokerSettings, Connection, Incoming, Will, drive
from agent.report.receipts import digest

RECORDS = {"event", "job", "measurement", "decision", "deployment", "reported"}


class SimulatedCollector:
    """Runs in a thread of its own. ``silent``: stores, and gives no receipts."""

    def __init__(self, settings: BrokerSettings, fleet: str, path: Path, *, silent: bool = False) -> None:
        self.fleet, self.path, self.silent = fleet, path, silent
        self._settings = settings
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._took = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> SimulatedCollector:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def stop(self) -> None:
        """Leave as a killed process does: the broker says offline for it."""
        self._stop.set()
        self._thread.join()

    def stored(self) -> list[tuple[int, str]]:
        """Return (seq, text of the event) in the order they were first stored."""
        with sqlite3.connect(self.path) as database:
            rows = database.execute("SELECT payload FROM record ORDER BY rowid").fetchall()
        found = [json.loads(row[0]) for row in rows]
        return [(one["seq"], one.get("text", "")) for one in found]

    def wait_for(self, seq: int) -> None:
        """Wait until a record is stored."""
        with self._took:
            assert self._took.wait_for(lambda: seq in {one for one, _ in self.stored()}, 60)

    def retire(self) -> None:
        """Take the announcement away for good."""
        with_nobody = Connection(self._settings)
        with_nobody.connect(10)
        gone = with_nobody.publish(self._topic, b"", retain=True)
        assert drive(with_nobody, lambda: gone.state == "acked", 10)
        with_nobody.close()

    @property
    def _topic(self) -> str:
        return collector_topic(self.fleet, "simulated")

    def _status(self, state: str) -> bytes:
        return msgspec.json.encode(CollectorStatus(fleet=self.fleet, collector="simulated", state=state))  # type: ignore[arg-type]

    def _run(self) -> None:
        database = sqlite3.connect(self.path)
        database.execute(
            "CREATE TABLE IF NOT EXISTS record (seq INTEGER, digest TEXT, payload BLOB, UNIQUE (seq, digest))"
        )
        database.execute("PRAGMA synchronous=FULL")

        def announce() -> None:
            connection.publish(self._topic, self._status("online"), retain=not self.silent)

        def take(incoming: Incoming) -> None:
            topic = parse_topic(incoming.topic)
            if topic.kind not in RECORDS or incoming.retain:
                return
            seq, seen = json.loads(incoming.payload)["seq"], digest(incoming.payload)
            with database:
                database.execute("INSERT OR IGNORE INTO record VALUES (?, ?, ?)", (seq, seen, incoming.payload))
            with self._took:
                self._took.notify_all()
            if not self.silent and connection.state == "online":
                receipt = Receipt(
                    fleet=self.fleet, device=str(topic.device), collector="simulated", stored=((seq, seen),)
                )
                to = topic_for(address(self.fleet, str(topic.device)), "receipt")
                connection.publish(to, msgspec.json.encode(receipt))

        will = None if self.silent else Will(topic=self._topic, payload=self._status("offline"))
        connection = Connection(self._settings, will=will, on_online=announce, jitter=lambda: 0.05)
        connection.subscribe(f"boardfit/v1/{self.fleet}/+/#", take)
        connection.start()
        while not self._stop.is_set():
            drive(connection, lambda: self._stop.is_set() or (connection.listening and not self._ready.is_set()), 0.1)
            if connection.listening:
                self._ready.set()
        connection._drop_socket()
        database.close()
