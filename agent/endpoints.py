"""Brokers and meters as agent.yaml names them, as the adapters take them. Nothing is opened or contacted here."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.config import Config, MqttConfig
from agent.config_power import MeterConfig
from agent.device.outside import Fit, MeterSettings, Outside
from agent.errors import ConfigError
from agent.mqtt import BrokerSettings, parse_broker_url


def broker_of(settings: MqttConfig) -> BrokerSettings:
    """Return the broker of the fleet. Raises: ConfigError: its url cannot be read."""
    broker = parse_broker_url(settings.url)
    return msgspec.structs.replace(
        broker,
        ca=_text(settings.ca),
        cert=_text(settings.cert),
        key=_text(settings.key),
        username=settings.username or broker.username,
        password_file=_text(settings.password_file),
        protocol="5" if settings.protocol == "5" else "3.1.1",
        keepalive_s=round(settings.keepalive_s),
    )


def outside_of(config: Config) -> Outside:
    """Return what the ``power`` part of the configuration adds to the board. Raises: ConfigError."""
    power = config.power
    fit = None if power.pmic_fit is None else Fit(*power.pmic_fit)
    meters = tuple(
        MeterSettings(
            name=meter.name,
            kind=meter.kind,
            topic=meter.topic,
            broker=_meter_broker(meter, config.mqtt),
            component=meter.component,
            period_s=meter.period_s,
            accuracy_ratio=meter.accuracy_ratio,
            ask=meter.ask,
        )
        for meter in power.meters
    )
    return Outside(meters=meters, pmic_fit=fit)


def _meter_broker(meter: MeterConfig, fleet: MqttConfig | None) -> BrokerSettings:
    where = f"power.meters.{meter.name}.url"
    if meter.url is not None:
        broker = parse_broker_url(meter.url, where=where)
        return msgspec.structs.replace(
            broker,
            ca=_text(meter.ca),
            username=meter.username or broker.username,
            password_file=_text(meter.password_file),
            protocol="3.1.1",  # what every broker for such meters speaks
        )
    if fleet is None:
        raise ConfigError(f"{where}: there is no broker to hear this meter at", fix="give it a url, or add `mqtt:`")
    return broker_of(fleet)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
