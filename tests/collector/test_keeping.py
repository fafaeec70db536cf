"""What a collector throws away, and what it never does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest

from agent.collector import store_keeping
from agent.collector.store import Store
from agent.collector.store_keeping import EVERY_S, Keep, Keeping
from agent.collector.store_reading import StoredReader
from tests.collector.documents import FLEET, NOW, Board, judged

_DAY_S = 86400.0


class Clock:
    """Both clocks, moved by the test."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def utc(self) -> datetime:
        return datetime.fromtimestamp(NOW, timezone.utc) + timedelta(seconds=self.now_s)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store(database_url) as opened:
        opened.open()
        yield opened


@pytest.fixture
def reader(store: Store, database_url: str) -> Iterator[StoredReader]:
    with StoredReader(database_url) as opened:
        yield opened


def told(board: Board, age_s: float, *kinds: str) -> list[tuple[str, bytes]]:
    board.now_s = NOW - age_s
    return [getattr(board, kind)() for kind in kinds]


def finish(keeping: Keeping) -> None:
    for _ in range(1000):
        if not keeping.step():
            return
    raise AssertionError("it never ends")


def test_history_older_than_asked_for_goes_and_the_newest_stays(store, reader, monkeypatch) -> None:
    monkeypatch.setattr(store_keeping, "PIECE", 3)
    board, clock = Board(), Clock()
    old = [message for _ in range(5) for message in told(board, 91 * _DAY_S, "event", "measurement", "decision")]
    store.apply(judged([*old, *told(board, 91 * _DAY_S, "status", "job"), *told(board, 3600, "event")]))
    keeping = Keeping(store, FLEET, Keep(rows=None), clock)
    finish(keeping)
    assert len(reader.history(FLEET, "event")) == 1
    assert reader.history(FLEET, "measurement") == reader.history(FLEET, "job") == []
    assert keeping.thrown_away == 16
    assert {"status", "decision/digits", "job"} == set(reader.documents(FLEET, "pi5"))
    assert reader.boards(FLEET)[0].status == "online"
    assert not keeping.step()  # not due
    store.apply(judged(old))  # sent again
    clock.now_s += EVERY_S
    finish(keeping)
    assert reader.history(FLEET, "measurement") == []


def test_a_board_that_tells_too_much_loses_its_oldest_once_a_day(store, reader) -> None:
    loud, quiet, clock = Board("loud"), Board("quiet"), Clock()
    store.apply(judged([*(loud.event(f"{number}") for number in range(20)), quiet.event()]))
    finish(Keeping(store, FLEET, Keep(age_s=None, rows=5), clock))
    assert [one["text"] for one in reader.history(FLEET, "event", board="loud")] == ["19", "18", "17", "16", "15"]
    assert len(reader.history(FLEET, "event", board="quiet")) == 1
    store.apply(judged([loud.event("more")]))
    finish(Keeping(store, FLEET, Keep(age_s=None, rows=5), clock))  # started again, the same day
    assert len(reader.history(FLEET, "event", board="loud")) == 6
    clock.now_s += _DAY_S + 1
    finish(Keeping(store, FLEET, Keep(age_s=None, rows=5), clock))
    assert len(reader.history(FLEET, "event", board="loud")) == 5


def test_old_telemetry_is_thinned_to_one_an_hour_of_each_board_and_group(store, reader) -> None:
    clock, messages = Clock(), []
    for name in ("pi5", "pi6"):
        board = Board(name)
        for age_s in (10 * _DAY_S, 10 * _DAY_S - 3600, 8 * _DAY_S, 3600):
            messages += [message for _ in range(4) for message in told(board, age_s, "telemetry")]
        board.now_s = NOW - 10 * _DAY_S
        messages += [board.telemetry("other"), board.telemetry("other")]
    store.apply(judged(messages))
    keeping = Keeping(store, FLEET, Keep(age_s=None, rows=None), clock)
    finish(keeping)
    for name in ("pi5", "pi6"):
        left = reader.history(FLEET, "telemetry", board=name)
        assert [one["group"] for one in left].count("board") == 3 + 4  # the last hour is whole
        assert [one["group"] for one in left].count("other") == 1
    assert reader.history(FLEET, "telemetry", since="2026-11-22T00:00:00Z", board="pi5")[-1]["seq"] == 13
    finish(Keeping(store, FLEET, Keep(age_s=None, rows=None), clock))
    assert len(reader.history(FLEET, "telemetry")) == 16


def test_everything_is_kept_where_that_is_asked_for(store, reader) -> None:
    store.apply(judged(told(Board(), 4000 * _DAY_S, "event")))
    keeping = Keeping(store, FLEET, Keep(age_s=None, rows=None), Clock())
    finish(keeping)
    assert len(reader.history(FLEET, "event")) == 1
    assert keeping.thrown_away == 0
