"""What a connection asks for when it is made: protocol, session, limits; and what a shared subscription shares."""

from __future__ import annotations

from paho.mqtt.client import MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.mqtt.dial import password_of
from agent.mqtt.settings import BrokerSettings
from agent.mqtt.stream import StreamClient

MAX_INCOMING_BYTES = 256 * 1024


def new_client(settings: BrokerSettings, most_held: int | None = None) -> StreamClient:
    """Return a client without callbacks. Args: most_held: see ``Connection``. Raises: ConfigError: no password file."""
    v5 = settings.protocol == "5"
    client = StreamClient(
        CallbackAPIVersion.VERSION2,
        client_id=settings.client_id,
        clean_session=None if v5 else settings.session_expiry_s == 0 or not settings.client_id,
        protocol=MQTTv5 if v5 else MQTTv311,
        reconnect_on_failure=False,
    )
    client.acknowledges = most_held is None
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
