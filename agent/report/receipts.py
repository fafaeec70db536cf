"""Which sent messages wait for a collector's receipt, and which must be sent again.

Rules:
- With receipts, everything but telemetry stays in the outbox until a collector says that it has stored it, by ``seq``
  and a digest of the very bytes. The broker's PUBACK alone says only that the broker had it: a killed one forgets.
- ``auto``: receipts are waited for from when a collector has announced itself, and from then on over restarts of the
  agent and wipes of the broker, until its announcement is taken away by an empty retained message.
  ``required``: always. ``off``: never. Without receipts the PUBACK counts. agent.yaml's ``signed`` is ``required``
  with an ``unseal``.
- What got no receipt is sent again, after twice as long each time; not while every known collector says offline, and at
  once when one comes back.
- At most ``MOST_WAITING`` messages wait; the next ones are held back, so that a slow collector slows its boards down.

What a broker that lies can do: with a forged receipt make a board forget a record that it holds (with a PUBACK it could
always do that), with a forged announcement make it keep records that nobody collects. It can make none up and change
none unseen. Where that is too much, the collector signs its receipts (``agent.report.sealed``).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Literal

import msgspec

from agent.core.collecting import CollectorStatus, Receipt
from agent.core.messages import decode
from agent.core.rate import Bucket
from agent.core.topics import parse_topic
from agent.errors import BoardfitError, ReportError, StorageError
from agent.mqtt import Incoming
from agent.report.outbox import Outbox

log = logging.getLogger(__name__)

Mode = Literal["auto", "required", "off"]
Unseal = Callable[[bytes], bytes]
MOST_WAITING = 1000  # chosen: 100 bytes each in memory
MOST_COLLECTORS = 100
FIRST_PATIENCE_S = 60.0  # chosen: a collector commits a group of messages within seconds
LONGEST_PATIENCE_S = 3600.0
DIGEST_DIGITS = 16


def digest(payload: bytes) -> str:
    """Return what a receipt names a payload by: 16 hex digits of its SHA-256."""
    return hashlib.sha256(payload).hexdigest()[:DIGEST_DIGITS]


class ReceiptPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Whether receipts are waited for, and for how long before a message is sent again, in seconds.

    ``unseal`` takes a received receipt out of its signed envelope; it raises BoardfitError where the signature does not
    hold. By default receipts come as they are.
    """

    mode: Mode = "off"
    patience_s: float = FIRST_PATIENCE_S
    unseal: Unseal = bytes


class Receipts:
    """The receipts of one outbox. Args: jitter: random number in 0..1 for when to send again."""

    def __init__(
        self,
        outbox: Outbox,
        policy: ReceiptPolicy,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self.mode = mode = policy.mode
        self.received = 0
        self._policy = policy
        self._outbox = outbox
        self._clock = clock
        self._jitter = jitter
        self._known = mode == "required" or (mode == "auto" and outbox.collector_known())
        self._collectors: dict[str, bool] = {}  # name -> online
        self._waiting: dict[int, float] = {}  # seq -> when it is sent again
        self._patience_s = policy.patience_s
        self._answered = False
        self._due_now = False
        self._complaints = Bucket(clock, capacity=10, per_s=1 / 60)

    @property
    def expected(self) -> bool:
        """Whether a receipt is waited for before a message is forgotten."""
        return self._known

    @property
    def away(self) -> bool:
        """Whether every collector known of says that it is offline."""
        return bool(self._collectors) and not any(self._collectors.values())

    @property
    def full(self) -> bool:
        """Whether nothing more may be sent before receipts come."""
        return len(self._waiting) >= MOST_WAITING

    @property
    def waiting(self) -> int:
        """How many messages wait for a receipt."""
        return len(self._waiting)

    def __contains__(self, seq: int) -> bool:
        return seq in self._waiting

    def sent(self, seq: int) -> None:
        """Note that the broker has a message whose receipt is to come."""
        self._waiting[seq] = self._clock() + self._patience_s * (1.0 + self._jitter())

    def on_message(self, incoming: Incoming) -> bool:
        """Take a receipt or a collector's status. Returns: whether something waiting must be looked at again."""
        try:
            if parse_topic(incoming.topic).kind == "collector":
                return self._take_status(incoming)
            return self._take_receipt(incoming)
        except StorageError as error:
            log.warning("%s", error)  # it will be sent, and confirmed, once more
        except BoardfitError as error:
            if self._complaints.take():  # any number of bad ones may come
                log.warning("not taken: %s", error)
        return False

    def due(self) -> float | None:
        """Return the monotonic time at which ``overdue`` has something, None when nothing waits."""
        if self._due_now:
            return self._clock()
        return None if not self._waiting or self.away else min(self._waiting.values())

    def overdue(self) -> bool:
        """Let go of what waited too long, so that it is sent again. Returns: whether there was any."""
        now = self._clock()
        late = [] if self.away else [seq for seq, due in self._waiting.items() if self._due_now or now >= due]
        self._due_now = False
        if not late:
            return False
        longer_s = min(LONGEST_PATIENCE_S, self._patience_s * 2)
        self._patience_s = self._policy.patience_s if self._answered else longer_s
        self._answered = False
        for seq in late:
            del self._waiting[seq]
        log.info("%d messages had no receipt and are sent again", len(late))
        return True

    def _take_status(self, incoming: Incoming) -> bool:
        name = str(parse_topic(incoming.topic).parameter)
        if not incoming.payload:
            self._collectors.pop(name, None)
            if not self._collectors and self.mode == "auto" and self._known:
                self._know(False)
                freed, self._waiting = bool(self._waiting), {}
                return freed  # sent again, and forgotten at the PUBACK
            return False
        status = decode(incoming.topic, incoming.payload)
        assert isinstance(status, CollectorStatus)
        if name not in self._collectors and len(self._collectors) >= MOST_COLLECTORS:
            raise ReportError(f"{incoming.topic}: more than {MOST_COLLECTORS} collectors")
        was_away = self.away or not self._collectors
        self._collectors[name] = status.state == "online"
        if not self._known:
            self._know(True)
        if was_away and not self.away and self._waiting:
            self._due_now = True
        return self._due_now

    def _know(self, known: bool) -> None:
        self._known = known
        self._outbox.know_collector(known)

    def _take_receipt(self, incoming: Incoming) -> bool:
        payload = self._policy.unseal(incoming.payload)
        try:
            receipt = msgspec.json.decode(payload, type=Receipt)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ReportError(f"{incoming.topic}: not a receipt: {error}") from error
        here = self._outbox.address
        if (receipt.fleet, receipt.device) != (here.fleet, here.device):
            raise ReportError(f"{incoming.topic}: a receipt for {receipt.fleet}/{receipt.device}")
        was_full = self.full
        for seq in self._outbox.remove_confirmed(dict(receipt.stored), digest):
            self._waiting.pop(seq, None)
            self.received += 1
            self._answered = True
        return was_full and not self.full
