"""Keys, signing requests and certificates (X.509) read from and written as PEM. Whose they may be is for callers.

Rules:
- Made keys are ECDSA P-256: every broker and every TLS library on a board takes them.
- A file with a private key in it is refused wherever one without is asked for: such a file was about to travel.
- A certificate that is read may be followed by its intermediate ones; the first is the board's own.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.errors import ConfigError

_PEM = serialization.Encoding.PEM
_BAD = (ValueError, TypeError, UnsupportedAlgorithm)


def make_key() -> ec.EllipticCurvePrivateKey:
    """Return a new private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as it is written to a file, without a password."""
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a private key. Raises: ConfigError: unreadable, or of another kind."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, *_BAD) as error:
        raise ConfigError(f"{path} cannot be read as a private key: {error}", fix="run this as its owner") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is not an elliptic-curve key", fix="boardfit makes these itself; move it away")
    return key


def key_id(public: CertificatePublicKeyTypes) -> str:
    """Return 16 hex digits of a public key's SHA-256 over its DER form, to tell keys apart in names and sentences."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()[:16]


def common_name(subject: x509.Name) -> str:
    """Return the one common name. Raises: ConfigError: there is none, or several."""
    found = [str(part.value) for part in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(found) != 1:
        raise ConfigError(f"a certificate or request has {len(found)} common names", fix="it must have exactly one")
    return found[0]


def subject(name: str) -> x509.Name:
    """Return a subject with a common name and nothing else. Raises: ConfigError: too long."""
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    except ValueError as error:
        raise ConfigError(f"{name!r} cannot stand in a certificate: {error}", fix="choose a shorter name") from error


def request_pem(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """Return a signing request for a key and a common name."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject(name))
    return builder.sign(key, hashes.SHA256()).public_bytes(_PEM)


def read_public(path: Path, what: str) -> bytes:
    """Read a file that is to travel. Raises: ConfigError: unreadable, or with a private key in it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}", fix="check the path") from error
    if b"PRIVATE KEY" in data:
        raise ConfigError(
            f"{path} has a private key in it, which must not leave the machine that made it",
            fix=f"give the file that holds {what} alone, and make a new key if that file has travelled",
        )
    return data


def parse_request(data: bytes, where: Path) -> x509.CertificateSigningRequest:
    """Read a signing request and check that whoever made it holds its key. Raises: ConfigError."""
    try:
        request = x509.load_pem_x509_csr(data)
        good = request.is_signature_valid
    except _BAD as error:
        raise ConfigError(
            f"{where} is not a signing request: {error}", fix="give the .csr that the board made"
        ) from error
    if not good:
        raise ConfigError(f"{where} is not signed by its own key", fix="have the board make it again")
    return request


def parse_certificates(data: bytes, where: Path) -> list[x509.Certificate]:
    """Read one or more certificates. Raises: ConfigError."""
    try:
        return x509.load_pem_x509_certificates(data)
    except _BAD as error:
        raise ConfigError(f"{where} is not a certificate: {error}", fix="give a PEM file") from error


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as it is written to a file."""
    return certificate.public_bytes(_PEM)


def valid_times(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    """Return from when until when it holds, aware, UTC."""
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def fits_client(certificate: x509.Certificate) -> bool:
    """Return whether a broker may take it from a client: its extended usage, where there is one, says so."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage
