"""Receipts of a collector: with them a killed broker loses nothing; without them it does, and that is shown too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import pytest

from agent.config import parse_config
from agent.core.collecting import CollectorStatus, Receipt
from agent.core.envelope import COMMAND_TYPE, RECEIPT_TYPE, make_envelope
from agent.core.messages import encode
from agent.core.operators import Operator, OperatorList
from agent.core.payloads import Event, Telemetry
from agent.core.topics import collector_topic, topic_for
from agent.errors import ReportError
from agent.fleet.signing import OperatorKey
from agent.mqtt import BrokerSettings, Incoming, drive
from agent.report import receipts as module
from agent.report import sealed
from agent.report.outbox import Outbox
from agent.report.publisher import Publisher
from agent.report.receipts import ReceiptPolicy, Receipts, digest
from agent.report.sealed import SealedReceipts
from agent.site import Site
from tests.brokers import Mosquitto
from tests.collectors import SimulatedCollector
from tests.report.test_publisher import put_events

FLEET = "plant-7"


@pytest.fixture
def collect(tmp_path: Path) -> Iterator[Callable[..., SimulatedCollector]]:
    made: list[SimulatedCollector] = []

    def start(settings: BrokerSettings, **more: bool) -> SimulatedCollector:
        made.append(SimulatedCollector(settings, FLEET, tmp_path / "collector.db", **more).start())
        return made[-1]

    yield start
    for one in made:
        one.stop()


@pytest.fixture
def publish(outbox: Outbox, system_clock) -> Iterator[Callable[..., Publisher]]:
    made: list[Publisher] = []

    def make(settings: BrokerSettings, mode: str = "auto", patience_s: float = 0.5) -> Publisher:
        policy = ReceiptPolicy(mode=mode, patience_s=patience_s)  # type: ignore[arg-type]
        made.append(Publisher(outbox, settings, system_clock, jitter=lambda: 0.05, receipts=policy))
        return made[-1]

    yield make
    for one in made:
        one.connection.close()


def put_telemetry(outbox: Outbox) -> None:
    header = msgspec.structs.asdict(outbox.origin())
    outbox.put(topic_for(outbox.address, "telemetry", "board"), Telemetry(**header, group="board"))


def send(publisher: Publisher, until: Callable[[], bool], timeout_s: float = 30) -> None:
    publisher.start()
    publisher.poke()
    assert drive(publisher, until, timeout_s), publisher.error


def test_a_record_stays_until_the_collector_has_it_and_telemetry_does_not(
    broker: Mosquitto, outbox: Outbox, publish: Callable[..., Publisher], collect: Callable[..., SimulatedCollector]
) -> None:
    publisher = publish(broker.settings(), mode="required", patience_s=60)
    put_events(outbox, 3)
    put_telemetry(outbox)
    result = publisher.drain(1.0)
    assert (result.sent, result.left, result.complete) == (4, 3, False)
    assert result.error == "no collector has confirmed 3 messages within 1 s"
    collector = collect(broker.settings())
    send(publisher, lambda: publisher.receipts.received == 3)  # sent again at once: a collector came
    assert outbox.pending() == ()
    assert collector.stored() == [(1, "0"), (2, "1"), (3, "2")]


def test_without_a_collector_the_broker_s_word_counts(broker, outbox, publish) -> None:
    put_events(outbox, 3)
    assert publish(broker.settings()).drain(10).complete
    assert outbox.pending() == ()


@pytest.mark.parametrize("receipts", [True, False])
def test_what_a_broker_without_persistence_had_when_it_was_killed(
    broker: Mosquitto,
    outbox: Outbox,
    publish: Callable[..., Publisher],
    collect: Callable[..., SimulatedCollector],
    receipts: bool,
) -> None:
    """With receipts nothing is lost and no number is missing; without them, what nobody had taken yet is gone."""
    collector = collect(broker.settings(), silent=not receipts)
    publisher = publish(broker.settings(), mode="auto")
    send(publisher, lambda: publisher.connection.listening)
    collector.stop()  # the broker takes, and has nobody to give it to
    put_events(outbox, 100)
    send(publisher, lambda: publisher.sent >= 60)
    broker.kill()
    assert drive(publisher, lambda: not publisher.online, 10)
    broker.start()
    collector = collect(broker.settings(), silent=not receipts)
    put_events(outbox, 20, first=100)
    send(publisher, lambda: not outbox.pending())
    collector.wait_for(120)
    stored = [seq for seq, _ in collector.stored()]
    assert len(set(stored)) == len(stored)
    if receipts:
        assert sorted(stored) == list(range(1, 121))
    else:
        assert len(stored) < 120  # acknowledged, forgotten here, and never seen by anybody


def test_a_broker_killed_again_and_again_under_load_loses_no_record(
    broker: Mosquitto, outbox: Outbox, publish: Callable[..., Publisher], collect: Callable[..., SimulatedCollector]
) -> None:
    collector = collect(broker.settings())
    publisher = publish(broker.settings())
    for kill in range(4):
        put_events(outbox, 60, first=60 * kill)
        so_far = publisher.sent
        send(publisher, lambda so_far=so_far: publisher.sent >= so_far + 25)
        broker.kill()
        assert drive(publisher, lambda: not publisher.online, 10)
        broker.start()
    send(publisher, lambda: not outbox.pending())
    stored = collector.stored()
    assert sorted(seq for seq, _ in stored) == list(range(1, 241))
    assert sorted(int(text) for _, text in stored) == list(range(240))


def test_a_known_collector_is_remembered_over_a_restart_and_a_wiped_broker_until_it_retires(
    broker: Mosquitto, outbox: Outbox, publish: Callable[..., Publisher], collect: Callable[..., SimulatedCollector]
) -> None:
    collector = collect(broker.settings())
    first = publish(broker.settings())
    send(first, lambda: first.receipts.expected)
    first.close()
    collector.stop()
    broker.kill()
    broker.start()
    put_events(outbox, 2)
    second = publish(broker.settings())
    assert second.drain(1.0).left == 2
    collector.retire()
    send(second, lambda: not outbox.pending())
    assert not second.receipts.expected
    assert not outbox.collector_known()


class Letters:
    """Receipts over a real outbox, with a clock of the test and messages handed in by it."""

    def __init__(self, outbox: Outbox, **policy: object) -> None:
        self.now = 100.0
        self.outbox = outbox
        self.receipts = Receipts(outbox, ReceiptPolicy(mode="auto", **policy), lambda: self.now, lambda: 0.0)  # type: ignore[arg-type]

    def status(self, state: str | None) -> bool:
        topic = collector_topic(FLEET, "c")
        status = b"" if state is None else msgspec.json.encode(CollectorStatus(fleet=FLEET, collector="c", state=state))  # type: ignore[arg-type]
        return self.receipts.on_message(Incoming(topic=topic, payload=status, retain=True))

    def receipt(self, *stored: tuple[int, str], device: str | None = None, payload: bytes | None = None) -> bool:
        at = self.outbox.address
        made = Receipt(fleet=at.fleet, device=device or at.device, collector="c", stored=stored)
        body = msgspec.json.encode(made) if payload is None else payload
        return self.receipts.on_message(Incoming(topic=topic_for(at, "receipt"), payload=body, retain=False))

    def digest(self, seq: int) -> str:
        (entry,) = self.outbox.pending(seq - 1, 1)
        return digest(entry.payload)


def test_a_receipt_frees_only_the_very_bytes_of_this_device(outbox: Outbox) -> None:
    letters = Letters(outbox)
    put_events(outbox, 3)
    first, second = letters.digest(1), letters.digest(2)
    letters.receipt((1, second), (2, "0" * 16), (77, first))
    letters.receipt((1, first), device="another-board")
    letters.receipt((-1, first), (0, first), (2**63, first), (2**200, first))
    letters.receipt(payload=b"{nonsense")
    letters.receipt(payload=b"\xff\xfe")
    letters.receipt(payload=b'{"schema": "boardfit.receipt/2"}')
    assert len(outbox.pending()) == 3
    letters.receipt((1, first), (2, second))
    assert [entry.seq for entry in outbox.pending()] == [3]
    assert letters.receipts.received == 2


def test_a_receipt_whose_signature_does_not_hold_frees_nothing(outbox: Outbox) -> None:
    def unseal(data: bytes) -> bytes:
        if not data.startswith(b"signed:"):
            raise ReportError("the receipt is not signed")
        return data.removeprefix(b"signed:")

    letters = Letters(outbox, unseal=unseal)
    put_events(outbox, 1)
    stored = ((1, letters.digest(1)),)
    letters.receipt(*stored)
    assert len(outbox.pending()) == 1
    at = outbox.address
    made = Receipt(fleet=at.fleet, device=at.device, collector="c", stored=stored)
    letters.receipt(payload=b"signed:" + msgspec.json.encode(made))
    assert outbox.pending() == ()


def test_of_signed_receipts_only_those_of_a_listed_key_free_anything(outbox: Outbox, tmp_path: Path) -> None:
    now = datetime(2026, 12, 1, tzinfo=timezone.utc)
    keys = {name: OperatorKey.make(tmp_path / f"{name}.pem") for name in ("archive", "gone", "stranger")}
    ends = {"archive": "2027-01-01T00:00:00Z", "gone": "2026-11-30T00:00:00Z"}
    listed = [
        Operator(name=name, public_key=keys[name].public_key, role="viewer", valid_until=end)
        for name, end in ends.items()
    ]
    stored_list: list[bytes | None] = [None]
    letters = Letters(outbox, unseal=SealedReceipts(lambda: stored_list[0], lambda: now, lambda: 0.0))
    put_events(outbox, 1)
    at, stored = outbox.address, ((1, letters.digest(1)),)
    receipt = Receipt(fleet=at.fleet, device=at.device, collector="c", stored=stored)
    good = keys["archive"].sign_receipt(receipt)
    letters.receipt(payload=good)  # before any list is here
    stored_list[0] = msgspec.json.encode(OperatorList(operators=tuple(listed)))
    other = make_envelope(encode(receipt), COMMAND_TYPE, keys["archive"].keyid, lambda _: bytes(64))
    forged = make_envelope(encode(receipt), RECEIPT_TYPE, keys["archive"].keyid, lambda _: bytes(64))
    unlisted = [keys[name].sign_receipt(receipt) for name in ("gone", "stranger")]
    for bad in (*unlisted, other, forged, good[:-9], b"{}", encode(receipt)):
        letters.receipt(payload=bad)
    assert len(outbox.pending()) == 1
    letters.receipt(payload=good)
    assert outbox.pending() == ()


def test_a_flood_of_forged_receipts_is_verified_and_logged_at_a_bounded_rate(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = OperatorKey.make(tmp_path / "archive.pem")
    listed = Operator(name="archive", public_key=key.public_key, role="viewer", valid_until="2100-01-01T00:00:00Z")
    document, now_s = msgspec.json.encode(OperatorList(operators=(listed,))), [0.0]
    verified: list[bytes] = []
    real = sealed.verify_ed25519
    monkeypatch.setattr(sealed, "verify_ed25519", lambda *given: verified.append(given[1]) or real(*given))
    today = datetime(2026, 12, 1, tzinfo=timezone.utc)
    letters = Letters(outbox, unseal=SealedReceipts(lambda: document, lambda: today, lambda: now_s[0]))
    put_events(outbox, 1)
    at = outbox.address
    receipt = Receipt(fleet=at.fleet, device=at.device, collector="c", stored=((1, letters.digest(1)),))
    forged = make_envelope(encode(receipt), RECEIPT_TYPE, key.keyid, lambda _: bytes(64))
    for _ in range(500):
        letters.receipt(payload=forged)
    assert len(verified) == sealed.BURST
    assert len(caplog.messages) <= 20
    letters.receipt(payload=key.sign_receipt(receipt))  # drowned: it is given again when the record comes again
    assert len(outbox.pending()) == 1
    now_s[0] += 1.0
    letters.receipt(payload=key.sign_receipt(receipt))
    assert outbox.pending() == ()


def test_a_board_that_wants_signed_receipts_reads_its_kept_operator_list(tmp_path: Path) -> None:
    key = OperatorKey.make(tmp_path / "archive.pem")
    listed = Operator(name="archive", public_key=key.public_key, role="viewer", valid_until="2100-01-01T00:00:00Z")
    mqtt = {"url": "mqtt://nowhere", "fleet": FLEET, "receipts": "signed"}
    with Site(parse_config({"mqtt": mqtt, "device": {"id": "board"}}, path=None), tmp_path) as site:
        site.records.keep_operators(msgspec.json.encode(OperatorList(operators=(listed,))))
        publisher = site.publisher()
        assert publisher is not None
        assert publisher.receipts.expected
        put_events(publisher.outbox, 1)
        (entry,) = publisher.outbox.pending()
        receipt = Receipt(fleet=FLEET, device="board", collector="c", stored=((entry.seq, digest(entry.payload)),))
        for payload, left in ((encode(receipt), 1), (key.sign_receipt(receipt), 0)):
            topic = topic_for(publisher.outbox.address, "receipt")
            publisher.receipts.on_message(Incoming(topic=topic, payload=payload, retain=False))
            assert len(publisher.outbox.pending()) == left


def test_what_gets_no_receipt_is_due_again_at_growing_intervals_and_a_receipt_shortens_them(outbox: Outbox) -> None:
    letters = Letters(outbox, patience_s=60.0)
    letters.status("online")
    put_events(outbox, 2)
    waits = []
    for _ in range(9):
        letters.receipts.sent(1)
        due = letters.receipts.due()
        assert due is not None
        waits.append(due - letters.now)
        letters.now = due - 0.1
        assert not letters.receipts.overdue()
        letters.now = due
        assert letters.receipts.overdue()
        assert 1 not in letters.receipts
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    letters.receipt((2, letters.digest(2)))
    letters.receipts.sent(1)
    letters.now += 3600
    assert letters.receipts.overdue()
    letters.receipts.sent(1)
    assert (letters.receipts.due() or 0) - letters.now == 60


def test_while_the_collector_is_away_nothing_is_repeated_and_its_return_repeats_at_once(outbox: Outbox) -> None:
    letters = Letters(outbox, patience_s=60.0)
    letters.status("offline")
    assert letters.receipts.expected
    put_events(outbox, 1)
    letters.receipts.sent(1)
    letters.now += 1e6
    assert letters.receipts.due() is None
    assert not letters.receipts.overdue()
    letters.status("online")
    assert letters.receipts.due() == letters.now
    assert letters.receipts.overdue()


def test_a_broker_that_invents_collectors_fills_no_memory(outbox: Outbox) -> None:
    letters = Letters(outbox)
    for number in range(300):
        made = CollectorStatus(fleet=FLEET, collector="c", state="offline")
        topic = collector_topic(FLEET, f"c{number}")
        letters.receipts.on_message(Incoming(topic=topic, payload=msgspec.json.encode(made), retain=True))
    assert len(letters.receipts._collectors) == module.MOST_COLLECTORS
    letters.receipts.on_message(Incoming(topic=collector_topic(FLEET, "c1"), payload=b"{", retain=True))
    assert letters.receipts.away


def test_a_slow_collector_holds_its_boards_back_and_the_order_stays(
    broker, outbox, publish, collect, monkeypatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 7)
    collector = collect(broker.settings())
    publisher = publish(broker.settings(), patience_s=60)
    send(publisher, lambda: publisher.receipts.expected)
    put_events(outbox, 100)
    send(publisher, lambda: not outbox.pending())
    assert collector.stored() == [(number + 1, str(number)) for number in range(100)]
    assert publisher.sent == 100


def test_a_job_overtakes_a_backlog_and_nothing_else_does(outbox: Outbox) -> None:
    from agent.core.payloads import Job
    from agent.report.waiting import Waiting

    put_events(outbox, 120)
    header = msgspec.structs.asdict(outbox.origin())
    outbox.put(topic_for(outbox.address, "job", "7"), Job(**header, id="7", verb="bench", state="QUEUED"))
    outbox.put(topic_for(outbox.address, "event"), Event(**header, level="info", kind="count", text="last"))
    outbox.put(topic_for(outbox.address, "job", "7"), Job(**header, id="7", verb="bench", state="SUCCEEDED"))
    waiting = Waiting(outbox)
    handed: list[int] = []
    while (entry := waiting.next(lambda _: False, lambda: len(handed) < 60)) is not None:
        handed.append(entry.seq)
    assert waiting.throttled
    assert handed == [121, 123, *range(1, 59)]
    assert not waiting.exhausted
    while (entry := waiting.next(lambda _: False, lambda: True)) is not None:
        handed.append(entry.seq)
    assert handed[60:] == [*range(59, 121), 122]
    assert waiting.exhausted
