"""The timetable and the daemon's queue, without processes: what is handed out, put off, given way and remembered."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import daemon as daemon_module
from agent.config import parse_config
from agent.core.measurement import ContextReading
from agent.daemon import Daemon
from agent.device.neighbours import Ticks
from agent.notify import Notifier
from agent.site import Site
from agent.timetable import Timetable, Work

START = datetime(2026, 5, 4, 2, 59, tzinfo=timezone.utc)
DUE = datetime(2026, 5, 4, 3, 0, tzinfo=timezone.utc)
NIGHTLY = {"name": "nightly", "action": "bench", "cron": "0 3 * * *", "window": "10 min", "when": {"load": "< 0.5"}}
WORK = Work("bench", "schedule nightly", True, "nightly", DUE)


class ManualClock:
    """Both clocks, moved by the test."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now
        self.monotonic = 1000.0

    def monotonic_s(self) -> float:
        return self.monotonic

    def utc(self) -> datetime:
        return self.now


class Scene:
    """A timetable over a real state directory, with the board's readings set by the test."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **config: Any) -> None:
        document = {"schedule": [NIGHTLY], "device": {"id": "board"}, "mqtt": {"url": "mqtt://nowhere"}, **config}
        self.clock = ManualClock()
        self.site = Site(parse_config(document, path=None), folder, clock=self.clock)
        self.load, self.others, self.mains = 0.1, 0.0, True
        self.written: dict[int, int] = {}
        board = self.site.board
        monkeypatch.setattr(board, "read_context", self._reading)
        monkeypatch.setattr(board, "on_mains", lambda: self.mains)
        monkeypatch.setattr(board, "written_bytes", lambda pid: self.written.get(pid, 0))
        self._ticks = Ticks(0, 0, 0)
        monkeypatch.setattr(board, "processor_ticks", self._next_ticks)
        self.timetable = Timetable(self.site)
        self.timetable.plan()

    def _reading(self) -> ContextReading:
        return ContextReading(monotonic_s=0.0, load_1min=self.load * self.site.board.usable_cores())

    def _next_ticks(self, _pid: int) -> Ticks:
        others = int(100 * self.others)
        self._ticks = Ticks(self._ticks.total + 100, self._ticks.busy + 100, self._ticks.ours + 100 - others)
        return self._ticks

    def wait(self, minutes: float) -> None:
        self.clock.now += timedelta(minutes=minutes)
        self.clock.monotonic += minutes * 60

    def tend(self, minutes: float) -> Work | None:
        """Let time pass and ask for work."""
        self.wait(minutes)
        return self.timetable.tend(idle=True)

    def watch(self, looks: int = 1) -> str | None:
        """Let work go on for some looks; return the reason to give way, if there was one."""
        said = None
        for _ in range(looks):
            self.wait(0.25)
            said = self.timetable.watch() or said
        return said

    def events(self) -> list[tuple[str, str]]:
        assert self.site.outbox is not None
        found = [json.loads(entry.payload) for entry in self.site.outbox.pending(limit=1000)]
        return [(one["kind"], one["text"]) for one in found if "kind" in one]

    def next_at(self) -> str | None:
        """Return what the fleet was told last of when the entry is due."""
        assert self.site.outbox is not None
        found = [one.payload for one in self.site.outbox.pending(limit=1000) if one.topic.endswith("/reported")]
        told: str | None = json.loads(found[-1])["schedule"][0]["next_at"]
        return told

    def restart(self) -> None:
        self.timetable = Timetable(self.site)
        self.timetable.plan()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Scene]]:
    monkeypatch.setenv("TZ", "UTC")
    made: list[Scene] = []

    def make(**config: Any) -> Scene:
        made.append(Scene(tmp_path / str(len(made)), monkeypatch, **config))
        return made[-1]

    yield make
    for one in made:
        one.site.close()


def test_a_wish_is_handed_out_once_when_nothing_else_is_done(scene: Callable[..., Scene]) -> None:
    here = scene()
    here.timetable.wish("digits: nothing lighter is left")
    here.timetable.wish("another, while the first waits")
    assert here.timetable.tend(idle=False) is None
    assert here.tend(0) == Work("pass", "digits: nothing lighter is left", capped=True)
    assert here.tend(0) is None


def test_any_pass_that_begins_serves_a_wish_and_a_limit_of_the_day_makes_it_wait(scene: Callable[..., Scene]) -> None:
    here = scene()
    here.timetable.wish("slow")
    here.timetable.begin(Work("sync", "start-up"), 1)
    assert here.timetable._wished == "slow"
    here.timetable.begin(Work("pass", "start-up"), 1)
    assert here.tend(0) is None
    limited = scene(caps={"written": "1 B"})
    limited.timetable.wish("slow")
    limited.site.ledger.add(written_bytes=2)
    assert limited.tend(0) is None


def test_other_budgets_ask_for_a_pass_and_other_entries_do_not(scene: Callable[..., Scene]) -> None:
    here = scene(tasks={"digits": {"budgets": {"latency_p95": "20 ms"}}})
    here.timetable.plan()
    assert here.tend(0) is None
    config = parse_config({"tasks": {"digits": {"budgets": {"latency_p95": "10 ms"}}}}, path=None)
    here.site.__dict__["config"] = msgspec.structs.replace(here.site.config, tasks=config.tasks)
    here.timetable.plan()
    assert here.tend(0) == Work("pass", "digits: what is allowed or preferred has changed", capped=True)
    assert ("reselection_wanted", "digits: what is allowed or preferred has changed") in here.events()


def test_a_due_entry_is_handed_out_and_served_once_its_work_has_ended(scene: Callable[..., Scene]) -> None:
    here = scene()
    assert here.tend(0.5) is None
    assert here.tend(0.6) == WORK
    here.timetable.begin(WORK, 1)
    here.wait(5)
    assert here.timetable.tend(idle=False) is None
    assert here.timetable.end(cut_short=False, complete=True) is False
    assert here.site.records.last_runs() == {"nightly": "2026-05-04T03:00:00.000Z"}
    assert [here.tend(minutes) for minutes in (1, 60, 22 * 60)] == [None, None, None]
    assert here.tend(60) == WORK._replace(due=DUE + timedelta(days=1))
    assert here.events() == []


def test_nothing_is_handed_out_while_something_else_is_done(scene: Callable[..., Scene]) -> None:
    here = scene()
    here.wait(2)
    assert here.timetable.tend(idle=False) is None
    assert here.tend(0) == WORK


def test_an_entry_waits_for_its_condition_within_its_window_and_tells_once(scene: Callable[..., Scene]) -> None:
    here = scene()
    here.load = 0.9
    assert [here.tend(1.5) for _ in range(3)] == [None] * 3
    assert here.events() == [("schedule_deferred", "nightly waits: load < 0.5 does not hold: it is 0.90")]
    told = here.timetable.telemetry()
    assert (told["schedule_deferred_entry"], told["schedule_next_due"]) == ("nightly", "2026-05-05T03:00:00.000Z")
    assert told["schedule_deferred_reason"] == "load < 0.5 does not hold: it is 0.90"
    here.load = 0.2
    assert here.tend(0.5) is None  # judged once a minute
    assert here.tend(0.5) == WORK


def test_an_entry_is_left_out_when_its_window_ends(scene: Callable[..., Scene]) -> None:
    here = scene()
    here.load = 0.9
    assert [here.tend(1) for _ in range(20)] == [None] * 20
    assert here.site.records.last_runs() == {"nightly": "2026-05-04T02:59:00.000Z"}  # when it was first seen
    assert [kind for kind, _ in here.events()] == ["schedule_deferred", "schedule_skipped"]
    assert here.events()[1][1].endswith("load < 0.5 does not hold: it is 0.90")


def test_a_board_that_does_not_say_what_feeds_it_is_not_on_mains(scene: Callable[..., Scene]) -> None:
    here = scene(schedule=[{**NIGHTLY, "when": {"power": "mains"}}])
    here.mains = None
    assert here.tend(2) is None
    assert "does not say what feeds it" in here.events()[0][1]
    here.mains = True
    assert here.tend(1) == WORK


def test_our_own_load_is_no_reason_to_give_way_and_a_spike_neither(scene: Callable[..., Scene]) -> None:
    here = scene()
    work = here.tend(2)
    assert work is not None
    here.timetable.begin(work, 1)
    here.load = 4.0  # ours
    assert here.watch(8) is None
    here.others = 0.9
    assert here.watch() is None
    here.others = 0.1
    assert here.watch(4) is None


def test_work_gives_way_goes_on_in_its_window_and_is_told(scene: Callable[..., Scene]) -> None:
    here = scene()
    work = here.tend(2)
    assert work is not None
    here.timetable.begin(work, 1)
    here.others = 0.9
    assert here.watch(2) == "load < 0.5 does not hold: it is 0.90"
    assert here.watch(4) is None  # asked once
    assert here.timetable.end(cut_short=False, complete=False) is True
    assert here.tend(0.5) is None
    assert here.tend(0.6) == WORK
    assert here.site.records.last_runs()["nightly"] < "2026-05-04T03"
    here.timetable.begin(WORK, 1)
    here.timetable.end(cut_short=False, complete=True)
    assert here.tend(1) is None
    assert [kind for kind, _ in here.events()] == ["schedule_deferred"]


def test_work_that_came_to_its_end_although_asked_to_give_way_is_served(scene: Callable[..., Scene]) -> None:
    here = scene()
    here.timetable.begin(here.tend(2) or WORK, 1)
    here.others = 0.9
    assert here.watch(2) is not None
    assert here.timetable.end(cut_short=False, complete=True) is False
    assert here.site.records.last_runs() == {"nightly": "2026-05-04T03:00:00.000Z"}


def test_work_that_makes_way_for_an_order_is_begun_again_unless_it_was_done(scene: Callable[..., Scene]) -> None:
    here = scene()
    assert here.tend(2) == WORK
    here.timetable.begin(WORK, 1)
    assert here.timetable.end(cut_short=True, complete=False) is False
    assert here.tend(0) == WORK
    here.timetable.begin(WORK, 1)
    assert here.timetable.end(cut_short=True, complete=True) is False
    assert here.tend(1) is None


@pytest.mark.parametrize(
    ("words", "asked", "served"),
    [("bench", False, True), ("bench --task digits", False, False), ("bench", True, False)],
)
def test_an_order_serves_an_entry_when_it_did_all_that_the_entry_would(
    scene: Callable[..., Scene], words: str, asked: bool, served: bool
) -> None:
    here = scene()
    assert here.tend(2) == WORK
    here.timetable.begin(Work(words, "ordered by otto"), 1)
    assert here.timetable.end(cut_short=asked, complete=not asked) is False
    assert (here.tend(0) is None) is served


def test_the_fleet_is_told_anew_when_the_next_time_has_changed(scene: Callable[..., Scene]) -> None:
    here = scene()
    assert here.next_at() == "2026-05-04T03:00:00.000Z"
    here.tend(2)
    here.timetable.begin(WORK, 1)
    here.timetable.end(cut_short=False, complete=True)
    assert here.next_at() == "2026-05-05T03:00:00.000Z"
    here.timetable.begin(Work("pass", "start-up"), 1)
    here.site.report.settings(here.site.config, here.site.settings)  # as a pass does, in its own process
    here.timetable.end(cut_short=False, complete=True)
    assert here.next_at() == "2026-05-05T03:00:00.000Z"


def test_after_a_restart_in_the_middle_it_goes_on_but_not_for_ever(scene: Callable[..., Scene]) -> None:
    here = scene()
    here.wait(2)
    for _ in range(5):
        assert here.timetable.tend(idle=True) == WORK
        here.timetable.begin(WORK, 1)
        here.restart()  # as after a power cut: nothing was said about the end
    assert here.timetable.tend(idle=True) is None
    assert [kind for kind, _ in here.events()] == ["schedule_skipped"]
    assert "5 times without an end" in here.events()[0][1]
    here.wait(24 * 60)
    assert here.timetable.tend(idle=True) is not None


def test_a_pass_at_start_serves_what_was_missed(scene: Callable[..., Scene]) -> None:
    here = scene()
    here.site.records.keep_run("nightly", "2026-05-01T03:00:00.000Z")
    here.wait(3)
    here.restart()
    here.timetable.begin(Work("bench", "start-up", capped=True), 1)
    here.timetable.end(cut_short=False, complete=True)
    assert here.tend(1) is None


@pytest.mark.parametrize(
    ("caps", "used", "says"),
    [
        ({"bench_time": "1 min"}, {"bench_s": 60.0}, "1 min of measuring"),
        ({"download": "1 MiB"}, {"download_bytes": 2**20}, "1 MiB of downloads"),
        ({"written": "1 MiB"}, {"written_bytes": 2**20}, "1 MiB of writing"),
    ],
)
def test_a_limit_of_the_day_puts_off_what_the_board_does_by_itself(
    scene: Callable[..., Scene], caps: dict[str, str], used: dict[str, Any], says: str
) -> None:
    here = scene(caps=caps, schedule=[{**NIGHTLY, "window": "23 h", "when": {}}])
    here.site.ledger.add(**used)
    assert here.tend(2) is None
    assert says in here.events()[0][1]
    assert says in (here.timetable.barred(Work("pass", "start-up", capped=True)) or "")
    assert here.timetable.barred(Work("bench", "asked for by an operator")) is None
    assert here.tend(21 * 60) == WORK  # UTC midnight has passed, the window has not


def test_a_limit_reached_in_the_middle_stops_the_work_of_the_board_itself_only(scene: Callable[..., Scene]) -> None:
    here = scene(caps={"bench_time": "1 min"})
    here.timetable.begin(Work("bench", "asked for by an operator"), 1)
    here.site.ledger.add(bench_s=60)
    assert here.watch(3) is None
    here.timetable.end(cut_short=False, complete=True)
    here.timetable.begin(Work("pass", "start-up", capped=True), 1)
    assert "used up" in (here.watch() or "")
    assert [kind for kind, _ in here.events()] == ["work_gives_way"]


def test_what_a_child_writes_counts_while_it_runs_and_is_kept(scene: Callable[..., Scene]) -> None:
    here = scene(caps={"written": "1 MiB"}, schedule=[{**NIGHTLY, "when": {}}])
    here.written = {os.getpid(): 5000}
    here.timetable.begin(here.tend(2) or WORK, 77)
    here.written[77] = 2**20 - 1
    assert here.watch() is None
    here.written[77] = 2**20
    assert "of writing" in (here.watch() or "")
    here.written = {os.getpid(): 5000 + 2**20}  # taken leave of
    here.timetable.end(cut_short=False, complete=False)
    assert here.site.ledger.today().written_bytes == 2**20
    assert here.timetable.telemetry()["written_today_bytes"] == 2**20


def test_while_the_clock_is_not_set_nothing_is_due_and_telemetry_says_so(scene: Callable[..., Scene]) -> None:
    here = scene()
    here.clock.now = datetime(1970, 1, 1, 3, 5, tzinfo=timezone.utc)
    here.restart()
    assert here.tend(60 * 24) is None
    assert here.timetable.telemetry()["schedule_deferred_reason"] == "the clock is not set, so nothing is due"
    here.clock.now = DUE + timedelta(minutes=5)
    assert here.tend(0) == WORK


def test_the_same_work_waits_in_the_queue_only_once(scene: Callable[..., Scene]) -> None:
    daemon = Daemon(scene().site, Notifier({}), ["true"])
    daemon._enqueue(Work("pass", "start-up"))
    daemon._enqueue(Work("pass", "schedule nightly"))
    daemon._enqueue(Work("sync", "schedule hourly"))
    assert list(daemon._queue) == [Work("pass", "start-up"), Work("sync", "schedule hourly")]


def test_device_seconds_count_while_they_pass_so_that_a_limit_binds_in_the_middle(
    scene: Callable[..., Scene],
) -> None:
    here = scene(caps={"bench_time": "1 min"})
    here.timetable.begin(Work("pass", "start-up", capped=True), 1)
    with here.site.ledger.measuring(lambda: here.clock.monotonic > 1500) as stop:
        here.wait(0.4)
        assert (stop(), here.site.ledger.today().bench_s) == (False, 0.0)  # each telling is a disk write
        here.wait(0.7)
        assert (stop(), here.site.ledger.today().bench_s) == (False, pytest.approx(66.0))
        assert "of measuring are used up" in (here.timetable.watch() or "")
        here.wait(10)
        assert stop()
    assert here.site.ledger.today().bench_s == pytest.approx(666.0)


def test_a_sustained_entry_is_run_as_a_bench_of_that_kind(scene: Callable[..., Scene]) -> None:
    here = scene(schedule=[{**NIGHTLY, "action": "sustained", "when": {}}])
    work = here.tend(2)
    assert work == WORK._replace(action="sustained")
    assert work is not None and daemon_module._VERBS[work.action] == ("bench", "--sustained")


def test_a_disk_that_takes_nothing_ends_no_daemon(scene: Callable[..., Scene]) -> None:
    board = scene()
    board.site.ledger.today()  # makes its tables
    board.timetable.begin(Work("bench", "start-up", True), os.getpid())
    board.written[os.getpid()] = 1 << 30
    board.site.database._connection().execute("PRAGMA query_only = 1")
    assert board.timetable.end(cut_short=False, complete=True) is False
    board.timetable.begin(Work("bench", "schedule nightly", True, "nightly", START), os.getpid())
    board.timetable.plan()
