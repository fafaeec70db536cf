"""The daemon's scheduled work in real processes: it gives way, keeps what it finished, goes on, keeps to its day."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psutil

from agent.clock import iso
from agent.database import FILE_NAME, Database
from agent.mqtt import BrokerSettings
from agent.records import Records
from tests.brokers import Listener, Mosquitto
from tests.scenarios.conftest import Installation
from tests.scenarios.test_daemon import WAIT_S, Service, start, stored

__all__ = ["start"]  # the fixture

#: A daemon that looks every second at a simulated supply (mains, until the file given exists), and does not begin with
#: a pass of its own, so that the scheduled work has something to do.
SIMULATED_SUPPLY = """
import os, sys
from agent import daemon, timetable
from agent.cli import main
from agent.device.board import Board
unplugged = sys.argv.pop(1)
timetable.WATCH_S = timetable.RECHECK_S = 0.5
daemon._VERBS["pass"] = ("status",)
Board.on_mains = lambda self: not os.path.exists(unplugged)
sys.exit(main())
"""
QUICK = {"min_runs": 100, "min_time": "0.5 s", "threads": [1], "contended": "flag"}
SLOW = {**QUICK, "min_time": "4 s"}


def missed(installation: Installation, name: str) -> None:
    installation.state.mkdir(exist_ok=True)
    with Database(installation.state / FILE_NAME) as database:
        Records(database).keep_run(name, iso(datetime.now(timezone.utc) - timedelta(days=3)))


def words(process: psutil.Process) -> list[str]:
    """Return the command line of a process, nothing where it has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def measured(fleet: Listener) -> list[dict[str, Any]]:
    return [m for one in fleet.topic("/measurement") for m in json.loads(one.payload)["measurements"]]


