"""The MQTT topic tree: building a topic, and reading one back. Pure.

::

    boardfit/v1/<fleet>/<device>/status | profile | reported | desired
    boardfit/v1/<fleet>/<device>/decision/<task> | deployment/<task> | telemetry/<group> | job/<id>
    boardfit/v1/<fleet>/<device>/measurement | event
    boardfit/v1/<fleet>/<device>/results/<class>   what it measured, signed, for the boards of its class
    boardfit/v1/<fleet>/<device>/cmd/<verb> | receipt
    boardfit/v1/<fleet>/_all/cmd/<verb>            to every device of the fleet
    boardfit/v1/<fleet>/_group/<name>/cmd/<verb>   to the devices of a group
    boardfit/v1/<fleet>/_all/desired | _group/<name>/desired
    boardfit/v1/<fleet>/_collector/<name>/status   of whoever stores what the devices send
    boardfit/v1/<fleet>/_rollout/<id>              how a rollout stands, for whoever looks; no board listens
    boardfit/v1/<fleet>/_operator/<console>        an operator's console to itself; no board listens

Rules:
- Fleet, device and group are ``[a-z0-9-]``, so that none of them can be a wildcard, a level separator or ``_all``.
- The last level (task, telemetry group, job, verb) may also hold capitals, dots and underscores.
- Nothing outside this file puts a topic together by hand.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from agent.errors import ConfigError, ReportError

ROOT = "boardfit/v1"
MAX_ID = 64

Kind = Literal[
    "status", "profile", "decision", "deployment", "reported", "desired",
    "measurement", "telemetry", "event", "cmd", "job", "receipt", "collector",
    "rollout", "results",
]  # fmt: skip
#: Kinds whose topic has one more level, and what that level names.
PARAMETER: dict[str, str] = {
    "decision": "task", "deployment": "task", "telemetry": "group", "job": "id", "cmd": "verb",
    "results": "class",
}  # fmt: skip
_PLAIN = ("status", "profile", "reported", "desired", "measurement", "event", "receipt")

_ID_TEXT = rf"[a-z0-9](?:[a-z0-9-]{{0,{MAX_ID - 2}}}[a-z0-9])?"
_PARAMETER_TEXT = rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_ID - 1}}}"
_ID, _PARAMETER = re.compile(_ID_TEXT), re.compile(_PARAMETER_TEXT)
#: Fleet, device, and a kind without parameter, or a kind and its parameter.
_OF_DEVICE = re.compile(
    rf"{ROOT}/({_ID_TEXT})/({_ID_TEXT})/(?:({'|'.join(_PLAIN)})|({'|'.join(PARAMETER)})/({_PARAMETER_TEXT}))"
)


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """One device of one fleet; both names are checked when it is made through ``address``."""

    fleet: str
    device: str


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic taken apart.

    ``device`` is None for a broadcast; ``group`` is set for a group's; neither means all, a collector's or a rollout's.
    """

    fleet: str
    kind: Kind
    device: str | None = None
    group: str | None = None
    parameter: str | None = None


def check_id(value: str, *, where: str) -> str:
    """Return a fleet, device or group name unchanged. Raises: ConfigError: it is not ``[a-z0-9-]``, 1 to 64 long."""
    if not _ID.fullmatch(value):
        raise ConfigError(
            f"{where}: {value!r} cannot stand in an MQTT topic",
            fix="use small letters, digits and inner hyphens, at most 64, like pi5-kitchen",
        )
    return value


def address(fleet: str, device: str) -> Address:
    """Return a checked address. Raises: ConfigError."""
    return Address(fleet=check_id(fleet, where="mqtt.fleet"), device=check_id(device, where="device id"))


def client_id(at: Address) -> str:
    """Return the MQTT client id of a device: two fleets on one broker may have boards of one name."""
    return f"{at.fleet}/{at.device}"


def class_level(fingerprint: str) -> str:
    """Return a class as it stands in a topic: the first 16 hex digits of its fingerprint."""
    return fingerprint[:16]


def topic_for(at: Address, kind: Kind, parameter: str | None = None) -> str:
    """Return a device's topic, e.g. ``boardfit/v1/plant-7/pi5/decision/digits``.

    Args: parameter: the task, group, job id or verb for the kinds that have one.
    Raises: ConfigError: the parameter is missing, not wanted, or cannot stand in a topic.
    """
    return f"{ROOT}/{at.fleet}/{at.device}/{_tail(kind, parameter)}"


def broadcast_topic(fleet: str, verb: str, group: str | None = None) -> str:
    """Return the topic of a command to a whole fleet, or to one group of it. Raises: ConfigError."""
    return f"{_wide(fleet, group)}/{_tail('cmd', verb)}"


def desired_topic(fleet: str, device: str | None = None, group: str | None = None) -> str:
    """Return the topic of the desired state of a device, a group, or the whole fleet. Raises: ConfigError."""
    if device is not None:
        return topic_for(address(fleet, device), "desired")
    return f"{_wide(fleet, group)}/desired"


def _wide(fleet: str, group: str | None) -> str:
    check_id(fleet, where="mqtt.fleet")
    return f"{ROOT}/{fleet}/" + ("_all" if group is None else f"_group/{check_id(group, where='mqtt.group')}")


