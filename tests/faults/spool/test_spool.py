"""Hours of records through a broker that is killed and wiped: every one arrives, once, and goes out in order.

Real: mosquitto with its persistence as Debian ships it, killed by SIGKILL; the outbox on disk; the publisher; a
collector's process of its own thread that stores in SQLite and then gives receipts. Simulated: the records, and the
clock that dates them, so that hours pass in seconds; connections and receipts run on the real one. At random the
network is gone, the collector away, or the agent itself killed (a publisher and an outbox are opened anew).

What a newer document of the same retained topic replaces before it was confirmed is not to arrive, and is counted.
The order is that of first publication on each topic. What a killed broker forgot is sent again when its receipt is
overdue, and then comes to the collector behind newer ones: its number says where it belongs, and it is counted.
"""

from __future__ import annotations

import json
import random
import socket
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.clock import SystemClock
from agent.core.messages import MESSAGES
from agent.core.payloads import (
    DecisionMessage,
    DeploymentMessage,
    Event,
    Job,
    Measurements,
    Origin,
    Telemetry,
)
from agent.core.topics import address, parse_topic, topic_for
from agent.database import Database
from agent.mqtt import drive
from agent.report.outbox import Outbox
from agent.report.publisher import Publisher
from agent.report.receipts import ReceiptPolicy
from tests.brokers import Mosquitto
from tests.collectors import SimulatedCollector
from tests.faults.extent import Extent
from tests.faults.table import show

FLEET = "plant-7"
STEP_S = 300.0
PATIENCE_S = 0.5
HOURS, KILLS, WIPES = (2, 24, 72), (3, 30, 300), (1, 5, 20)
pytestmark = pytest.mark.timeout(7200)


