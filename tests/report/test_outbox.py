"""The outbox: what it keeps, in which order it lets go, and that a kill or a full disk loses nothing silently."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.messages import MAX_PAYLOAD_BYTES, decode
from agent.core.payloads import (
    DecisionMessage,
    DeploymentMessage,
    Event,
    Job,
    Measurements,
    MeasurementSummary,
    Origin,
    Reported,
    Telemetry,
)
from agent.core.topics import Address, topic_for
from agent.database import Database
from agent.errors import ReportError
from agent.report.outbox import Bounds, Loss, Outbox


def header(outbox: Outbox) -> dict[str, object]:
    return msgspec.structs.asdict(outbox.origin())


def put_telemetry(outbox: Outbox, text: str = "") -> int | None:
    topic = topic_for(outbox.address, "telemetry", "board")
    return outbox.put(topic, Telemetry(**header(outbox), group="board", governor=text))


def put_event(outbox: Outbox, text: str = "") -> int | None:
    return outbox.put(topic_for(outbox.address, "event"), Event(**header(outbox), level="info", kind="x", text=text))


def put_job(outbox: Outbox, text: str = "") -> int | None:
    job = Job(**header(outbox), id="7", verb="bench", state="SUCCEEDED", reason=text)
    return outbox.put(topic_for(outbox.address, "job", "7"), job)


def put_reported(outbox: Outbox, version: int) -> int | None:
    return outbox.put(
        topic_for(outbox.address, "reported"), Reported(**header(outbox), version=version, agent_version="0")
    )


def measured(name: str, text: str = "") -> MeasurementSummary:
    return MeasurementSummary(
        id=name, task="digits", candidate="a", artifact_sha256="0", size_bytes=1, engine="onnxruntime",
        engine_version="1", provider="CPU", threads=1, batch=1, class_fingerprint="f", verdict="ok",
        started_at="2026-05-04T03:02:01Z", duration_s=1.0, reason=text,
    )  # fmt: skip


def put_measurement(outbox: Outbox, text: str = "") -> int | None:
    message = Measurements(**header(outbox), measurements=(measured("m", text),))
    return outbox.put(topic_for(outbox.address, "measurement"), message)


PUT = {"telemetry": put_telemetry, "measurement": put_measurement, "event": put_event, "job": put_job}


def kinds(outbox: Outbox) -> list[str]:
    return [entry.topic.split("/")[4] for entry in outbox.pending(limit=10_000)]


@pytest.fixture
def box(database: Database, here: Address, clock) -> Outbox:
    return Outbox(database, here, clock, boot_id="boot-a", bounds=Bounds(max_bytes=12_000, max_age_s=3600))


def test_messages_come_back_in_order_with_their_header(box: Outbox) -> None:
    assert [put_event(box, "one"), put_telemetry(box), put_event(box, "two")] == [1, 2, 3]
    entries = box.pending()
    assert [(entry.seq, entry.qos, entry.retain) for entry in entries] == [(1, 1, False), (2, 1, False), (3, 1, False)]
    message = decode(entries[2].topic, entries[2].payload)
    assert isinstance(message, Event)
    assert (message.seq, message.text, message.boot_id, message.time) == (
        3,
        "two",
        "boot-a",
        "2026-05-04T03:02:01.000Z",
    )
    assert message.clock_synced is None
    assert [entry.seq for entry in box.pending(after_seq=1, limit=1)] == [2]


def test_removed_messages_are_gone_and_their_seq_is_not_used_again(box: Outbox) -> None:
    put_event(box)
    put_event(box)
    box.remove([1, 2])
    assert box.pending() == ()
    assert put_event(box) == 3


def test_the_newest_retained_message_replaces_an_unsent_older_one(box: Outbox) -> None:
    put_reported(box, 1)
    put_event(box)
    put_reported(box, 2)
    assert [(entry.seq, entry.retain) for entry in box.pending()] == [(2, False), (3, True)]
    assert box.fill().losses == ()


def deployment(outbox: Outbox, phase: str = "done", **changes: object) -> DeploymentMessage:
    return DeploymentMessage(**{**header(outbox), **changes}, task="digits", phase=phase, changed_at="x")


def test_a_retained_document_is_told_again_when_it_is_news_or_the_broker_may_have_forgotten_it(
    box: Outbox, clock
) -> None:
    topic = topic_for(box.address, "deployment", "digits")
    assert box.put_news(topic, deployment(box)) == 1
    clock.pass_time(3600)
    assert box.put_news(topic, deployment(box)) is None  # said a little later, the same all the same
    assert box.put_news(topic, deployment(box, clock_synced=True)) == 2  # from now on its time can be believed
    assert box.put_news(topic, deployment(box, "rolled_back", clock_synced=True)) == 3
    assert box.put_news(topic, deployment(box, clock_synced=True)) == 4
    box.forget_told(sent_seq=0)
    assert box.put_news(topic, deployment(box, clock_synced=True)) is None  # it waits still, and goes out there
    box.remove([4])
    assert box.put_news(topic, deployment(box, clock_synced=True)) is None
    box.forget_told(sent_seq=4)
    assert box.put_news(topic, deployment(box, clock_synced=True)) == 5
    box.forget_told(sent_seq=5)  # sent over the connection before, and not confirmed by a collector yet
    assert box.put_news(topic, deployment(box, clock_synced=True)) == 6
    assert box.put(topic, deployment(box, clock_synced=True)) == 7  # who must hear of it does


def test_a_connection_that_changes_nothing_writes_nothing(box: Outbox, database: Database) -> None:
    def writes() -> int:
        return database._connection().total_changes

    box.know_limit(1000)
    before = writes()
    box.know_limit(1000)
    box.forget_told()
    assert writes() == before
    assert box.message_limit() < 1000
    box.know_limit(None)
    assert box.message_limit() == MAX_PAYLOAD_BYTES
    assert writes() > before


def test_a_decision_that_says_the_same_under_another_id_is_no_news(box: Outbox) -> None:
    def decided(name: str, reason: str) -> DecisionMessage:
        return DecisionMessage(
            **header(box), id=name, task="digits", decided_at=name, class_fingerprint="f", outcome="kept_incumbent",
            reason=reason, options_total=0, options_fitting=0, options=(), budgets=(), objectives=(),
        )  # fmt: skip

    topic = topic_for(box.address, "decision", "digits")
    stored = [box.put_news(topic, decided(*one)) for one in (("a", "it serves"), ("b", "it serves"), ("c", "a tie"))]
    assert stored == [1, None, 2]


def test_what_is_read_at_once_is_bounded_in_bytes(database: Database, here: Address, clock) -> None:
    box = Outbox(database, here, clock)
    for _ in range(5):
        put_measurement(box, "x" * 100_000)
    put_event(box)
    read = [box.pending(after) for after in (0, 2, 4)]
    assert [[entry.seq for entry in entries] for entries in read] == [[1, 2], [3, 4], [5, 6]]


def test_a_full_outbox_drops_telemetry_first_then_measurements_and_nothing_else(box: Outbox) -> None:
    pad = "x" * 700
    for put in (put_measurement, put_telemetry, put_event, put_telemetry, put_measurement):
        put(box, pad)
    held = box.fill()
    assert held.lost == 0
    while box.fill().lost == 0:
        put_event(box, pad)
    assert box.fill().losses[0].precedence == "telemetry"
    assert kinds(box).count("telemetry") == 1
    while "measurement" in kinds(box):
        put_event(box, pad)
        if kinds(box).count("measurement") < 2:
            assert "telemetry" not in kinds(box)
    events = kinds(box).count("event")
    put_job(box, pad)
    assert kinds(box).count("event") == events
    assert kinds(box).count("job") == 1


def test_only_what_may_never_be_dropped_outgrows_the_bound_and_says_so(box: Outbox, caplog) -> None:
    for _ in range(20):
        put_job(box, "x" * 700)
    assert kinds(box) == ["job"] * 20
    assert box.fill().over_bound
    assert "holds nothing that may be dropped" in caplog.text
    put_telemetry(box)
    assert "telemetry" not in kinds(box)


@given(st.lists(st.tuples(st.sampled_from(sorted(PUT)), st.integers(0, 900)), max_size=40))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_bounds_hold_for_any_sequence(tmp_path_factory, here: Address, clock, sequence) -> None:
    with Database(tmp_path_factory.mktemp("any") / "boardfit.db") as database:
        box = Outbox(database, here, clock, boot_id="boot-a", bounds=Bounds(max_bytes=8000))
        for kind, length in sequence:
            PUT[kind](box, "y" * length)
        fill, held = box.fill(), kinds(box)
        assert fill.messages + fill.lost == len(sequence)
        assert [held.count(kind) for kind in ("event", "job")] == [
            sum(kind == wanted for kind, _ in sequence) for wanted in ("event", "job")
        ]
        if fill.over_bound:
            assert set(held) <= {"event", "job"}
        seqs = [entry.seq for entry in box.pending(limit=10_000)]
        assert seqs == sorted(seqs)


STEPS = st.one_of(
    st.tuples(st.sampled_from(sorted(PUT)), st.integers(0, 900)),
    st.tuples(st.just("wait"), st.integers(1, 3 * 86400)),
    st.tuples(st.just("arrived"), st.integers(1, 10)),
    st.tuples(st.just("reboot"), st.integers(0, 1)),
)


@given(st.lists(STEPS, max_size=60))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_days_offline_simulated_keep_every_bound_and_lose_nothing_that_is_never_dropped(
    tmp_path_factory, here: Address, steps
) -> None:
    """Any sequence of messages, days, arrivals and reboots: what was put is held, has arrived, or counts as lost."""
    from tests.report.conftest import ManualClock

    clock, bounds, boot = ManualClock(), Bounds(max_bytes=8000, max_age_s=2 * 86400), 0
    put, arrived = dict.fromkeys(PUT, 0), dict.fromkeys(PUT, 0)
    born: dict[int, datetime] = {}
    with Database(tmp_path_factory.mktemp("days") / "boardfit.db") as database:
        box = Outbox(database, here, clock, boot_id="boot-0", bounds=bounds)
        for step, amount in steps:
            if step == "wait":
                clock.pass_time(amount)
            elif step == "reboot":
                boot += 1
                clock.now_s = 5.0
                box = Outbox(database, here, clock, boot_id=f"boot-{boot}", bounds=bounds)
            elif step == "arrived":
                done = box.pending(limit=amount)
                box.remove(entry.seq for entry in done)
                for entry in done:
                    arrived[entry.topic.split("/")[4]] += 1
            else:
                # Every message that may be dropped is dropped before one that may not, and telemetry before results.
                before = {loss.precedence: loss.messages for loss in box.fill().losses if loss.cause == "space"}
                seq = PUT[step](box, "z" * amount)
                put[step] += 1
                assert seq is not None
                born[seq] = clock.wall
                fill, held = box.fill(), box.pending(limit=10_000)
                names = [entry.topic.split("/")[4] for entry in held]
                after = {loss.precedence: loss.messages for loss in fill.losses if loss.cause == "space"}
                if after.get("measurement", 0) > before.get("measurement", 0):
                    assert "telemetry" not in names
                assert fill.bytes <= bounds.max_bytes or set(names) <= {"event", "job"}
                for entry, name in zip(held, names, strict=True):
                    age = clock.wall - born[entry.seq]
                    assert name in ("event", "job") or age <= timedelta(seconds=bounds.max_age_s)
        seqs = [entry.seq for entry in box.pending(limit=10_000)]
        assert seqs == sorted(set(seqs))
        held_now, lost = kinds(box), dict.fromkeys(("telemetry", "measurement", "kept"), 0)
        for loss in box.fill().losses:
            lost[loss.precedence] += loss.messages
        assert lost["kept"] == 0
        for kind in PUT:
            assert put[kind] == held_now.count(kind) + arrived[kind] + lost.get(kind, 0)


def test_old_telemetry_goes_and_old_decisions_stay(box: Outbox, clock) -> None:
    put_telemetry(box)
    put_measurement(box)
    put_event(box)
    clock.pass_time(3601)
    put_event(box)
    assert kinds(box) == ["event", "event"]
    assert [(loss.precedence, loss.cause, loss.messages) for loss in box.fill().losses] == [
        ("measurement", "age", 1),
        ("telemetry", "age", 1),
    ]


@pytest.mark.parametrize(
    ("times", "kept"),
    [
        ((datetime(1970, 1, 2, tzinfo=timezone.utc), datetime(2026, 5, 4, tzinfo=timezone.utc)), True),
        ((datetime(2026, 5, 4, tzinfo=timezone.utc), datetime(1970, 1, 2, tzinfo=timezone.utc)), True),
        ((datetime(2026, 5, 4, tzinfo=timezone.utc), datetime(2026, 5, 4, 0, 59, tzinfo=timezone.utc)), True),
        ((datetime(2026, 5, 4, tzinfo=timezone.utc), datetime(2026, 5, 4, 1, 1, tzinfo=timezone.utc)), False),
    ],
)
def test_age_across_boots_is_judged_only_by_clocks_that_can_be_right(database, here, clock, times, kept) -> None:
    bounds = Bounds(max_age_s=3600)
    clock.wall, now = times
    put_telemetry(Outbox(database, here, clock, boot_id="boot-a", bounds=bounds))
    clock.wall, clock.now_s = now, 5.0
    second = Outbox(database, here, clock, boot_id="boot-b", bounds=bounds)
    put_event(second)
    assert kinds(second) == (["telemetry", "event"] if kept else ["event"])


def test_a_clock_that_is_set_during_the_boot_ages_nothing(box: Outbox, clock) -> None:
    clock.wall = datetime(2024, 6, 1, tzinfo=timezone.utc)
    put_telemetry(box)
    clock.now_s += 10
    clock.wall = datetime(2026, 5, 4, tzinfo=timezone.utc)
    put_event(box)
    assert kinds(box) == ["telemetry", "event"]


def test_a_message_for_the_wrong_topic_or_too_long_is_refused_and_stores_nothing(box: Outbox) -> None:
    with pytest.raises(ReportError, match="carries a Reported"):
        box.put(topic_for(box.address, "reported"), Event(**header(box), level="info", kind="x", text="y"))
    with pytest.raises(ReportError, match="over the 131072"):
        put_event(box, "x" * 200_000)
    with pytest.raises(ReportError, match="not a topic"):
        box.put("somewhere/else", Event(**header(box), level="info", kind="x", text="y"))
    assert box.fill().messages == 0


def test_a_full_disk_is_counted_and_the_caller_goes_on(database: Database, box: Outbox) -> None:
    put_event(box)
    pages = database.rows("PRAGMA page_count")[0][0]
    database.rows(f"PRAGMA max_page_count = {pages}")  # what SQLite then says is what it says on a full disk
    stored = [put_event(box, "x" * 900) for _ in range(20)]
    refused = stored.count(None)
    assert refused > 0
    fill = box.fill()
    assert fill.messages + refused == 21
    assert [(loss.precedence, loss.cause, loss.messages) for loss in fill.losses] == [("kept", "not_stored", refused)]
    database.rows("PRAGMA max_page_count = 1000000")
    assert put_event(box) is not None
    with_new_eyes = Outbox(database, box.address, box._clock)
    assert with_new_eyes.fill().losses == (
        Loss(precedence="kept", cause="not_stored", messages=refused, bytes=fill.losses[0].bytes),
    )


def test_a_kill_loses_no_message_that_was_said_to_be_stored(tmp_path: Path, here: Address, system_clock) -> None:
    script = """
