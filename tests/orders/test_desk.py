"""The desk by itself, with a clock that the test moves and no broker: floods, floors, full queues, time running out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.clock import iso
from agent.config import parse_config
from agent.core.command import Audience, Command
from agent.core.envelope import COMMAND_TYPE, make_envelope
from agent.core.operators import Operator, OperatorList
from agent.core.payloads import Event, Job
from agent.core.rate import Bucket
from agent.mqtt import Incoming
from agent.orders.desk import Desk
from agent.orders.jobs import JobRecord, Jobs, after_restart
from agent.orders.line import MAX_WAITING, words_for
from agent.orders.outcome import read_outcome
from agent.registry.floor import write_floor
from agent.site import Site
from tests.orders.conftest import KEYS

START = datetime(2027, 1, 1, 12, tzinfo=timezone.utc)
EPOCH = "e" * 32


class ManualClock:
    """Both clocks, moved by the test."""

    def __init__(self) -> None:
        self.now = START
        self.wall_error = timedelta(0)

    def monotonic_s(self) -> float:
        return (self.now - START).total_seconds() + 1000.0

    def utc(self) -> datetime:
        return self.now + self.wall_error


class Scene:
    """A desk on a real database; what it would send lies in the outbox."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        mqtt = {"url": "mqtt://127.0.0.1:1", "fleet": "plant"}
        config = parse_config({"device": {"id": "pi"}, "mqtt": mqtt}, path=None)
        self.site = Site(config, folder, clock=self.clock)
        otto = Operator(
            name="otto", public_key=KEYS["otto"].public_key, role="admin", valid_until="2030-01-01T00:00:00Z"
        )
        self.site.records.keep_operators(msgspec.json.encode(OperatorList(operators=(otto,))))
        publisher = self.site.publisher(EPOCH)
        assert publisher is not None
        self.desk = Desk(self.site, publisher, EPOCH, lambda: None)
        self.desk.open()
        self.counter = 0

    def order(self, verb: str = "bench", **changes: Any) -> str:
        self.counter += 1
        made: dict[str, Any] = {
            "schema": "boardfit.command/1", "id": f"job-{self.counter:05}", "verb": verb, "issuer": "otto",
            "audience": Audience(fleet="plant", device="pi"), "counter": self.counter, "issued_at": iso(self.clock.now),
            "expires_at": iso(self.clock.now + timedelta(minutes=10)),
        }  # fmt: skip
        command = Command(**made | changes)
        self.receive(verb, KEYS["otto"].sign_command(command))
        return command.id

    def receive(self, verb: str, envelope: bytes) -> None:
        topic = f"boardfit/v1/plant/pi/cmd/{verb}"
        self.desk._received(Incoming(topic=topic, payload=envelope, retain=False))

    def told(self, kind: type[Any]) -> list[Any]:
        assert self.site.outbox is not None
        end = {Job: "/job/", Event: "/event"}[kind]
        entries = self.site.outbox.pending(limit=5000)
        return [msgspec.json.decode(one.payload, type=kind) for one in entries if end in one.topic]

    def states(self, job_id: str) -> list[str]:
        return [job.state for job in self.told(Job) if job.id == job_id]

    def later(self, **by: float) -> None:
        self.clock.now += timedelta(**by)
        self.desk.tend()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.site.close()


def test_a_flood_of_forgeries_is_counted_and_told_once_an_hour(scene: Scene) -> None:
    forged = make_envelope(b"{}", COMMAND_TYPE, KEYS["otto"].keyid, lambda _data: b"\0" * 64)
    for _ in range(500):
        scene.receive("bench", forged)
        scene.receive("bench", b"garbage")
    scene.desk.tend()
    scene.later(minutes=1)
    scene.receive("bench", forged)
    scene.later(minutes=1)
    (event,) = scene.told(Event)
    assert event.text == (
        "orders were ignored: 500 malformed, 300 too many at once, 200 with a signature that does not hold"
    )
    assert scene.told(Job) == []
    due = scene.desk.deadline()
    assert due is not None
    scene.later(hours=1)
    assert due <= scene.clock.monotonic_s()
    assert len(scene.told(Event)) == 2


