"""Temperatures by zone type, and the one that stands for the board.

Rules:
- Zones are named by type, never by number. PMIC-Die of older Jetsons is a constant and is dropped.
- The board's temperature is the zone the profile names, else ``tj`` (the maximum of the others on Orin and Thor), else
  the hottest CPU-like zone, else a CPU package chip of hwmon. One unreadable zone does not end the sweep.

Sources: sys/class/thermal/thermal_zone*/{type,temp} in millidegrees (torvalds/linux
Documentation/driver-api/thermal/sysfs-api.rst); rbonghi/jetson_stats jtop/core/temperature.py for tj and the zones that
answer EAGAIN while gated; MartinMatta/Jetson-Nano-temperature issue 2 for PMIC-Die.
"""

from __future__ import annotations

import re
from functools import partial
from typing import NamedTuple

import msgspec

from agent.core.facts import SensorFacts
from agent.device import hwmon
from agent.device.profiles import ThermalSpec
from agent.device.root import SysRoot, unavailable
from agent.device.sensor_state import absent, try_sensor
from agent.errors import SensorUnavailableError

_MILLI = 1000.0
_PLAUSIBLE_CELSIUS = (-55.0, 150.0)  # chosen: wider than any commercial part's junction limits
_CONSTANT_ZONES = frozenset({"PMIC-Die"})
_ESTIMATES = frozenset({"thermal-fan-est"})  # a weighted mix for the fan, not a sensor
_CPU_LIKE = re.compile(r"(^|[^a-z])([bm]?cpu|x86_pkg_temp|soc|package|bigcore|littlecore|mpu)", re.IGNORECASE)
_CPU_CHIPS = ("coretemp", "k10temp", "cpu_thermal", "zenpower")


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """One temperature source: what it is called and the file that holds it."""

    type: str
    path: str


class Temperature(NamedTuple):
    """A temperature and where it was read."""

    celsius: float
    zone: str


def find_zones(root: SysRoot, spec: ThermalSpec) -> tuple[Zone, ...]:
    """List the zones worth reading, CPU package chips of hwmon included where there is no CPU zone."""
    dropped = _CONSTANT_ZONES | _ESTIMATES | set(spec.ignored_zone_types)
    zones = [
        Zone(type=kind, path=f"{path}/temp")
        for path in root.glob("sys/class/thermal/thermal_zone*")
        if (kind := root.try_text(f"{path}/type")) and kind not in dropped
    ]
    if not any(_CPU_LIKE.search(zone.type) or zone.type.startswith("tj") for zone in zones):
        zones += [
            Zone(type=chip.name, path=f"{chip.path}/temp1_input")
            for chip in hwmon.find_chips(root, *_CPU_CHIPS)
            if root.exists(f"{chip.path}/temp1_input")
        ]
    return tuple(zones)


def read_zone(root: SysRoot, zone: Zone) -> float:
    """Return one zone in degrees Celsius. Raises: SensorUnavailableError."""
    celsius = root.read_int(zone.path) / _MILLI
    low, high = _PLAUSIBLE_CELSIUS
    if not low <= celsius <= high:
        raise unavailable(zone.type, "broken", why=f"{celsius:g} °C cannot be")
    return celsius


def board_zones(zones: tuple[Zone, ...], spec: ThermalSpec) -> tuple[tuple[Zone, ...], ...]:
    """Return groups of zones, best first; the hottest of the first group that answers stands for the board."""
    named = tuple(zone for zone in zones if zone.type in spec.board_zone_types)
    junction = tuple(zone for zone in zones if zone.type.lower().startswith("tj"))
    cpu = tuple(zone for zone in zones if _CPU_LIKE.search(zone.type) or zone.type in _CPU_CHIPS)
    return named, junction, cpu


def read_board(root: SysRoot, zones: tuple[Zone, ...], spec: ThermalSpec) -> tuple[Temperature | None, tuple[str, ...]]:
    """Return the board's temperature now, and a note for each zone that failed on the way."""
    notes: list[str] = []
    tried: set[Zone] = set()
    for group in board_zones(zones, spec):
        readings: list[Temperature] = []
        for zone in group:
            if zone in tried:
                continue
            tried.add(zone)
            try:
                readings.append(Temperature(read_zone(root, zone), zone.type))
            except SensorUnavailableError as error:
                notes.append(f"temperature {zone.type}: {error.problem}")
        if readings:
            return max(readings), tuple(notes)
    return None, tuple(notes)


def describe(root: SysRoot, zones: tuple[Zone, ...]) -> tuple[SensorFacts, ...]:
    """State every zone and whether it reads."""
    if not zones:
        return (absent("thermal", "temperature", "the kernel offers no thermal zone"),)
    return tuple(
        try_sensor(f"thermal:{zone.type}", "temperature", partial(read_zone, root, zone), source=zone.path, unit="°C")
        for zone in zones
    )
