"""Whose word a document of a board is: signed with the key of its certificate, verified by the fleet's authority.

Leaves what is said, and what it is worth, to whoever asks. Rules:
- A board signs with the very key and certificate by which the broker knows it: there is no second identity to keep.
- A document is a member's word where its certificate leads to the authority in ``mqtt.ca``, is of this time and for
  clients, names ``<fleet>/<device>``, and its key's signature holds over the exact bytes. Everything else is nobody's.
- Needs the package cryptography, which whoever enrolled has (extra ``enroll``); without it nobody signs or believes.

Source: DSSE's pre-authentication encoding, https://github.com/secure-systems-lab/dsse/blob/master/protocol.md (v1);
RFC 5280, of which one authority and at most ``MOST_BETWEEN`` between it and the board are followed.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agent.core.class_results import BoardResults
from agent.core.envelope import pre_authentication
from agent.core.messages import MAX_PAYLOAD_BYTES
from agent.core.results_message import MAX_TOLD_BYTES, RESULTS_TYPE, ResultsMessage
from agent.errors import ConfigError, ReportError, TrustError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

MOST_BETWEEN = 2
_MOST_PEM_BYTES = 16 * 1024
_LACKS = "the package cryptography is not installed"
_FIX = "install it: pip install 'boardfit[enroll]'"


class Vouched(NamedTuple):
    """A signature, in base64, and the certificates (PEM) that say whose it is."""

    certificates: str
    signature: str


def vouch(payload: bytes, payload_type: str, certificate: Path, key: Path) -> Vouched:
    """Sign a document as this board. Raises: ConfigError: the files cannot be used, or cryptography is not there."""
    try:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise ConfigError(_LACKS, fix=_FIX) from error
    try:
        chain = certificate.read_text("ascii")
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{certificate} or its key cannot be read: {error}", fix="see `boardfit doctor`") from error
    if "PRIVATE KEY" in chain:
        raise ConfigError(f"{certificate} has a private key in it", fix="keep the key in mqtt.key alone")
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{key} is no ECDSA key, which results are signed with", fix="make one: `boardfit enroll`")
    signature = private.sign(pre_authentication(payload, payload_type), ec.ECDSA(hashes.SHA256()))
    return Vouched(chain, b64encode(signature).decode())


def member_of(payload: bytes, payload_type: str, vouched: Vouched, authority: Path, now: datetime) -> str:
    """Return whose word a document is: ``<fleet>/<device>``.

    Args: authority: PEM of whoever signs boards' certificates. now: aware.
    Raises: TrustError: nobody's. ConfigError: the authority cannot be read, or cryptography is not there.
    """
    try:
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise ConfigError(_LACKS, fix=_FIX) from error
    try:
        trusted = x509.load_pem_x509_certificates(authority.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{authority} cannot be read: {error}", fix="check mqtt.ca") from error
    if len(vouched.certificates) > _MOST_PEM_BYTES:
        raise TrustError("a document with more certificates than are looked at")
    try:
        own, *between = x509.load_pem_x509_certificates(vouched.certificates.encode("ascii"))
        key = own.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TrustError("a document signed by another kind of key than ECDSA")
        signature = b64decode(vouched.signature, validate=True)
        key.verify(signature, pre_authentication(payload, payload_type), ec.ECDSA(hashes.SHA256()))
        if not _leads_to(own, between[:MOST_BETWEEN], trusted, now):
            raise TrustError("a document whose certificate this fleet's authority did not sign, or not for now")
        return _client_name(own)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
        raise TrustError(f"a document that is not signed as it says: {error or type(error).__name__}") from error


class Authority(NamedTuple):
    """Whoever signs the certificates of a fleet's boards, asked at a moment."""

    pem: Path
    now: datetime


def proven(board: str, data: bytes, class_fingerprint: str | None, authority: Authority) -> bytes:
    """Return the payload of a results message that is proven to be the word of the board in its topic, of its class.

    Args: board: ``<fleet>/<device>``. data: as it came. class_fingerprint: None takes any that it says throughout.
    Raises: TrustError: it is not. ReportError: it cannot be read. ConfigError: nothing can be proven here.
    """
    if len(data) > MAX_PAYLOAD_BYTES:
        raise ReportError("it is too long")
    try:
        message = msgspec.json.decode(data, type=ResultsMessage)
        payload = b64decode(message.payload, validate=True)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ReportError(f"it is no results message: {str(error)[:200]}") from error
    if len(payload) > MAX_TOLD_BYTES:
        raise ReportError("its payload is too long")
    vouched = Vouched(message.certificates, message.signature)
    member = member_of(payload, RESULTS_TYPE, vouched, authority.pem, authority.now)
    if member != board:
        raise TrustError(f"it is signed by {member}")
    wanted = class_fingerprint or message.class_fingerprint
    if any((one.board, one.class_fingerprint) != (board, wanted) for one in read_results(payload)):
        raise TrustError("it speaks for another board or class")
    return payload


def read_results(payload: bytes) -> tuple[BoardResults, ...]:
    """Return what a proven payload holds. Raises: ReportError."""
    try:
        return msgspec.json.decode(payload, type=tuple[BoardResults, ...])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReportError(f"its payload is not a list of results: {str(error)[:200]}") from error


def _leads_to(own: Certificate, between: list[Certificate], trusted: list[Certificate], now: datetime) -> bool:
    """Tell whether an authority signed a certificate, or signed what signed it, all of them valid now."""
    if not own.not_valid_before_utc <= now <= own.not_valid_after_utc:
        return False
    if any(_signed_by(own, one) for one in trusted):
        return True
    for number, one in enumerate(between):
        rest = between[:number] + between[number + 1 :]
        if _signed_by(own, one) and _leads_to(one, rest, trusted, now):
            return True
    return False


def _signed_by(own: Certificate, other: Certificate) -> bool:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        if not other.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        own.verify_directly_issued_by(other)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return True


def _client_name(own: Certificate) -> str:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    usage = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise TrustError("a document signed by a certificate that is not for clients")
    names = own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise TrustError("a document signed by a certificate without one name")
    return names[0].value
