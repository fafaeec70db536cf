"""``boardfit demo``, on a smaller registry: what a newcomer sees first must be whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cli import main
from tests.scenarios.conftest import CANDIDATES, publish


@pytest.mark.parametrize("broker", ["mosquitto", "amqtt"])
def test_the_demo_shows_every_stage(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broker: str
) -> None:
    registry, names = published, CANDIDATES
    if broker == "amqtt":  # the other broker is what is new here: one candidate shows it
        registry, names = tmp_path / "models", CANDIDATES[:1]
        publish(registry, names)
    monkeypatch.setattr("agent.verbs.demo.demo_registry", lambda: registry)
    folder = tmp_path / "demo"
    assert main(["demo", "--json", "--broker", broker, "--state-dir", str(folder)]) in (0, 3)  # 3: on a busy machine
    shown = json.loads(capsys.readouterr().out)
    (decision,) = shown["pass"]["decisions"]
    assert {m["candidate"] for m in (*shown["pass"]["measured"], *decision["untried"])} == set(names)
    kinds = [message["topic"].split("/")[4] for message in shown["messages"]]
    assert kinds.count("measurement") == 1
    assert any(f"{len(shown['pass']['measured'])} measurements" in message["says"] for message in shown["messages"])
    assert {"status", "profile", "reported", "decision"} <= set(kinds)
    assert all(message["says"] for message in shown["messages"])
    assert Path(shown["report"]).read_text().startswith("<!DOCTYPE html>")


def test_the_demo_empties_no_folder_it_did_not_make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("keep")
    assert main(["demo", "--state-dir", str(tmp_path)]) == 2
    assert "not the demo's" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "keep"


def test_the_demo_registry_is_trusted_nowhere_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Path(__file__).parents[2] / "benchmarks" / "zoo" / "registry"
    copied = tmp_path / "root.json"
    copied.write_bytes((registry / "root.json").read_bytes())
    config = tmp_path / "agent.yaml"
    config.write_text(f"registry: {{url: {registry}, root: {copied}}}\n")
    assert main(["sync", "--config", str(config), "--state-dir", str(tmp_path / "state")]) == 2
    assert "private keys are public" in capsys.readouterr().err
