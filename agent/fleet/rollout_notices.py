"""How rollouts stand, on the broker: the driving machine leaves it there, others read it. A display; nobody obeys it.

Rules:
- It is told when something has changed, at most once per ``APART_S``, when the connection is back, at the end, and
  again after ``AGAIN_S``: one that was not renewed for longer is driven by nobody, whatever it says.
- A broker that refuses it stops no rollout; why is kept in ``refused``.
- What others have left there is text from outside: what cannot be read is passed over.
"""

from __future__ import annotations

import socket
import time

import msgspec

from agent.core.messages import decode, encode
from agent.core.ports import Clock
from agent.core.rollout_message import RolloutMessage
from agent.core.topics import parse_topic, rollout_filter, rollout_topic
from agent.errors import ReportError
from agent.fleet.link import Link
from agent.fleet.plain import plain
from agent.fleet.rollout import Rollout
from agent.fleet.rollout_store import RolloutStore
from agent.fleet.rollout_telling import MOST, Teller, message_of
from agent.mqtt import Publication, drive

APART_S = 1.0
AGAIN_S = 60.0
MAX_READ = 1000
_ACK_S = 5.0


def this_machine(operator: str) -> Teller:
    """Return who tells from here."""
    return Teller(operator=operator, machine=plain(socket.gethostname()) or None)


class Notices:
    """Tells how rollouts stand over one line, which must be connected at first."""

    def __init__(self, link: Link, store: RolloutStore, teller: Teller, clock: Clock) -> None:
        self._link, self._store, self._teller, self._clock = link, store, teller, clock
        self._told: Rollout | None = None
        self._told_at = float("-inf")
        self._connects = link.connection.connects
        self._sent: Publication | None = None

    @property
    def refused(self) -> str | None:
        """Why the broker does not take it; None where it does, or has not answered yet."""
        if self._sent is None or self._sent.state != "refused":
            return None
        return f"the broker refuses {self._sent.topic}: {self._sent.reason}"

    def offer(self, rollout: Rollout) -> None:
        """Tell how the rollout that is driven here stands, where that is news and it is time. Raises: StorageError."""
        now, connection = time.monotonic(), self._link.connection
        same = rollout is self._told and self._connects == connection.connects
        if connection.state != "online" or now < self._told_at + (AGAIN_S if same else APART_S):
            return
        self._sent = self._publish(rollout, driven=True)
        self._told, self._told_at, self._connects = rollout, now, connection.connects

    def leave(self, rollout: Rollout) -> None:
        """Tell how it stands while nobody drives it; waits for the broker. Raises: ReportError. StorageError."""
        drive(self._link.connection, lambda: self._link.connection.state == "online", _ACK_S)
        self._acknowledged(self._publish(rollout, driven=False))

    def empty(self, rollout: str) -> None:
        """Take away what was told of a rollout. Raises: ReportError."""
        self._acknowledged(self._link.publish(rollout_topic(self._link.fleet, rollout), b"", retain=True))

    def _publish(self, rollout: Rollout, *, driven: bool) -> Publication:
        at = self._clock.utc().timestamp()
        last, before = self._store.last(rollout.id, MOST)
        told = message_of(rollout, last, before, self._teller, at, driven=driven and not rollout.ended)
        return self._link.publish(rollout_topic(rollout.fleet, rollout.id), encode(told), retain=True)

    def _acknowledged(self, sent: Publication) -> None:
        self._sent = sent
        drive(self._link.connection, lambda: sent.state != "sent", _ACK_S)  # also while a stop is asked for
        if sent.state != "acked":
            problem = self.refused or f"the broker did not take {sent.topic}"
            raise ReportError(problem, fix="operators may write there: see `boardfit enroll acl`")


def read_notices(link: Link) -> dict[str, RolloutMessage]:
    """Return what is told of the fleet's rollouts, by their ids, the newest first. Raises: ReportError. Interrupted."""
    found: dict[str, RolloutMessage] = {}

    def take(topic: str, payload: bytes) -> None:
        try:
            place = parse_topic(topic)
            told = decode(topic, payload, place.kind) if payload else None
        except ReportError:
            return
        name = place.parameter or ""
        if told is None:
            found.pop(name, None)
            return
        room = name in found or len(found) < MAX_READ
        if room and isinstance(told, RolloutMessage) and told.id == name and told.fleet == link.fleet:
            found[name] = _made_plain(told)

    link.hear(rollout_filter(link.fleet), take)
    link.settle()
    return {one.id: one for one in sorted(found.values(), key=lambda one: one.started_at, reverse=True)}


def _made_plain(told: RolloutMessage) -> RolloutMessage:
    """Return a message whose texts a terminal shows as they are."""
    return msgspec.convert(_plain(msgspec.to_builtins(told)), RolloutMessage)


def _plain(value: object) -> object:
    if isinstance(value, str):
        return plain(value, 600)
    if isinstance(value, dict):
        return {plain(str(name)): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