def inbound_filters(at: Address, groups: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the subscriptions of a device: its own commands and desired state, its groups', the fleet's."""
    scopes = (f"{ROOT}/{at.fleet}/{at.device}", _wide(at.fleet, None), *(_wide(at.fleet, name) for name in groups))
    return tuple(f"{scope}/{end}" for scope in scopes for end in ("cmd/+", "desired"))


def collector_topic(fleet: str, name: str) -> str:
    """Return the topic of a collector's status; the name is checked like a device's. Raises: ConfigError."""
    return f"{ROOT}/{check_id(fleet, where='mqtt.fleet')}/_collector/{check_id(name, where='collector')}/status"


def rollout_topic(fleet: str, rollout: str) -> str:
    """Return the topic of how a rollout stands. Raises: ConfigError."""
    return f"{ROOT}/{check_id(fleet, where='mqtt.fleet')}/_rollout/{check_id(rollout, where='rollout')}"


def rollout_filter(fleet: str) -> str:
    """Return the subscription to how all rollouts of a fleet stand. Raises: ConfigError."""
    return f"{ROOT}/{check_id(fleet, where='mqtt.fleet')}/_rollout/+"


def receipt_filters(at: Address) -> tuple[str, str]:
    """Return the subscriptions of a device that concern receipts: its own, and the status of every collector."""
    return topic_for(at, "receipt"), f"{ROOT}/{at.fleet}/_collector/+/status"


def fleet_filter(fleet: str, kind: Kind, parameter: str = "+", device: str | None = None) -> str:
    """Return the subscription to one kind of message of one device, or of every one of a fleet. Raises: ConfigError."""
    check_id(fleet, where="mqtt.fleet")
    tail = kind if kind not in PARAMETER else f"{kind}/+" if parameter == "+" else _tail(kind, parameter)
    return f"{ROOT}/{fleet}/{'+' if device is None else check_id(device, where='device id')}/{tail}"


def group_desired_filter(fleet: str) -> str:
    """Return the subscription to the desired states of all groups. Raises: ConfigError."""
    return f"{ROOT}/{check_id(fleet, where='mqtt.fleet')}/_group/+/desired"


def console_topic(fleet: str, console: str) -> str:
    """Return the topic on which an operator's console speaks to itself. Raises: ConfigError."""
    return f"{ROOT}/{check_id(fleet, where='mqtt.fleet')}/_operator/{check_id(console, where='console')}"


def parse_topic(text: str) -> Topic:
    """Take a topic apart.

    Raises: ReportError: it is not one of ours.
    """
    usual = _OF_DEVICE.fullmatch(text)
    if usual is not None:  # most by far, in a quarter of the time
        fleet, device, plain, kind, parameter = usual.groups()
        return Topic(fleet=fleet, device=device, kind=plain or kind, parameter=parameter)  # type: ignore[arg-type]
    return _parse_unusual(text)


def _parse_unusual(text: str) -> Topic:
    levels = text.split("/")
    if len(levels) < 5 or "/".join(levels[:2]) != ROOT or not _ID.fullmatch(levels[2]):
        raise _foreign(text)
    fleet, rest = levels[2], levels[3:]
    if rest[0] == "_collector":
        if len(rest) != 3 or rest[2] != "status" or not _ID.fullmatch(rest[1]):
            raise _foreign(text)
        return Topic(fleet=fleet, kind="collector", parameter=rest[1])
    if rest[0] == "_rollout":
        if len(rest) != 2 or not _ID.fullmatch(rest[1]):
            raise _foreign(text)
        return Topic(fleet=fleet, kind="rollout", parameter=rest[1])
    device: str | None = None
    group: str | None = None
    if rest[0] == "_all":
        rest = rest[1:]
    elif rest[0] == "_group":
        group, rest = rest[1], rest[2:]
    else:
        device, rest = rest[0], rest[1:]
    if not all(_ID.fullmatch(name) for name in (device, group) if name is not None) or not rest:
        raise _foreign(text)
    if device is None and rest[0] not in ("cmd", "desired"):
        raise _foreign(text)
    kind, parameters = rest[0], rest[1:]
    if kind in PARAMETER:
        if len(parameters) != 1 or not _PARAMETER.fullmatch(parameters[0]):
            raise _foreign(text)
        parameter: str | None = parameters[0]
    elif kind in _PLAIN and not parameters:
        parameter = None
    else:
        raise _foreign(text)
    return Topic(fleet=fleet, kind=kind, device=device, group=group, parameter=parameter)  # type: ignore[arg-type]


def _tail(kind: Kind, parameter: str | None) -> str:
    wanted = PARAMETER.get(kind)
    if wanted is None:
        if parameter is not None:
            raise ConfigError(f"the topic {kind} has no level below it")
        return kind
    if parameter is None or not _PARAMETER.fullmatch(parameter):
        raise ConfigError(
            f"{wanted} {parameter!r} cannot stand in an MQTT topic",
            fix="use letters, digits, dot, hyphen and underscore, at most 64",
        )
    return f"{kind}/{parameter}"


def _foreign(text: str) -> ReportError:
    return ReportError(f"{text[:200]!r} is not a topic of {ROOT}", topic=text)
