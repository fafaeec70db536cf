"""Receipts for what is stored: which documents get one, and how many a message holds.

Rules:
- What a board keeps until it is confirmed (``agent.report.receipts``) gets one: no telemetry, nothing without a number.
- A retained message that the broker gave back gets none: its board sends it again when it waits for one.
- One message per board and batch, as long as a signed one may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from agent.collector.judging import RECEIPTED, Taken
from agent.core.collecting import Receipt
from agent.core.topics import Address, topic_for
from agent.fleet.signing import OperatorKey

MOST_CONFIRMED = 1000  # 28 to 40 bytes each, and an envelope holds 64 KiB


class Confirming:
    """Makes the receipts of one collector. Args: key: signs them; None leaves them as they are."""

    def __init__(self, fleet: str, name: str, key: OperatorKey | None) -> None:
        self._fleet = fleet
        self._name = name
        self._key = key

    def confirm(self, stored: Iterable[Taken], time: str, publish: Callable[[str, bytes], object]) -> int:
        """Publish the receipts of a batch that is on disk. Returns: how many records they confirm."""
        by_board: dict[str, list[tuple[int, str]]] = {}
        for taken in stored:
            if taken.kind in RECEIPTED and taken.order.seq and not taken.retained:
                by_board.setdefault(taken.board, []).append((taken.order.seq, taken.digest))
        for board, every in by_board.items():
            topic = topic_for(Address(fleet=self._fleet, device=board), "receipt")
            for start in range(0, len(every), MOST_CONFIRMED):
                some = tuple(every[start : start + MOST_CONFIRMED])
                receipt = Receipt(fleet=self._fleet, device=board, collector=self._name, stored=some, time=time)
                publish(topic, msgspec.json.encode(receipt) if self._key is None else self._key.sign_receipt(receipt))
        return sum(map(len, by_board.values()))
