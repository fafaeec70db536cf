"""Collectors at a real broker: what boards send is stored once and confirmed, whoever is killed in between."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.clock import SystemClock
from agent.collector.intake import Intake
from agent.collector.store import Store
from agent.collector.store_reading import StoredReader
from agent.core.operators import Operator, OperatorList
from agent.core.payloads import Event, Telemetry
from agent.core.topics import address, collector_topic, topic_for
from agent.database import Database
from agent.fleet.signing import OperatorKey
from agent.mqtt import Connection, drive
from agent.report.outbox import Outbox
from agent.report.publisher import Publisher
from agent.report.receipts import ReceiptPolicy
from agent.report.sealed import SealedReceipts
from tests.brokers import Mosquitto
from tests.collector.documents import FLEET, Board

ROOT = Path(__file__).resolve().parents[2]


class Collector:
    """A collector in a thread of its own."""

    def __init__(self, url: str, broker: Mosquitto, name: str = "one", **more: Any) -> None:
        self.store = Store(url)
        self.store.open()
        self.intake = Intake(self.store, broker.settings(), FLEET, SystemClock(), name=name, **{"quiet_s": 0.2, **more})
        self.changed = threading.Condition()
        self.ready = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.wait(lambda: self.ready)

    def _run(self) -> None:
        self.intake.run(self._stop.is_set, self._note, self._tick)

    def _note(self) -> None:
        self.ready = True

    def _tick(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def wait(self, until: Callable[[], bool], timeout_s: float = 60) -> None:
        with self.changed:
            assert self.changed.wait_for(until, timeout_s), self.intake.counts

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self.store.close()


@pytest.fixture
def collect(database_url: str, broker: Mosquitto) -> Iterator[Callable[..., Collector]]:
    started: list[Collector] = []

    def start(name: str = "one", **more: Any) -> Collector:
        started.append(Collector(more.pop("url", database_url), more.pop("broker", broker), name, **more))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def reader(database_url: str) -> Iterator[StoredReader]:
    with StoredReader(database_url) as opened:
        yield opened


class RealBoard:
    """The outbox and the publisher of a board, which waits for receipts."""

    def __init__(self, folder: Path, broker: Mosquitto, name: str = "pi5", **policy: Any) -> None:
        self.database = Database(folder / f"{name}.db")
        clock = SystemClock()
        self.outbox = Outbox(self.database, address(FLEET, name), clock, boot_id="boot-a", clock_synced=lambda: True)
        receipts = ReceiptPolicy(**{"mode": "required", "patience_s": 0.5, **policy})
        self.publisher = Publisher(
            self.outbox, broker.settings(), clock, jitter=lambda: 0.05, receipts=receipts, uptime_s=time.monotonic
        )

    def put(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            header = msgspec.structs.asdict(self.outbox.origin())
            self.outbox.put(
                topic_for(self.outbox.address, "event"), Event(**header, level="info", kind="count", text=f"{number}")
            )
        self.publisher.poke()

    def put_telemetry(self) -> None:
        header = msgspec.structs.asdict(self.outbox.origin())
        self.outbox.put(topic_for(self.outbox.address, "telemetry", "board"), Telemetry(**header, group="board"))

    def send(self, until: Callable[[], bool] | None = None, timeout_s: float = 60) -> None:
        self.publisher.start()
        self.publisher.poke()
        done = until or (lambda: not self.outbox.pending())
        assert drive(self.publisher, done, timeout_s), (self.publisher.error, len(self.outbox.pending(limit=9999)))

    def close(self) -> None:
        self.publisher.connection.close()
        self.database.close()


@pytest.fixture
def board(tmp_path: Path, broker: Mosquitto) -> Iterator[Callable[..., RealBoard]]:
    made: list[RealBoard] = []

    def make(name: str = "pi5", **policy: Any) -> RealBoard:
        made.append(RealBoard(tmp_path, broker, name, **policy))
        return made[-1]

    yield make
    for one in made:
        one.close()


def texts(reader: StoredReader, board: str | None = None) -> list[str]:
    return sorted(one["text"] for one in reader.history(FLEET, "event", board=board, limit=100_000))


def numbers(count: int) -> list[str]:
    return sorted(str(number) for number in range(count))


def publish(broker: Mosquitto, messages: list[tuple[str, bytes]], *, retain: bool = True) -> None:
    connection = Connection(broker.settings())
    connection.connect(10)
    sent = [connection.publish(topic, payload, retain=retain) for topic, payload in messages]
    assert drive(connection, lambda: all(one.state == "acked" for one in sent), 30)
    connection.close()


def test_what_a_real_outbox_sends_is_stored_then_confirmed_and_telemetry_needs_none(board, collect, reader) -> None:
    one, collector = board(), collect()
    one.put(0, 250)
    one.put_telemetry()
    one.send()
    assert texts(reader) == numbers(250)
    assert one.publisher.receipts.received == 250 == collector.intake.counts.receipts
    collector.wait(lambda: len(reader.history(FLEET, "telemetry")) == 1)
    collector.wait(lambda: reader.boards(FLEET)[0].status == "online")


def test_a_killed_broker_loses_no_record_and_doubles_none(broker, board, collect, reader) -> None:
    one, collector = board(), collect()
    for kill in range(2):
        one.put(kill * 150, 150)
        one.send(lambda kill=kill: one.publisher.receipts.received > kill * 150 + 20)
        broker.kill()
        broker.start()
    one.send()
    assert texts(reader) == numbers(300)
    assert collector.intake.counts.refused == 0


def test_what_is_retained_is_asked_for_and_live_messages_follow(broker, collect, reader) -> None:
    there, gone = Board("there"), Board("gone")
    publish(broker, [*there.everything()[:5], *gone.everything()[:3], gone.will()])
    collector = collect()
    collector.wait(lambda: collector.intake.replayed)
    boards = {one.name: one for one in reader.boards(FLEET)}
    assert (boards["there"].status, boards["there"].tasks["digits"].candidate) == ("online", "small")
    assert (boards["gone"].status, boards["gone"].epoch) == ("offline", None)
    assert len(reader.history(FLEET, "decision")) == 1
    assert collector.intake.counts.receipts == 0  # of what the broker gave back
    publish(broker, [there.status("busy"), gone.status()])
    collector.wait(lambda: [one.status for one in reader.boards(FLEET)] == ["online", "busy"])
    publish(broker, [(f"boardfit/v1/{FLEET}/gone/status", b"")])
    collector.wait(lambda: [one.name for one in reader.boards(FLEET)] == ["there"])


def test_a_last_will_of_a_board_that_broke_off_is_stored(board, collect, reader) -> None:
    one, collector = board(), collect()
    one.send(lambda: one.publisher.online and not one.publisher.greeting)
    collector.wait(lambda: [each.status for each in reader.boards(FLEET)] == ["online"])
    epoch = reader.boards(FLEET)[0].boot_id
    one.publisher.connection._drop_socket()
    collector.wait(lambda: reader.boards(FLEET)[0].status == "offline")
    assert reader.boards(FLEET)[0].boot_id == epoch == "boot-a"


def test_two_collectors_share_a_subscription_store_everything_once_and_confirm_it(
    broker, board, collect, reader
) -> None:
    ones = [board(f"pi{number}") for number in range(2)]
    collectors = [collect("one"), collect("two")]
    for one in ones:
        one.put(0, 200)
    for one in ones:
        one.send()
    for one in ones:
        assert texts(reader, one.outbox.address.device) == numbers(200)
        assert one.publisher.receipts.received == 200
    assert all(each.intake.counts.stored > 40 for each in collectors)
    collectors[0].stop()  # the other goes on alone
    ones[0].put(200, 50)
    ones[0].send()
    assert texts(reader, "pi0") == numbers(250)


def test_signed_receipts_are_what_a_board_that_asks_for_them_believes(tmp_path, board, collect, reader) -> None:
    key = OperatorKey.make(tmp_path / "archive.pem")
    listed = Operator(name="archive", public_key=key.public_key, role="viewer", valid_until="2100-01-01T00:00:00Z")
    operators = msgspec.json.encode(OperatorList(operators=(listed,)))
    one = board(unseal=SealedReceipts(lambda: operators, SystemClock().utc, time.monotonic))
    collect(key=key)
    one.put(0, 30)
    one.send()
    assert one.publisher.receipts.received == 30


def test_what_cannot_be_read_is_counted_and_stops_nothing(broker, board, collect, reader) -> None:
    collector = collect()
    where = topic_for(address(FLEET, "pi9"), "event")
    bad = [(where, payload) for payload in (b"{", b"\xff", b"[" * 60_000, b"{}", b'{"fleet":"x"}', b"x" * 150_000)]
    publish(broker, bad, retain=False)
    one = board()
    one.put(0, 20)
    one.send()
    assert collector.intake.counts.refused == len(bad)
    assert collector.intake.counts.last_refusal
    assert texts(reader) == numbers(20)


def test_a_collector_announces_itself_and_its_end_and_can_be_retired(broker, collect, listen) -> None:
    collector, listener = collect(), listen(broker.settings())
    topic = collector_topic(FLEET, "one").removeprefix("boardfit/v1")
    listener.wait(lambda: bool(listener.topic(topic)))
    assert msgspec.json.decode(listener.topic(topic)[0].payload)["state"] == "online"
    collector.stop()
    listener.wait(lambda: len(listener.topic(topic)) == 2)
    assert b'"offline"' in listener.topic(topic)[1].payload
    again = Intake(collector.store, broker.settings(), FLEET, SystemClock(), name="one")
    again.retire()
    listener.wait(lambda: len(listener.topic(topic)) == 3)
    assert listener.topic(topic)[2].payload == b""


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_stops_and_comes_back_loses_no_record(broker, board, collect, own_postgres, listen) -> None:
    server, url = own_postgres, own_postgres.database()
    collector, one, listener = collect(url=url), board(), listen(broker.settings())
    one.put(0, 100)
    one.send()
    server.stop()
    one.put(100, 100)
    topic = collector_topic(FLEET, "one").removeprefix("boardfit/v1")
    one.send(lambda: one.publisher.receipts.away)
    collector.wait(lambda: collector.intake.counts.database is not None)
    listener.wait(lambda: b'"offline"' in listener.topic(topic)[-1].payload)
    assert b"without its database" in listener.topic(topic)[-1].payload
    server.start()
    one.send()
    with StoredReader(url) as own_reader:
        assert texts(own_reader) == numbers(200)
    assert collector.intake.counts.database is None


_KILLED = """
import os, signal, sys
from agent.clock import SystemClock
from agent.collector import intake
from agent.collector.store import Store
from agent.mqtt import BrokerSettings

class Killed(Store):
    def apply(self, batch):
        applied = super().apply(batch)
        if any(taken.kind == "event" for taken in batch):
            os.kill(os.getpid(), signal.SIGKILL)
        return applied

broker = BrokerSettings(host="127.0.0.1", port=int(sys.argv[1]))
intake.Intake(Killed(sys.argv[2]), broker, "plant-7", SystemClock(), name="one").run(lambda: False)
"""


def test_a_collector_killed_between_commit_and_receipt_has_stored_once(
    broker, board, collect, reader, database_url
) -> None:
    command = [sys.executable, "-c", _KILLED, str(broker.port), database_url]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        one = board()
        one.put(0, 15)
        one.publisher.start()
        for _ in range(600):  # its end is no event of this connection
            if process.poll() is not None:
                break
            drive(one.publisher, lambda: False, 0.1)
        assert process.returncode == -signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    assert one.publisher.receipts.received == 0
    assert set(texts(reader)) <= set(numbers(15))
    assert texts(reader)
    collect()
    one.send()
    assert texts(reader) == numbers(15)
