"""A real mosquitto on a free loopback port, a listener, a certificate authority, and clocks."""

from __future__ import annotations

import datetime as dt
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.core.topics import Address, address
from agent.database import Database
from agent.demo_broker import free_port
from agent.mqtt import BrokerSettings, Connection, Incoming, drive
from agent.report.outbox import Outbox

SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


class Mosquitto:
    """One broker that can be killed, frozen and started again on the same port."""

    def __init__(self, folder: Path, lines: str) -> None:
        self.folder = folder
        self.lines = lines
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Mosquitto:
        binary = shutil.which("mosquitto", path=SEARCH)
        if binary is None:
            pytest.fail("mosquitto is not installed: apt-get install mosquitto")
        configuration = self.folder / f"mosquitto-{self.port}.conf"
        configuration.write_text(
            "log_dest stderr\nlog_type error\nlog_type information\nset_tcp_nodelay true\npersistence false\n"
            f"user root\nlistener {self.port} 127.0.0.1\n{self.lines}\n"
        )
        self.process = subprocess.Popen([binary, "-c", str(configuration)], stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        said = b""
        while b" running" not in said:
            ready, _, _ = select.select([self.process.stderr], [], [], 20)
            chunk = os.read(self.process.stderr.fileno(), 65536) if ready else b""
            if not chunk:
                pytest.fail(f"mosquitto did not start: {said.decode()}")
            said += chunk
        return self

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.process = None

    def settings(self, **changes: object) -> BrokerSettings:
        return BrokerSettings(**{"host": "127.0.0.1", "port": self.port, **changes})  # type: ignore[arg-type]


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    started: list[Mosquitto] = []

    def start(lines: str = "allow_anonymous true") -> Mosquitto:
        started.append(Mosquitto(tmp_path, lines).start())
        return started[-1]

    yield start
    for broker in started:
        if broker.process is not None:
            broker.kill()


@pytest.fixture
def broker(start_broker: Callable[..., Mosquitto]) -> Mosquitto:
    return start_broker()


class Listener:
    """Subscribes to everything and keeps what comes."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.got: list[Incoming] = []
        self.connection = Connection(settings)
        self.connection.connect(10)
        self.connection.subscribe("#", self.got.append)
        self.wait_for_subscription()

    def wait_for_subscription(self) -> None:
        # A message to ourselves comes back only once the subscription holds.
        self.connection.publish("marker", b"")
        self.wait(lambda: any(one.topic == "marker" for one in self.got))
        self.got[:] = [one for one in self.got if one.topic != "marker"]

    def wait(self, until: Callable[[], bool], timeout_s: float = 15) -> None:
        assert drive(self.connection, until, timeout_s), [one.topic for one in self.got]

    def topic(self, end: str) -> list[Incoming]:
        return [one for one in self.got if one.topic.endswith(end)]


@pytest.fixture
def listen() -> Iterator[Callable[[BrokerSettings], Listener]]:
    listeners: list[Listener] = []

    def start(settings: BrokerSettings) -> Listener:
        listeners.append(Listener(settings))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.connection.close()


class SystemClock:
    def monotonic_s(self) -> float:
        return time.monotonic()

    def utc(self) -> dt.datetime:
        return dt.datetime.now(dt.timezone.utc)


class ManualClock:
    """Both clocks, moved by the test."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.wall = dt.datetime(2026, 5, 4, 3, 2, 1, tzinfo=dt.timezone.utc)

    def monotonic_s(self) -> float:
        return self.now_s

    def utc(self) -> dt.datetime:
        return self.wall

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.wall += dt.timedelta(seconds=seconds)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def system_clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
def here() -> Address:
    return address("plant-7", "pi5-kitchen")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "state" / "boardfit.db") as opened:
        yield opened


@pytest.fixture
def outbox(database: Database, here: Address, system_clock: SystemClock) -> Outbox:
    return Outbox(database, here, system_clock, boot_id="boot-a", clock_synced=lambda: True)


class Authority:
    """A certificate authority for one test run."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(self.name, self.key, authority=True)
        self.path = str(self._write(f"{name}.pem", self.certificate.public_bytes(serialization.Encoding.PEM)))

    def issue(self, name: str) -> tuple[str, str]:
        """Return the paths of a certificate for 127.0.0.1 and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, authority=False)
        cert_path = self._write(f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM))
        key_path = self._write(
            f"{name}.key",
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        return str(cert_path), str(key_path)

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if authority:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            import ipaddress

            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def _write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path


@pytest.fixture
def make_authority(tmp_path: Path) -> Callable[[str], Authority]:
    return lambda name: Authority(tmp_path, name)
