"""What a collector says: that it is there, and what of a board it has stored. Pure.

The payloads of those who send records are in ``agent.core.payloads``.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a collector has stored, so that the device need not keep it.

    ``stored`` pairs the ``seq`` of a message with the first 16 hex digits of the SHA-256 of its payload's bytes: a
    number that was used before (a new state directory) or bytes that were changed on the way confirm nothing.
    """

    fleet: str
    device: str
    collector: str
    stored: tuple[tuple[int, str], ...]
    schema: Literal["boardfit.receipt/1"] = "boardfit.receipt/1"
    time: str | None = None


class CollectorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A collector that gives receipts. Retained; the last will is one of these with ``state`` offline.

    Offline asks the devices to keep their records until it is back. One that will never be back is taken away by an
    empty retained message.
    """

    fleet: str
    collector: str
    state: Literal["online", "offline"]
    schema: Literal["boardfit.collector/1"] = "boardfit.collector/1"
    time: str | None = None
    reason: str | None = None  # why it is offline
