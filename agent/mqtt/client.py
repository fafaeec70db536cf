"""paho's client over a socket that we have connected ourselves, and one for whoever receives much.

What is overridden here is private to paho: pyproject keeps it below version 3, and tests/mqtt runs it against a broker.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from paho.mqtt.client import MQTT_LOG_ERR, PUBACK, Client, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.mqtt.dial import password_of
from agent.mqtt.settings import BrokerSettings

MAX_INCOMING_BYTES = 256 * 1024
_CHUNK_BYTES = 256 * 1024


class Paho(Client):
    """paho's client over a socket that we have connected ourselves."""

    ready: socket.socket | None = None

    def _create_socket(self) -> Any:
        if self.ready is None:
            raise ConnectionError("no socket was handed over")
        taken, self.ready = self.ready, None
        return taken

    @property
    def unread(self) -> bool:
        """Whether bytes are here that make no descriptor readable."""
        return False


class BulkPaho(Paho):
    """Reads many messages with one system call, acknowledges many with one, and only when it is told to."""

    _chunk = b""
    _taken = 0

    def _create_socket(self) -> Any:
        self._chunk, self._taken = b"", 0
        return super()._create_socket()

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._taken >= len(self._chunk):
            self._chunk = super()._sock_recv(_CHUNK_BYTES)
            self._taken = 0
        start = self._taken
        self._taken = end = start + bufsize
        return self._chunk[start:end]

    def _handle_publish(self) -> MQTTErrorCode:
        """Read a PUBLISH without properties at once (MQTT 5, 3.3.2); any other as paho does."""
        command, packet = self._in_packet["command"], self._in_packet["packet"]
        quality = command >> 1 & 3
        end = 2 + (packet[0] << 8 | packet[1]) if len(packet) > 2 else 0
        body = end + (2 if quality else 0) + 1
        if self._protocol != MQTTv5 or quality > 1 or not end or len(packet) < body or packet[body - 1]:
            return super()._handle_publish()
        message = MQTTMessage(mid=packet[end] << 8 | packet[end + 1] if quality else 0, topic=bytes(packet[2:end]))
        message.payload = bytes(packet[body:])
        message.retain = bool(command & 1)
        message.qos = quality
        if self.on_message is not None:
            self.on_message(self, None, message)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _easy_log(self, level: int, fmt: str, *args: Any) -> None:
        if level == MQTT_LOG_ERR:  # others would be formatted for each message, and read by nobody
            super()._easy_log(level, fmt, *args)  # type: ignore[arg-type]

    @property
    def unread(self) -> bool:
        """Whether bytes are here that make no descriptor readable."""
        return self._taken < len(self._chunk)

    def acknowledge(self, mids: Iterable[int]) -> MQTTErrorCode:
        """Acknowledge messages of quality of service 1 by their packet identifiers."""
        packets = b"".join(bytes((PUBACK, 2, mid >> 8, mid & 255)) for mid in mids)
        return self._packet_queue(PUBACK, packets, 0, 0) if packets else MQTTErrorCode.MQTT_ERR_SUCCESS


def new_client(settings: BrokerSettings, most_held: int | None = None) -> Paho:
    """Return a client without callbacks. Args: most_held: see ``Connection``. Raises: ConfigError: no password file."""
    v5 = settings.protocol == "5"
    client = (Paho if most_held is None else BulkPaho)(
        CallbackAPIVersion.VERSION2,
        client_id=settings.client_id,
        clean_session=None if v5 else settings.session_expiry_s == 0 or not settings.client_id,
        protocol=MQTTv5 if v5 else MQTTv311,
        reconnect_on_failure=False,
        manual_ack=most_held is not None,
    )
    client.max_inflight_messages_set(0)
    client.max_queued_messages_set(0)
    if settings.username is not None:
        client.username_pw_set(settings.username, password_of(settings))
    if not v5:
        client.connect_async(settings.host, settings.port, settings.keepalive_s)
        return client
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = settings.session_expiry_s
    properties.MaximumPacketSize = MAX_INCOMING_BYTES
    if most_held is not None:
        properties.ReceiveMaximum = most_held
    client.connect_async(
        settings.host,
        settings.port,
        settings.keepalive_s,
        clean_start=settings.session_expiry_s == 0,
        properties=properties,
    )
    return client


def bare_filter(pattern: str) -> str:
    """Return the filter of a shared subscription, ``$share/<group>/<filter>``; of others, themselves."""
    return pattern.split("/", 2)[2] if pattern.startswith("$share/") else pattern
