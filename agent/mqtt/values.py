"""What goes through a connection: a last will, a received message, a message on its way."""

from __future__ import annotations

from typing import Literal

import msgspec


class Will(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker publishes for us when the connection breaks."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """A received message. Response topic and correlation are MQTT 5 only, and None where the sender left them out."""

    topic: str
    payload: bytes
    retain: bool
    response_topic: str | None = None
    correlation: bytes | None = None
    mid: int = 0  # what an acknowledgement names it by; 0 needs none


class Publication:
    """A message on its way: ``sent`` until the broker acknowledges (``acked``), refuses it, or the line breaks."""

    __slots__ = ("reason", "state", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.state: Literal["sent", "acked", "refused", "lost"] = "sent"
        self.reason: str | None = None
