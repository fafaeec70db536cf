"""Tries a board's connection to its broker, and says what works. It is the real thing, done once.

Rules:
- TLS, the certificate and the name are proven by connecting; what is heard by subscribing to all that concerns it;
  what may be written by an event of its own, and by a message outside its own tree that the broker should refuse.
- MQTT 3.1.1 has no answer for a refused message: there it is said that nothing is known.
- A daemon that is connected under the same name is thrown off for a moment, and comes back by itself.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agent.clock import SystemClock, iso
from agent.core.messages import encode
from agent.core.payloads import Event
from agent.core.topics import ROOT, Address, client_id, inbound_filters, topic_for
from agent.mqtt import BrokerSettings, Connection, Publication, drive

TIMEOUT_S = 15.0
_HEARS = "every subscription was accepted; mosquitto 2.0 accepts any, and delivers what its access file allows"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried."""

    subject: str
    state: Literal["ok", "warn", "fail"]
    text: str
    fix: str | None = None


def prove_connection(settings: BrokerSettings, at: Address, groups: tuple[str, ...]) -> list[Finding]:
    """Connect as the board would, listen and speak.

    Raises: ReportError: the broker was not reached, or does not take this board. ConfigError: a file cannot be used.
    """
    connection = Connection(msgspec.structs.replace(settings, client_id=client_id(at)))
    try:
        connection.connect(TIMEOUT_S)
        text = f"{settings.url} takes this board's certificate"
        findings = [Finding(subject="connection", state="ok", text=text)]
        findings.append(_listens(connection, at, groups))
        findings += _speaks(connection, at)
    finally:
        connection.close()
    return findings


def _listens(connection: Connection, at: Address, groups: tuple[str, ...]) -> Finding:
    for pattern in inbound_filters(at, groups):
        connection.subscribe(pattern, lambda _: None)
    answered = drive(connection, lambda: connection.listening, TIMEOUT_S)
    refused = sorted(connection.refused_filters)
    if not answered or refused:
        text = (
            f"the broker does not let this board hear {', '.join(refused)}" if refused else "no answer to subscribing"
        )
        return Finding(subject="hears", state="fail", text=text, fix="give this certificate's name its access rules")
    return Finding(subject="hears", state="ok", text=_HEARS)


def _speaks(connection: Connection, at: Address) -> list[Finding]:
    said = f"{at.fleet}/{at.device} was enrolled at {connection.settings.url}"
    now = iso(SystemClock().utc())
    event = Event(fleet=at.fleet, device=at.device, time=now, level="info", kind="enrolled", text=said)
    own = connection.publish(topic_for(at, "event"), encode(event))
    beyond = connection.publish(f"{ROOT}/{at.fleet}/_probe/{at.device}", b"")
    drive(connection, lambda: own.state != "sent" and beyond.state != "sent", TIMEOUT_S)
    if connection.settings.protocol != "5":
        text = "MQTT 3.1.1 does not tell a board what it may not say: look for its event `enrolled` at the broker"
        return [Finding(subject="speaks", state="warn", text=text)]
    return [_own(own), _beyond(beyond)]


def _own(own: Publication) -> Finding:
    if own.state == "acked":
        return Finding(subject="speaks", state="ok", text="for itself")
    text = f"the broker does not let this board publish: {own.reason or own.state}"
    return Finding(subject="speaks", state="fail", text=text, fix="give this certificate's name its access rules")


def _beyond(beyond: Publication) -> Finding:
    if beyond.state == "acked":
        text = "the broker lets this board publish outside its own topics"
        fix = "give the broker access rules: examples/mosquitto and examples/emqx, or `boardfit enroll acl`"
        return Finding(subject="kept to itself", state="warn", text=text, fix=fix)
    return Finding(subject="kept to itself", state="ok", text="what is outside its own topics is refused")
