"""Which of two documents is newer, for boards with and without a clock, a memory or luck."""

from __future__ import annotations

import pytest

from agent.collector.judging import Order, newer, take
from tests.collector.documents import NOW, Board, judged


def order(**more: object) -> Order:
    return Order(**{"heard_s": NOW, "boot_id": "a", **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (order(seq=1), order(seq=2)),
        (order(seq=1, time_s=9.0), order(seq=2)),  # one boot: a clock that is no longer believed
        (order(seq=900, time_s=5.0), order(seq=1, time_s=9.0)),  # one boot: the state directory was wiped
        (order(seq=1), order(seq=2, boot_id="b")),  # no clock at all
        (order(seq=9, time_s=5.0), order(seq=2, time_s=9.0, boot_id="b")),
        (order(seq=1, time_s=5.0), order(seq=2, boot_id="b")),  # woke up in 1970
        (order(uptime_s=5.0), order(uptime_s=6.0, heard_s=NOW - 1)),  # heard by another collector, whose clock is late
        (order(uptime_s=5.0), order(uptime_s=1.0, boot_id="b", heard_s=NOW + 1)),
        (order(uptime_s=5.0), order(boot_id="a", heard_s=NOW + 1)),  # a last will
        (order(boot_id="a"), order(uptime_s=5.0, heard_s=NOW + 1)),  # back after it
        (order(time_s=5.0), order(time_s=6.0, heard_s=NOW - 1)),  # a profile
        (order(revision=1, seq=9), order(revision=2, seq=3)),
    ],
)
def test_the_newer_of_two_documents_holds_in_whatever_order_they_come(old: Order, new: Order) -> None:
    assert newer(new, old)
    assert not newer(old, new)
    assert newer(new, None)


def test_what_comes_twice_changes_nothing() -> None:
    for one in (order(seq=4), order(seq=4, time_s=4.0), order(revision=2), order(uptime_s=3.0)):
        assert not newer(one, one)


def test_a_wiped_board_without_a_clock_is_believed_once_its_status_names_the_new_boot() -> None:
    old, new = order(seq=500), order(seq=2, boot_id="b")
    assert not newer(new, old)
    assert newer(new, old, "b")
    assert not newer(old, new, "b")


@pytest.mark.parametrize(
    ("time", "synced", "believed", "seen"),
    [
        ("2026-11-22T12:00:00.000Z", True, True, True),
        ("2026-11-22T12:00:00.000Z", None, True, True),
        ("2026-11-22T12:00:00.000Z", False, False, True),
        ("2026-11-22T13:00:00+01:00", True, True, True),
        ("1970-01-01T00:00:05.000Z", True, False, True),
        ("2031-01-01T00:00:00.000Z", True, False, False),
        ("yesterday", True, False, False),
        ("2026-11-22X12:00:00.000Z", True, None, None),  # another letter between: a time to some, and never stored so
        ("9999-12-31T23:59:59.999-12:00", True, False, False),
    ],
)
def test_a_board_s_time_is_believed_where_it_can_be(time: str, synced, believed, seen) -> None:
    board = Board(synced=synced)
    topic, payload = board.event()
    taken = take(topic, payload.replace(b"2026-11-22T12:00:01.000Z", time.encode()), NOW)
    assert taken is not None
    if believed is not None:
        assert (taken.order.time_s is not None) is believed
        assert (taken.seen is not None) is seen
    assert taken.seen is None or taken.seen[10] == "T"
    assert taken.at == (taken.order.time_s or NOW)


def test_a_retained_status_that_was_asked_for_before_a_live_one_does_not_undo_it() -> None:
    board = Board()
    (live,) = judged([board.status("online")], NOW + 2)
    (will,) = judged([board.will()], NOW + 1, retained=True)
    assert newer(live.order, will.order)
    assert not newer(will.order, live.order)