class SimulatedClock:
    """Dates the records; moved by the test, five minutes at a time."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def monotonic_s(self) -> float:
        return 1000.0 + self.passed_s

    def utc(self) -> datetime:
        return datetime(2026, 11, 22, tzinfo=timezone.utc) + timedelta(seconds=self.passed_s)


class PersistentMosquitto(Mosquitto):
    """Keeps what it holds on disk, when it finds the time: a killed one has not."""

    def body(self) -> str:
        kept = f"persistence true\npersistence_location {self.folder}/"
        return f"set_tcp_nodelay true\n{kept}\nlistener {self.port} 127.0.0.1\n{self.lines}"

    def wipe(self) -> None:
        (self.folder / "mosquitto.db").unlink(missing_ok=True)


class Spool:
    """A board's outbox and publisher, which can be killed, and what it was given to send."""

    def __init__(self, folder: Path, broker: Mosquitto, chance: random.Random) -> None:
        self.folder, self.broker, self.chance = folder, broker, chance
        self.clock = SimulatedClock()
        self.topics: dict[int, str] = {}  # seq to topic, of all that was put
        self.said: dict[int, str] = {}  # seq to topic, in the order of first publication
        self.starts = 0
        self.open()

    def open(self) -> None:
        """Start the agent's side anew, from what is on disk."""
        self.database = Database(self.folder / "boardfit.db")
        self.starts += 1
        self.outbox = Outbox(
            self.database, address(FLEET, "pi"), self.clock, boot_id=f"boot-{self.starts}", clock_synced=lambda: True
        )
        policy = ReceiptPolicy(mode="required", patience_s=PATIENCE_S)
        self.publisher = Publisher(
            self.outbox, self.broker.settings(), SystemClock(), jitter=lambda: 0.05, receipts=policy
        )
        publish = self.publisher.connection.publish

        def noted(topic: str, payload: bytes, **more: Any) -> Any:
            self.said.setdefault(json.loads(payload)["seq"], topic)
            return publish(topic, payload, **more)

        self.publisher.connection.publish = noted  # type: ignore[method-assign]
        self.publisher.start()

    def killed(self) -> None:
        """End as a killed process does: nobody says goodbye, what is in memory is gone."""
        self.publisher.connection._drop_socket()
        self.database.close()

    def cut_off(self) -> None:
        """End the connection from outside: nobody here knows until the socket is read."""
        connected = self.publisher.connection._paho.socket()
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def live(self, until: Callable[[], bool], seconds: float) -> bool:
        """Let the publisher work."""
        self.publisher.poke()
        return drive(self.publisher, until, seconds)

    def step(self) -> None:
        """Let five minutes pass, and put what happens in them."""
        self.clock.passed_s += STEP_S
        chance, made = self.chance, [self._telemetry()]
        if chance.random() < 0.3:
            made.append(self._event())
        if chance.random() < 0.6:
            made.append(("measurement", None, Measurements(**self._header(), measurements=())))
        if chance.random() < 0.15:
            made.append(self._decision())
        if chance.random() < 0.05:
            made.append(self._deployment())
        at = self.outbox.address
        messages = [(topic_for(at, kind, parameter), one) for kind, parameter, one in made]  # type: ignore[arg-type]
        if chance.random() < 0.2:
            job_id = f"job-{self.clock.passed_s:010.0f}"
            for number, state in enumerate(("QUEUED", "IN_PROGRESS", "SUCCEEDED")):
                job = Job(**self._header(), id=job_id, verb="bench", state=state, revision=number + 1)  # type: ignore[arg-type]
                messages.append((topic_for(at, "job", job_id), job))
        seqs = self.outbox.put_all(messages)
        assert len(seqs) == len(messages)
        self.topics.update(zip(seqs, (topic for topic, _ in messages), strict=True))

    def _header(self) -> dict[str, object]:
        return msgspec.structs.asdict(self.outbox.origin())

    def _telemetry(self) -> tuple[str, str | None, Origin]:
        return "telemetry", "board", Telemetry(**self._header(), group="board")  # type: ignore[arg-type]

    def _event(self) -> tuple[str, str | None, Origin]:
        return "event", None, Event(**self._header(), level="info", kind="simulated", text="a simulated event")  # type: ignore[arg-type]

    def _decision(self) -> tuple[str, str | None, Origin]:
        task = f"task-{self.chance.randrange(24)}"
        made = DecisionMessage(
            **self._header(), id=f"d{self.clock.passed_s:.0f}", task=task, decided_at="", class_fingerprint="c" * 64,
            outcome="chosen", reason="simulated", options_total=1, options_fitting=1, options=(), budgets=(),
            objectives=(),
        )  # fmt: skip
        return "decision", task, made

    def _deployment(self) -> tuple[str, str | None, Origin]:
        task = f"task-{self.chance.randrange(24)}"
        return "deployment", task, DeploymentMessage(**self._header(), task=task, phase="ACTIVE", changed_at="")  # type: ignore[arg-type]


