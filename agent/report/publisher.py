"""Sends what the outbox holds, and says that this device is there.

Rules:
- Birth: with every connection, a retained status and the profile. Last will: the same status topic, saying offline
  (``agent.report.presence``).
- Messages go out in the order they were put (jobs first), up to ``window`` of them, or ``WINDOW_BYTES``,
  unacknowledged, as fast as the pace allows. A message leaves the outbox once the broker has acknowledged it, or a
  collector has confirmed it (``agent.report.receipts``); removals are grouped, so that a memory card is not written for
  each one. A connection that breaks sends the unacknowledged ones again: at least once, ``seq`` tells repeats.
- A message that the broker refuses stays, holds back its own topic and no other, and is tried again after a while.
- It runs inside the caller's loop, like ``agent.mqtt.Connection``; ``drain`` and ``close`` run the loop themselves.
  A failing disk or broker is kept in ``error`` and never raised out of the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from agent.core.facts import DeviceFacts
from agent.core.messages import encode
from agent.core.payloads import Origin, StatusState
from agent.core.ports import Clock
from agent.core.topics import client_id, receipt_filters
from agent.errors import BoardfitError, StorageError
from agent.mqtt import BrokerSettings, Connection, Incoming, Publication, drive, random_share
from agent.report.outbox import Entry, Outbox
from agent.report.pace import DrainLimits, Pace
from agent.report.presence import Presence, Rivalry
from agent.report.receipts import ReceiptPolicy, Receipts
from agent.report.waiting import Waiting

log = logging.getLogger(__name__)

WINDOW = 20
WINDOW_BYTES = 256 * 1024  # chosen: two of the longest messages; what is on its way is in memory too
_REMOVE_AFTER_S = 1.0
_REMOVE_AT = 50
_RETRY_REFUSED_S = 300.0
_RETRY_STORAGE_S = 30.0
_PACKET_OVERHEAD_BYTES = 16
# What another attempt within one command will not change.
_LASTING = frozenset({"unauthorised", "tls", "client_id", "protocol"})


class _Sent(NamedTuple):
    publication: Publication
    durable: bool
    length: int


class DrainResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a one-shot drain ended. ``refused`` pairs topics with the broker's reason; ``left`` counts what stays."""

    sent: int
    left: int
    lost: int
    complete: bool
    refused: tuple[tuple[str, str], ...] = ()
    error: str | None = None


