"""What a device says of itself: that it is there, in which state, and, in its last will, that it is gone.

Also whether another says it in its name.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from agent import __version__
from agent.core.messages import encode
from agent.core.payloads import Origin, Status, StatusState
from agent.core.topics import topic_for
from agent.mqtt import Connection, Incoming, Will
from agent.report.outbox import Outbox


def status_of(
    outbox: Outbox, state: StatusState, reason: str | None, uptime_s: float | None, epoch: str | None = None
) -> Status:
    """Return the retained status, without what the outbox holds.

    Args: uptime_s: seconds since boot. epoch: see ``agent.core.command``.
    """
    return Status(
        **msgspec.structs.asdict(outbox.origin()),
        state=state,
        reason=reason,
        agent_version=__version__,
        uptime_s=uptime_s,
        epoch=epoch,
    )


def with_fill(status: Status, outbox: Outbox) -> Status:
    """Return the status with what the outbox holds. Raises: StorageError."""
    fill = outbox.fill()
    return msgspec.structs.replace(
        status, outbox_messages=fill.messages, outbox_bytes=fill.bytes, outbox_dropped=fill.lost
    )


def last_will(outbox: Outbox) -> Will:
    """Return what the broker says for us; written before it holds, it knows neither when nor how full the outbox is."""
    status = Status(
        fleet=outbox.address.fleet,
        device=outbox.address.device,
        boot_id=outbox.boot_id,
        state="offline",
        reason="connection lost",
        agent_version=__version__,
    )
    return Will(topic=topic_for(outbox.address, "status"), payload=encode(status))


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
        except msgspec.DecodeError:
            return
        if boot_id is not None and boot_id != self._outbox.boot_id:
            self._judge(proven=True)

    def _judge(self, *, proven: bool) -> None:
        said = self._connection.rivals.verdict(self._monotonic_s(), proven=proven)
        if said is not None and self.on_rival is not None:
            self.on_rival(said)
