"""INA2xx power monitors: a HAT on a Raspberry Pi, the input monitor of a Jetson AGX Thor.

What such a chip measures depends on where it is wired: it passes for the board's power only where the profile, or the
user in its place, names its label (or, without one, its chip name) as the total.

Source: torvalds/linux Documentation/hwmon/ina2xx.rst and ina238.rst (power1_input in µW); Thor's INA238 labelled VIN:
rbonghi/jetson_stats pull request 900.
"""

from __future__ import annotations

from functools import partial

import msgspec

from agent.core.facts import PowerScope, SensorFacts
from agent.core.ports import Clock, PowerMeter, PowerSample
from agent.device import hwmon
from agent.device.profiles import PowerSpec
from agent.device.root import SysRoot
from agent.device.sensor_state import try_sensor

_CHIPS = ("ina219", "ina220", "ina226", "ina228", "ina230", "ina231", "ina233", "ina237", "ina238", "ina260")
_LABELS = ("power1_label", "in1_label", "label")
_W_PER_UW = 1e-6
_DEFAULT_PERIOD_S = 0.1  # chosen: for chips that do not state update_interval


class Monitor(msgspec.Struct, frozen=True, kw_only=True):
    """One chip's power channel."""

    name: str
    path: str
    is_total: bool
    scope: PowerScope
    period_s: float


def find_monitors(root: SysRoot, spec: PowerSpec) -> tuple[Monitor, ...]:
    """List the chips; two without a label of their own are told apart by their place on the bus."""
    chips = hwmon.find_chips(root, *_CHIPS)
    labels = [
        next((text for name in _LABELS if (text := root.try_text(f"{chip.path}/{name}"))), None) for chip in chips
    ]
    found: list[Monitor] = []
    for chip, label in zip(chips, labels, strict=True):
        name = label or (chip.name if [c.name for c in chips].count(chip.name) == 1 else f"{chip.name}@{chip.tag}")
        if label is not None and labels.count(label) > 1:
            name = f"{label}@{chip.tag}"
        interval_ms = root.try_int(f"{chip.path}/update_interval")
        own = label or chip.name
        total = own == spec.total_rail and [one or c.name for one, c in zip(labels, chips, strict=True)].count(own) == 1
        found.append(
            Monitor(
                name=f"ina2xx:{name}",
                path=f"{chip.path}/power1_input",
                is_total=total,
                scope=(spec.total_scope or "rails") if total else "rails",
                period_s=interval_ms / 1000.0 if interval_ms else _DEFAULT_PERIOD_S,
            )
        )
    return tuple(found)


class MonitorMeter:
    """Power of one chip."""

    def __init__(self, root: SysRoot, clock: Clock, monitor: Monitor) -> None:
        self.name = monitor.name
        self.scope: str = monitor.scope
        self.period_s = monitor.period_s
        self._root, self._clock, self._path = root, clock, monitor.path

    def read(self) -> PowerSample:
        """Read once. Raises: SensorUnavailableError."""
        power_w = self._root.read_int(self._path) * _W_PER_UW
        return PowerSample(monotonic_s=self._clock.monotonic_s(), power_w=power_w)


def meters(root: SysRoot, clock: Clock, monitors: tuple[Monitor, ...]) -> tuple[PowerMeter, ...]:
    """Return the meter of the total if it reads now."""
    return tuple(
        MonitorMeter(root, clock, monitor)
        for monitor in monitors
        if monitor.is_total and root.try_int(monitor.path) is not None
    )


def describe(root: SysRoot, monitors: tuple[Monitor, ...]) -> tuple[SensorFacts, ...]:
    """State every chip and whether it reads."""
    return tuple(
        try_sensor(
            monitor.name,
            "power",
            partial(root.read_int, monitor.path),
            source=monitor.path,
            unit="W",
            scope=monitor.scope,
        )
        for monitor in monitors
    )
