"""A battery's discharge as the power of the whole machine.

Only while it discharges is the battery's power what the board draws. Drivers disagree about the sign, and some give
only current and voltage. USB-C source entries (``ucsi-source-psy*``) are no batteries.
Source: torvalds/linux Documentation/ABI/testing/sysfs-class-power (µW, µA, µV).
"""

from __future__ import annotations

from functools import partial

import msgspec

from agent.core.facts import SensorFacts
from agent.core.ports import Clock, PowerMeter, PowerSample
from agent.device.root import SysRoot, unavailable
from agent.device.sensor_state import try_sensor
from agent.errors import SensorUnavailableError

_BASE = "sys/class/power_supply"
_PERIOD_S = 1.0  # chosen: gas gauges refresh about once a second or slower
_W_PER_UW = 1e-6
_W_PER_UV_UA = 1e-12


class Battery(msgspec.Struct, frozen=True, kw_only=True):
    """One battery."""

    name: str
    path: str

    def read_w(self, root: SysRoot) -> float:
        """Read the discharge power in watts. Raises: SensorUnavailableError: absent while it does not discharge."""
        status = root.read_text(f"{self.path}/status")
        if status != "Discharging":
            raise unavailable(self.name, "absent", why=f"battery is {status.lower()}; only discharge shows the draw")
        if root.exists(f"{self.path}/power_now"):
            return abs(root.read_int(f"{self.path}/power_now")) * _W_PER_UW
        current, voltage = root.read_int(f"{self.path}/current_now"), root.read_int(f"{self.path}/voltage_now")
        return abs(current) * abs(voltage) * _W_PER_UV_UA


def find_batteries(root: SysRoot) -> tuple[Battery, ...]:
    """List the batteries that power the machine, not those of its peripherals."""
    return tuple(
        Battery(name=f"battery:{path.rsplit('/', 1)[-1]}", path=path)
        for path in root.glob(f"{_BASE}/*")
        if root.try_text(f"{path}/type") == "Battery" and root.try_text(f"{path}/scope") != "Device"
    )


class BatteryMeter:
    """Discharge power over all batteries of the machine."""

    def __init__(self, root: SysRoot, clock: Clock, batteries: tuple[Battery, ...]) -> None:
        self.name = "+".join(battery.name for battery in batteries)
        self.scope = "board"
        self.period_s = _PERIOD_S
        self._root, self._clock, self._batteries = root, clock, batteries

    def read(self) -> PowerSample:
        """Read once. Raises: SensorUnavailableError: also when it stopped discharging."""
        power_w = sum(battery.read_w(self._root) for battery in self._batteries)
        return PowerSample(monotonic_s=self._clock.monotonic_s(), power_w=power_w)


def meters(root: SysRoot, clock: Clock, batteries: tuple[Battery, ...]) -> tuple[PowerMeter, ...]:
    """Return the meter if every battery gives its power now."""
    if not batteries:
        return ()
    meter = BatteryMeter(root, clock, batteries)
    try:
        meter.read()
    except SensorUnavailableError:
        return ()
    return (meter,)


def describe(root: SysRoot, batteries: tuple[Battery, ...]) -> tuple[SensorFacts, ...]:
    """State every battery and whether its power reads."""
    return tuple(
        try_sensor(battery.name, "battery", partial(battery.read_w, root), source=battery.path, unit="W", scope="board")
        for battery in batteries
    )
