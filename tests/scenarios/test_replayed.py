"""A deployed release is replayed by the daemon at idle; a file that was damaged on the disk is told and repaired."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.scenarios.conftest import Installation
from tests.scenarios.test_daemon import Service, start

__all__ = ["start"]  # the fixture


def test_a_damaged_file_is_told_and_replaced_by_a_pass(installation: Installation) -> None:
    installation.write()
    assert installation("once").code == 0
    model = next(installation.current.glob("model.*"))
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    damaged = installation("replay", "--json").document["replays"][0]
    assert (damaged["outcome"], damaged["reason"]) == ("damaged", f"{model.name}: its SHA-256 differs")
    assert "is damaged: " in installation("status").out
    assert installation("once").code == 0
    assert model.read_bytes() == whole
    assert installation("replay", "--json").document["replays"][0]["outcome"] == "agrees"


def test_the_daemon_replays_what_is_due(start: Callable[..., Service], installation: Installation) -> None:
    installation.write()
    assert installation("once").code == 0
    os.utime(installation.current / "deployment.json", (1.0, 1.0))  # proven long ago
    service = start(replay={"every": "10 min", "when": {}})
    service.wait_for("STATUS=replay: golden outputs are due")
    service.wait_for("STATUS=serving")
    (task,) = installation("status", "--json").document["tasks"]
    assert (task["replay"]["outcome"], task["replay"]["changed"]) == ("agrees", False)
    assert task["replay"]["samples"] >= 1
    assert (
        f"Golden replay: digits: {task['replay']['candidate']} agrees with what was proven ("
        in installation("status").out
    )
    errors = service.stop()
    assert service.process.returncode == 0, errors
