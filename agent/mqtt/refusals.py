"""What a broker's refusal means, in a sentence, and what to do about it. Pure."""

from __future__ import annotations

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from agent.errors import ReportError
from agent.mqtt.settings import BrokerSettings

# Reason codes by paho's name for them; MQTT 3.1.1 return codes are given the same names.
_MEANINGS: dict[str, tuple[str, str, str]] = {
    "Bad user name or password": (
        "{url} refuses the user name or password",
        "correct mqtt.username and mqtt.password_file",
        "unauthorised",
    ),
    "Not authorized": (
        "{url} does not authorise this device",
        "give the broker this device's user or certificate and an ACL for its topics",
        "unauthorised",
    ),
    "Bad authentication method": ("{url} wants another way of logging in", "ask who runs the broker", "unauthorised"),
    "Banned": ("{url} has banned this device", "ask who runs the broker", "unauthorised"),
    "Client identifier not valid": (
        "{url} does not accept the client id {client!r}",
        "set device.id to one it allows",
        "client_id",
    ),
    "Unsupported protocol version": (
        "{url} does not speak MQTT {protocol}",
        "set mqtt.protocol to {other!r}",
        "protocol",
    ),
    "Server unavailable": ("{url} is not available at present", "try again later", "unavailable"),
    "Server busy": ("{url} is busy", "try again later", "unavailable"),
    "Server shutting down": ("{url} is shutting down", "wait for the broker to come back", "unavailable"),
    "Session taken over": (
        "another client with the id {client!r} took over the connection to {url}",
        "give every device its own id, and run one agent per device",
        "taken_over",
    ),
    "Packet too large": ("{url} found a message too large", "raise the broker's maximum packet size", "too_large"),
    "Quota exceeded": ("{url} says that this device sent too much", "raise the broker's quota", "quota"),
    "Keep alive timeout": ("{url} heard nothing from this device for too long", "check the network", "network"),
}


def reason_name(code: int) -> str:
    """Return paho's name of the reason code of a PUBACK."""
    try:
        return str(ReasonCode(PacketTypes.PUBACK, identifier=code).getName())
    except (KeyError, AssertionError):
        return f"reason code {code}"


def refused_error(settings: BrokerSettings, name: str) -> ReportError:
    """Return the error for a reason code that came in CONNACK or DISCONNECT. Args: name: paho's name of the code."""
    problem, fix, cause = _MEANINGS.get(
        name, ("{url} closed the connection: " + name, "look into the broker's log", "refused_by_broker")
    )
    words = {
        "url": settings.url,
        "client": settings.client_id,
        "protocol": settings.protocol,
        "other": "3.1.1" if settings.protocol == "5" else "5",
    }
    return ReportError(problem.format(**words), fix=fix.format(**words), cause=cause, reason_code=name)


def lost_error(settings: BrokerSettings, was_online: bool, transport_text: str) -> ReportError:
    """Return the error for a connection that ended without a reason code.

    Args: transport_text: what the socket said last, empty when it was closed in silence.
    """
    if settings.tls and any(word in transport_text.lower() for word in ("certificate", "alert", "unknown ca")):
        return ReportError(
            f"{settings.url} refuses this device's certificate",
            fix="set mqtt.cert and mqtt.key to a certificate signed by an authority the broker trusts",
            cause="tls",
            detail=transport_text,
        )
    if was_online:
        return ReportError(
            f"the connection to {settings.url} was lost",
            fix=f"check the network; if this repeats, look for another client with the id {settings.client_id!r}",
            cause="network",
        )
    protocol = f"set mqtt.protocol to {'3.1.1' if settings.protocol == '5' else '5'!r}"
    if settings.tls:  # several brokers close without an alert when they dislike the client's certificate
        wanted = (
            "set mqtt.cert and mqtt.key, since it may want a client certificate"
            if settings.cert is None
            else "check that it trusts the authority behind mqtt.cert"
        )
        fix = f"{wanted}, or {protocol}"
    else:
        fix = f"check that it is an MQTT port, or {protocol}"
    return ReportError(f"{settings.url} closed the connection without an answer", fix=fix, cause="closed")
