"""What travels over MQTT: one table of all messages, and the codec. Pure.

Rules:
- Payloads are JSON objects with their numbers at the top level (measurements: in a list of flat objects), in SI units
  named by suffix, so that Telegraf reads them as they are. What is not known is null or left out, never 0.
- Every payload says which device of which fleet sent it, in which boot, as the how-manieth (``seq``), when by the wall
  clock, and whether that clock was synchronised. An unknown clock state is null.
- ``MESSAGES`` is the only list of messages: topics, codec, JSON Schemas, AsyncAPI document and outbox all read it.
- A reader ignores fields it does not know (a newer sender), and refuses another major of the schema.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agent.core.collecting import CollectorStatus, Receipt
from agent.core.payloads import (
    DecisionMessage,
    DeploymentMessage,
    Envelope,
    EnvelopeSignature,
    Event,
    Job,
    JobState,
    Measurements,
    MeasurementSummary,
    Origin,
    Profile,
    Reported,
    Scalar,
    ScheduleEntry,
    Status,
    TaskSettings,
    Telemetry,
)
from agent.core.results_message import ResultsMessage
from agent.core.rollout_message import RolloutMessage
from agent.core.summaries import BudgetSummary, OptionSummary
from agent.core.topics import Kind, parse_topic
from agent.errors import ReportError

__all__ = [
    "MAX_PAYLOAD_BYTES",
    "MESSAGES",
    "BudgetSummary",
    "CollectorStatus",
    "DecisionMessage",
    "Definition",
    "DeploymentMessage",
    "Envelope",
    "EnvelopeSignature",
    "Event",
    "Job",
    "JobState",
    "MeasurementSummary",
    "Measurements",
    "OptionSummary",
    "Origin",
    "Precedence",
    "Profile",
    "Receipt",
    "Reported",
    "ResultsMessage",
    "RolloutMessage",
    "Scalar",
    "ScheduleEntry",
    "Status",
    "TaskSettings",
    "Telemetry",
    "decode",
    "encode",
    "schema_name",
]

MAX_PAYLOAD_BYTES = 128 * 1024  # the smallest limit among the brokers looked at (AWS IoT Core)

#: What may be thrown away first when the outbox is full. ``kept`` never is.
Precedence = Literal["telemetry", "measurement", "kept"]


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ``MESSAGES``. ``inbound``: an operator sends it and a device receives it; ``aside``: none does.

    ``incidental``: texts that change though nothing new is said.
    """

    kind: Kind
    payload: type[msgspec.Struct]
    summary: str
    retain: bool = False
    qos: int = 1
    precedence: Precedence = "kept"
    inbound: bool = False
    incidental: tuple[str, ...] = ()
    aside: bool = False


MESSAGES: dict[str, Definition] = {
    row.kind: row
    for row in (
        Definition(
            kind="status", payload=Status, retain=True, summary="Whether the device is there; the last will too."
        ),
        Definition(kind="profile", payload=Profile, retain=True, summary="What the board is and can do."),
        Definition(
            kind="decision",
            payload=DecisionMessage,
            retain=True,
            summary="What was chosen for a task, and why.",
            incidental=("id", "decided_at"),
        ),
        Definition(kind="deployment", payload=DeploymentMessage, retain=True, summary="What serves a task now."),
        Definition(kind="reported", payload=Reported, retain=True, summary="The settings in force on the device."),
        Definition(
            kind="measurement",
            payload=Measurements,
            precedence="measurement",
            summary="What was measured since the last message, a list of flat objects.",
        ),
        Definition(
            kind="telemetry", payload=Telemetry, precedence="telemetry", summary="The board's condition at one moment."
        ),
        Definition(kind="event", payload=Event, summary="Something a person may want to know."),
        Definition(kind="job", payload=Job, summary="How a command fares."),
        Definition(
            kind="desired",
            payload=Envelope,
            retain=True,
            inbound=True,
            summary="Settings an operator asks for, signed.",
        ),
        Definition(kind="cmd", payload=Envelope, inbound=True, summary="A command, signed."),
        Definition(
            kind="receipt",
            payload=Receipt,
            inbound=True,
            summary="What a collector has stored; plain, or in an envelope.",
        ),
        Definition(
            kind="collector", payload=CollectorStatus, retain=True, inbound=True, summary="Who stores, and whether."
        ),
        Definition(
            kind="results",
            payload=ResultsMessage,
            retain=True,
            precedence="measurement",
            summary="What was measured, signed by the board, for the boards of its class.",
            incidental=("payload", "signature"),
        ),
        Definition(
            kind="rollout",
            payload=RolloutMessage,
            retain=True,
            aside=True,
            summary="How a rollout stands, told by the operator's machine that drives it; nobody obeys it.",
        ),
    )
}


def schema_name(topic: str) -> str:
    """Return the file stem of the JSON Schema that a topic's payload follows, e.g. ``measurement``.

    Raises: ReportError: the topic is not one of ours.
    """
    return parse_topic(topic).kind


def encode(message: msgspec.Struct) -> bytes:
    """Return the payload of a message.

    Raises: ReportError: it is longer than ``MAX_PAYLOAD_BYTES``, or holds a number JSON cannot write.
    """
    payload = msgspec.json.encode(message)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ReportError(
            f"a {type(message).__name__} of {len(payload)} bytes is over the {MAX_PAYLOAD_BYTES} a message may have",
            length_bytes=len(payload),
        )
    return payload


def decode(topic: str, payload: bytes, kind: Kind | None = None) -> msgspec.Struct:
    """Read a received payload as its topic's message.

    Args: kind: of the topic, where it was parsed before.
    Raises: ReportError: not our topic, too long, not JSON, or not that message; the text names the field.
    """
    definition = MESSAGES[kind or parse_topic(topic).kind]
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ReportError(f"{topic}: {len(payload)} bytes are more than the {MAX_PAYLOAD_BYTES} a message may have")
    try:
        return msgspec.json.decode(payload, type=definition.payload)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise ReportError(f"{topic}: not a {definition.payload.__name__}: {error}", topic=topic) from error
