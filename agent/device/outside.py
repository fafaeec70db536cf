"""What the user adds to what a board reads of itself, as plain values: an idle agent holds these and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

if TYPE_CHECKING:  # reading a board needs no MQTT
    from agent.mqtt import BrokerSettings

MeterKind = Literal["shelly", "shelly-gen1", "tasmota"]


class MeterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A meter in the board's supply that tells over MQTT.

    ``period_s`` None is its kind's; ``accuracy_ratio`` as its maker states it, None unknown.
    """

    name: str
    kind: MeterKind
    topic: str
    broker: BrokerSettings
    component: str | None = None
    period_s: float | None = None
    accuracy_ratio: float | None = None
    ask: bool = True


class Fit(NamedTuple):
    """The user's own fit of the whole board's power: ``gain`` times the sum of the rails plus ``offset_w``."""

    gain: float
    offset_w: float


class Outside(NamedTuple):
    """Meters in the board's supply, and a fit of its whole power to its rails'."""

    meters: tuple[MeterSettings, ...] = ()
    pmic_fit: Fit | None = None
