"""Takes what boards tell from a broker into a store, and confirms it to them. Runs in the caller's thread.

Rules:
- Live messages come by shared subscriptions: of several collectors with one group, each message reaches one.
- A shared subscription gets no retained messages. So with each connection what is retained is asked for by ordinary
  ones, one kind after the other, each given up once nothing more comes.
- The broker gets its acknowledgement, and the boards their receipts, once a batch is on disk, never before. What is not
  acknowledged bounds what is held here.
- Without its database a collector holds the batch and tries again for a few seconds. Then it lets go of it, says at
  the broker that it is offline, and leaves, so that other collectors of the group get what boards send; with the
  database it comes back. Boards send again what got no receipt, and what is retained is asked for anew.
- A message that cannot be read is counted and acknowledged: sent again it would be no better.

Leaves what a document means to ``agent.collector.judging``, storing to ``agent.collector.store``.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable

import msgspec

from agent.clock import iso
from agent.collector.confirming import Confirming
from agent.collector.judging import Taken, moment, take
from agent.collector.store import Store
from agent.core.collecting import CollectorStatus
from agent.core.messages import MESSAGES, encode
from agent.core.ports import Clock, StopRequested
from agent.core.topics import Kind, collector_topic, fleet_filter, rollout_filter
from agent.errors import ReportError, StorageError
from agent.fleet.plain import LONG, plain
from agent.fleet.signing import OperatorKey
from agent.mqtt import BrokerSettings, Connection, Incoming, Publication, Will, drive

log = logging.getLogger("boardfit")

MOST_HELD = 10_000  # messages that the broker sends before the first is acknowledged; of 1 KB, 10 MB
BATCH = 2000  # chosen: larger ones are hardly faster
LINGER_S = 0.05  # how long the first of a batch waits for others
SIGNED_LINGER_S = 0.25  # with signed receipts: a board verifies 5 a second for long (``agent.report.sealed``)
QUIET_S = 1.0  # chosen: a broker that says nothing for so long has sent all that it had retained
_SLICE_S = 0.2
_PATIENCE_S = (0.1, 0.3, 1.0, 2.0)  # between attempts at a batch
_BACKOFF_S = (1.0, 30.0)  # between attempts to have the database back
_SAY_AGAIN_S = 60.0  # between two log lines about messages that cannot be read
_GOODBYE_S = 2.0


class Counts(msgspec.Struct, kw_only=True):
    """What has happened since the start. ``database`` and ``broker``: why they cannot be used now; None is well."""

    received: int = 0
    stored: int = 0  # documents that were judged and committed, also those that changed nothing
    refused: int = 0
    left_out: int = 0  # a board told of more topics than are kept
    receipts: int = 0  # records confirmed
    connects: int = 0  # how often the broker accepted us
    batches: int = 0
    last_refusal: str | None = None
    database: str | None = None
    broker: str | None = None


class Intake:
    """One collector of one fleet. ``run`` it, or call ``step`` from a loop of your own.

    Args:
        name: of this collector, as it announces itself.
        group: of the shared subscription; collectors that share it share the work.
        key: signs the receipts, for boards that want it; None sends them as they are.
    Raises: ConfigError: the name, or a certificate, key or password file cannot be used.
    """

    def __init__(
        self,
        store: Store,
        broker: BrokerSettings,
        fleet: str,
        clock: Clock,
        *,
        name: str,
        group: str = "boardfit",
        key: OperatorKey | None = None,
        quiet_s: float = QUIET_S,
    ) -> None:
        self.counts = Counts()
        self.fleet, self.name = fleet, name
        self._store = store
        self._clock = clock
        self._broker = msgspec.structs.replace(broker, client_id="", session_expiry_s=0)
        self._topic = collector_topic(fleet, name)
        kinds: list[Kind] = [row.kind for row in MESSAGES.values() if not (row.inbound or row.aside)]
        filters = {fleet_filter(fleet, kind): MESSAGES[kind].retain for kind in kinds}
        filters[rollout_filter(fleet)] = True
        self._shared = {f"$share/{group}/{pattern}" for pattern in filters}
        self._retained = [pattern for pattern, retained in filters.items() if retained]
        self._confirming = Confirming(fleet, name, key)
        self._batch: list[Taken] = []
        self._held = 0  # messages: of the batch, and those that are no documents
        self._mids: list[int] = []  # by which they are acknowledged
        self._began_s = 0.0
        self._said_s: float | None = None
        self._quiet_s = quiet_s
        self._linger_s = LINGER_S if key is None else SIGNED_LINGER_S
        self._connection = self._new_connection()

    def run(
        self, stop: StopRequested, ready: Callable[[], None] = lambda: None, tick: Callable[[], None] = lambda: None
    ) -> None:
        """Serve until ``stop``. Args: ready: called once messages come. tick: called several times a second.

        Raises: ReportError: the broker refuses this collector for good, by its word.
        """
        self._connection.start()
        told = False
        try:
            while not stop():
                self.step(stop)
                if not told and self._announced and self._announced.state == "acked":
                    told = True
                    ready()
                tick()
        finally:
            self.close(stop)

    def step(self, stop: StopRequested) -> None:
        """Do what is due, waiting a fraction of a second at most. Raises: ReportError: the broker refuses us."""
        self._connection.start()
        until = self._began_s + self._linger_s if self._held else self._clock.monotonic_s() + _SLICE_S
        wait_s = max(0.0, until - self._clock.monotonic_s())
        drive(self._connection, lambda: self._held >= BATCH or stop(), wait_s, self._clock.monotonic_s)
        if self._held and (self._held >= BATCH or self._clock.monotonic_s() >= self._began_s + self._linger_s):
            self._commit(stop)
        if self._connection.state == "online":
            self._announce()
            self._replay()
        error = self._connection.last_error
        if error is not None and self.counts.broker is None:
            log.warning("%s", error)
        self.counts.broker = None if error is None else str(error)

    def close(self, stop: StopRequested = lambda: True) -> None:
        """Store what is held, say that we are offline, and leave."""
        if self._held:
            self._commit(stop)
        self._leave("stopped")

    def retire(self, timeout_s: float = 15.0) -> None:
        """Take the announcement away: boards no longer wait for receipts of this collector. Raises: ReportError."""
        self._connection.connect(timeout_s)
        gone = self._connection.publish(self._topic, b"", retain=True)
        drive(self._connection, lambda: gone.state != "sent", timeout_s)
        self._connection.close()
        if gone.state != "acked":
            raise ReportError(f"the broker did not take {self._topic}: {gone.reason or gone.state}", fix="try again")

    def _new_connection(self) -> Connection:
        self._announced: Publication | None = None
        self._replaying: str | None = None
        self._to_replay: list[str] = []
        self._asked_s = self._heard_last_s = 0.0
        will = Will(topic=self._topic, payload=encode(self._status("offline", "connection lost", timed=False)))
        connection = Connection(
            self._broker, will=will, on_online=self._online, clock=self._clock.monotonic_s, most_held=MOST_HELD
        )
        for pattern in sorted(self._shared):
            connection.subscribe(pattern, self._take)
        return connection

    def _status(self, state: str, reason: str | None = None, *, timed: bool = True) -> CollectorStatus:
        return CollectorStatus(
            fleet=self.fleet,
            collector=self.name,
            state=state,  # type: ignore[arg-type]
            time=iso(self._clock.utc()) if timed else None,
            reason=reason,
        )

    def _online(self) -> None:
        """Begin anew with a connection: what is held of the one before is stored, and acknowledged to nobody."""
        if self._replaying is not None:
            self._connection.unsubscribe(self._replaying)
            self._replaying = None
        self.counts.connects += 1
        self._announced = None
        self._mids = []
        self._to_replay = list(self._retained)

    def _announce(self) -> None:
        """Say that we are here once everything is subscribed. Raises: ReportError: the broker refuses it."""
        if self._announced is not None:
            if self._announced.state == "refused":
                raise ReportError(
                    f"the broker does not let this collector write to {self._topic}: {self._announced.reason}",
                    fix=f"give it the rights of collector/{self.name} (`boardfit enroll acl`), or say --name",
                )
            return
        if not self._connection.listening:
            return
        for pattern, why in self._connection.refused_filters.items():
            raise ReportError(
                f"the broker refuses the collector's subscription {pattern}: {why}",
                fix="give it a collector's rights (`boardfit enroll acl`), on a broker with shared subscriptions",
            )
        log.info("collecting %s from %s into %s", self.fleet, self._broker.url, self._store.name)
        self._announced = self._connection.publish(self._topic, encode(self._status("online")), retain=True)

    def _replay(self) -> None:
        """Ask for the next kind of retained messages, once the one before has come to an end."""
        if not self._announced or not self._connection.listening:
            return
        now = self._clock.monotonic_s()
        if self._replaying is not None:
            if now - self._heard_last_s < self._quiet_s:
                return
            self._connection.unsubscribe(self._replaying)
            self._replaying = None
        if self._to_replay:
            self._replaying = self._to_replay.pop(0)
            self._asked_s, self._heard_last_s = self._now_s(), now
            self._connection.subscribe(self._replaying, self._take)

    @property
    def replayed(self) -> bool:
        """Whether what was retained has been asked for and has come."""
        return self._announced is not None and self._replaying is None and not self._to_replay

    def _now_s(self) -> float:
        return self._clock.utc().timestamp()

    def _take(self, incoming: Incoming) -> None:
        self.counts.received += 1
        if not self._held:
            self._began_s = self._clock.monotonic_s()
        self._held += 1
        if incoming.mid:
            self._mids.append(incoming.mid)
        try:
            heard_s = self._now_s()
            if incoming.retain:
                self._heard_last_s = self._clock.monotonic_s()
                heard_s = min(heard_s, self._asked_s)
            taken = take(incoming.topic, incoming.payload, heard_s, retained=incoming.retain)
        except ReportError as error:
            self._refuse(str(error))
            return
        if taken is not None:
            self._batch.append(taken)

    def _refuse(self, why: str) -> None:
        self.counts.refused += 1
        self.counts.last_refusal = plain(why, LONG)
        now = self._clock.monotonic_s()
        if self._said_s is None or now - self._said_s >= _SAY_AGAIN_S:
            self._said_s = now
            log.warning("%d messages so far could not be stored; the last: %s", self.counts.refused, plain(why, LONG))

    def _commit(self, stop: StopRequested) -> None:
        """Store what is held, then acknowledge and confirm it; or leave until the database is back."""
        for pause_s in (*_PATIENCE_S, None):
            try:
                applied = self._store.apply(self._batch)
                break
            except StorageError as error:
                self._database_lost(error)
                if pause_s is None or stop():
                    self._wait_for_database(str(error), stop)
                    return
                time.sleep(pause_s)
        self.counts.database = None
        self.counts.batches += 1
        self.counts.stored += len(applied.stored)
        self.counts.left_out += applied.left_out
        for _, why in applied.refused:
            self._refuse(why)
        self._connection.acknowledge(self._mids)
        if self._connection.state == "online":
            self.counts.receipts += self._confirming.confirm(
                applied.stored, moment(self._now_s()), lambda to, payload: self._connection.publish(to, payload, qos=0)
            )
        self._batch, self._held, self._mids = [], 0, []
        self._heard_last_s = max(self._heard_last_s, self._clock.monotonic_s() - self._quiet_s / 2)

    def _database_lost(self, error: StorageError) -> None:
        if self.counts.database is None:
            log.warning("%s", error)
        self.counts.database = str(error)

    def _wait_for_database(self, why: str, stop: StopRequested) -> None:
        """Leave the broker, and come back with the database."""
        log.warning("without its database the collector leaves the broker; boards keep their records")
        self._leave(plain(f"without its database: {why}", LONG))
        pause_s = _BACKOFF_S[0]
        while not stop():
            end_s = self._clock.monotonic_s() + pause_s
            while not stop() and self._clock.monotonic_s() < end_s:
                select.select([], [], [], _SLICE_S)
            try:
                self._store.open()
            except StorageError as error:
                self._database_lost(error)
                pause_s = min(_BACKOFF_S[1], pause_s * 2)
                continue
            self.counts.database = None
            log.warning("the database is back")
            self._connection = self._new_connection()
            return

    def _leave(self, reason: str) -> None:
        """Say that we are offline, where there is anybody to say it to, and go."""
        if self._announced and self._connection.state == "online":
            said = self._connection.publish(self._topic, encode(self._status("offline", reason)), retain=True)
            clock = self._clock.monotonic_s
            drive(self._connection, lambda: said.state != "sent", _GOODBYE_S, clock)
        self._connection.close()
        self._announced = None
        self._batch, self._held, self._mids = [], 0, []
