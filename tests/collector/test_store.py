"""What a store keeps and gives back, in SQLite and in PostgreSQL alike."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import msgspec
import pytest
from sqlalchemy import func, select, text, update

from agent.collector import store_reading
from agent.collector import store_schema as schema
from agent.collector.judging import take
from agent.collector.store import MAX_DOCUMENTS, Store
from agent.collector.store_reading import StoredReader
from agent.core.rollout_message import RolloutMessage, RolloutOrder
from agent.errors import ConfigError, StorageError
from agent.fleet.view import FleetView, as_document
from tests.collector.documents import CLASS, FLEET, NOW, Board, judged

KINDS = ("measurement", "decision", "deployment", "event", "telemetry", "job")


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store(database_url) as opened:
        opened.open()
        yield opened


@pytest.fixture
def reader(store: Store, database_url: str) -> Iterator[StoredReader]:
    with StoredReader(database_url) as opened:
        yield opened


def test_every_kind_of_document_is_stored_and_read_back_as_it_was_sent(store: Store, reader: StoredReader) -> None:
    messages = Board().everything()
    applied = store.apply(judged(messages))
    assert len(applied.stored) == len(messages) == 9
    sent = {topic.split("/", 4)[4]: json.loads(payload) for topic, payload in messages}
    measured = sent["measurement"]
    header = {name: value for name, value in measured.items() if name not in ("measurements", "schema")}
    sent["measurement"] = {**header, **measured["measurements"][0]}
    newest = ("status", "profile", "reported", "decision/digits", "deployment/digits", "telemetry/board")
    documents = reader.documents(FLEET, "pi5")
    assert documents == {**{topic: sent[topic] for topic in newest}, "job": sent["job/7"]}
    for kind in KINDS:
        (topic,) = [topic for topic in sent if topic.partition("/")[0] == kind]
        assert reader.history(FLEET, kind) == [sent[topic]]  # type: ignore[arg-type]
        assert reader.history(FLEET, kind, board="pi5", since="2026-11-22T11:59:00Z") == [sent[topic]]  # type: ignore[arg-type]
        assert reader.history(FLEET, kind, since="2026-11-22T13:00:00+00:00") == []  # type: ignore[arg-type]
        assert reader.history(FLEET, kind, board="pi6") == reader.history("other", kind) == []  # type: ignore[arg-type]
    assert reader.history(FLEET, "decision", task="digits") != []
    assert reader.history(FLEET, "decision", task="words") == reader.history(FLEET, "telemetry", task="digits") == []
    assert reader.fleets() == [FLEET]


def test_a_board_s_row_is_what_an_operator_s_machine_makes_of_the_same_messages(store, reader) -> None:
    view = FleetView(FLEET)
    boards = [Board("pi5"), Board("pi6"), Board("pi7")]
    messages = [message for board in boards for message in board.everything()]
    messages += [boards[0].status("busy"), boards[1].will(), boards[2].decision(candidate=None, outcome="nothing_fits")]
    messages += [boards[2].deployment(task="words", expected_latency_p95_s=0.003), boards[2].decision(what_if=True)]
    messages += [boards[1].profile(model="a\x1b]0;title\u202e"), boards[0].telemetry("other")]
    for topic, payload in messages:
        view.take(topic, payload)
    assert view.refused == 0
    store.apply(judged(messages))
    assert [as_document(board) for board in reader.boards(FLEET)] == [as_document(one) for one in view.sorted()]
    assert [board.name for board in reader.boards(FLEET, ["pi7", "pi5", "nobody"])] == ["pi5", "pi7"]


def test_the_same_holds_for_one_message_at_a_time(store, reader) -> None:
    view, board = FleetView(FLEET), Board()
    for number, (topic, payload) in enumerate([*board.everything(), board.will(), board.status(), board.job()]):
        view.take(topic, payload)
        store.apply(judged([(topic, payload)], NOW + 100 + number))
    assert [as_document(one) for one in reader.boards(FLEET)] == [as_document(one) for one in view.sorted()]


def test_the_measurements_of_a_pass_come_in_one_message_and_are_rows_of_their_own(store, reader) -> None:
    board = Board()
    told = board.measurements(
        {"candidate": "small"}, {"candidate": "large", "boot_id": "boot-0"}, {"candidate": "large"}
    )
    store.apply(judged([told, told]))
    found = reader.history(FLEET, "measurement", task="digits")
    assert [(one["id"], one["candidate"], one["boot_id"]) for one in found] == [
        ("m1-2", "large", "boot-a"), ("m1-1", "large", "boot-0"), ("m1-0", "small", "boot-a"),
    ]  # fmt: skip
    assert {(one["device"], one["seq"]) for one in found} == {("pi5", 1)}


def test_a_record_sent_again_is_the_same_row_and_another_with_its_number_is_another(store, reader) -> None:
    board = Board()
    first = board.event("first")
    store.apply(judged([first, first]))
    store.apply(judged([first], NOW + 9999))
    board.seq = 0  # its state directory was wiped
    store.apply(judged([board.event("second")]))
    assert sorted(one["text"] for one in reader.history(FLEET, "event")) == ["first", "second"]


def test_of_a_job_the_greatest_revision_is_kept_in_whatever_order_they_come(store, reader) -> None:
    board = Board()
    queued, working, done = (
        board.job("7", state, number) for number, state in enumerate(("QUEUED", "IN_PROGRESS", "SUCCEEDED"), start=1)
    )
    store.apply(judged([done]))
    store.apply(judged([queued, working], NOW + 300))
    assert [one["state"] for one in reader.history(FLEET, "job")] == ["SUCCEEDED"]
    assert reader.documents(FLEET, "pi5")["job"]["state"] == "SUCCEEDED"
    store.apply(judged([board.job("8")], NOW + 400))
    assert [one["id"] for one in reader.history(FLEET, "job", limit=1)] == ["8"]
    assert len(reader.history(FLEET, "job", board="pi5", task="digits")) == 2
    assert reader.boards(FLEET)[0].job_state == "QUEUED"


def test_an_older_document_never_takes_the_place_of_a_newer_one_whoever_writes_it(store, reader, database_url) -> None:
    board = Board()
    old = [board.status("busy"), board.profile(model="old"), board.decision("old"), board.telemetry()]
    new = [board.status("online"), board.profile(model="new"), board.decision("new"), board.telemetry()]
    store.apply(judged(new))
    with Store(database_url) as other:
        other.apply(judged(old, NOW + 500))
    (found,) = reader.boards(FLEET)
    assert (found.status, found.model, found.tasks["digits"].decided) == ("online", "new", "new")
    assert reader.documents(FLEET, "pi5")["decision/digits"]["candidate"] == "new"
    assert len(reader.history(FLEET, "decision")) == 2
    assert reader.history(FLEET, "decision")[0]["candidate"] == "new"
    board.now_s, board.boot_id, board.synced = 5.0, "boot-b", False  # it wakes up in 1970
    with Store(database_url) as other:
        other.apply(
            judged([board.status(uptime_s=3.0), board.profile(model="newer"), board.decision("newer")], NOW + 600)
        )
    (found,) = reader.boards(FLEET)
    assert (found.boot_id, found.model, found.tasks["digits"].decided) == ("boot-b", "newer", "newer")
    assert found.seen is not None
    assert found.seen.startswith("2026")


def test_an_emptied_status_takes_a_board_out_and_its_history_stays(store, reader) -> None:
    board = Board()
    store.apply(judged(board.everything()))
    before = reader.changes(FLEET, 0).cursor
    store.apply(judged([(f"boardfit/v1/{FLEET}/pi5/status", b"")], NOW + 300))
    assert reader.boards(FLEET) == []
    assert reader.documents(FLEET, "pi5") == {}
    assert reader.classes(FLEET) == []
    assert len(reader.history(FLEET, "event")) == 1
    assert reader.changes(FLEET, before).boards == {"pi5"}
    store.apply(judged([board.status()], NOW + 400))
    (again,) = reader.boards(FLEET)
    assert (again.status, again.model) == ("online", None)


def test_changes_are_named_by_a_cursor_that_several_writers_share(store, reader, database_url, monkeypatch) -> None:
    assert reader.changes(FLEET, 0).cursor == 0
    boards = [Board(f"pi{number}") for number in range(4)]
    store.apply(judged([board.status() for board in boards]))
    cursor = reader.changes(FLEET, 0).cursor
    assert reader.changes(FLEET, cursor) == reader.changes(FLEET, 0)
    with Store(database_url) as other:
        other.apply(judged([boards[1].event()]))
        store.apply(judged([boards[2].status("busy")]))
        other.apply(judged([boards[2].status("online")], NOW + 300))
    changed = reader.changes(FLEET, cursor)
    assert changed.boards == {"pi1", "pi2"}
    assert not changed.whole
    assert changed.cursor == cursor + 3
    assert reader.boards(FLEET, ["pi2"])[0].status == "online"
    assert reader.changes(FLEET, cursor + 99).whole
    monkeypatch.setattr(store_reading, "MOST_NAMED", 1)
    assert reader.changes(FLEET, cursor).whole


def test_writers_at_once_store_everything_once_and_lose_no_change(store, reader, database_url) -> None:
    boards = [Board(f"pi{number}") for number in range(5)]
    batches = [[board.event(f"{number}") for board in boards] for number in range(30)]
    seen: set[str] = set()
    ended = threading.Event()

    def follow() -> None:
        cursor = 0
        while True:
            last = ended.is_set()
            changed = reader.changes(FLEET, cursor)
            seen.update(changed.boards)
            cursor = changed.cursor
            if last:
                return

    def write(part: int) -> None:
        with Store(database_url) as one:
            for number in range(30):
                one.apply(judged(batches[number if part else -1 - number], NOW + number))
                one.apply(judged([Board(f"w{part}-{number}").status()], NOW + number))

    store.apply(judged([Board("first").status()]))
    follower = threading.Thread(target=follow)
    writers = [threading.Thread(target=write, args=(part,)) for part in range(2)]
    follower.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    ended.set()
    follower.join()
    assert len(reader.history(FLEET, "event", limit=1000)) == 150
    assert {f"w{part}-{number}" for part in range(2) for number in range(30)} <= seen


def test_a_store_of_a_newer_version_is_refused_by_writer_and_reader(store, database_url) -> None:
    with store.engine.begin() as connection:
        connection.execute(update(schema.version).values(version=schema.VERSION + 1))
    with Store(database_url) as other, pytest.raises(StorageError, match="newer boardfit") as refused:
        other.open()
    assert "Update boardfit here" in str(refused.value)
    with StoredReader(database_url) as other_reader, pytest.raises(StorageError, match="newer boardfit"):
        other_reader.fleets()


def test_a_reader_of_a_database_that_nobody_has_written_says_so(database_url: str) -> None:
    with StoredReader(database_url) as reader, pytest.raises(StorageError, match="holds no collector's tables"):
        reader.fleets()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_the_database_does_not_take_costs_its_own_document_only(store, reader) -> None:
    good, bad = Board("good"), Board("bad")
    batch = judged([good.event("1"), bad.event("2"), good.event("3"), bad.status(), good.status()])
    batch[1].payload = '{"broken": by hand'  # what comes over the network was looked at before
    batch[3].payload = '{"a":' * 50_000 + "1" + "}" * 50_000
    applied = store.apply(batch)
    assert [taken.kind for taken, _ in applied.refused] == ["event", "status"]
    assert [one["text"] for one in reader.history(FLEET, "event")] == ["3", "1"]
    assert [one.name for one in reader.boards(FLEET)] == ["good"]


def test_a_board_that_names_ever_more_topics_fills_no_store(store, reader) -> None:
    board = Board()
    for start in range(0, 400, 100):
        tasks = [board.decision(task=f"t{number}") for number in range(start, start + 100)]
        left_out = store.apply(judged(tasks, NOW + start)).left_out
    assert left_out == 100
    assert len(reader.documents(FLEET, "pi5")) == MAX_DOCUMENTS
    store.apply(judged([board.decision("large", task="t0")], NOW + 900))
    assert reader.documents(FLEET, "pi5")["decision/t0"]["candidate"] == "large"


def test_figures_of_a_class_are_medians_over_its_boards_newest_valid_measurements(store, reader) -> None:
    boards = [Board(f"pi{number}") for number in range(3)]
    messages = []
    for number, board in enumerate(boards):
        messages += [
            board.profile(), board.status("offline" if number == 0 else "busy"), board.deployment(),
            board.measurement(latency_p95_s=1.0),  # an older one
            board.measurement(latency_p95_s=0.002 + number * 0.001, energy_per_inference_j=[0.01, None, 0.03][number]),
            board.measurement(verdict="contended", latency_p95_s=9.0),
            board.measurement("large", threads=1, accuracy_top1=None),
        ]  # fmt: skip
    store.apply(judged(messages))
    store.apply(judged([Board("else").profile(class_fingerprint="d" * 64)]))
    large, small = reader.options(FLEET, CLASS, "digits")
    assert (small.candidate, small.threads, small.boards, small.serving) == ("small", 4, 3, 3)
    assert (small.latency_p95_least_s, small.latency_p95_s, small.latency_p95_most_s) == (0.002, 0.003, 0.004)
    assert small.energy_per_inference_j == pytest.approx(0.02)
    assert (large.candidate, large.accuracy_top1, large.energy_per_inference_j, large.serving) == (
        "large",
        None,
        None,
        0,
    )
    assert reader.options(FLEET, "d" * 64, "digits") == []
    first, second = reader.classes(FLEET)
    assert (first.class_fingerprint, first.boards, first.online, first.profile) == (CLASS, 3, 2, "rpi5")
    assert first.tasks == ("digits",)
    assert (second.class_fingerprint, second.boards, second.online, second.tasks) == ("d" * 64, 1, 0, ())


def test_rollouts_are_kept_the_newest_of_each(store, reader) -> None:
    order = RolloutOrder(
        address="all", waves=("100%",), success_ratio=1.0, abort_on=(), soak_s=0.0, per_class=False,
        on_breach="pause", wait_s=1.0,
    )  # fmt: skip

    def told(name: str, minute: int, status: str) -> tuple[str, bytes]:
        message = RolloutMessage(
            fleet=FLEET, id=name, task="digits", operator="anna", status=status, reason="", started_at="",  # type: ignore[arg-type]
            updated_at=f"2026-11-22T12:{minute:02}:00.000Z", order=order,
        )  # fmt: skip
        return f"boardfit/v1/{FLEET}/_rollout/{name}", msgspec.json.encode(message)

    store.apply(judged([told("one", 5, "running"), told("two", 6, "running")]))
    cursor = reader.changes(FLEET, 0).cursor
    store.apply(judged([told("one", 7, "completed"), told("two", 1, "paused"), told("one", 6, "running")]))
    assert [(one["id"], one["status"]) for one in reader.rollouts(FLEET)] == [("one", "completed"), ("two", "running")]
    assert reader.changes(FLEET, cursor).rollouts == {"one"}
    assert len(reader.rollouts(FLEET, limit=1)) == 1
    assert reader.boards(FLEET) == []


def test_times_are_times_and_documents_are_documents_to_sql(store) -> None:
    store.apply(judged(Board().everything()))
    postgres = store.engine.dialect.name == "postgresql"
    asked = (
        "SELECT extract(epoch FROM at)::bigint, payload->>'text' FROM event"
        if postgres
        else "SELECT CAST(strftime('%s', at) AS INTEGER), json_extract(payload, '$.text') FROM event"
    )
    with store.engine.begin() as connection:
        assert [tuple(row) for row in connection.execute(text(asked))] == [(int(NOW) + 8, "it happened")]
        lists = "jsonb_array_length(engines)" if postgres else "json_array_length(engines)"
        assert connection.scalar(text(f"SELECT {lists} FROM board")) == 2
        assert connection.scalar(select(func.count()).select_from(schema.board_task)) == 1


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_cannot_be_used_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(ConfigError):
        Store(url)


def test_a_password_is_never_shown() -> None:
    with Store("postgresql://me:secret@127.0.0.1:1/nothing") as store:
        with pytest.raises(StorageError) as lost:
            store.open()
        assert "secret" not in str(lost.value) + store.name


def test_hostile_numbers_and_texts_are_refused_before_they_are_stored() -> None:
    board = Board()
    topic, event = board.event()
    bad = [
        event[:-1] + b',"more":1e99999999}', event[:-1] + b',"x":"\\ud800, and no more"}',
        event.replace(b'"seq":1', b'"seq":-1'), event.replace(b'"seq":1', b'"seq":%d' % 2**63),
        event.replace(b"it happened", b"it\\u0000happened"), event[:-1] + b',"x":"\xff"}',
        event.replace(b'"seq":1', b'"seq":1' + b"0" * 400), b"[" * 60000, b"{}", b"\xff",
        event[:-1] + b',"x":' + b"[" * 60000 + b"]" * 60000 + b"}",
    ]  # fmt: skip
    for payload in bad:
        with pytest.raises(Exception) as refused:
            take(topic, payload, NOW)
        assert type(refused.value).__name__ == "ReportError", payload[:80]
    where, job = board.job()
    for field in (b'"revision":1', b'"exit_code":null'):
        with pytest.raises(Exception, match="out of range"):
            take(where, job.replace(field, field.split(b":")[0] + b":" + b"9" * 30), NOW)
    assert take(f"boardfit/v1/{FLEET}/_all/cmd/bench", b"{}", NOW) is None
    assert take(f"boardfit/v1/{FLEET}/pi5/receipt", b"{}", NOW) is None
