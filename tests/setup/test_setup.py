"""``boardfit setup`` in a process of its own: a real registry, a real broker, a terminal where somebody answers."""

from __future__ import annotations

import hashlib
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load_config
from agent.demo_broker import free_port
from agent.errors import ConfigError
from agent.mqtt import BrokerSettings
from agent.setup import service
from agent.setup.writing import without
from tests.brokers import Listener, Mosquitto
from tests.enrolment.conftest import Guarded
from tests.enrolment.conftest import guarded as guarded
from tests.scenarios.conftest import QUICK, ROOT, Result, publish, run

WAIT_S = 90.0


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of one candidate, made once."""
    directory = tmp_path_factory.mktemp("setup") / "models"
    publish(directory, ("mobilenet_v1-w025-onnx-static-int8",))
    return directory


class Board:
    """A board before its first boot."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.config, self.state = folder / "etc" / "agent.yaml", folder / "state"
        self.answers: dict[str, Any] = {"registry": str(models), "root": str(models / "root.json")}
        self._file = folder / "answers.yaml"

    @property
    def words(self) -> list[str]:
        return ["setup", "--config", str(self.config), "--state-dir", str(self.state), "--no-service"]

    def setup(self, *more: str, env: dict[str, str] | None = None, **answers: Any) -> Result:
        self._file.write_text(yaml.safe_dump({**self.answers, **answers}))
        return run(*self.words, "--answers", self._file, *more, env=env)

    @property
    def untouched(self) -> bool:
        return not self.config.parent.exists() and not self.state.exists()


@pytest.fixture
def board(tmp_path: Path, models: Path) -> Board:
    return Board(tmp_path, models)


class Terminal:
    """A person at a terminal: reads until a question stands there, and types."""

    def __init__(self, words: list[str]) -> None:
        self.fd, end = pty.openpty()
        command = [sys.executable, "-m", "agent", *words]
        env = {**os.environ, "TERM": "dumb", "COLUMNS": "150"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=end, stdout=end, stderr=end, env=env, start_new_session=True
        )
        os.close(end)
        self.said = ""
        self._seen = 0

    def answer(self, question: str, text: str) -> None:
        self.until(question)
        os.write(self.fd, text.encode() + b"\n")

    def until(self, text: str) -> None:
        while text not in self.said[self._seen :]:
            assert self._more(), f"no {text!r} in {self.said}"
        self._seen = self.said.index(text, self._seen) + len(text)

    def end(self) -> int:
        while self._more():
            pass
        os.close(self.fd)
        assert "Traceback" not in self.said, self.said
        return self.process.wait(WAIT_S)

    def _more(self) -> bool:
        ready, _, _ = select.select([self.fd], [], [], WAIT_S)
        assert ready, f"silence after {self.said}"
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # how a terminal's end is told
            return False
        self.said += data.decode(errors="replace")
        return bool(data)


