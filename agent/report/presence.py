"""What a device says of itself: that it is there, in which state, and, in its last will, that it is gone."""

from __future__ import annotations

import msgspec

from agent import __version__
from agent.core.messages import encode
from agent.core.payloads import Status, StatusState
from agent.core.topics import topic_for
from agent.mqtt import Will
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