class Publisher:
    """Drains one outbox over one connection.

    Args:
        outbox: what is to be sent, and whose address.
        settings: the broker; without a client id, it is ``<fleet>/<device>``, as the board's certificate names it.
        clock: both clocks.   uptime_s: seconds since boot, for the status.
        profile: published with every connection; None leaves it out. groups: told in the status.
        epoch: told in the status; see ``agent.core.command``.
        limits: how fast a backlog goes out; None is as fast as the broker takes it.
        receipts: whether a collector's receipt is waited for.
        window: how many messages may be unacknowledged; the broker's own limit is kept too.
        jitter: random number in 0..1 for the delay between attempts.
    Raises: ConfigError: a certificate, key or password file cannot be used.
    """

    def __init__(
        self,
        outbox: Outbox,
        settings: BrokerSettings,
        clock: Clock,
        *,
        profile: DeviceFacts | None = None,
        groups: tuple[str, ...] = (),
        epoch: str | None = None,
        uptime_s: Callable[[], float | None] = lambda: None,
        limits: DrainLimits | None = None,
        receipts: ReceiptPolicy = ReceiptPolicy(),  # noqa: B008 - immutable
        window: int = WINDOW,
        jitter: Callable[[], float] = random_share,
    ) -> None:
        self.outbox = outbox
        self.sent = 0
        self._clock = clock
        self._window = window
        self._waiting = Waiting(outbox)
        self._pace = None if limits is None else Pace(limits, clock.monotonic_s, jitter)
        self.receipts = Receipts(outbox, receipts, clock.monotonic_s, jitter)
        self._held_back = False  # a message that has to wait for receipts: those behind it wait too
        self._closing = False
        self._in_flight: dict[int, _Sent] = {}
        self._newest_sent = 0
        self._acknowledged: set[int] = set()
        self._remove_due: float | None = None
        self._refused: dict[str, str] = {}
        self._refused_due: float | None = None
        self._storage_error: StorageError | None = None
        self._storage_due = 0.0
        settings = msgspec.structs.replace(settings, client_id=settings.client_id or client_id(outbox.address))
        self.connection = Connection(settings, on_online=self._born, clock=clock.monotonic_s, jitter=jitter)
        self.rivalry = Rivalry(self.connection, outbox, clock.monotonic_s)
        self.presence = Presence(
            outbox, self.connection, profile=profile, groups=groups, epoch=epoch, uptime_s=uptime_s,
            on_storage_error=self._storage_failed,
        )  # fmt: skip
        if receipts.mode != "off":
            self.listen(receipt_filters(outbox.address), self._confirmed)

    @property
    def online(self) -> bool:
        """Return whether the broker has accepted us."""
        return self.connection.state == "online"

    @property
    def greeting(self) -> bool:
        """Return whether an attempt to connect is under way, or its birth message not out yet."""
        return self.connection.state in ("dialing", "greeting") or self.wants_write()

    @property
    def error(self) -> BoardfitError | None:
        """What stands in the way now: the disk or the broker; None when nothing does."""
        return self._storage_error or self.connection.last_error

    def start(self) -> None:
        """Begin to connect, and stay connected until ``close``."""
        self.connection.start()

    def poke(self) -> None:
        """Say that the outbox has something new; cheap, and needed after every ``put``, also by another process."""
        self._waiting.poke()

    def set_status(self, state: StatusState, reason: str | None = None) -> None:
        """Change the retained status, e.g. to busy while an order is carried out."""
        self.presence.set_status(state, reason)

    def set_profile(self, profile: DeviceFacts) -> None:
        """Replace the profile, and publish it if it is another."""
        self.presence.set_profile(profile)

    def listen(self, filters: Sequence[str], callback: Callable[[Incoming], None]) -> None:
        """Receive what matches any of the filters, now and after every reconnect."""
        for pattern in filters:
            self.connection.subscribe(pattern, callback)

    def say(self, topic: str, message: Origin, *, qos: int = 1) -> bool:
        """Publish at once what need not be kept: lost when the line breaks. Returns: False while not connected."""
        if self.online:
            self.connection.publish(topic, encode(message), qos=qos)
        return self.online

    def fileno(self) -> int | None:
        """Return the descriptor to watch for reading, None while there is none."""
        return self.connection.fileno()

    def wants_write(self) -> bool:
        """Return whether to watch for writing too."""
        return self.connection.wants_write()

    def on_readable(self) -> None:
        """Take what has arrived, and send what may now go."""
        self.connection.on_readable()
        self._step()

    def on_writable(self) -> None:
        """Send what is waiting."""
        self.connection.on_writable()
        self._step()

    def on_timer(self) -> float | None:
        """Do what is due. Returns: the monotonic time of the next call, None when only the descriptor matters."""
        self.connection.on_timer()
        now = self._clock.monotonic_s()
        if self._refused_due is not None and now >= self._refused_due:
            self._refused_due = None
            self._refused.clear()
            self._restart()
        if self._storage_error is not None and now >= self._storage_due:
            self._storage_error = None
            self._waiting.poke()
        if self.online and self.receipts.overdue():
            self._restart()
        self._step()
        storage_due = self._storage_due if self._storage_error is not None else None
        remove_due = self._remove_due if self._storage_error is None else None
        pace_due = self._pace.due() if self._pace is not None and self._waiting.throttled and self.online else None
        receipts_due = self.receipts.due() if self.online else None
        dues = (self.connection.deadline(), remove_due, self._refused_due, storage_due, pace_due, receipts_due)
        return min((due for due in dues if due is not None), default=None)

    def drain(self, timeout_s: float) -> DrainResult:
        """Connect if need be, send everything, and wait for the acknowledgements. What is not sent stays on disk.

        Gives up before ``timeout_s`` (seconds) only on what another attempt would not change, such as a wrong password.
        Raises: StorageError: the outbox cannot be read.
        """
        before = self.sent
        self._pace = None  # somebody waits for it
        self.start()
        self.poke()
        complete = drive(self, lambda: self._drained() or self._hopeless(), timeout_s, self._clock.monotonic_s)
        complete = complete and self._drained()
        self._remove_acknowledged()
        fill = self.outbox.fill()
        error = self.error
        return DrainResult(
            sent=self.sent - before,
            left=fill.messages - len(self._acknowledged),
            lost=fill.lost,
            complete=complete and not self._refused,
            refused=tuple(sorted(self._refused.items())),
            error=str(error) if error is not None else None if complete else self._unfinished(timeout_s),
        )

    def close(self, timeout_s: float = 5.0) -> None:
        """Take leave: wait for what is in flight, publish the retained offline status, disconnect."""
        clock = self._clock.monotonic_s
        end = clock() + timeout_s
        if self.online:
            self._closing = True
            drive(self, lambda: not self._in_flight or not self.online, timeout_s, clock)
        if self.online:
            farewell = self.presence.farewell()
            drive(self, lambda: farewell is None or farewell.state != "sent", max(0.1, end - clock()), clock)
        self._harvest()
        self._remove_acknowledged()
        self.forget_told(self._newest_sent)
        self.connection.close()

    def forget_told(self, *sent_seq: int) -> None:
        """Let be news again what ``Outbox.forget_told`` says; where the disk does not take it, the error is kept."""
        try:
            self.outbox.forget_told(*sent_seq)
        except StorageError as error:
            self._storage_failed(error)

    def _drained(self) -> bool:
        confirmed = not self.receipts.waiting or self.receipts.away
        return self.online and self._waiting.exhausted and not self._in_flight and self.presence.said and confirmed

    def _unfinished(self, timeout_s: float) -> str:
        if self.online and not self._in_flight and self.receipts.waiting:
            return f"no collector has confirmed {self.receipts.waiting} messages within {timeout_s:g} s"
        return f"not finished within {timeout_s:g} s"

    def _confirmed(self, incoming: Incoming) -> None:
        if self.receipts.on_message(incoming):
            self._restart()

    def _hopeless(self) -> bool:
        error = self.connection.last_error
        return self._storage_error is not None or (error is not None and error.facts.get("cause") in _LASTING)

    def _born(self) -> None:
        self._refused.clear()
        self._refused_due = None
        self.rivalry.look()  # before our own greeting: what comes back is what a rival has left there
        try:
            self.outbox.know_limit(self.connection.max_packet_bytes)
            self.outbox.forget_told(self._newest_sent)
        except StorageError as error:
            self._storage_failed(error)
        self.presence.greet()
        self._in_flight.clear()  # of the connection before: lost
        if self._pace is not None:
            self._pace.connected(self._backlog())
        self._restart()

    def _restart(self) -> None:
        self._waiting.restart()
        self._held_back = False

    def _backlog(self) -> int:
        try:
            return self.outbox.fill().messages
        except StorageError as error:
            self._storage_failed(error)
            return 0

    def _step(self) -> None:
        self._harvest()
        if (
            self._acknowledged
            and self._storage_error is None
            and (
                len(self._acknowledged) >= _REMOVE_AT
                or (not self._in_flight and self._waiting.exhausted)
                or self._clock.monotonic_s() >= (self._remove_due or 0.0)
            )
        ):
            self._remove_acknowledged()
        if self.online:
            self._send_more()
            if self.presence.outdated and not self._closing and self._drained():
                self.presence.refresh()

    def _harvest(self) -> None:
        now = self._clock.monotonic_s()
        for seq, (publication, durable, _) in list(self._in_flight.items()):
            if publication.state == "sent":
                continue
            del self._in_flight[seq]
            if publication.state == "acked":
                self.sent += 1
                if durable and self.receipts.expected:
                    self.receipts.sent(seq)
                    continue
                self._acknowledged.add(seq)
                self._remove_due = self._remove_due or now + _REMOVE_AFTER_S
            elif publication.state == "refused":
                self._hold_back(publication.topic, publication.reason or "refused")

    def _hold_back(self, topic: str, reason: str) -> None:
        log.warning("the broker refused a message for %s: %s", topic, reason)
        self._refused[topic] = reason
        self._refused_due = self._refused_due or self._clock.monotonic_s() + _RETRY_REFUSED_S

    def _send_more(self) -> None:
        window = min(self._window, self.connection.receive_maximum)
        while len(self._in_flight) < window and self.online:
            if sum(one.length for one in self._in_flight.values()) >= WINDOW_BYTES:
                return
            entry = self._next_entry()
            if entry is None:
                return
            limit = self.connection.max_packet_bytes
            if limit is not None and len(entry.payload) + len(entry.topic) + _PACKET_OVERHEAD_BYTES > limit:
                self._hold_back(entry.topic, f"larger than the {limit} bytes this broker takes")
                continue
            publication = self.connection.publish(entry.topic, entry.payload, qos=entry.qos, retain=entry.retain)
            self._in_flight[entry.seq] = _Sent(publication, entry.durable, len(entry.payload))
            self._newest_sent = max(self._newest_sent, entry.seq)

    def _next_entry(self) -> Entry | None:
        if self._closing or self._storage_error is not None:
            return None
        try:
            return self._waiting.next(self._passed_over, lambda: self._pace is None or self._pace.take())
        except StorageError as error:
            self._storage_failed(error)
            return None

    def _passed_over(self, entry: Entry) -> bool:
        """Return whether this message is under way already, or has to wait for something."""
        if entry.topic in self._refused or entry.seq in self._acknowledged:
            return True
        if entry.seq in self._in_flight or entry.seq in self.receipts:
            return True
        if entry.durable and self.receipts.expected:
            self._held_back = self._held_back or self.receipts.full
            return self._held_back
        return False

    def _remove_acknowledged(self) -> None:
        if not self._acknowledged:
            return
        try:
            self.outbox.remove(self._acknowledged)
        except StorageError as error:
            self._storage_failed(error)
            return
        self._acknowledged.clear()
        self._remove_due = None

    def _storage_failed(self, error: StorageError) -> None:
        log.warning("%s", error)
        self._storage_error = error
        self._storage_due = self._clock.monotonic_s() + _RETRY_STORAGE_S
