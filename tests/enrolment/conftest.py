"""The example broker with the example access rules, and certificates made by the command line's own authority."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest

from agent.demo_broker import free_port
from agent.enrolment.authority import Authority
from agent.enrolment.identity import request_certificate
from agent.enrolment.names import parse_name
from agent.mqtt import BrokerSettings
from tests.brokers import Mosquitto

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "examples" / "mosquitto"
CERTS = "/etc/mosquitto/certs"


def now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass
class Party:
    """A certificate and its key."""

    name: str
    certificate: Path
    key: Path


@dataclass
class Guarded:
    """A running broker that serves the example files, with other paths and ports."""

    mosquitto: Mosquitto
    ca: Path
    boards: int
    people: int
    folder: Path
    authority: Authority

    def party(self, name: str) -> Party:
        made = request_certificate(self.folder / name.replace("/", "--"), parse_name(name))
        return Party(name, self.authority.sign(made.request, now=now(), trusted=True).certificate, made.key)

    def settings(self, party: Party, *, people: bool = False, **changes: object) -> BrokerSettings:
        files = {"ca": str(self.ca), "cert": str(party.certificate), "key": str(party.key)}
        place = {"host": "127.0.0.1", "port": self.people if people else self.boards, "tls": True}
        return BrokerSettings(**{**place, **files, **changes})  # type: ignore[arg-type]


class Example(Mosquitto):
    """mosquitto with Debian's main file reduced to what ours relies on, and our file included from conf.d."""

    def __init__(self, folder: Path, boards: int, people: int) -> None:
        text = (EXAMPLE / "boardfit.conf").read_text()
        changes = {
            CERTS: str(folder),
            "\nlistener 8883\n": f"\nlistener {boards} 127.0.0.1\n",
            "\nlistener 8884\n": f"\nlistener {people} 127.0.0.1\n",
        }
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "conf.d").mkdir()
        (folder / "conf.d" / "boardfit.conf").write_text(text)
        super().__init__(folder, "")

    def body(self) -> str:
        return f"persistence_location {self.folder}/\ninclude_dir {self.folder}/conf.d"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """In memory where that is possible: the broker saves all it holds at each change."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory)) if memory.is_dir() else tmp_path_factory.mktemp("broker")
    authority = Authority.make(folder / "authority", name="test fleet", now=now())
    certificate, key = authority.sign_broker(["127.0.0.1"], now=now())
    for source, name in ((authority.folder / "ca.pem", "ca.pem"), (certificate, "broker.pem"), (key, "broker.key")):
        (folder / name).write_bytes(source.read_bytes())
    (folder / "boardfit.acl").write_text((EXAMPLE / "boardfit.acl").read_text())
    boards, people = free_port(), free_port()
    broker = Example(folder, boards, people)
    broker.start()
    yield Guarded(broker, folder / "ca.pem", boards, people, folder, authority)
    broker.kill()
    if folder.parent == memory:
        shutil.rmtree(folder)


@pytest.fixture
def sign(tmp_path: Path) -> Callable[..., Path]:
    """Return what signs a request with an authority of this test's own."""
    authority = Authority.make(tmp_path / "authority", name="test fleet", now=now())

    def signed(request: Path, **more: object) -> Path:
        return authority.sign(request, **{"now": now(), **more}).certificate  # type: ignore[arg-type]

    return signed