def test_a_flood_of_signed_nonsense_gets_few_answers(scene: Scene) -> None:
    for _ in range(100):
        scene.order(expires_at=iso(scene.clock.now))
    assert len(scene.told(Job)) == 20
    assert {job.state for job in scene.told(Job)} == {"REJECTED"}


def test_a_clock_that_woke_in_1970_is_held_by_the_floor(scene: Scene) -> None:
    taken = scene.order()
    assert scene.states(taken) == ["QUEUED"]
    scene.clock.wall_error = datetime(1970, 1, 1, tzinfo=timezone.utc) - START
    long_ago = {"issued_at": "2026-12-31T00:00:00Z", "expires_at": "2026-12-31T01:00:00Z"}
    assert scene.states(scene.order(**long_ago)) == ["REJECTED"]
    assert scene.states(scene.order()) == ["QUEUED"]
    (scene.site.state_dir / "registry").mkdir()
    write_floor(scene.site.state_dir / "registry", START + timedelta(days=1))
    assert scene.states(scene.order()) == ["REJECTED"]  # the registry has proved that it is later than that


def test_a_queue_has_an_end_and_so_has_waiting(scene: Scene) -> None:
    first = [scene.order() for _ in range(MAX_WAITING)]
    extra = scene.order()
    (refused,) = [job for job in scene.told(Job) if job.id == extra]
    assert refused.reason == f"{MAX_WAITING} jobs wait already. wait, or cancel some"
    assert scene.desk.line.begin(scene.desk.objection) == ["bench"]
    scene.later(minutes=11)
    assert scene.states(first[0]) == ["QUEUED", "IN_PROGRESS"]
    assert all(scene.states(job_id) == ["QUEUED", "TIMED_OUT"] for job_id in first[1:])
    assert not scene.desk.line.stop_asked
    scene.later(hours=6)
    assert scene.desk.line.stop_asked
    scene.desk.line.finish(1, b"")
    assert scene.states(first[0])[-1] == "TIMED_OUT"


def test_what_finished_before_it_could_be_stopped_has_succeeded(scene: Scene) -> None:
    job_id = scene.order()
    scene.desk.line.begin(scene.desk.objection)
    scene.desk.line.cancel(job_id, "otto")
    scene.desk.line.finish(0, b"{}")
    assert scene.states(job_id) == ["QUEUED", "IN_PROGRESS", "SUCCEEDED"]


def test_a_disk_that_takes_nothing_lets_nothing_begin(scene: Scene) -> None:
    job_id = scene.order()
    scene.site.database._connection().execute("PRAGMA query_only = 1")
    assert scene.desk.line.begin(scene.desk.objection) is None
    scene.order()
    assert scene.desk.line.waiting == []
    scene.site.database._connection().execute("PRAGMA query_only = 0")
    stored = Jobs(scene.site.database).find(job_id)
    assert stored is not None
    assert stored.state == "QUEUED"


def test_an_end_that_the_disk_would_not_take_is_stored_once_it_does(scene: Scene) -> None:
    job_id = scene.order()
    scene.site.database._connection().execute("PRAGMA query_only = 1")
    assert scene.desk.line.begin(scene.desk.objection) is None  # it was told as failed
    scene.later(minutes=1)
    scene.site.database._connection().execute("PRAGMA query_only = 0")
    due = scene.desk.deadline()
    scene.later(minutes=1)
    assert due is not None and due <= scene.clock.monotonic_s()
    stored = Jobs(scene.site.database).find(job_id)
    assert stored is not None
    assert (stored.state, scene.states(job_id)) == ("FAILED", ["QUEUED", "FAILED"])
    assert Jobs(scene.site.database).open_jobs() == []  # nothing that a restart would begin


