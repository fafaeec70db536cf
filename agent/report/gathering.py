"""Measurements that wait to go out together: kept on disk one by one as they end, sent as few messages.

Rules:
- ``add`` is durable. What was added and not released by whoever was killed is released by the next who publishes. A
  measurement leaves here in the transaction that puts its message into the outbox: none is lost, none is in two.
- Whoever publishes releases: the daemon at its start and after each child, a command at its end. Sooner only where
  one message would not hold more, so that what lies here is bounded by a message.
- A message is as long as ``MAX_PAYLOAD_BYTES`` and the broker's own limit, where it has told one, allow.
- A full or failing disk never stops the caller: what cannot be added counts as a message not stored, and what cannot be
  released stays.

Leaves what a summary holds to ``agent.core.conversions``, and what is dropped for space to the outbox.
"""

from __future__ import annotations

import logging
import sqlite3

import msgspec

from agent.core.conversions import messages_for_measurements
from agent.core.payloads import Measurements, MeasurementSummary
from agent.core.topics import topic_for
from agent.database import Database
from agent.errors import StorageError
from agent.report.outbox import Outbox

log = logging.getLogger(__name__)

_TABLES = ("CREATE TABLE IF NOT EXISTS outbox_gathered (number INTEGER PRIMARY KEY, document BLOB NOT NULL)",)
_ALL = "SELECT number, document FROM outbox_gathered ORDER BY number"


class Gathering:
    """The waiting measurements of one state directory. Several processes may add and release."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox
        self._topic = topic_for(outbox.address, "measurement")
        database.ensure(_TABLES)

    def add(self, summary: MeasurementSummary) -> None:
        """Keep one until the next release; where it would not fit into one message with the others, they go now."""
        try:
            waiting = _read(self._database.rows(_ALL))
            if waiting and len(self._messages([*waiting, summary])) > len(self._messages(waiting)):
                self._put()
            with self._database.transaction() as connection:
                document = msgspec.json.encode(summary)
                connection.execute("INSERT INTO outbox_gathered (document) VALUES (?)", (document,))
        except StorageError as error:
            log.warning("%s", error)
            self._outbox.count_not_stored(
                self._topic, messages_for_measurements([summary], self._outbox.origin(), 0)[0]
            )

    def release(self) -> None:
        """Put all that waits into the outbox."""
        try:
            if self._database.rows("SELECT 1 FROM outbox_gathered LIMIT 1"):  # else nothing is written
                self._put()
        except StorageError as error:
            log.warning("%s", error)

    def _put(self) -> None:
        def taken(connection: sqlite3.Connection) -> list[tuple[str, Measurements]]:
            waiting = _read(connection.execute(_ALL).fetchall())
            connection.execute("DELETE FROM outbox_gathered")
            return [(self._topic, message) for message in self._messages(waiting)]

        self._outbox.put_made(taken)

    def _messages(self, summaries: list[MeasurementSummary]) -> list[Measurements]:
        return messages_for_measurements(summaries, self._outbox.origin(), self._outbox.message_limit())


def _read(rows: list[sqlite3.Row]) -> list[MeasurementSummary]:
    found = []
    for row in rows:
        try:
            found.append(msgspec.json.decode(row["document"], type=MeasurementSummary))
        except msgspec.DecodeError as error:
            log.warning("a measurement that waited to be sent cannot be read and is left out: %s", error)
    return found
