"""INA3221 rails of Jetson boards: three channels per chip, power as bus voltage times current.

Rules:
- The total is the rail the profile names. Where a board has none, only the rails the profile lists are added, with
  scope ``rails``. Other rails are sensors that can be read one by one; none of them passes for the board's power.
- Rails lie inside VDD_IN, so adding them all would count twice.
- Channels labelled NC, in4 and above (shunt voltages) and curr4 (the chip's own sum) are not rails.

Sources: hwmon layout, mV and mA: torvalds/linux Documentation/hwmon/ina3221.rst. JetPack 4's ina3221x driver with
rail_name_N and in_powerN_input (mW): rbonghi/jetson_stats jtop/core/power.py, alumet-dev/alumet plugins/nvidia-jetson.
A gated rail can read a little below zero (swsususu/ThorFAN README): a rail gives no power back, so that is 0 W.
update_interval holds the averaging (``samples``) by that document, and does not in the driver since "restrict the
conversion-ready wait" (7 ms with samples 16, seen under kernel 6.1). Step, gain error and offset: Texas Instruments
SBOS576, electrical characteristics; the shunt's own tolerance is not known here and comes on top. JetPack 4's power
file tells neither step nor shunt.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import msgspec

from agent.core.facts import PowerScope, SensorFacts
from agent.core.ports import Clock, PowerMeter, PowerSample
from agent.device import hwmon
from agent.device.profiles import PowerSpec
from agent.device.root import SysRoot
from agent.device.sensor_state import try_sensor
from agent.errors import SensorUnavailableError

_W_PER_MW = 1e-3
_W_PER_MV_MA = 1e-6
_UNUSED = frozenset({"NC", ""})
_DEFAULT_PERIOD_S = 0.1  # chosen: for chips that do not state update_interval
_SHORTEST_PERIOD_S = 0.02  # chosen: 50 Hz, so that two bus transfers a value cost little
_LONGEST_CONVERSION_MS = 50  # three channels, shunt and bus, 8.244 ms each
_SHUNT_STEP_V, _BUS_STEP_V = 40e-6, 8e-3
_SHUNT_OFFSET_V, _BUS_OFFSET_V = 80e-6, 16e-3
_ACCURACY_RATIO = 0.005  # gain errors of shunt and bus, 0.25 % each
_JP4_GLOB = "sys/bus/i2c/drivers/ina3221x/*/iio:device*"


class Rail(msgspec.Struct, frozen=True, kw_only=True):
    """One channel: either a power file in mW, or a voltage file in mV with a current file in mA."""

    label: str
    tag: str
    power_mw: str | None = None
    voltage_mv: str | None = None
    current_ma: str | None = None
    shunt_ohm: float | None = None
    period_s: float = _DEFAULT_PERIOD_S

    @property
    def source(self) -> str:
        """The file, or the files, behind this rail."""
        return self.power_mw or f"{self.voltage_mv} x {self.current_ma}"

    def read_w(self, root: SysRoot) -> float:
        """Read the rail's power in watts. Raises: SensorUnavailableError."""
        return self.read(root).power_w

    def read(self, root: SysRoot) -> RailReading:
        """Read the rail's power and what is known of its error, in watts. Raises: SensorUnavailableError."""
        if self.power_mw is not None:
            return RailReading(max(0.0, root.read_int(self.power_mw) * _W_PER_MW), None, None)
        voltage, current = root.read_int(str(self.voltage_mv)), root.read_int(str(self.current_ma))
        power_w = max(0.0, voltage * current * _W_PER_MV_MA)
        if self.shunt_ohm is None:
            return RailReading(power_w, None, None)
        volts, amperes = abs(voltage) / 1000.0, abs(current) / 1000.0
        step_w = volts * _SHUNT_STEP_V / self.shunt_ohm + amperes * _BUS_STEP_V
        return RailReading(power_w, step_w, volts * _SHUNT_OFFSET_V / self.shunt_ohm + amperes * _BUS_OFFSET_V)


class RailReading(NamedTuple):
    """Power of a rail with its step and the bound on its offset, in watts; None is unknown."""

    power_w: float
    resolution_w: float | None
    offset_w: float | None


def _period_s(root: SysRoot, path: str) -> float:
    """Return how often the chip has a new value; up to 50 ms, kernels that leave the averaging out are meant."""
    interval_ms = root.try_int(f"{path}/update_interval")
    if not interval_ms:
        return _DEFAULT_PERIOD_S
    if interval_ms <= _LONGEST_CONVERSION_MS:
        interval_ms *= max(1, root.try_int(f"{path}/samples") or 1)
    return max(_SHORTEST_PERIOD_S, interval_ms / 1000.0)


