"""The ``power`` part of agent.yaml: meters in the board's supply, and what the user knows better than the board.

Nothing is contacted here: whether a meter answers is found where it is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from agent.config_values import optional_path, positive, usable_name
from agent.core.units import parse_quantity
from agent.errors import ConfigError


class RawMeter(msgspec.Struct, kw_only=True):
    """One meter as it is written."""

    kind: Literal["shelly", "shelly-gen1", "tasmota"]
    topic: str
    component: str | None = None
    period: Any = None
    accuracy: float | None = None
    ask: bool = True
    url: str | None = None
    username: str | None = None
    password_file: str | None = None
    ca: str | None = None


class RawFit(msgspec.Struct, kw_only=True):
    """A fit as it is written."""

    gain: float
    offset: Any


class RawPower(msgspec.Struct, kw_only=True):
    """The section as it is written."""

    window_max: Any = "30 s"
    pmic_fit: RawFit | None = None
    meters: dict[str, RawMeter] | None = None


class MeterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A meter that tells over MQTT; ``url`` None is the broker of the ``mqtt`` part."""

    name: str
    kind: Literal["shelly", "shelly-gen1", "tasmota"]
    topic: str
    component: str | None
    period_s: float | None
    accuracy_ratio: float | None
    ask: bool
    url: str | None
    username: str | None
    password_file: Path | None
    ca: Path | None


class PowerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How power is measured; ``pmic_fit`` is gain and offset in watts of the user's own estimate of a Pi 5."""

    window_max_s: float
    pmic_fit: tuple[float, float] | None
    meters: tuple[MeterConfig, ...]


def power_config(raw: RawPower, path: Path | None) -> PowerConfig:
    """Check the section. Raises: ConfigError."""
    fit = None
    if raw.pmic_fit is not None:
        if not raw.pmic_fit.gain > 0.0:
            raise ConfigError("power.pmic_fit.gain must be above zero", fix="fit the board's watts over the rails' sum")
        fit = (raw.pmic_fit.gain, parse_quantity(raw.pmic_fit.offset, "power", where="power.pmic_fit.offset"))
    return PowerConfig(
        window_max_s=positive(raw.window_max, "time", "power.window_max"),
        pmic_fit=fit,
        meters=tuple(_meter(name, one, path) for name, one in (raw.meters or {}).items()),
    )


def _meter(name: str, raw: RawMeter, path: Path | None) -> MeterConfig:
    where = f"power.meters.{usable_name(name, 'power.meters')}"
    if not raw.topic or any(mark in raw.topic for mark in "+#"):
        raise ConfigError(f"{where}.topic: {raw.topic!r} is no topic", fix="write the meter's own, without wildcards")
    if raw.accuracy is not None and not 0.0 <= raw.accuracy < 1.0:
        raise ConfigError(f"{where}.accuracy: {raw.accuracy} is no share", fix="write 1 % as 0.01")
    if raw.url is None and (raw.username, raw.password_file, raw.ca) != (None, None, None):
        raise ConfigError(f"{where}: username, password_file and ca go with a url of its own", fix="add url")
    return MeterConfig(
        name=name,
        kind=raw.kind,
        topic=raw.topic,
        component=raw.component,
        period_s=None if raw.period is None else positive(raw.period, "time", f"{where}.period"),
        accuracy_ratio=raw.accuracy,
        ask=raw.ask,
        url=raw.url,
        username=raw.username,
        password_file=optional_path(path, raw.password_file),
        ca=optional_path(path, raw.ca),
    )
