"""Forged commands among genuine ones: none is obeyed, and every genuine one is obeyed exactly once.

Two parts: the desk that judges, on a real database, under a simulated clock; and a slice through a real broker and a
real agent whose verbs are stood in for. A genuine question (``status``) is kept nowhere, by design, so that it wears no
memory card: its replay after a restart would be answered once more, and is not among what is replayed here.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.config import parse_config
from agent.core.command import VERBS
from agent.core.payloads import Job
from agent.database import FILE_NAME, Database
from agent.fleet.signing import OperatorKey
from agent.mqtt import Incoming, drive
from agent.orders.desk import Desk
from agent.orders.jobs import Jobs
from agent.records import Records
from agent.site import Site
from tests.brokers import Mosquitto
from tests.faults.extent import Extent
from tests.faults.forged.classes import CLASSES, DEVICE, FLEET, GROUP, Hand, operator_list
from tests.faults.table import show
from tests.orders.conftest import KEYS as LISTED
from tests.orders.conftest import Board

START = datetime(2027, 1, 1, 12, tzinfo=timezone.utc)
SLICE, QUICK, FULL = 300, 5_000, 50_000
BOARD_SLICE, BOARD_QUICK, BOARD_FULL = 36, 360, 3_600
pytestmark = pytest.mark.timeout(7200)
DOCUMENT: dict[str, Any] = {
    "device": {"id": DEVICE},
    "mqtt": {"url": "mqtt://127.0.0.1:1", "fleet": FLEET, "group": [GROUP]},
    "tasks": {"digits": {"budgets": {"latency_p95": "20 ms"}}},
}


@pytest.fixture(scope="module")
def keys() -> dict[str, OperatorKey]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return {**LISTED, "gone": OperatorKey(Ed25519PrivateKey.generate())}


class SimulatedClock:
    """Both clocks, moved by the test."""

    def __init__(self) -> None:
        self.now = START

    def monotonic_s(self) -> float:
        return (self.now - START).total_seconds() + 1000.0

    def utc(self) -> datetime:
        return self.now


class Judge:
    """A board's desk on its real database, and all that can be seen of what it takes."""

    def __init__(self, folder: Path, document: bytes, epoch: str) -> None:
        self.folder, self.clock, self.epoch = folder, SimulatedClock(), epoch
        self.said: list[Job] = []
        self.obeyed = 0  # of what was said, and is no refusal
        self.begun: Counter[str] = Counter()
        self.site: Site | None = None
        with Database(folder / FILE_NAME) as database:
            Records(database).keep_operators(document)
        self.open(epoch)

    def open(self, epoch: str) -> None:
        """Start the agent's desk anew, with another epoch."""
        if self.site is not None:
            self.site.close()
        self.epoch = epoch
        self.site = Site(parse_config(DOCUMENT, path=None), self.folder, clock=self.clock)
        self.site.board.clock_synced = lambda: True  # type: ignore[method-assign]
        publisher = self.site.publisher(epoch)
        assert publisher is not None
        publisher.say = self._say  # type: ignore[method-assign]
        self.publisher = publisher
        self.desk = Desk(self.site, publisher, epoch, lambda: None)
        self.desk.open()
        self.jobs = Jobs(self.site.database)
        self.site.settings.versions()  # makes its tables

    def _say(self, _topic: str, message: Any, **_more: Any) -> bool:
        self.said.append(message)
        self.obeyed += getattr(message, "state", "said") != "REJECTED"
        return True

    def receive(self, topic: str, envelope: bytes) -> None:
        self.desk._received(Incoming(topic=topic, payload=envelope, retain=False))

    def standing(self) -> tuple[object, ...]:
        """Return everything that obeying would change: refusals are answered, and change none of it."""
        assert self.site is not None
        rows = self.site.database.rows
        line = self.desk.line
        return (
            tuple(rows("SELECT count(*), max(number) FROM job")[0]),
            tuple(tuple(row) for row in rows("SELECT keyid, counter FROM order_counter ORDER BY keyid")),
            tuple(tuple(row) for row in rows("SELECT scope, version, settings FROM desired ORDER BY scope")),
            dict(self.desk._counters), [one.id for one in line.waiting], line.running,
            self.obeyed,
        )  # fmt: skip

    def work(self) -> None:
        """Do all that waits, as the daemon's child would."""
        line = self.desk.line
        while line.waiting:
            words = line.begin(self.desk.objection)
            assert words is not None
            assert line.running is not None
            self.begun[line.running.id] += 1
            line.finish(0, b"{}")

    def empty(self) -> None:
        """Let the outbox be sent."""
        while sent := self.publisher.outbox.pending(limit=500):
            self.publisher.outbox.remove([one.seq for one in sent])


