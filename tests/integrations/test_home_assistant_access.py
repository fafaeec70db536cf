"""Who may write and read what of Home Assistant's: the example broker with its third listener, run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli import main
from agent.demo_broker import free_port
from agent.enrolment.access import mosquitto_acl
from agent.enrolment.authority import Authority
from agent.enrolment.names import parse_name
from agent.mqtt import BrokerSettings, Connection, Incoming, drive
from tests.enrolment.conftest import EXAMPLE, Example, Guarded, now

BOARD, COLLECTOR, HOME = "plant-7/pi5", "collector/one", "home-assistant"
CONFIG, BIRTH = "homeassistant/device/boardfit_plant-7_pi5/config", "homeassistant/status"
STATUS, COMMAND = "boardfit/v1/plant-7/pi5/status", "boardfit/v1/plant-7/pi5/cmd/bench"
#: Topic, and who may write it.
WRITERS = {
    CONFIG: {COLLECTOR, HOME},
    BIRTH: {HOME},
    "homeassistant/sensor/x/config": {HOME},
    STATUS: {BOARD},
    COMMAND: set[str](),
    "boardfit/v1/plant-7/pi5/desired": set[str](),
    "boardfit/v1/plant-7/pi5/receipt": {COLLECTOR},
}


class House:
    """The broker, and how each party reaches it."""

    def __init__(self, folder: Path) -> None:
        authority = Authority.make(folder / "authority", name="test", now=now())
        certificate, key = authority.sign_broker(["127.0.0.1"], now=now())
        for source, name in ((authority.folder / "ca.pem", "ca.pem"), (certificate, "broker.pem"), (key, "broker.key")):
            (folder / name).write_bytes(source.read_bytes())
        subprocess.run(["mosquitto_passwd", "-b", "-c", folder / "passwords", HOME, "of this test"], check=True)
        self.port = free_port()
        self.broker = Example(folder, free_port(), free_port())
        file = folder / "conf.d" / "boardfit.conf"
        options = r"^#(listener 8885|cafile|certfile|keyfile|password_file)"
        text, count = re.subn(options, r"\1", file.read_text(), flags=re.MULTILINE)
        assert count == 5
        file.write_text(text.replace("listener 8885", f"listener {self.port} 127.0.0.1"))
        listeners = [int(port) for port in re.findall(r"^listener (\d+)", text, re.MULTILINE)]
        self.guarded = Guarded(self.broker, folder / "ca.pem", listeners[0], listeners[1], folder, authority)
        self.parties = {name: self.guarded.party(name) for name in (BOARD, COLLECTOR)}

    def settings(self, name: str) -> BrokerSettings:
        if name != HOME:
            return self.guarded.settings(self.parties[name], people=name == COLLECTOR)
        return BrokerSettings(
            host="127.0.0.1", port=self.port, tls=True, ca=str(self.guarded.ca), username=HOME, password="of this test"
        )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("house"))
    made.broker.folder.joinpath("boardfit.acl").write_text(rules(BOARD, COLLECTOR))
    made.broker.start()
    yield made
    made.broker.kill()


def rules(*names: str) -> str:
    """Return what the command line prints."""
    return mosquitto_acl([parse_name(name) for name in names], "homeassistant")


@pytest.mark.parametrize("name", [BOARD, COLLECTOR, HOME])
def test_who_may_write_what(house: House, name: str) -> None:
    line = Connection(house.settings(name))
    line.connect(15)
    sent = {topic: line.publish(topic, b"") for topic in WRITERS}
    assert drive(line, lambda: all(one.state != "sent" for one in sent.values()), 15)
    assert {topic for topic, one in sent.items() if one.state == "acked"} == {
        topic for topic, writers in WRITERS.items() if name in writers
    }
    line.close()


def say(line: Connection, *topics: str) -> None:
    sent = [line.publish(topic, b"x") for topic in topics]
    assert drive(line, lambda: all(one.state == "acked" for one in sent), 15)


@pytest.mark.parametrize(
    ("name", "hears"),
    [(HOME, {CONFIG, BIRTH, STATUS}), (COLLECTOR, {CONFIG, BIRTH, STATUS}), (BOARD, {STATUS})],
)
def test_who_hears_what(house: House, name: str, hears: set[str]) -> None:
    heard: list[Incoming] = []
    line = Connection(house.settings(name))
    line.connect(15)
    for topic in (CONFIG, BIRTH, STATUS):
        line.subscribe(topic, heard.append)
    assert drive(line, lambda: line.listening, 15)
    home = Connection(house.settings(HOME))
    home.connect(15)
    say(home, CONFIG, BIRTH)
    home.close()
    if name == BOARD:  # its name is its client id: a second connection would throw off the first
        say(line, STATUS)
    else:
        board = Connection(house.settings(BOARD))
        board.connect(15)
        say(board, STATUS)
        board.close()
    assert drive(line, lambda: {one.topic for one in heard} >= hears, 15)
    assert {one.topic for one in heard} == hears
    line.close()


def test_the_command_line_writes_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enroll", "acl", BOARD, COLLECTOR, "--home-assistant"]) == 0
    assert capsys.readouterr().out == rules(BOARD, COLLECTOR)
    assert main(["enroll", "acl", COLLECTOR, "--home-assistant", "ha/main"]) == 0
    assert "topic readwrite ha/main/device/+/config" in capsys.readouterr().out
    assert main(["enroll", "acl", COLLECTOR]) == 0
    assert "homeassistant" not in capsys.readouterr().out
    assert main(["enroll", "acl", COLLECTOR, "--home-assistant", "#"]) == 2
    assert "discovery prefix" in capsys.readouterr().err
    assert "#listener 8885" in (EXAMPLE / "boardfit.conf").read_text()