def test_answers_from_a_file_and_the_environment_make_a_board_that_serves(
    board: Board, broker: Mosquitto, listen: Callable[[BrokerSettings], Listener]
) -> None:
    fleet = listen(broker.settings())
    board.config.parent.mkdir()
    board.config.write_text(yaml.safe_dump({"measure": QUICK}))
    answers = {"broker": "mqtt://127.0.0.1:1", "tasks": {"digits": {"budgets": {"accuracy_top1": ">= 0.5"}}}}
    env = {"BOARDFIT_SETUP_BROKER": broker.settings().url, "BOARDFIT_SETUP_GROUP": "line-1, line-2"}
    done = board.setup(env=env, fleet="plant-7", device="pi5-first", **answers)
    assert done.code == 0, done.err + done.out
    assert "It would take: systemctl enable" in done.out
    config = load_config(board.config)
    assert config.mqtt is not None
    assert config.registry is not None
    assert (config.mqtt.fleet, config.mqtt.groups, config.device_id) == ("plant-7", ("line-1", "line-2"), "pi5-first")
    assert config.registry.root == board.config.parent / "root.json"
    assert [budget.metric for budget in config.tasks["digits"].budgets] == ["accuracy_top1"]
    assert (board.state / "deploy" / "digits" / "current").is_symlink()
    fleet.wait(lambda: bool(fleet.topic("pi5-first/deployment/digits")))
    tried = [one for one in fleet.topic("pi5-first/status") if b"being set up" in one.payload]
    assert [one.retain for one in tried] == [False]

    before = {path: path.read_bytes() for path in board.config.parent.rglob("*") if path.is_file()}
    again = run(*board.words, "--no-pass")  # nothing is answered: what is configured holds
    assert again.code == 0, again.err
    assert "The configuration is as it was" in again.out
    other = board.setup("--no-pass", env=env, fleet="plant-8", device="pi5-first", **answers)
    assert (other.code, "+  fleet: plant-8" in other.out, "--force" in other.err) == (2, True, True)
    assert {path: path.read_bytes() for path in board.config.parent.rglob("*") if path.is_file()} == before
    forced = board.setup("--no-pass", "--force", env=env, fleet="plant-8", device="pi5-first", **answers)
    assert forced.code == 0, forced.err
    assert load_config(board.config).mqtt.fleet == "plant-8"  # type: ignore[union-attr]
    checked = run(*board.words, "--check", "--json")
    assert checked.code == 0, checked.err
    assert {"registry", "broker", "board"} <= {one["subject"] for one in checked.document["findings"]}
    assert checked.document["written"] == []


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        ({"root": "OTHER"}, 4, "signed"),
        ({"root_sha256": "0" * 64}, 2, "fingerprint"),
        ({"root": "https://127.0.0.1:1/root.json"}, 2, "not taken on the server's word"),
        ({"root": "/nowhere/root.json"}, 2, "cannot be read"),
        ({"registry": "http://127.0.0.1:1"}, 1, "127.0.0.1"),
        ({"broker": "mqtt://127.0.0.1:1"}, 1, "127.0.0.1"),
        ({"broker": "REFUSING", "username": "otto", "password": "wrong"}, 1, "does not authorise"),
        ({"broker": "none", "tasks": ["faces"]}, 2, "no candidates for the task"),
        ({"broker": "none", "budgets": "latency_p95: 20"}, 2, "latency_p95"),
        ({"broker": "none", "tasks": ["digits"], "colour": "red"}, 2, "not asked"),
    ],
)
def test_a_wrong_answer_is_one_sentence_and_leaves_nothing(  # noqa: PLR0917
    board: Board, tmp_path: Path, start_broker: Callable[..., Mosquitto], answers: dict[str, Any], code: int, said: str
) -> None:
    if answers.get("root") == "OTHER":
        other = tmp_path / "other"
        assert run("registry", "init", other, "--keys", tmp_path / "other.keys").code == 0
        answers = {"root": str(other / "root.json")}
    if answers.get("broker") == "REFUSING":
        (tmp_path / "users").write_text("")
        refusing = start_broker(f"allow_anonymous false\npassword_file {tmp_path / 'users'}")
        answers = {**answers, "broker": refusing.settings().url}
    done = board.setup(**answers)
    assert (done.code, said in done.err.lower() or said in done.err) == (code, True), done.err
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert board.untouched


def test_a_root_is_fetched_by_its_fingerprint_alone(board: Board, models: Path, tmp_path: Path) -> None:
    port = free_port()
    words = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(models)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as server:
        assert server.stdout is not None
        assert b"Serving" in server.stdout.readline()
        address = f"http://127.0.0.1:{port}"
        right = hashlib.sha256((models / "root.json").read_bytes()).hexdigest()
        given = {"registry": address, "root": f"{address}/root.json", "broker": "none"}
        refused = board.setup("--no-pass", **given, root_sha256="1" * 64)
        assert (refused.code, board.untouched) == (2, True)
        done = board.setup("--no-pass", **given, root_sha256=right)
        server.terminate()
    assert done.code == 0, done.err
    assert (board.config.parent / "root.json").read_bytes() == (models / "root.json").read_bytes()