@pytest.fixture
def judge(tmp_path: Path, keys: dict[str, OperatorKey], extent: Extent) -> Iterator[Judge]:
    made = Judge(tmp_path, operator_list(keys, START), f"{extent.chance('epoch').getrandbits(128):032x}")
    yield made
    assert made.site is not None
    made.site.close()


def test_forged_among_genuine_at_the_desk(
    judge: Judge, keys: dict[str, OperatorKey], extent: Extent, record_property: Callable[[str, object], None]
) -> None:
    count, chance = extent.count(SLICE, QUICK, FULL), extent.chance("forged")
    hand = Hand(chance, keys, judge.clock.utc, lambda: judge.epoch, synced=True)
    forged: Counter[str] = Counter()
    genuine: Counter[str] = Counter()
    waiting: list[str] = []  # jobs that were canceled instead of done
    while sum(forged.values()) < count:
        judge.clock.now += timedelta(seconds=chance.uniform(0.06, 4.0))
        for _ in range(chance.randrange(4)):
            name = chance.choice(list(CLASSES))
            topic, envelope = hand.forged(name)
            before = judge.standing()
            judge.receive(topic, envelope)
            forged[name] += 1
            number = sum(forged.values())
            assert judge.standing() == before, f"accepted: number {number} of seed {extent.seed}, {name}: {envelope!r}"
        if chance.random() < 0.6:
            verb = chance.choice([one for one in VERBS if one != "profile"])  # nobody has profiled this one
            genuine[verb] += _take(judge, hand, verb, waiting)
        if chance.random() < 0.3:
            judge.work()
        if chance.random() < 0.01:
            judge.empty()
        if chance.random() < 0.004:
            _restart(judge, hand, chance)
    judge.work()
    _each_done_once(judge, hand, waiting)
    rows = [(name, str(number), "0") for name, number in sorted(forged.items())]
    rows.append(("all", str(sum(forged.values())), "0"))
    rows.append((f"genuine, among them: {sum(genuine.values())}", "-", f"{sum(genuine.values())} (each once)"))
    title = f"Forged commands of seed {extent.seed}, at a board's desk under a simulated clock"
    show(record_property, title, ("class", "sent", "accepted"), rows)


def _take(judge: Judge, hand: Hand, verb: str, canceled: list[str]) -> int:
    """Send a genuine command. Returns: 1; it was taken."""
    line, arguments = judge.desk.line, None
    if verb == "cancel":
        if not line.waiting:
            return 0
        arguments = {"job": line.waiting[-1].id}
    if len(line.waiting) > 40:
        judge.work()
        if verb == "cancel":
            return 0
    said = len(judge.said)
    command, (topic, envelope) = hand.genuine(verb, arguments)
    judge.receive(topic, envelope)
    if not VERBS[verb].writes:
        assert [(one.id, one.state) for one in judge.said[said:]] == [(command.id, "SUCCEEDED")], verb
        return 1
    job = judge.jobs.find(command.id)
    assert job is not None, f"a genuine {verb} was not taken: {judge.desk._ignored}"
    assert job.state == ("QUEUED" if VERBS[verb].child else "SUCCEEDED"), f"{verb}: {job.reason}"
    if verb == "cancel":
        assert arguments is not None
        canceled.append(arguments["job"])
    return 1


