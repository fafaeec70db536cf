"""``boardfit fleet`` against real daemons over a real broker: two boards, one obeys, one refuses; desired settings.

The verbs below the daemons are stood in for (``tests/orders/stand_in.py``): what they measure is not looked at here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from agent.core.operators import OperatorList
from agent.core.payloads import Status
from agent.database import FILE_NAME, Database
from agent.mqtt import BrokerSettings
from agent.records import Records
from tests.brokers import Listener, Mosquitto
from tests.fleet.conftest import Desk
from tests.scenarios.conftest import ROOT

WAIT_S = 60.0


@pytest.fixture
def boards(
    desk: Desk, broker: Mosquitto, tmp_path: Path, listen: Callable[[BrokerSettings], Listener]
) -> Iterator[tuple[Path, Path]]:
    """Two daemons in the group ``line-2``; where anna is an admin is pi-1, where she is a viewer is pi-2."""
    heard = listen(broker.settings())
    running, folders = [], []
    for name, role in (("pi-1", "admin"), ("pi-2", "viewer")):
        folder = tmp_path / name
        folder.mkdir()
        folders.append(folder)
        mqtt = {"url": broker.settings().url, "fleet": "plant", "group": ["line-2"]}
        tasks = {"digits": {"budgets": {"latency_p95": "20 ms"}}}
        (folder / "agent.yaml").write_text(yaml.safe_dump({"device": {"id": name}, "mqtt": mqtt, "tasks": tasks}))
        with Database(folder / "state" / FILE_NAME) as database:
            Records(database).keep_operators(msgspec.json.encode(OperatorList(operators=(desk.operator(role),))))
        command = [sys.executable, "-m", "tests.orders.service", folder / "agent.yaml", folder / "state", folder]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        running.append(subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment))

    def up(name: str) -> bool:
        told = [msgspec.json.decode(one.payload, type=Status) for one in heard.topic(f"/{name}/status")]
        return bool(told) and told[-1].state == "online" and bool(heard.topic(f"/{name}/reported"))

    heard.wait(lambda: up("pi-1") and up("pi-2"), WAIT_S)
    yield folders[0], folders[1]
    for process in running:
        process.kill()
        process.wait()


def test_one_board_obeys_one_refuses_and_settings_are_taken(desk: Desk, boards: tuple[Path, Path]) -> None:
    listed = desk("list", "group:line-2", "--json")
    assert [(one["name"], one["groups"]) for one in listed.document["boards"]] == [
        ("pi-1", ["line-2"]), ("pi-2", ["line-2"]),
    ]  # fmt: skip
    ended = desk("bench", "status=online", "--task", "digits", "--candidate", "a")
    assert ended.code == 1
    assert "succeeded: pi-1" in ended.out.splitlines()
    assert "refused: pi-2: anna is viewer; bench needs operator" in ended.out.splitlines()
    assert ended.out.splitlines()[-1] == "bench: 1 succeeded, 1 failed."
    assert "bench --task digits --candidate a --json" in (boards[0] / "calls").read_text()
    deployed = desk("deploy", "pi-1", "--task", "digits", "--json")
    assert deployed.code == 0, deployed.out + deployed.err
    assert deployed.document["boards"][0]["result"]["candidate"] == "a"

    wished = desk("desired", "set", "group:line-2", "--task", "digits", "--budget", "latency_p95<=10 ms", "--pin", "a")
    assert wished.code == 1
    assert "taken by pi-1" in wished.out
    assert "refused by pi-2: anna is viewer; set-desired needs admin" in wished.out
    shown = desk("desired", "get")
    assert "says to be by anna" in shown.out
    assert "pin: a" in shown.out
    assert "pi-1 has taken group:line-2 1" in shown.out
    bad = desk("desired", "set", "pi-1", "--task", "digits", "--budget", "latency_p95<=10")
    assert (bad.code, "has no unit" in bad.err) == (2, True), bad.err
    schedule = boards[0] / "wish.yaml"
    schedule.write_text(yaml.safe_dump({"schedule": [{"name": "nightly", "action": "sync", "cron": "0 3 * * *"}]}))
    assert desk("desired", "set", "pi-1", "--file", schedule).code == 0
    (entry,) = desk("schedule", "--json").document["entries"]
    assert (entry["board"], entry["name"], entry["action"]) == ("pi-1", "nightly", "sync")
    assert desk("desired", "clear", "pi-1").code == 0
    assert desk("schedule", "--json").document["entries"] == []
