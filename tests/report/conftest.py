"""A real mosquitto on a free loopback port, a listener, a certificate authority, and clocks."""

from __future__ import annotations

import datetime as dt
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
from agent.report.outbox import Outbox


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