import sys, time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from agent.core.payloads import Event
from agent.core.topics import address, topic_for
from agent.database import Database
from agent.report.outbox import Outbox
class Now:
    def monotonic_s(self): return time.monotonic()
    def utc(self): return datetime.now(timezone.utc)
at = address("plant-7", "pi5-kitchen")
box = Outbox(Database(Path(sys.argv[1])), at, Now())
while True:
    event = Event(fleet=at.fleet, device=at.device, level="info", kind="x", text="y")
    print(box.put(topic_for(at, "event"), event), flush=True)
"""
    path = tmp_path / "boardfit.db"
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(30)]
    os.kill(child.pid, signal.SIGKILL)
    said += [int(line) for line in child.stdout if line.endswith("\n")]
    child.wait()
    with Database(path) as database:
        assert database.set_aside is None
        held = [entry.seq for entry in Outbox(database, here, system_clock).pending(limit=100_000)]
    assert held[: len(said)] == said
    assert len(held) - len(said) in (0, 1)


def test_two_processes_may_put_at_once(tmp_path: Path, here: Address, system_clock) -> None:
    with Database(tmp_path / "x.db") as one, Database(tmp_path / "x.db") as two:
        first, second = Outbox(one, here, system_clock), Outbox(two, here, system_clock)
        for _ in range(5):
            put_event(first)
            put_event(second)
        assert [entry.seq for entry in first.pending()] == list(range(1, 11))


def test_origin_is_the_header_and_nothing_else(box: Outbox) -> None:
    assert box.origin() == Origin(
        fleet="plant-7", device="pi5-kitchen", boot_id="boot-a", time="2026-05-04T03:02:01.000Z"
    )
