"""A rollout against a real agent: it measures, decides, deploys and proves by itself what the rollout brings to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import yaml

from agent.core.payloads import DecisionMessage, DeploymentMessage
from agent.fleet.settings import write_public
from agent.fleet.signing import OperatorKey
from agent.mqtt import BrokerSettings
from tests.brokers import Listener, Mosquitto
from tests.scenarios.conftest import CANDIDATES, ROOT, Installation, Result, run

WAIT_S = 300.0  # a busy machine measures slowly


def test_a_rollout_brings_a_real_board_to_a_candidate_and_an_impossible_one_nowhere(
    installation: Installation,
    registry: Path,
    broker: Mosquitto,
    listen: Callable[[BrokerSettings], Listener],
    tmp_path: Path,
) -> None:
    pem = tmp_path / "otto.pem"
    listed = run("registry", "operators", "add", registry, "--name", "otto", "--role", "operator", "--make", pem)
    assert listed.code == 0, listed.err
    write_public(pem, "otto", OperatorKey.load(pem).public_key)
    (tmp_path / "fleet.yaml").write_text(
        yaml.safe_dump({"mqtt": {"url": broker.settings().url, "fleet": "test"}, "operator": {"key": "otto.pem"}})
    )
    heard = listen(broker.settings())
    installation.write(mqtt={"url": broker.settings().url, "fleet": "test"}, device={"id": "board"})
    files = ["--config", installation.config, "--state-dir", installation.state]
    daemon = subprocess.Popen([sys.executable, "-m", "agent", "run", *files], cwd=ROOT)

    def rollout(candidate: str) -> Result:
        return run(
            "fleet", "rollout", "start", "--task", "digits", "--candidate", candidate, "--soak", "0s", "--json",
            "--config", tmp_path / "fleet.yaml", "--state-dir", tmp_path / "desk", env={**os.environ},
        )  # fmt: skip

    def serving() -> DeploymentMessage:
        return msgspec.json.decode(heard.topic("/deployment/digits")[-1].payload, type=DeploymentMessage)

    try:
        heard.wait(lambda: bool(heard.topic("/deployment/digits")), WAIT_S)
        heard.wait(lambda: bool(heard.topic("/board/profile")), WAIT_S)  # it has ended
        first = serving()
        other = next(name for name in CANDIDATES if name != first.candidate)
        ended = rollout(other)
        decided = msgspec.json.decode(heard.topic("/decision/digits")[-1].payload, type=DecisionMessage)
        fits = any(option.candidate == other and option.standing == "fits" for option in decided.options)
        assert fits, [(option.candidate, option.standing, option.reason) for option in decided.options]
        assert ended.code == 0, ended.err + ended.out
        heard.wait(lambda: serving().candidate == other, WAIT_S)
        assert serving().phase == "done"
        nowhere = rollout("no-such-candidate")
        assert nowhere.code == 5, nowhere.err
        (board,) = nowhere.document["boards"]
        assert (board["phase"], board["kind"]) == ("failed", "failed")
        assert serving().candidate == other
    finally:
        daemon.terminate()
        assert daemon.wait(60) == 0
