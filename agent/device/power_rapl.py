"""RAPL energy counters of x86: the processor package, or the whole platform (psys) where firmware wires it.

Rules:
- Zones below a package are parts of it, and ``intel-rapl-mmio`` is package-0 a second time: neither is added.
- The counter wraps at max_energy_range_uj. Readings are unwrapped assuming at most one wrap in between, which at 100 W
  and the usual range is over 40 minutes.
- energy_uj is readable by root only since CVE-2020-8694: denied is its own state, not "no sensor".
- A psys that stands at 0 is not wired; its share of the platform is the vendor's choice, so it is preferred last of
  the whole-board sources and named as what it is.

Source: torvalds/linux Documentation/power/powercap/powercap.rst; powercap/powercap issue 7; mlco2/codecarbon issue 244.
"""

from __future__ import annotations

from functools import partial

import msgspec

from agent.core.facts import PowerScope, SensorFacts
from agent.core.ports import Clock, PowerMeter, PowerSample
from agent.core.statistics import counter_delta
from agent.device.root import SysRoot, unavailable
from agent.device.sensor_state import try_sensor
from agent.errors import SensorUnavailableError

_BASE = "sys/class/powercap"
_J_PER_UJ = 1e-6
_PERIOD_S = 0.05  # chosen: counters advance about every millisecond; 20 Hz keeps the reader's own cost small
_RESOLUTION_J = 62e-6  # the usual energy unit, 2^-14 J; some parts have a finer one (powercap.rst names none)
_RENEWED_S = 1e-3  # about how old a value may be
_FIX = "let boardfit's group read energy_uj by a udev rule, or run as root"


class Counter(msgspec.Struct, frozen=True, kw_only=True):
    """One energy counter."""

    zone: str
    path: str
    scope: PowerScope

    def read_uj(self, root: SysRoot) -> int:
        """Read the counter. Raises: SensorUnavailableError."""
        value = root.read_int(f"{self.path}/energy_uj")
        if self.zone == "psys" and value == 0:
            raise unavailable(f"{self.path}/energy_uj", "broken", why="psys stands at 0: firmware does not wire it")
        return value


def find_counters(root: SysRoot) -> tuple[Counter, ...]:
    """List packages and psys, each once; dangling links and unnamed zones are passed over."""
    counters: list[Counter] = []
    for path in root.glob(f"{_BASE}/intel-rapl:[0-9]*"):
        if path.count(":") != 1:
            continue
        zone = root.try_text(f"{path}/name") or ""
        if zone == "psys" or zone.startswith("package"):
            counters.append(Counter(zone=zone, path=path, scope="board" if zone == "psys" else "package"))
    return tuple(counters)


class EnergyMeter:
    """Energy of one psys, or of all packages together, unwrapped and counted from the first reading."""

    def __init__(self, root: SysRoot, clock: Clock, counters: tuple[Counter, ...]) -> None:
        self.name = "rapl:" + "+".join(counter.zone for counter in counters)
        self.scope: str = counters[0].scope
        self.period_s = _PERIOD_S
        self._root, self._clock, self._counters = root, clock, counters
        self._ranges = tuple(root.try_int(f"{counter.path}/max_energy_range_uj") for counter in counters)
        self._last: tuple[int, ...] | None = None
        self._total_uj = 0
        self._last_at = 0.0

    def read(self) -> PowerSample:
        """Read once. Raises: SensorUnavailableError: also when a counter goes back without a known range."""
        now = tuple(counter.read_uj(self._root) for counter in self._counters)
        at = self._clock.monotonic_s()
        before, self._last = self._last, now
        last_at, self._last_at = self._last_at, at
        step_j = _RESOLUTION_J * len(self._counters)
        if before is not None:
            try:
                used_uj = sum(
                    counter_delta(old, new, wrap) for old, new, wrap in zip(before, now, self._ranges, strict=True)
                )
            except ValueError as error:
                raise unavailable(self.name, "broken", why=str(error)) from error
            self._total_uj += used_uj
            step_j += used_uj * _J_PER_UJ * min(1.0, _RENEWED_S / max(_RENEWED_S, at - last_at))
        return PowerSample(monotonic_s=at, energy_j=self._total_uj * _J_PER_UJ, resolution_j=step_j)


def _readable(root: SysRoot, counter: Counter) -> bool:
    try:
        counter.read_uj(root)
    except SensorUnavailableError:
        return False
    return True


def meters(root: SysRoot, clock: Clock, counters: tuple[Counter, ...]) -> tuple[PowerMeter, ...]:
    """Return the meters that read now: psys, then the packages as one."""
    psys = tuple(counter for counter in counters if counter.zone == "psys" and _readable(root, counter))
    packages = tuple(counter for counter in counters if counter.zone != "psys")
    found: list[PowerMeter] = [EnergyMeter(root, clock, psys[:1])] if psys else []
    if packages and all(_readable(root, counter) for counter in packages):
        found.append(EnergyMeter(root, clock, packages))
    return tuple(found)


def describe(root: SysRoot, counters: tuple[Counter, ...]) -> tuple[SensorFacts, ...]:
    """State every counter and whether it reads."""
    found: list[SensorFacts] = []
    for counter in counters:
        facts = try_sensor(
            f"rapl:{counter.zone}",
            "energy",
            partial(counter.read_uj, root),
            source=f"{counter.path}/energy_uj",
            unit="J",
            scope=counter.scope,
        )
        found.append(
            msgspec.structs.replace(facts, reason=f"{facts.reason}; {_FIX}") if facts.status == "denied" else facts
        )
    return tuple(found)
