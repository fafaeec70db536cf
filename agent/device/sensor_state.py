"""Trying a sensor once and stating what came of it: the one place where an error becomes a status with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from agent.core.facts import PowerScope, SensorFacts
from agent.device.root import state_of
from agent.errors import SensorUnavailableError

Quantity = Literal["temperature", "power", "energy", "frequency", "throttle", "fan", "voltage", "battery"]


def try_sensor(
    name: str,
    quantity: Quantity,
    read: Callable[[], object],
    *,
    source: str | None,
    unit: str | None = None,
    scope: PowerScope | None = None,
) -> SensorFacts:
    """Read once; the facts carry unit and scope when it answers, and state and reason when it does not."""
    try:
        read()
    except SensorUnavailableError as error:
        reason = f"{error.problem}; {error.fix}" if error.fix else error.problem
        return SensorFacts(name=name, quantity=quantity, status=state_of(error), source=source, reason=reason)
    return SensorFacts(name=name, quantity=quantity, status="ok", unit=unit, scope=scope, source=source)


def absent(name: str, quantity: Quantity, reason: str) -> SensorFacts:
    """State that a source is not there, and why."""
    return SensorFacts(name=name, quantity=quantity, status="absent", reason=reason)


def state_each(*sources: tuple[str, Quantity, Callable[[], tuple[SensorFacts, ...]]]) -> tuple[SensorFacts, ...]:
    """Ask each source (its name, what it gives, its facts) on its own; one that fails is stated as broken."""
    facts: list[SensorFacts] = []
    for name, quantity, source in sources:
        try:
            facts += source()
        except SensorUnavailableError as error:
            facts.append(SensorFacts(name=name, quantity=quantity, status="broken", reason=error.problem))
    return tuple(facts)
