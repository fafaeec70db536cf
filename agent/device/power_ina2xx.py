"""INA2xx power monitors: a HAT on a Raspberry Pi, the input monitor of a Jetson AGX Thor.

What such a chip measures depends on where it is wired: it passes for the board's power only where the profile, or the
user in its place, names its label (or, without one, its chip name) as the total.

Source: torvalds/linux Documentation/hwmon/ina2xx.rst and ina238.rst (power1_input in µW, in1_input the bus in mV,
shunt_resistor in µohm); Thor's INA238 labelled VIN: rbonghi/jetson_stats pull request 900. Step of the power register:
drivers/hwmon/ina2xx.c, power_lsb_factor and shunt_div; gain error and offset of INA226: Texas Instruments SBOS547.
The shunt's own tolerance is not known here and comes on top.
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
_SHORTEST_PERIOD_S = 0.02  # chosen: 50 Hz, so that a bus transfer a value costs little
_STEP_V = {"ina219": 10e-6, "ina220": 10e-6, "ina226": 2.5e-6, "ina230": 2.5e-6, "ina231": 2.5e-6}  # shunt voltage
_POWER_STEPS = {"ina219": 20, "ina220": 20, "ina226": 25, "ina230": 25, "ina231": 25}  # steps of current, at 1 V
_ACCURACY_RATIO = {"ina226": 0.002}  # gain errors of shunt and bus, 0.1 % each
_OFFSET_V = {"ina226": 10e-6}  # of the shunt; the bus's 7.5 mV is far below the gain error


class Monitor(msgspec.Struct, frozen=True, kw_only=True):
    """One chip's power channel."""

    name: str
    path: str
    is_total: bool
    scope: PowerScope
    period_s: float
    resolution_w: float | None = None
    accuracy_ratio: float | None = None
    offset_a: float | None = None


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
                period_s=max(_SHORTEST_PERIOD_S, interval_ms / 1000.0) if interval_ms else _DEFAULT_PERIOD_S,
                **_errors(root, chip),
            )
        )
    return tuple(found)


def _errors(root: SysRoot, chip: hwmon.Chip) -> dict[str, float | None]:
    """Return what is known of a chip's error; the driver sets its current step to one step of the shunt voltage."""
    micro_ohm = root.try_int(f"{chip.path}/shunt_resistor")
    if chip.name not in _STEP_V or micro_ohm is None or micro_ohm <= 0:
        return {}
    ohm, offset_v = micro_ohm / 1e6, _OFFSET_V.get(chip.name)
    return {
        "resolution_w": _POWER_STEPS[chip.name] * _STEP_V[chip.name] / ohm,
        "accuracy_ratio": _ACCURACY_RATIO.get(chip.name),
        "offset_a": None if offset_v is None else offset_v / ohm,
    }


class MonitorMeter:
    """Power of one chip."""

    def __init__(self, root: SysRoot, clock: Clock, monitor: Monitor) -> None:
        self.name = monitor.name
        self.scope: str = monitor.scope
        self.period_s = monitor.period_s
        self._root, self._clock, self._monitor = root, clock, monitor
        bus_mv = root.try_int(f"{monitor.path.rsplit('/', 1)[0]}/in1_input")  # the supply's voltage hardly moves
        known = bus_mv is not None and monitor.offset_a is not None
        self._offset_w = (bus_mv or 0) / 1000.0 * (monitor.offset_a or 0.0) if known else None

    def read(self) -> PowerSample:
        """Read once. Raises: SensorUnavailableError."""
        power_w = self._root.read_int(self._monitor.path) * _W_PER_UW
        return PowerSample(
            monotonic_s=self._clock.monotonic_s(),
            power_w=power_w,
            resolution_w=self._monitor.resolution_w,
            accuracy_ratio=self._monitor.accuracy_ratio,
            offset_w=self._offset_w,
        )


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
