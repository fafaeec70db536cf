"""An operator's key, and the envelopes it makes. What may be in them is decided in ``agent.core``.

Rules:
- A private key is a PEM file (PKCS#8, Ed25519) that its owner alone can read; the registry lists its public half.
- What a board would refuse to read is refused before it is signed.

Leaves counters, epochs and sending to the caller.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.core.collecting import Receipt
from agent.core.command import Command, command_bytes
from agent.core.desired import Desired, desired_bytes
from agent.core.envelope import COMMAND_TYPE, DESIRED_TYPE, RECEIPT_TYPE, SIGN_IN_TYPE, key_id, make_envelope
from agent.core.messages import encode
from agent.durable import write_file
from agent.errors import ConfigError
from agent.fleet.sign_in import SignIn, sign_in_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class OperatorKey:
    """A private key in memory. ``public_key`` is 64 hex digits; ``keyid`` is what envelopes carry."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_key = private.public_key().public_bytes_raw().hex()
        self.keyid = key_id(self.public_key)

    @classmethod
    def make(cls, path: Path) -> OperatorKey:
        """Make a key and write it to a new file, mode 0600. Raises: ConfigError: the file is there. StorageError."""
        key_class = _private_key_class()
        from cryptography.hazmat.primitives import serialization as form

        if path.exists():
            raise ConfigError(f"{path} is there already", fix="choose another file; a key is never overwritten")
        private = key_class.generate()
        data = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        write_file(path, data, 0o600)
        return cls(private)

    @classmethod
    def load(cls, path: Path) -> OperatorKey:
        """Read a key file. Raises: ConfigError: unreadable, or not an Ed25519 private key."""
        key_class = _private_key_class()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{path} cannot be read as a private key: {error}", fix="give the PEM file") from error
        if not isinstance(private, key_class):
            raise ConfigError(f"{path} is not an Ed25519 key", fix="boards verify Ed25519 only")
        return cls(private)

    def sign_command(self, command: Command) -> bytes:
        """Return the envelope of a command, to publish on a ``cmd`` topic. Raises: OrderError."""
        return make_envelope(command_bytes(command), COMMAND_TYPE, self.keyid, self._private.sign)

    def sign_desired(self, desired: Desired) -> bytes:
        """Return the envelope of a desired state, to publish retained. Raises: OrderError."""
        return make_envelope(desired_bytes(desired), DESIRED_TYPE, self.keyid, self._private.sign)

    def sign_receipt(self, receipt: Receipt) -> bytes:
        """Return the envelope of a collector's receipt. Raises: OrderError: it confirms too much at once."""
        return make_envelope(encode(receipt), RECEIPT_TYPE, self.keyid, self._private.sign)

    def sign_in(self, statement: SignIn) -> bytes:
        """Return the envelope with which an operator signs in at a console. Raises: OrderError."""
        return make_envelope(sign_in_bytes(statement), SIGN_IN_TYPE, self.keyid, self._private.sign)


def _private_key_class() -> type[Ed25519PrivateKey]:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise ConfigError(
            "signing needs the package cryptography", fix="install it with: pip install 'boardfit[author]'"
        ) from error
    return Ed25519PrivateKey