def test_a_person_is_asked_corrects_an_answer_and_agrees(board: Board, models: Path, broker: Mosquitto) -> None:
    person = Terminal([*board.words, "--no-pass"])
    person.answer("registry: ", str(models))
    person.answer("root: ", str(models / "root.json"))
    person.answer("broker [none]: ", "mqtt://127.0.0.1:1")
    person.answer("fleet [default]: ", "plant-7")
    person.answer("group: ", "")
    person.answer("device [auto]: ", "")
    person.answer("username: ", "")
    person.until("127.0.0.1:1")
    person.answer("broker [mqtt://127.0.0.1:1]: ", broker.settings().url)
    for question in ("fleet [plant-7]: ", "group: ", "device [auto]: ", "username: "):
        person.answer(question, "")
    person.until("gives back")
    person.answer("tasks [digits]: ", "")
    person.answer("latency_p95: ", "latency_p95: 80 ms")
    person.answer("Write this? [Y/n] ", "y")
    assert person.end() == 0, person.said
    config = load_config(board.config)
    assert config.mqtt is not None
    assert (config.mqtt.url, config.mqtt.fleet, config.device_id) == (broker.settings().url, "plant-7", None)
    assert [budget.text for budget in config.tasks["digits"].budgets] == ["latency_p95 <= 80 ms"]


def test_ctrl_c_leaves_nothing(board: Board, models: Path) -> None:
    person = Terminal([*board.words, "--no-pass"])
    person.answer("registry: ", str(models))
    person.until("root: ")
    person.process.send_signal(signal.SIGINT)
    assert person.end() == 1
    assert "nothing was configured" in person.said
    assert board.untouched


def test_a_board_is_enrolled_in_two_runs_and_made_an_image(board: Board, guarded: Guarded) -> None:
    answers = {
        "broker": f"mqtts://127.0.0.1:{guarded.boards}", "ca": str(guarded.ca), "fleet": "plant-7",
        "device": "pi5-setup", "enroll": True,
    }  # fmt: skip
    first = board.setup("--no-pass", **answers)
    assert first.code == 0, first.err
    assert "boardfit enroll --certificate" in first.out
    (request,) = (board.config.parent / "mqtt").glob("*.csr")
    signed = run("enroll", "sign", request, "--ca", guarded.authority.folder, "--json")
    second = board.setup("--no-pass", **answers, certificate=signed.document["certificate"])
    assert second.code == 0, second.err
    config = load_config(board.config)
    assert config.mqtt is not None
    assert config.mqtt.key is not None
    assert (config.mqtt.key.exists(), config.device_id) == (True, "pi5-setup")

    golden = run(*board.words, "--golden")
    assert golden.code == 0, golden.err
    assert list((board.config.parent / "mqtt").glob("*.key")) == []
    copied = load_config(board.config)
    assert copied.mqtt is not None
    assert (copied.mqtt.key, copied.mqtt.cert, copied.device_id, copied.mqtt.fleet) == (None, None, None, "plant-7")


def test_sections_are_taken_out_of_a_file_and_the_rest_stays() -> None:
    text = (
        "# head\nregistry: {url: a, root: b}\n# on tasks\ntasks:\n  digits:\n    budgets: {}\n"
        "measure:\n  min_runs: 10\n"
    )
    assert without(text, {"registry", "tasks"}) == "# head\n# on tasks\nmeasure:\n  min_runs: 10\n"


def test_the_service_is_put_to_work_where_systemd_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a systemctl that writes down what it is asked; a real one is for a real board."""
    asked = tmp_path / "asked"
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$*" >>{asked}\n[ "$1" != is-active ] || exit 3\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(service, "RUNNING", tmp_path / "nowhere")
    assert not service.is_installed()
    monkeypatch.setattr(service, "RUNNING", tmp_path)
    assert service.is_installed()
    service.start()
    assert asked.read_text().splitlines()[-1] == "enable --now boardfit.service"
    systemctl.write_text("#!/bin/sh\necho it is masked >&2\nexit 1\n")
    with pytest.raises(ConfigError, match="it is masked"):
        service.start()
