"""Receipts in signed envelopes: opened here, for boards that believe no others.

Rules:
- Whoever the registry's operator list names may sign receipts, a viewer too: a collector needs no right to give
  commands, and who confirms what nobody stores harms the records alone, and needs the broker's leave as well.
- The list is the one the last sync stored; who was taken out of it, or whose time is over, confirms nothing.
- An old receipt may come again: it confirms the bytes that it names, and nothing else.
- Signatures are verified at a bounded rate, since a broker that lies may send any number of bad ones. What is not
  verified confirms nothing: the record is sent again, and its receipt comes again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from agent.core.envelope import RECEIPT_TYPE, open_envelope
from agent.core.operators import Operator, parse_operators, read_time
from agent.core.rate import Bucket
from agent.errors import OrderError
from agent.signatures import verify_ed25519

BURST, PER_S = 100, 5.0  # chosen: a verification takes 8 ms of a small board; records go out at 5 /s for long


class SealedReceipts:
    """The ``unseal`` of a ``ReceiptPolicy``.

    Args: operators: the stored list, None where there is none. now: aware. clock: monotonic seconds.
    """

    def __init__(
        self, operators: Callable[[], bytes | None], now: Callable[[], datetime], clock: Callable[[], float]
    ) -> None:
        self._operators = operators
        self._now = now
        self._verifications = Bucket(clock, capacity=BURST, per_s=PER_S)
        self._document: bytes | None = None
        self._listed: dict[str, Operator] = {}

    def __call__(self, data: bytes) -> bytes:
        """Return the receipt in an envelope. Raises: OrderError: not proven to be a listed key's. StorageError."""
        sealed = open_envelope(data, RECEIPT_TYPE)
        signer = self._by_key().get(sealed.keyid)
        if signer is None:
            raise OrderError("a receipt signed by no listed key")
        if self._now() >= read_time(signer.valid_until):
            raise OrderError(f"a receipt of {signer.name}, whose key was valid until {signer.valid_until}")
        if not self._verifications.take():
            raise OrderError("a receipt among more than can be verified")
        if not verify_ed25519(signer.public_key, sealed.signature, sealed.signed_bytes):
            raise OrderError(f"a receipt whose signature is not {signer.name}'s")
        return sealed.payload

    def _by_key(self) -> dict[str, Operator]:
        document = self._operators()
        if document != self._document:
            self._listed = {} if document is None else parse_operators(document).by_key()
            self._document = document
        return self._listed
