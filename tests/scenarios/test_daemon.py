"""The daemon as systemd runs it: ready, a pass at start, the schedule, a clean stop in the middle of work, reload."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psutil
import pytest

from agent.clock import iso
from agent.database import FILE_NAME, Database
from agent.mqtt import BrokerSettings
from agent.records import Records
from tests.brokers import Listener, Mosquitto
from tests.scenarios.conftest import ROOT, Installation

WAIT_S = 90.0
PLAIN = ("-m", "agent")
TELLING = "import sys; from agent.cli import main; code = main(); print(*sys.modules, file=sys.stderr); sys.exit(code)"


class Service:
    """A daemon under a pretended service manager: the notification socket is real."""

    def __init__(self, installation: Installation, folder: Path, command: Sequence[str]) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = folder / "notify"
        self.socket.bind(str(address))
        self.said: list[str] = []
        self.seen = 0
        self.news = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()
        files = ["--config", installation.config, "--state-dir", installation.state]
        self.process = subprocess.Popen(
            [sys.executable, *command, "run", "-v", *files],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "2000000"},
        )  # fmt: skip

    def _listen(self) -> None:
        """Take what comes as a service manager does, so that the daemon never waits for us."""
        while text := self.socket.recv(4096).decode():
            with self.news:
                self.said += text.splitlines()
                self.news.notify_all()

    def wait_for(self, line: str) -> None:
        """Wait until the daemon notifies ``line``, later than what was waited for before."""

        def found() -> int | None:
            return next((n for n in range(self.seen, len(self.said)) if self.said[n].startswith(line)), None)

        with self.news:
            assert self.news.wait_for(lambda: found() is not None, WAIT_S), f"no {line}; said {self.said}"
            self.seen = (found() or 0) + 1

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=WAIT_S)
        return errors


@pytest.fixture
def start(installation: Installation, broker: Mosquitto, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    running: list[Service] = []
    installation.more = {"mqtt": {"url": broker.settings().url, "fleet": "test"}, "device": {"id": "board"}}

    def make(command: Sequence[str] = PLAIN, **more: object) -> Service:
        installation.write(**more)
        running.append(Service(installation, tmp_path, command))
        return running[-1]

    yield make
    for service in running:
        if service.process.poll() is None:
            service.process.kill()
            service.process.communicate()


def stored(installation: Installation) -> int:
    with sqlite3.connect(installation.state / FILE_NAME) as database:
        return int(database.execute("SELECT COUNT(*) FROM measurement").fetchone()[0])


def told(fleet: Listener) -> int:
    """Return how many measurements the fleet has heard of."""
    return sum(len(json.loads(one.payload)["measurements"]) for one in fleet.topic("/measurement"))


def test_a_pass_at_start_the_watchdog_and_a_clean_stop(
    start: Callable[..., Service],
    installation: Installation,
    broker: Mosquitto,
    listen: Callable[[BrokerSettings], Listener],
) -> None:
    fleet = listen(broker.settings())
    service = start()
    service.wait_for("READY=1")
    fleet.wait(lambda: bool(fleet.topic("/deployment/digits")), WAIT_S)
    service.wait_for("STATUS=serving")
    service.wait_for("WATCHDOG=1")
    errors = service.stop()
    assert service.process.returncode == 0, errors
    assert "Traceback" not in errors
    service.wait_for("STOPPING=1")
    fleet.wait(lambda: b'"offline"' in fleet.topic("/status")[-1].payload)
    assert b'"online"' in fleet.topic("/status")[0].payload
    kinds = sorted(one.topic.split("/")[4] for one in fleet.got)
    of_the_pass = ["decision", "deployment", "measurement", "profile"]
    assert [kind for kind in kinds if kind != "telemetry"] == sorted([*of_the_pass, "reported", "status", "status"])
    assert installation.current.is_symlink()


def test_it_tells_how_the_board_is_without_what_measures_power(
    start: Callable[..., Service], broker: Mosquitto, listen: Callable[[BrokerSettings], Listener]
) -> None:
    fleet = listen(broker.settings())
    service = start(command=("-c", TELLING))
    service.wait_for("READY=1")
    fleet.wait(lambda: bool(fleet.topic("/telemetry/board")) and bool(fleet.topic("/deployment/digits")), WAIT_S)
    loaded = set(service.stop().split())
    assert "agent.device.sensors" in loaded
    assert {name for name in loaded if name.startswith("agent.device.power_")} == {"agent.device.power_mode"}
    assert "agent.device.factsheet" not in loaded


def test_a_stop_in_the_middle_of_a_pass_loses_nothing(
    start: Callable[..., Service],
    installation: Installation,
    broker: Mosquitto,
    listen: Callable[[BrokerSettings], Listener],
) -> None:
    fleet = listen(broker.settings())
    service = start(measure={"min_runs": 100, "min_time": "2 s", "threads": [1], "contended": "flag"})
    service.wait_for("READY=1")
    while not (installation.state / FILE_NAME).exists() or stored(installation) < 1:
        os.sched_yield()
    children = psutil.Process(service.process.pid).children(recursive=True)
    errors = service.stop()
    assert service.process.returncode == 0, errors
    assert "Traceback" not in errors
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    kept = stored(installation)
    assert kept >= 1
    fleet.wait(lambda: any(b'"offline"' in one.payload for one in fleet.topic("/status")))
    assert told(fleet) == kept  # told before it left
    again = installation("once", "--json")
    assert again.code == 0, again.err
    assert stored(installation) > kept
    assert len(again.document["measured"]) < stored(installation)


def test_what_was_missed_is_caught_up_once(start: Callable[..., Service], installation: Installation) -> None:
    installation.state.mkdir()
    with Database(installation.state / FILE_NAME) as database:
        long_ago = datetime.now(timezone.utc) - timedelta(days=3)
        Records(database).keep_run("often", iso(long_ago))
    service = start(schedule=[{"name": "often", "action": "sync", "cron": "0 * * * *", "window": "2 h"}])
    service.wait_for("READY=1")
    service.wait_for("STATUS=pass: start-up")
    service.wait_for("STATUS=sync: schedule often")
    service.wait_for("STATUS=serving")
    errors = service.stop()
    assert service.process.returncode == 0, errors
    assert service.said.count("STATUS=sync: schedule often") == 1
    with Database(installation.state / FILE_NAME) as database:
        assert datetime.fromisoformat(Records(database).last_runs()["often"].replace("Z", "+00:00")) > long_ago


def test_reload_takes_a_valid_configuration_and_refuses_a_broken_one(
    start: Callable[..., Service],
    installation: Installation,
    broker: Mosquitto,
    listen: Callable[[BrokerSettings], Listener],
) -> None:
    fleet = listen(broker.settings())
    service = start()
    service.wait_for("READY=1")
    fleet.wait(lambda: bool(fleet.topic("/deployment/digits")), WAIT_S)
    good = installation.config.read_text()
    installation.config.write_text(good + "nonsense: 1\n")
    service.process.send_signal(signal.SIGHUP)
    fleet.wait(lambda: any(b"configuration_refused" in event.payload for event in fleet.topic("/event")), WAIT_S)
    installation.config.write_text(good.replace(">= 0.9", ">= 0.5"))
    service.process.send_signal(signal.SIGHUP)
    service.wait_for("RELOADING=1")
    service.wait_for("READY=1")
    fleet.wait(lambda: any(b">= 0.500" in told.payload for told in fleet.topic("/reported")), WAIT_S)
    errors = service.stop()
    assert service.process.returncode == 0, errors


def test_a_second_daemon_on_the_same_state_is_refused(
    start: Callable[..., Service], installation: Installation
) -> None:
    service = start()
    service.wait_for("READY=1")
    result = installation("run")
    assert result.code == 1
    assert "already running" in result.err
    service.stop()