def _shunt_ohm(root: SysRoot, path: str, channel: int) -> float | None:
    micro_ohm = root.try_int(f"{path}/shunt{channel}_resistor")
    return micro_ohm / 1e6 if micro_ohm is not None and micro_ohm > 0 else None


def find_rails(root: SysRoot) -> tuple[Rail, ...]:
    """List the labelled rails of every INA3221, in either driver's layout."""
    rails: list[Rail] = []
    for chip in hwmon.find_chips(root, "ina3221"):
        for channel in (1, 2, 3):
            label = root.try_text(f"{chip.path}/in{channel}_label")
            if label is not None and label not in _UNUSED:
                rails.append(
                    Rail(
                        label=label,
                        tag=f"{chip.tag}/in{channel}",
                        voltage_mv=f"{chip.path}/in{channel}_input",
                        current_ma=f"{chip.path}/curr{channel}_input",
                        shunt_ohm=_shunt_ohm(root, chip.path, channel),
                        period_s=_period_s(root, chip.path),
                    )
                )
    for path in root.glob(_JP4_GLOB):
        for channel in (0, 1, 2):
            label = root.try_text(f"{path}/rail_name_{channel}")
            if label is not None and label not in _UNUSED:
                power = f"{path}/in_power{channel}_input"
                rails.append(
                    Rail(
                        label=label,
                        tag=f"{path.split('/')[-2]}/{channel}",
                        power_mw=power if root.exists(power) else None,
                        voltage_mv=f"{path}/in_voltage{channel}_input",
                        current_ma=f"{path}/in_current{channel}_input",
                    )
                )
    return tuple(rails)


class RailMeter:
    """Power of one rail, or of several rails that the profile says may be added."""

    def __init__(self, root: SysRoot, clock: Clock, rails: tuple[Rail, ...], name: str, scope: PowerScope) -> None:
        self.name = name
        self.scope: str = scope
        self.period_s = max(rail.period_s for rail in rails)
        self._root, self._clock, self._rails = root, clock, rails

    def read(self) -> PowerSample:
        """Read once. Raises: SensorUnavailableError."""
        readings = [rail.read(self._root) for rail in self._rails]
        steps = [one.resolution_w for one in readings if one.resolution_w is not None]
        offsets = [one.offset_w for one in readings if one.offset_w is not None]
        known = len(steps) == len(readings)
        return PowerSample(
            monotonic_s=self._clock.monotonic_s(),
            power_w=sum(one.power_w for one in readings),
            resolution_w=sum(steps) if known else None,
            accuracy_ratio=_ACCURACY_RATIO if known else None,
            offset_w=sum(offsets) if known else None,
        )


def _named(rails: tuple[Rail, ...]) -> list[tuple[str, Rail]]:
    labels = [rail.label for rail in rails]
    return [
        (f"ina3221:{rail.label}" + (f"@{rail.tag}" if labels.count(rail.label) > 1 else ""), rail) for rail in rails
    ]


def _readable(root: SysRoot, rail: Rail) -> bool:
    try:
        rail.read_w(root)
    except SensorUnavailableError:
        return False
    return True


def meters(root: SysRoot, clock: Clock, spec: PowerSpec, rails: tuple[Rail, ...]) -> tuple[PowerMeter, ...]:
    """Return the meter of the total, or of the stated sum, if it reads now."""
    readable = [(name, rail) for name, rail in _named(rails) if _readable(root, rail)]
    found: list[PowerMeter] = []
    totals = [(name, rail) for name, rail in readable if rail.label == spec.total_rail]
    if len(totals) == 1:
        found.append(RailMeter(root, clock, (totals[0][1],), totals[0][0], spec.total_scope or "rails"))
    summed = tuple(rail for _, rail in readable if rail.label in spec.sum_rails)
    if spec.sum_rails and sorted(rail.label for rail in summed) == sorted(spec.sum_rails):
        found.append(RailMeter(root, clock, summed, f"ina3221:{'+'.join(spec.sum_rails)}", "rails"))
    return tuple(found)


def rail_meters(root: SysRoot, clock: Clock, rails: tuple[Rail, ...]) -> tuple[PowerMeter, ...]:
    """Return a meter for each rail that reads now: for telemetry, not as the board's power."""
    return tuple(
        RailMeter(root, clock, (rail,), name, "rails") for name, rail in _named(rails) if _readable(root, rail)
    )


def describe(root: SysRoot, spec: PowerSpec, rails: tuple[Rail, ...]) -> tuple[SensorFacts, ...]:
    """State every rail and whether it reads."""
    return tuple(
        try_sensor(
            name,
            "power",
            partial(rail.read_w, root),
            source=rail.source,
            unit="W",
            scope=(spec.total_scope or "rails") if rail.label == spec.total_rail else "rails",
        )
        for name, rail in _named(rails)
    )
