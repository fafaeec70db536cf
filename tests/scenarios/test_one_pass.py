"""The main job: profile, pull, measure, select, deploy, report, as a user runs it and as the fleet sees it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from agent.core.asyncapi import message_schema
from agent.core.messages import schema_name
from agent.mqtt import BrokerSettings, Incoming
from tests.brokers import Listener, Mosquitto
from tests.scenarios.conftest import CANDIDATES, Installation

CONSUMER = Path(__file__).with_name("consumer.py")


TASKS = {
    "digits": {
        "budgets": {"accuracy_top1": ">= 0.9", "size": "1 MiB", "latency_p95": "500 ms"},
        "objective": ["maximize accuracy_top1", "minimize size"],
    }
}


@pytest.fixture
def installation(installation: Installation, broker: Mosquitto) -> Installation:
    installation.tasks = copy.deepcopy(TASKS)
    installation.more = {"mqtt": {"url": broker.settings().url, "fleet": "test"}, "device": {"id": "board"}}
    return installation.write()


@pytest.fixture(scope="module")
def passed(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a board after its first pass, made once and never changed."""
    board = Installation(tmp_path_factory.mktemp("passed"), str(published), published / "root.json", tasks=TASKS)
    result = board.write()("once")
    assert result.code == 0, result.err
    return board.state


@pytest.fixture
def settled(installation: Installation, passed: Path) -> Installation:
    """A board that has made its first pass and runs what that chose."""
    shutil.copytree(passed, installation.state, symlinks=True)
    return installation


def kinds(messages: list[Incoming]) -> set[str]:
    return {message.topic.removeprefix("boardfit/v1/test/board/").split("/")[0] for message in messages}


def test_one_pass_end_to_end(
    installation: Installation, broker: Mosquitto, listen: Callable[[BrokerSettings], Listener]
) -> None:
    fleet = listen(broker.settings())
    result = installation("once", "--json")
    assert result.code == 0, result.err
    done = result.document
    (decision,) = done["decisions"]
    assert {m["candidate"] for m in (*done["measured"], *decision["untried"])} == set(CANDIDATES)
    assert not any(option["could_matter"] for option in decision["untried"])
    assert {m["verdict"] for m in done["measured"]} <= {"ok", "wrong_output"}
    measured = [m for m in done["measured"] if m["verdict"] == "ok" and m["stopped"] is None]
    assert measured
    for m in measured:
        assert m["latency"]["n"] >= 100
        # Runs that depend on each other may bound no quantile; the test of the limit does not need them to.
        assert [proof["state"] for proof in m["proofs"] if proof["metric"] == "latency_p95"] == ["met"]
        p50 = m["latency"]["p50_s"]
        around = [value for value in (p50["low"], p50["value"], p50["high"]) if value is not None]
        assert p50["value"] > 0
        assert around == sorted(around)
        assert m["accuracy"]["n"] == 540
        assert m["accuracy"]["top1"]["low"] < m["accuracy"]["top1"]["value"] < m["accuracy"]["top1"]["high"]
        assert m["golden"]["passed"] is True
        assert m["memory"]["admission_peak_bytes"] > m["memory"]["model_peak_bytes"] > 0
        assert (m["power"] is None) is (m["power_reason"] is not None)
        assert len(m["latencies_s"]) + m["latencies_dropped"] == m["latency"]["n"]
    assert decision["outcome"] == "chosen"
    assert {option["candidate"] for option in decision["options"]} == {m["candidate"] for m in done["measured"]}
    (deployment,) = done["deployments"]
    assert deployment["outcome"] == "deployed"

    # What an operator's subscriber saw: every kind, each agreeing with its published schema.
    fleet.wait(lambda: any(m.topic.endswith("/status") and b"offline" in m.payload for m in fleet.got))
    assert kinds(fleet.got) == {"status", "profile", "reported", "measurement", "decision", "deployment"}
    for message in fleet.got:
        jsonschema.validate(json.loads(message.payload), message_schema(schema_name(message.topic)))
    (told,) = fleet.topic("/measurement")
    assert [m["id"] for m in json.loads(told.payload)["measurements"]] == [m["id"] for m in done["measured"]]
    assert len(fleet.topic("/profile")) == 1

    # Retained: who comes later finds the last word on each.
    late = listen(broker.settings())
    late.wait(lambda: kinds(late.got) >= {"status", "profile", "reported", "decision", "deployment"})

    assert installation("status", "--json").document["outbox"]["messages"] == 0

    # An application opens the model from deployment.json alone and gets the golden outputs.
    opened = subprocess.run(
        [sys.executable, CONSUMER, installation.current], capture_output=True, text=True, check=False
    )
    assert opened.returncode == 0, opened.stderr
    assert json.loads(opened.stdout)["golden_samples"] >= 1


