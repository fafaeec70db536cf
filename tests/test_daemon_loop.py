"""The daemon's own rules, without processes: what is queued, what is put off, what a stop does to the waiting."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent.config import parse_config
from agent.core.measurement import ContextReading
from agent.daemon import Daemon
from agent.notify import Notifier
from agent.site import Site
from agent.timetable import Work

START = datetime(2026, 5, 4, 2, 59, tzinfo=timezone.utc)


class ManualClock:
    """Both clocks, moved by the test."""

    def __init__(self) -> None:
        self.now = START

    def monotonic_s(self) -> float:
        return (self.now - START).total_seconds() + 1000.0

    def utc(self) -> datetime:
        return self.now


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("TZ", "UTC")
    entry = {"name": "nightly", "action": "pass", "cron": "0 3 * * *", "window": "10 min", "when": {"load": "< 0.5"}}
    config = parse_config({"schedule": [entry], "device": {"id": "board"}}, path=None)
    with Site(config, tmp_path, clock=ManualClock()) as site:
        made = Daemon(site, Notifier({}), ["true"])
        made._timetable.plan()
        yield made


def at(daemon: Daemon, minutes: float, load: float, monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """Move the clock to ``minutes`` after START with a load per core and return what is queued."""
    site = daemon._site
    site.clock.now = START + timedelta(minutes=minutes)  # type: ignore[attr-defined]
    reading = ContextReading(monotonic_s=0.0, load_1min=load * site.board.usable_cores())
    monkeypatch.setattr(site.board, "read_context", lambda: reading)
    for work in daemon._timetable.tend():
        daemon._enqueue(work)
    return list(daemon._queue)


def test_a_due_entry_is_queued_once_and_remembered(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    assert at(daemon, 0.5, 0.1, monkeypatch) == []
    assert at(daemon, 1.5, 0.1, monkeypatch) == [Work("pass", "schedule nightly")]
    assert at(daemon, 2.5, 0.1, monkeypatch) == [Work("pass", "schedule nightly")]
    assert "nightly" in daemon._site.records.last_runs()
    assert daemon._timetable._due["nightly"] == datetime(2026, 5, 5, 3, tzinfo=timezone.utc)


def test_an_entry_waits_for_its_condition_within_its_window(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    for minute in (1.5, 3, 5):
        assert at(daemon, minute, 0.9, monkeypatch) == []
    assert at(daemon, 7, 0.2, monkeypatch) == [Work("pass", "schedule nightly")]


def test_an_entry_is_left_out_when_its_window_ends(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    for minute in range(2, 20):
        assert at(daemon, minute, 0.9, monkeypatch) == []
    assert daemon._site.records.last_runs() == {}
    assert daemon._timetable._due["nightly"] == datetime(2026, 5, 5, 3, tzinfo=timezone.utc)


def test_the_same_work_waits_in_the_queue_only_once(daemon: Daemon) -> None:
    daemon._enqueue(Work("pass", "start-up"))
    daemon._enqueue(Work("pass", "schedule nightly"))
    daemon._enqueue(Work("sync", "schedule hourly"))
    assert list(daemon._queue) == [Work("pass", "start-up"), Work("sync", "schedule hourly")]
