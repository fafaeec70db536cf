"""What a device says of itself: that it is there, in which state, what it is, and, in its last will, that it is gone.

Also whether another says it in its name.

Rules:
- With every connection, a retained status and the profile; later each only when it has changed. Neither is a message of
  the outbox: who was away hears the newest only.
- A status that told of a backlog (``BACKLOG`` messages) is followed by one without, once that is gone. What the outbox
  holds otherwise is in the telemetry.
- Status and last will say of the profile what a list of boards shows. A status that said nothing of it, before a new
  board's first look at itself, is not repeated for that: who reads it then asks for the profile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from agent import __version__
from agent.core.conversions import message_for_profile
from agent.core.facts import DeviceFacts
from agent.core.messages import encode
from agent.core.payloads import Origin, Status, StatusState
from agent.core.topics import topic_for
from agent.errors import ReportError, StorageError
from agent.mqtt import Connection, Incoming, Publication, Will
from agent.report.outbox import Outbox

log = logging.getLogger(__name__)

BACKLOG = 100  # chosen: an operator looks twice at a board that holds more


class Presence:
    """Says it over one connection.

    Args:
        profile: None leaves it out. groups: which this board is in.
        epoch: told in the status; see ``agent.core.command``.
        uptime_s: seconds since boot. on_storage_error: told when the outbox cannot be counted.
    """

    def __init__(
        self,
        outbox: Outbox,
        connection: Connection,
        *,
        profile: DeviceFacts | None,
        groups: tuple[str, ...],
        epoch: str | None,
        uptime_s: Callable[[], float | None],
        on_storage_error: Callable[[StorageError], None],
    ) -> None:
        self._outbox = outbox
        self._connection = connection
        self._profile = profile
        self._groups = groups
        self._epoch = epoch
        self._uptime_s = uptime_s
        self._on_storage_error = on_storage_error
        self._state: StatusState = "online"
        self._reason: str | None = None
        self.outdated = False  # a status is wanted once nothing waits
        self._under_way: list[Publication] = []
        connection.set_will(self._last_will())

    @property
    def said(self) -> bool:
        """Whether all that was said has arrived, or was refused or lost."""
        self._under_way = [one for one in self._under_way if one.state == "sent"]
        return not self._under_way

    def greet(self) -> None:
        """Say all, over a new connection."""
        self._under_way.clear()
        self._tell_status(self._state, self._reason)
        self._tell_profile()

    def set_status(self, state: StatusState, reason: str | None) -> None:
        """Change what is said, now and with each connection."""
        self._state, self._reason = state, reason
        if self._connection.state == "online":
            self._tell_status(state, reason)

    def set_profile(self, profile: DeviceFacts) -> None:
        """Replace the profile, and say it if it is another; while we are away, the next connection does."""
        if self._profile is not None and profile.lasting() == self._profile.lasting():
            return
        before, self._profile = self._summary(), profile
        self._connection.set_will(self._last_will())
        if self._connection.state == "online":
            if before.get("class_fingerprint") is not None and self._summary() != before:
                self._tell_status(self._state, self._reason)
            self._tell_profile()

    def refresh(self) -> None:
        """Say the status once more, now that nothing waits; what still lies in the outbox may not be sent."""
        self._tell_status(self._state, self._reason)
        self.outdated = False

    def farewell(self) -> Publication | None:
        """Say that we go, since a clean goodbye suppresses the last will."""
        return self._tell_status("offline", "stopped")

    def _tell_status(self, state: StatusState, reason: str | None) -> Publication | None:
        status = Status(
            **msgspec.structs.asdict(self._outbox.origin()),
            state=state,
            reason=reason,
            agent_version=__version__,
            uptime_s=self._uptime_s(),
            epoch=self._epoch,
            **self._summary(),
        )
        try:
            fill = self._outbox.fill()
            self.outdated = fill.messages >= BACKLOG
            status = msgspec.structs.replace(
                status, outbox_messages=fill.messages, outbox_bytes=fill.bytes, outbox_dropped=fill.lost
            )
        except StorageError as error:
            self._on_storage_error(error)
        return self._say(topic_for(self._outbox.address, "status"), status)

    def _summary(self) -> dict[str, Any]:
        """Return what the status says of the profile."""
        facts, groups = self._profile, self._groups
        if facts is None:
            return {"groups": groups}
        return {
            "class_fingerprint": facts.class_fingerprint,
            "soc": facts.board.soc,
            "memory_total_bytes": facts.memory.total_bytes,
            "groups": groups,
        }

    def _last_will(self) -> Will:
        """Return what the broker says for us; written before it holds, it knows neither when nor what waits here."""
        status = Status(
            fleet=self._outbox.address.fleet,
            device=self._outbox.address.device,
            boot_id=self._outbox.boot_id,
            state="offline",
            reason="connection lost",
            agent_version=__version__,
            **self._summary(),
        )
        return Will(topic=topic_for(self._outbox.address, "status"), payload=encode(status))

    def _tell_profile(self) -> None:
        if self._profile is not None:
            message = message_for_profile(self._profile, self._outbox.origin(), __version__)
            self._say(topic_for(self._outbox.address, "profile"), message)

    def _say(self, topic: str, message: Origin) -> Publication | None:
        try:
            said = self._connection.publish(topic, encode(message), qos=1, retain=True)
        except ReportError as error:
            log.warning("%s", error)
            return None
        self._under_way = [*(one for one in self._under_way if one.state == "sent"), said]
        return said


class Rivalry:
    """Looks whether another client uses our name, where a connection's fate makes that likely.

    ``on_rival`` is told, in a sentence. Another boot's id in our own retained status is the proof.
    """

    def __init__(self, connection: Connection, outbox: Outbox, monotonic_s: Callable[[], float]) -> None:
        self.on_rival: Callable[[str], None] | None = None
        self._connection = connection
        self._outbox = outbox
        self._monotonic_s = monotonic_s

    def look(self) -> None:
        """Ask the broker what was retained last; called with each new connection, before anything is said."""
        if self._connection.rivals.suspected(self._monotonic_s()):
            self._connection.subscribe(topic_for(self._outbox.address, "status"), self._seen)
            self._judge(proven=False)

    def _seen(self, incoming: Incoming) -> None:
        try:
            boot_id = msgspec.json.decode(incoming.payload, type=Origin, strict=False).boot_id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if boot_id is not None and boot_id != self._outbox.boot_id:
            self._judge(proven=True)

    def _judge(self, *, proven: bool) -> None:
        said = self._connection.rivals.verdict(self._monotonic_s(), proven=proven)
        if said is not None and self.on_rival is not None:
            self.on_rival(said)
