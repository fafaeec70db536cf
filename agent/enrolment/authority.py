"""A small certificate authority in a folder, for whoever has boards and no authority of his own.

Rules:
- ``ca.key`` signs, is readable by its owner alone and stays where it is; ``ca.pem`` goes to the broker and the boards.
- A name belongs to one key and a key to one name. A request for a name that another key has is refused, unless the old
  one is expressly replaced; so is a request with a key that another name has.
- ``operator/...`` and ``collector/...`` may read every fleet: they are signed only when that is said, since the name
  in a request is whatever its maker wrote.
- What was signed last for a name lies in ``issued/``. There is no revocation list: a broker is told by its access file.

Lifetimes, chosen: ten years for the authority, two for what it signs; nothing outlives the authority.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.durable import storage_error, write_file
from agent.enrolment import certificates
from agent.enrolment.names import TRUSTED, Member, parse_name
from agent.errors import ConfigError
from agent.locks import exclusive

AUTHORITY_DAYS = 3650.0
SIGNED_DAYS = 730.0
_SLACK = timedelta(hours=1)  # of the clocks that will look at it
_LEAST_RSA_BITS = 2048


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that was signed, and whose key it is for."""

    name: str
    key_id: str
    not_after: datetime
    certificate: Path


class Authority:
    """One folder. Raises: ConfigError: there is no authority in it, or its key cannot be read."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "ca.pem").is_file():
            raise ConfigError(f"there is no authority in {folder}", fix=f"make one: boardfit enroll ca init {folder}")
        self.folder = folder
        self._key = certificates.load_key(folder / "ca.key")
        self._certificate = certificates.parse_certificates((folder / "ca.pem").read_bytes(), folder / "ca.pem")[0]

    @classmethod
    def make(cls, folder: Path, *, name: str, now: datetime, days: float = AUTHORITY_DAYS) -> Authority:
        """Make an authority in a new or empty folder. Raises: ConfigError: one is there already. StorageError."""
        if (folder / "ca.key").exists() or (folder / "ca.pem").exists():
            raise ConfigError(
                f"{folder} holds an authority already", fix="choose another folder; a key is never replaced"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise storage_error(error, folder) from error
        key = certificates.make_key()
        own = certificates.subject(name)
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder(own, own, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - _SLACK)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        write_file(folder / "ca.key", certificates.key_pem(key), 0o600)
        write_file(folder / "ca.pem", certificates.pem(builder.sign(key, hashes.SHA256())))
        return cls(folder)

    @property
    def not_after(self) -> datetime:
        """When the authority ends."""
        return certificates.valid_times(self._certificate)[1]

    def issued(self) -> list[Signed]:
        """Return what was signed last for each name, by name."""
        return [_signed(path) for path in sorted(self.folder.glob("issued/*/*.pem"))]

    def members(self) -> list[Member]:
        """Return whose names these are."""
        return [parse_name(one.name) for one in self.issued()]

    def sign(
        self, request: Path, *, now: datetime, days: float = SIGNED_DAYS, trusted: bool = False, replace: bool = False
    ) -> Signed:
        """Sign a board's, an operator's or a collector's request.

        Args: trusted: the name may be an operator's or a collector's.   replace: it may have been another key's.
        Raises: ConfigError: the request is not to be signed. StorageError.
        """
        read = certificates.parse_request(certificates.read_public(request, "the signing request"), request)
        member = parse_name(certificates.common_name(read.subject), where=str(request))
        if member.role in TRUSTED and not trusted:
            raise ConfigError(
                f"{request} asks for {member}, which may read every fleet"
                + (" and order all boards about" if member.role == "operator" else ""),
                fix=f"add --trusted if you know that it comes from this {member.role}",
            )
        public = read.public_key()
        if not _strong(public):
            raise ConfigError(f"the key in {request} is too weak or of an unusual kind", fix="use ECDSA P-256")
        with exclusive(self.folder / "lock", "another signing"):
            self._check_free(member, certificates.key_id(public), replace=replace)
            builder = self._builder(str(member), public, now, days, ExtendedKeyUsageOID.CLIENT_AUTH)
            return self._keep(str(member), builder)

    def sign_broker(self, hosts: list[str], *, now: datetime, days: float = SIGNED_DAYS) -> tuple[Path, Path]:
        """Make a broker's key and certificate. Args: hosts: names and addresses, as clients write them.

        Returns: the paths of the certificate and of the key, both to be taken to the broker.
        Raises: ConfigError: a host is not a name. StorageError.
        """
        key = certificates.make_key()
        builder = self._builder(hosts[0], key.public_key(), now, days, ExtendedKeyUsageOID.SERVER_AUTH)
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        certificate = builder.add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        path = self.folder / "broker.pem"
        write_file(path.with_suffix(".key"), certificates.key_pem(key), 0o600)
        write_file(path, certificates.pem(certificate))
        return path, path.with_suffix(".key")

    def _check_free(self, member: Member, key_id: str, *, replace: bool) -> None:
        for one in self.issued():
            if one.name == str(member) and one.key_id != key_id and not replace:
                raise ConfigError(
                    f"{member} has the key {one.key_id} until {one.not_after:%Y-%m-%d}, and the request is of {key_id}",
                    fix="give the new board another name; --replace if the old board or key is gone",
                )
            if one.name != str(member) and one.key_id == key_id:
                raise ConfigError(
                    f"the key {key_id} is that of {one.name} already",
                    fix="no two boards share a key: make one on this board, `boardfit enroll --new-key`",
                )

    def _builder(
        self, name: str, public: CertificatePublicKeyTypes, now: datetime, days: float, usage: x509.ObjectIdentifier
    ) -> x509.CertificateBuilder:
        if now > self.not_after:
            raise ConfigError(
                f"the authority in {self.folder} has ended", fix="make a new one: boardfit enroll ca init"
            )
        signs = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        own = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            x509.CertificateBuilder(
                self._certificate.subject, certificates.subject(name), public, x509.random_serial_number()
            )
            .not_valid_before(now - _SLACK)
            .not_valid_after(min(now + timedelta(days=days), self.not_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(signs, critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
        )

    def _keep(self, name: str, builder: x509.CertificateBuilder) -> Signed:
        path = self.folder / "issued" / f"{name}.pem"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, path) from error
        write_file(path, certificates.pem(builder.sign(self._key, hashes.SHA256())))
        return _signed(path)


def _signed(path: Path) -> Signed:
    read = certificates.parse_certificates(path.read_bytes(), path)[0]
    return Signed(
        name=certificates.common_name(read.subject),
        key_id=certificates.key_id(read.public_key()),
        not_after=certificates.valid_times(read)[1],
        certificate=path,
    )


def _strong(public: object) -> bool:
    if isinstance(public, rsa.RSAPublicKey):
        return public.key_size >= _LEAST_RSA_BITS
    if isinstance(public, ec.EllipticCurvePublicKey):
        return isinstance(public.curve, ec.SECP256R1 | ec.SECP384R1)
    return isinstance(public, ed25519.Ed25519PublicKey)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise ConfigError(f"{host!r} is not a host name", fix="write international names in their xn-- form") from error