def test_a_second_pass_measures_nothing_again_and_keeps_what_runs(settled: Installation) -> None:
    before = os.readlink(settled.current)
    again = settled("once", "--json")
    assert again.code == 0, again.err
    assert again.document["measured"] == []
    assert again.document["decisions"][0]["outcome"] == "kept_incumbent"
    assert again.document["deployments"][0]["outcome"] == "unchanged"
    assert os.readlink(settled.current) == before


def test_nothing_fits_is_exit_code_3_and_what_runs_keeps_running(settled: Installation) -> None:
    before = os.readlink(settled.current)
    settled.tasks["digits"]["budgets"]["size"] = "1 KiB"
    settled.write()
    result = settled("once", "--json")
    assert result.code == 3, result.err
    decision = result.document["result"]["decisions"][0]
    assert (decision["outcome"], decision["winner"]) == ("nothing_fits", None)
    assert decision["nearest_miss"]["metric"] == "size"
    assert os.readlink(settled.current) == before


def test_what_if_explain_status_and_report_look_and_change_nothing(settled: Installation, tmp_path: Path) -> None:
    before = os.readlink(settled.current)
    result = settled("select", "--budget", "size<=1KiB", "--json")
    assert result.code == 3
    assert result.document["decisions"][0]["what_if"] is True
    told = settled("explain")
    assert told.code == 0
    for name in CANDIDATES:
        assert name in told.out
    status = settled("status", "--json").document
    assert status["tasks"][0]["deployment"]["current"]["candidate"] in CANDIDATES
    assert status["tasks"][0]["decision"]["outcome"] == "chosen"
    assert status["outbox"]["messages"] == 0
    page = tmp_path / "report.html"
    assert settled("report", "--html", page).code == 0
    text = page.read_text()
    assert all(name in text for name in CANDIDATES)
    assert os.readlink(settled.current) == before


def test_deploy_another_and_roll_back(settled: Installation) -> None:
    first = json.loads((settled.current / "deployment.json").read_text())
    other = next(name for name in CANDIDATES if name != first["candidate"])
    assert settled("bench", "--candidate", other).code == 0
    result = settled("deploy", "--task", "digits", "--candidate", other)
    assert result.code == 0, result.err
    assert json.loads((settled.current / "deployment.json").read_text())["candidate"] == other
    result = settled("rollback", "--task", "digits")
    assert result.code == 0, result.err
    assert json.loads((settled.current / "deployment.json").read_text()) == first


def test_a_failing_hook_rolls_back_with_exit_code_5(settled: Installation) -> None:
    first = json.loads((settled.current / "deployment.json").read_text())
    other = next(name for name in CANDIDATES if name != first["candidate"])
    assert settled("bench", "--candidate", other).code == 0
    settled.tasks["digits"]["hook"] = {"command": ["/bin/false"], "deadline": "10 s"}
    settled.write()
    result = settled("deploy", "--task", "digits", "--candidate", other)
    assert result.code == 5, result.err
    assert "/bin/false" in result.err
    assert json.loads((settled.current / "deployment.json").read_text()) == first


def test_after_a_rollback_by_hand_no_pass_brings_the_model_back_until_it_is_asked_for(
    settled: Installation,
) -> None:
    chosen = json.loads((settled.current / "deployment.json").read_text())["candidate"]
    other = next(name for name in CANDIDATES if name != chosen)
    assert settled("bench", "--candidate", other).code == 0
    assert settled("deploy", "--task", "digits", "--candidate", other).code == 0
    assert settled("deploy", "--task", "digits", "--candidate", chosen).code == 0
    assert settled("rollback", "--task", "digits").code == 0
    again = settled("once", "--json")
    assert again.code == 0, again.err
    (option,) = {
        (o["standing"], o["reason"]) for o in again.document["decisions"][0]["options"] if o["candidate"] == chosen
    }
    assert option == ("failed", "withheld: rolled back by hand")
    assert json.loads((settled.current / "deployment.json").read_text())["candidate"] != chosen
    assert settled("deploy", "--task", "digits", "--candidate", chosen).code == 0
    assert json.loads((settled.current / "deployment.json").read_text())["candidate"] == chosen
