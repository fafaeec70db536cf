"""``boardfit fleet serve`` as a service manager runs it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.collector.store_reading import StoredReader
from agent.core.topics import collector_topic
from tests.brokers import Mosquitto
from tests.collector.documents import FLEET
from tests.collector.test_intake import RealBoard, numbers, texts
from tests.scenarios.conftest import run

ROOT = Path(__file__).resolve().parents[2]


def words(broker: Mosquitto, folder: Path, *more: str) -> list[str]:
    place = ["--broker", broker.settings().url, "--fleet", FLEET, "--state-dir", str(folder)]
    return ["fleet", "serve", *place, "--name", "one", *more]


def test_it_says_that_it_is_ready_collects_and_ends_on_sigterm(tmp_path: Path, broker: Mosquitto, listen) -> None:
    listener = listen(broker.settings())
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(60)
        served = subprocess.Popen(
            [sys.executable, "-m", "agent", *words(broker, tmp_path, "--no-web")],
            cwd=ROOT, env={**os.environ, "NOTIFY_SOCKET": address}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert b"READY=1" in manager.recv(4096)
            board = RealBoard(tmp_path, broker)
            board.put(0, 20)
            board.send()
            board.close()
            served.send_signal(signal.SIGTERM)
            assert b"STOPPING=1" in manager.recv(4096)
            said, _ = served.communicate(timeout=60)
        finally:
            served.kill()
            served.wait()
    assert served.returncode == 0
    assert re.search(rf"Collecting {FLEET} as one into sqlite:///.*/collector.sqlite", said)
    assert "confirmed 20" in said
    with StoredReader(f"sqlite:///{tmp_path}/collector.sqlite") as reader:
        assert texts(reader) == numbers(20)
    topic = collector_topic(FLEET, "one").removeprefix("boardfit/v1")
    listener.wait(lambda: b'"offline"' in b"".join(one.payload for one in listener.topic(topic)))
    done = run(*words(broker, tmp_path, "--retire"), timeout=60)
    assert "is retired" in done.out
    listener.wait(lambda: listener.topic(topic)[-1].payload == b"")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--keep", "90"], "has no unit"),
        (["--keep", "0d"], "keeps nothing"),
        (["--keep-rows", "-1"], "less than none"),
        (["--database", "mysql://x/y"], "neither sqlite nor postgresql"),
        (["--database", "postgresql://me:geheim@127.0.0.1:1/x", "--no-web"], "Check that the database runs"),
        (["--database", "sqlite:////proc/nothing/here.sqlite", "--no-web"], "/proc/nothing"),
        (["--sign-key", "/nowhere.pem"], "cannot be read as a private key"),
        (["--name", "Not_A_Name"], "cannot stand in an MQTT topic"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    tmp_path: Path, broker: Mosquitto, options: list[str], problem: str
) -> None:
    done = run(*words(broker, tmp_path, *options), timeout=60)
    assert done.code in (1, 2)
    assert problem in done.err
    assert "Traceback" not in done.err
    assert "geheim" not in done.err
    assert done.err.count("\n") == 1


def test_a_broker_that_forbids_to_collect_is_told_of_in_a_sentence(
    tmp_path: Path, start_broker: Callable[..., Mosquitto]
) -> None:
    rules = tmp_path / "nothing.acl"
    rules.write_text("topic read something/else\n")
    rules.chmod(0o700)
    broker = start_broker(f"allow_anonymous true\nacl_file {rules}")
    done = run(*words(broker, tmp_path, "--no-web"), timeout=60)
    assert done.code in (1, 2)
    assert "does not let this collector write to" in done.err
