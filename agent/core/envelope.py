"""A signed document on its way to a board: a DSSE envelope of exactly one Ed25519 signature. Pure.

Rules:
- What is signed are the exact bytes of the payload with their type (DSSE's pre-authentication encoding); nothing is
  read from the payload before its signature holds.
- JSON is read strictly: a key written twice, NaN, Infinity, half a surrogate pair, or a field nobody knows is refused,
  in the envelope and in the payload, so that two readers never see two different documents.
- Length is judged first, on the bytes as they came.

Source: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md (v1). Envelopes of securesystemslib's
``dsse`` are read here and the other way round. Leaves who may sign what to ``agent.core.command``.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from agent.core.payloads import Envelope, EnvelopeSignature
from agent.errors import OrderError

COMMAND_TYPE = "application/vnd.boardfit.command+json"
DESIRED_TYPE = "application/vnd.boardfit.desired+json"
RECEIPT_TYPE = "application/vnd.boardfit.receipt+json"
SIGN_IN_TYPE = "application/vnd.boardfit.sign-in+json"
#: The longest payload of each type, in bytes.
MAX_PAYLOAD_BYTES = {
    COMMAND_TYPE: 16 * 1024, DESIRED_TYPE: 64 * 1024, RECEIPT_TYPE: 64 * 1024, SIGN_IN_TYPE: 2 * 1024,
}  # fmt: skip
SIGNATURE_BYTES = 64  # RFC 8032
PUBLIC_KEY_BYTES = 32
_FRAME_BYTES = 2048  # of an envelope beyond its payload
_KEY_ID = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """An envelope taken apart, not verified yet. ``keyid`` is only a hint at which key to try."""

    payload: bytes
    payload_type: str
    keyid: str
    signature: bytes

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        return pre_authentication(self.payload, self.payload_type)


def pre_authentication(payload: bytes, payload_type: str) -> bytes:
    """Return DSSE's PAE: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id(public_key: str) -> str:
    """Return the id of an Ed25519 public key (64 hex digits): SHA-256 of its canonical JSON, as TUF has it."""
    text = f'{{"keytype":"ed25519","keyval":{{"public":"{public_key}"}},"scheme":"ed25519"}}'
    return hashlib.sha256(text.encode()).hexdigest()


def make_envelope(payload: bytes, payload_type: str, keyid: str, sign: Callable[[bytes], bytes]) -> bytes:
    """Return the envelope to publish.

    Args: sign: gives the 64 bytes of an Ed25519 signature over what it is handed.
    Raises: OrderError: the payload is longer than its type may be.
    """
    limit = MAX_PAYLOAD_BYTES[payload_type]
    if len(payload) > limit:
        raise OrderError(f"a payload of {len(payload)} bytes is over the {limit} it may have")
    signature = sign(pre_authentication(payload, payload_type))
    return msgspec.json.encode(
        Envelope(
            payload=b64encode(payload).decode(),
            payload_type=payload_type,
            signatures=(EnvelopeSignature(keyid=keyid, sig=b64encode(signature).decode()),),
        )
    )


def open_envelope(data: bytes, payload_type: str) -> Sealed:
    """Take an envelope apart. Raises: OrderError: too long, not an envelope of that type, or not one signature."""
    limit = MAX_PAYLOAD_BYTES[payload_type]
    if len(data) > limit * 4 // 3 + _FRAME_BYTES:
        raise OrderError(f"{len(data)} bytes are more than an envelope may have")
    envelope = _convert(read_strictly(data), _StrictEnvelope, "an envelope")
    if envelope.payload_type != payload_type:
        raise OrderError(f"the envelope is not of the type {payload_type}")
    if len(envelope.signatures) != 1:
        raise OrderError("the envelope must have exactly one signature")
    (signature,) = envelope.signatures
    if not _KEY_ID.fullmatch(signature.keyid):
        raise OrderError("the envelope's key id is not 64 hex digits")
    payload, sig = _bytes(envelope.payload), _bytes(signature.sig)
    if len(payload) > limit:
        raise OrderError(f"a payload of {len(payload)} bytes is over the {limit} it may have")
    if len(sig) != SIGNATURE_BYTES:
        raise OrderError("the signature is not one of Ed25519")
    return Sealed(payload=payload, payload_type=payload_type, keyid=signature.keyid, signature=sig)


def read_payload(payload: bytes, kind: type[_T], what: str) -> _T:
    """Read a payload whose signature holds, strictly. Raises: OrderError: the text names the field."""
    return _convert(read_strictly(payload), kind, what)


def read_strictly(data: bytes) -> Any:
    """Read JSON, refusing duplicate keys and what is not JSON. Raises: OrderError."""
    import json  # an idle agent needs it nowhere

    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
        msgspec.json.decode(data)  # refuses half a surrogate pair, which json lets through and nobody can write again
    except (ValueError, RecursionError) as error:
        raise OrderError(f"not JSON as it must be: {str(error)[:200]}") from error
    return found


class _StrictSignature(EnvelopeSignature, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _StrictEnvelope(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"payload_type": "payloadType"}
):
    payload: str
    payload_type: str
    signatures: tuple[_StrictSignature, ...]


def _convert(value: Any, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise OrderError(f"not {what}: {str(error)[:300]}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is written twice")
    return made


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _bytes(text: str) -> bytes:
    try:
        return b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise OrderError("the envelope holds something that is not base64") from error
