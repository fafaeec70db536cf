"""What power meters with a radio say over MQTT, and how they are asked: payloads to watts and joules. No connection.

Rules:
- A value's step is read off its own text: ``"Power":5`` counts whole watts, ``"total":46791.262`` thousandths.
- What a payload does not say stays None; a payload of another shape is no value, never an error.

Sources. Shelly Gen2 and later: shelly-api-docs.shelly.cloud/gen2, components Switch, PM1, EM1, EM and MQTT (``apower``
in W, ``aenergy.total`` in Wh, requests to ``<id>/rpc``, answers to ``<src>/rpc``). Shelly Gen1:
shelly-api-docs.shelly.cloud/gen1 (``relay/N/power`` in W, ``relay/N/energy`` in watt-minutes, ``emeter/N/total`` in Wh;
``emeter/N/energy`` counts from report to report and is passed over; ``command`` with ``update`` asks for a report).
Tasmota: tasmota.github.io/docs/MQTT and /Commands (``ENERGY.Power`` in W, ``ENERGY.Total`` in kWh, ``Status 8`` for the
sensors now; the firmware before 6.0 says StatusPWR; TelePeriod is 10 s at least).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from agent.device.outside import MeterKind

_J_PER_WH = 3600.0
_J_PER_WATT_MINUTE = 60.0
_SHELLY_NAMESPACES = {"switch": "Switch", "pm1": "PM1", "em1": "EM1", "em": "EM", "cover": "Cover", "light": "Light"}
_SHELLY_POWER = ("apower", "act_power", "total_act_power")


class Heard(NamedTuple):
    """What one message said; steps are those of its text."""

    power_w: float | None = None
    step_w: float | None = None
    energy_j: float | None = None
    step_j: float | None = None


class Talk(NamedTuple):
    """How to hear one meter: patterns to subscribe to, a question, and what its messages mean.

    ``question`` takes a running number and returns topic and payload. ``hear`` returns None for a message that says
    nothing of power; it raises ValueError with a sentence where the meter answered that it cannot.
    """

    patterns: tuple[str, ...]
    question: Callable[[int], tuple[str, bytes]]
    hear: Callable[[str, bytes], Heard | None]
    period_s: float  # how often it has a new value when it is asked


def talk(kind: MeterKind, topic: str, component: str | None, reply_to: str) -> Talk:
    """Return how to talk to a meter.

    Args:
        topic: what its own settings call it: Shelly's topic prefix (Gen1: its id), Tasmota's topic.
        component: which of its parts, ``switch:0`` (shelly), ``relay:0`` (shelly-gen1), a phase's number (tasmota).
        reply_to: a topic prefix of ours that nobody else uses.
    Raises: ValueError: a component that this kind does not have.
    """
    return {"shelly": _shelly, "shelly-gen1": _shelly_gen1, "tasmota": _tasmota}[kind](topic, component, reply_to)


def _shelly(topic: str, component: str | None, reply_to: str) -> Talk:
    part, _, number = (component or "switch:0").partition(":")
    if part not in _SHELLY_NAMESPACES or not number.isdecimal():
        raise ValueError(f"{component!r} is no component; write it like switch:0, pm1:0, em1:0 or em:0")
    status, answer = f"{topic}/status/{part}:{number}", f"{reply_to}/rpc"

    def question(run: int) -> tuple[str, bytes]:
        method = f"{_SHELLY_NAMESPACES[part]}.GetStatus"
        asked = {"id": run, "src": reply_to, "method": method, "params": {"id": int(number)}}
        return f"{topic}/rpc", json.dumps(asked).encode()

    def hear(said_at: str, payload: bytes) -> Heard | None:
        said: Any = _mapping(payload)
        if said_at == answer:
            if isinstance(error := said.get("error"), dict):
                raise ValueError(f"it answers {error.get('message') or error.get('code')}")
            said = said.get("result")
        if said_at not in (status, answer) or not isinstance(said, dict):
            return None
        power = next((said[key] for key in _SHELLY_POWER if key in said), None)
        energy = said.get("aenergy")
        return _heard(power, energy.get("total") if isinstance(energy, dict) else None, _J_PER_WH)

    return Talk((status, answer), question, hear, 1.0)


def _shelly_gen1(topic: str, component: str | None, _reply_to: str) -> Talk:
    part, _, number = (component or "relay:0").partition(":")
    if part not in ("relay", "emeter") or not number.isdecimal():
        raise ValueError(f"{component!r} is no component; write it like relay:0 or emeter:0")
    root = topic if topic.startswith("shellies/") else f"shellies/{topic}"
    power = f"{root}/{part}/{number}/power"
    energy = f"{root}/{part}/{number}/{'energy' if part == 'relay' else 'total'}"
    unit_j = _J_PER_WATT_MINUTE if part == "relay" else _J_PER_WH

    def hear(said_at: str, payload: bytes) -> Heard | None:
        try:
            value = Decimal(payload.decode("ascii").strip())
        except (UnicodeDecodeError, InvalidOperation):
            return None
        return _heard(value if said_at == power else None, value if said_at == energy else None, unit_j)

    return Talk((power, energy), lambda _: (f"{root}/command", b"update"), hear, 5.0)


def _tasmota(topic: str, component: str | None, _reply_to: str) -> Talk:
    if component is not None and not component.isdecimal():
        raise ValueError(f"{component!r} is no phase; write its number, the first is 0")
    phase = None if component is None else int(component)
    full = topic if "%prefix%" in topic else f"%prefix%/{topic}"
    heard_at = tuple(
        full.replace("%prefix%", prefix) + f"/{name}"
        for prefix, name in (("tele", "SENSOR"), ("stat", "STATUS8"), ("stat", "STATUS10"))
    )

    def hear(said_at: str, payload: bytes) -> Heard | None:
        said = _mapping(payload)
        said = said.get("StatusSNS", said)
        energy = said.get("ENERGY", said.get("StatusPWR")) if isinstance(said, dict) else None
        if said_at not in heard_at or not isinstance(energy, dict):
            return None
        return _heard(_phase(energy.get("Power"), phase), _phase(energy.get("Total"), phase), 1000.0 * _J_PER_WH)

    return Talk(heard_at, lambda _: (full.replace("%prefix%", "cmnd") + "/Status", b"8"), hear, 2.0)


def _phase(value: Any, phase: int | None) -> Any:
    """Return one phase of a list; of a number itself, and of a list without a phase the sum."""
    if not isinstance(value, list):
        return value if phase in (None, 0) else None
    numbers = [_number(one) for one in value]
    known = [one for one in numbers if one is not None]
    if phase is not None:
        return numbers[phase] if phase < len(numbers) else None
    return sum(known, start=Decimal(0)) if known and len(known) == len(numbers) else None


def _mapping(payload: bytes) -> dict[str, Any]:
    try:
        said = json.loads(payload, parse_float=Decimal)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    number = Decimal(value)
    return number if number.is_finite() else None


def _heard(power: Any, energy: Any, unit_j: float) -> Heard | None:
    watts, counted = _number(power), _number(energy)
    if watts is None and counted is None:
        return None
    return Heard(
        power_w=None if watts is None else float(watts),
        step_w=None if watts is None else _step(watts),
        energy_j=None if counted is None else float(counted) * unit_j,
        step_j=None if counted is None else _step(counted) * unit_j,
    )


def _step(value: Decimal) -> float:
    exponent = value.as_tuple().exponent
    return float(10.0 ** min(0, exponent)) if isinstance(exponent, int) else 1.0