def needlessly_again(measurements: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return pairs of one option, the second for nothing: the first was whole, and the second ran no longer."""
    last: dict[tuple[object, ...], dict[str, Any]] = {}
    found = []
    for one in measurements:
        key = (one["candidate"], one["engine"], one["provider"], one["threads"])
        before = last.get(key)
        if before is not None and "stopped" not in before and one.get("latency_n", 0) <= before.get("latency_n", 0):
            found.append((before, one))
        last[key] = one
    return found


class Held:
    """The daemon's child, stopped until it was asked to give way: what it works on cannot be over first.

    It is stopped between two transactions, since whoever holds the database's lock keeps the daemon from its own.
    """

    def __init__(self, service: Service, installation: Installation) -> None:
        (child,) = psutil.Process(service.process.pid).children()
        self.child = child
        self.child.suspend()
        while _locked(installation):
            self.child.resume()
            os.sched_yield()
            self.child.suspend()

    def until_asked(self) -> None:
        """Wait for the signal to be pending, then let the child go on."""
        end = time.monotonic() + WAIT_S
        while not self._pending() & 1 << signal.SIGUSR1 - 1:
            assert time.monotonic() < end, "the child was not asked to give way"
            os.sched_yield()
        self.child.resume()

    def _pending(self) -> int:
        """Return the signals that wait for the process, /proc/PID/status ShdPnd (proc_pid_status(5))."""
        lines = Path(f"/proc/{self.child.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("ShdPnd:")).split()[1], 16)


def events(fleet: Listener, kind: str) -> list[str]:
    found = [json.loads(one.payload) for one in fleet.topic("/event")]
    return [one["text"] for one in found if one["kind"] == kind]


def _locked(installation: Installation) -> bool:
    with closing(sqlite3.connect(installation.state / FILE_NAME, timeout=0)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


def test_work_gives_way_when_its_condition_ends_and_goes_on_without_measuring_again(
    start: Callable[..., Service],
    installation: Installation,
    broker: Mosquitto,
    listen: Callable[[BrokerSettings], Listener],
    tmp_path: Path,
) -> None:
    fleet, unplugged = listen(broker.settings()), tmp_path / "unplugged"
    missed(installation, "often")
    entry = {"name": "often", "action": "bench", "cron": "0 * * * *", "window": "2 h", "when": {"power": "mains"}}
    service = start(command=("-c", SIMULATED_SUPPLY, str(unplugged)), schedule=[entry], measure=QUICK)
    service.wait_for("STATUS=bench: schedule often")
    while stored(installation) < 1:  # not when the fleet hears of it: by then a race may be over
        os.sched_yield()
    held = Held(service, installation)
    unplugged.touch()
    held.until_asked()
    service.wait_for("STATUS=serving")
    fleet.wait(lambda: bool(events(fleet, "schedule_deferred")), WAIT_S)
    assert events(fleet, "schedule_deferred") == [
        "often gives way: mains power does not hold: the board runs on its battery"
    ]
    fleet.wait(lambda: len(measured(fleet)) == stored(installation), WAIT_S)
    before = measured(fleet)
    unplugged.unlink()
    service.wait_for("STATUS=bench: schedule often")
    service.wait_for("STATUS=serving")
    fleet.wait(lambda: len(measured(fleet)) == stored(installation), WAIT_S)
    everything = measured(fleet)
    assert len(everything) > len(before)
    assert needlessly_again(everything) == []
    errors = service.stop()
    assert service.process.returncode == 0, errors
    assert events(fleet, "pass_crashed") == events(fleet, "pass_failed") == []
    with Database(installation.state / FILE_NAME) as database:
        served = datetime.fromisoformat(Records(database).last_runs()["often"].replace("Z", "+00:00"))
    assert datetime.now(timezone.utc) - served < timedelta(hours=2)


def test_a_pass_that_reaches_the_day_s_limit_stops_keeps_what_it_has_and_is_not_begun_again(
    start: Callable[..., Service],
    installation: Installation,
    broker: Mosquitto,
    listen: Callable[[BrokerSettings], Listener],
) -> None:
    fleet = listen(broker.settings())
    caps = {"bench_time": "1 s", "written": "1 GiB"}
    service = start(caps=caps, measure=SLOW)
    service.wait_for("STATUS=pass: start-up")
    service.wait_for("STATUS=serving")
    fleet.wait(lambda: bool(events(fleet, "work_gives_way")), WAIT_S)
    assert "today's 1 s of measuring are used up" in events(fleet, "work_gives_way")[0]
    kept = stored(installation)
    assert kept >= 1
    service.process.send_signal(signal.SIGHUP)
    service.wait_for("RELOADING=1")
    service.wait_for("READY=1")
    fleet.wait(lambda: bool(events(fleet, "work_left_out")), WAIT_S)
    assert stored(installation) == kept
    assert not psutil.Process(service.process.pid).children(recursive=True)
    errors = service.stop()
    assert service.process.returncode == 0, errors
    by_hand = installation("once", "--json")
    assert by_hand.code == 0, by_hand.err
    assert stored(installation) > kept


def test_what_is_fetched_is_counted(installation: Installation) -> None:
    assert installation("bench", "--json").code == 0
    with Database(installation.state / FILE_NAME) as database:
        use = json.loads(database.rows("SELECT document FROM day_use")[0][0])
    cached = sum(path.stat().st_size for path in (installation.state / "cache").rglob("*") if path.is_file())
    assert use["download_bytes"] >= cached > 0
    assert use["bench_s"] > 0


def test_a_run_until_the_board_is_warm_is_dropped_when_its_condition_ends_and_that_is_said(
    start: Callable[..., Service],
    installation: Installation,
    broker: Mosquitto,
    listen: Callable[[BrokerSettings], Listener],
    tmp_path: Path,
) -> None:
    fleet, unplugged = listen(broker.settings()), tmp_path / "unplugged"
    assert installation("once").code == 0
    before = stored(installation)
    missed(installation, "warm")
    entry = {"name": "warm", "action": "sustained", "cron": "0 * * * *", "window": "2 h", "when": {"power": "mains"}}
    service = start(command=("-c", SIMULATED_SUPPLY, str(unplugged)), schedule=[entry])
    service.wait_for("STATUS=sustained: schedule warm")
    daemon = psutil.Process(service.process.pid)
    while not any("agent.measure.worker" in words(each) for each in daemon.children(recursive=True)):
        os.sched_yield()
    held = Held(service, installation)
    unplugged.touch()
    held.until_asked()
    service.wait_for("STATUS=serving")
    fleet.wait(lambda: bool(events(fleet, "sustained_dropped")), WAIT_S)
    assert "that is dropped" in events(fleet, "sustained_dropped")[0]
    assert events(fleet, "schedule_deferred") == [
        "warm gives way: mains power does not hold: the board runs on its battery"
    ]
    assert stored(installation) == before
    errors = service.stop()
    assert service.process.returncode == 0, errors