class Archive:
    """The collector, and what it holds."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.path, self.broker = folder / "collector.db", broker
        self.running: SimulatedCollector | None = None
        self.start()

    def start(self) -> None:
        if self.running is None:
            self.running = SimulatedCollector(self.broker.settings(), FLEET, self.path).start()

    def stop(self) -> None:
        if self.running is not None:
            self.running.stop()
            self.running = None

    def seqs(self) -> list[int]:
        """Return what is stored, in the order in which it was first."""
        with sqlite3.connect(self.path) as database:
            return [json.loads(row[0])["seq"] for row in database.execute("SELECT payload FROM record ORDER BY rowid")]


@pytest.fixture
def archive_and_spool(tmp_path: Path, extent: Extent) -> Iterator[tuple[Archive, Spool, PersistentMosquitto]]:
    broker = PersistentMosquitto(tmp_path, "allow_anonymous true\n")
    broker.start()
    archive = Archive(tmp_path, broker)
    spool = Spool(tmp_path, broker, extent.chance("spool"))
    yield archive, spool, broker
    archive.stop()
    spool.killed()
    broker.kill()


def test_every_record_arrives_once_and_in_order(
    archive_and_spool: tuple[Archive, Spool, PersistentMosquitto], extent: Extent,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    archive, spool, broker = archive_and_spool
    hours, kills, wipes = (extent.count(*each) for each in (HOURS, KILLS, WIPES))
    chance = extent.chance("spool", "faults")
    steps = range(int(hours * 3600 / STEP_S))
    # more kills than steps fall into some steps twice
    at = sorted(chance.choices(steps, k=kills - len(steps) // 2) if kills > len(steps) // 2 else ())
    at += chance.sample(steps, kills - len(at))
    wiped = set(chance.sample(range(kills), wipes))
    done = defaultdict(int)
    gone = 0
    for step in steps:
        spool.step()
        for _ in range(at.count(step)):
            _kill(archive, spool, broker, chance, wipe=done["broker killed"] in wiped, done=done)
        if gone > 0:
            gone -= 1
            continue
        if chance.random() < 0.03:
            spool.cut_off()
            gone = chance.randint(1, 12)
            done["network gone"] += 1
        elif chance.random() < 0.3:
            spool.live(lambda: False, 0.01)
    archive.start()
    arrived = spool.live(lambda: not spool.outbox.pending(limit=1), 120)
    left = spool.outbox.fill().messages
    told = ", ".join(f"{name} {times} times" for name, times in sorted(done.items()))
    title = f"{hours} h of simulated records of seed {extent.seed}; {told}"
    _judge(archive.seqs(), spool, lambda *table: show(record_property, title, *table))
    assert arrived, f"{left} messages still wait"


def _kill(
    archive: Archive, spool: Spool, broker: PersistentMosquitto, chance: random.Random, *, wipe: bool,
    done: defaultdict[str, int],
) -> None:  # fmt: skip
    """Kill the broker while it holds what nobody else has."""
    if chance.random() < 0.4:
        archive.stop()
        done["collector away"] += 1
    so_far = spool.publisher.sent
    spool.live(lambda: spool.publisher.sent >= so_far + chance.randint(1, 25), 1.0)
    broker.kill()
    done["broker killed"] += 1
    if wipe:
        broker.wipe()
        done["broker wiped"] += 1
    if chance.random() < 0.3:
        spool.killed()
        done["agent killed"] += 1
        spool.open()
    else:
        spool.live(lambda: not spool.publisher.online, 10)
    broker.start()
    if chance.random() < 0.7:
        archive.start()


def _judge(stored: list[int], spool: Spool, tell: Callable[[Sequence[str], Sequence[Sequence[str]]], None]) -> None:
    kinds = {seq: parse_topic(topic).kind for seq, topic in spool.topics.items()}
    last = {topic: seq for seq, topic in spool.topics.items()}
    wanted = {seq for seq, kind in kinds.items() if kind != "telemetry"}
    missing = wanted - set(stored)
    replaced = {seq for seq in missing if MESSAGES[kinds[seq]].retain and last[spool.topics[seq]] != seq}
    late = _out_of_order((seq, spool.topics[seq]) for seq in stored)
    rows = []
    for kind in sorted(set(kinds.values()) - {"telemetry"}):
        counted = (kinds, stored, replaced, late)
        rows.append((kind, *(str(sum(kinds[seq] == kind for seq in seqs)) for seqs in counted)))
    tell(("kind", "put", "arrived", "replaced by a newer one", "repeated, behind newer ones"), rows)
    assert missing == replaced, f"lost: {sorted(missing - replaced)}"
    assert len(stored) == len(set(stored)), "one number stands for two documents"
    early = _out_of_order((seq, topic) for seq, topic in spool.said.items() if seq)
    assert not early, f"sent out of order on their topic: {early[:20]}"
    assert spool.outbox.fill().losses == ()


def _out_of_order(messages: Iterable[tuple[int, str]]) -> list[int]:
    """Return the numbers that come after a greater one of their topic."""
    greatest: dict[str, int] = {}
    found = []
    for seq, topic in messages:
        if seq < greatest.get(topic, 0):
            found.append(seq)
        greatest[topic] = max(seq, greatest.get(topic, 0))
    return found