def _restart(judge: Judge, hand: Hand, chance: random.Random) -> None:
    judge.work()
    judge.empty()
    hand.epochs.append(judge.epoch)
    hand.past[:] = [one for one in hand.past if VERBS[one[0].verb].writes]
    judge.open(f"{chance.getrandbits(128):032x}")


def _each_done_once(judge: Judge, hand: Hand, canceled: list[str]) -> None:
    done = {command.id: judge.begun[command.id] for command, _ in hand.past if VERBS[command.verb].child}
    wrong = {job: times for job, times in done.items() if times != (0 if job in canceled else 1)}
    assert not wrong, f"not done exactly once: {wrong}"
    assert all(job.startswith("genuine") for job in judge.begun)


def test_forged_among_genuine_through_a_broker_and_an_agent(
    tmp_path: Path, broker: Mosquitto, keys: dict[str, OperatorKey], extent: Extent,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    count, chance = extent.count(BOARD_SLICE, BOARD_QUICK, BOARD_FULL), extent.chance("forged", "board")
    board = Board(tmp_path, broker)
    try:
        with Database(board.state / FILE_NAME) as database:
            Records(database).keep_operators(operator_list(keys, datetime.now(timezone.utc)))
        board.start()
        hand = Hand(chance, keys, lambda: datetime.now(timezone.utc), lambda: board.epoch, synced=False)
        names = list(CLASSES)
        orders: Counter[str] = Counter()
        again = 0
        for number in range(count):
            topic, envelope = hand.forged(names[number % len(names)])
            board._send(topic, envelope, retain=False)
            if number % 6 == 5:
                verb = chance.choice([one for one in VERBS if one not in ("profile", "cancel")])
                again += _order(board, hand, verb)
                orders[verb] += 1
        again += _order(board, hand, "sync")
        orders["sync"] += 1
        told = [msgspec.json.decode(one.payload, type=Job) for one in board.fleet.got if "/job/" in one.topic]
        obeyed = {one.id for one in told if one.state != "REJECTED" and not one.id.startswith("genuine")}
        once = Counter(one.id for one in told if one.state == "SUCCEEDED")
        assert not obeyed, f"seed {extent.seed}"
        assert set(once.values()) == {1}
        called = {"leave-safe-mode": "recover"}
        assert {verb: len(board.calls(called.get(verb, verb))) for verb in orders if VERBS[verb].child} == {
            verb: number for verb, number in orders.items() if VERBS[verb].child
        }
        with Database(board.state / FILE_NAME) as database:
            rows = database.rows("SELECT settings FROM desired")
        assert not any(b"evil" in bytes(row["settings"]) for row in rows)
        assert board.stop() == 0
    finally:
        board.close()
    sent_again = f", {again} asked again" if again else ""
    rows_ = [
        ("forged", str(count), "0"),
        ("genuine", str(sum(orders.values())), f"{sum(once.values())} (each once{sent_again})"),
    ]
    title = f"Forged commands of seed {extent.seed}, through mosquitto to a real agent (its verbs are stood in for)"
    show(record_property, title, ("", "sent", "accepted"), rows_)


def _order(board: Board, hand: Hand, verb: str) -> int:
    """Send a genuine command until its end is told. Returns: how often it was sent again.

    Forged ones that name a listed key use up what the agent verifies in a second, and a genuine one among them may go
    unheard: whoever gets no answer asks again.
    """
    command, (topic, envelope) = hand.genuine(verb)
    for attempt in range(30):
        board._send(topic, envelope, retain=False)
        if drive(board.fleet.connection, lambda: any(one.state == "SUCCEEDED" for one in board.jobs(command.id)), 3.0):
            return attempt
    raise AssertionError(f"a genuine {verb} was never done: {[one.state for one in board.jobs(command.id)]}")