def test_who_has_lost_his_role_is_not_obeyed_though_his_job_waits(scene: Scene) -> None:
    job_id = scene.order()
    now_viewer = Operator(
        name="otto", public_key=KEYS["otto"].public_key, role="viewer", valid_until="2030-01-01T00:00:00Z"
    )
    scene.site.records.keep_operators(msgspec.json.encode(OperatorList(operators=(now_viewer,))))
    scene.desk.renew_operators()
    assert scene.desk.line.begin(scene.desk.objection) is None
    assert scene.states(job_id) == ["QUEUED", "CANCELED"]
    assert "otto is viewer; bench needs operator" in scene.told(Job)[-1].reason


def test_a_signed_command_that_cannot_be_read_is_answered_where_it_has_an_id(scene: Scene) -> None:
    def signed(payload: bytes) -> bytes:
        return make_envelope(payload, COMMAND_TYPE, KEYS["otto"].keyid, KEYS["otto"]._private.sign)

    scene.receive("bench", signed(b'{"id":"job-known","verb":"reboot"}'))
    scene.receive("bench", signed(b'{"verb":"bench"}'))
    (job,) = scene.told(Job)
    assert (job.id, job.verb, job.state) == ("job-known", "unknown", "REJECTED")
    assert "not a command" in job.reason


RECORD = JobRecord(
    id="job-00001", verb="bench", issuer="otto", keyid="k", digest="d", state="QUEUED", queued_at=iso(START),
    expires_at=iso(START + timedelta(minutes=1)), deadline_s=60.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "minutes", "state"),
    [
        ({}, 0, "QUEUED"),
        ({}, 1, "TIMED_OUT"),
        ({"epoch": True}, 0, "FAILED"),
        ({"epoch": True}, 1, "TIMED_OUT"),
        ({"state": "IN_PROGRESS"}, 0, "FAILED"),
        ({"state": "IN_PROGRESS"}, 1, "FAILED"),
    ],
)
def test_what_a_restart_makes_of_a_job(changes: dict[str, Any], minutes: int, state: str) -> None:
    before = msgspec.structs.replace(RECORD, **changes)
    after = after_restart(before, START + timedelta(minutes=minutes))
    assert after.state == state
    assert (after is before) == (state == "QUEUED")
    assert after is before or after.revision > before.revision + 100_000


def test_a_verbs_words_are_its_arguments() -> None:
    given = {"task": "digits", "candidates": ["a", "b"], "again": True, "exhaustive": False}
    record = msgspec.structs.replace(RECORD, arguments=given)
    assert words_for(record) == ["bench", "--task", "digits", "--candidate", "a", "--candidate", "b", "--again"]
    shared = msgspec.structs.replace(RECORD, arguments={"among": ["pi-1", "pi-2"], "overlap": 1})
    assert words_for(shared) == ["bench", "--among", "pi-1", "--among", "pi-2", "--overlap", "1"]


@pytest.mark.parametrize(
    ("code", "printed", "reason"),
    [
        (0, b"", None),
        (-9, b"", "it was ended by signal 9"),
        (4, b"not json", "the registry is not trusted"),
        (77, b"", "exit code 77"),
        (1, b'{"error":"the disk is full","fix":null}', "the disk is full"),
        (3, b'{"decisions":[{"id":"1","task":"a","reason":"too slow"}]}', "too slow"),
    ],
)
def test_an_exit_code_has_a_reason(code: int, printed: bytes, reason: str | None) -> None:
    assert read_outcome(code, printed)[0] == reason


def test_a_bucket_holds_so_much_and_is_filled_again() -> None:
    clock = ManualClock()
    bucket = Bucket(clock.monotonic_s, capacity=2, per_s=0.5)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    clock.now += timedelta(seconds=2)
    assert [bucket.take() for _ in range(2)] == [True, False]
    clock.now += timedelta(days=1)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
