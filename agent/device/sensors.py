"""The table of sensor sources: what this board can read, one line per source.

Rules: every source is asked on its own; one that fails states so and never takes another down. What a whole board lacks
is stated too, so that silence and absence differ. Meters outside the board, and the libraries behind them and behind
graphics cards, are loaded when a pass first asks for power or for the facts, never by an idle agent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from agent.core.facts import SensorFacts
from agent.core.ports import Clock, PowerMeter
from agent.device import (
    cpufreq,
    edge_tpu,
    fan,
    power_battery,
    power_ina2xx,
    power_ina3221,
    power_pmic,
    power_rapl,
    thermal,
)
from agent.device.outside import Outside
from agent.device.profiles import PowerSpec, Profile
from agent.device.root import SysRoot
from agent.device.sensor_state import Quantity, absent
from agent.device.throttle import ThrottleSources
from agent.device.vcgencmd import Firmware, firmware_of
from agent.errors import SensorUnavailableError

if TYPE_CHECKING:  # loaded where they are used: an idle agent needs none of them
    from agent.device.power_mqtt import MqttMeters
    from agent.device.power_nvml import Cards

_NVIDIA_NODES = ("dev/nvidiactl", "proc/driver/nvidia/version")  # there while the driver is loaded
_SCOPE_ORDER = ("board", "module", "package", "gpu", "rails", "estimated")


class Sensors:
    """Every source of one board, found once and kept: hwmon and zone numbers hold until the next boot."""

    def __init__(
        self,
        root: SysRoot,
        profile: Profile,
        clock: Clock,
        firmware: Firmware | None = None,
        power: PowerSpec | None = None,
        *,
        outside: Outside = Outside(),  # noqa: B008 - immutable
    ) -> None:
        self.outside = outside
        self.root, self.profile, self.clock = root, profile, clock
        self.power = power or profile.power
        self._is_pi = any(name.startswith("raspberrypi,") for name in root.device_tree("compatible"))
        self.firmware = firmware or (firmware_of(root) if self._is_pi else None)

    @cached_property
    def zones(self) -> tuple[thermal.Zone, ...]:
        """Thermal zones."""
        return thermal.find_zones(self.root, self.profile.thermal)

    @cached_property
    def policies(self) -> tuple[cpufreq.Policy, ...]:
        """Frequency policies."""
        return cpufreq.find_policies(self.root)

    @cached_property
    def throttle(self) -> ThrottleSources:
        """Throttle sources."""
        return ThrottleSources(self.root, self.firmware, self._is_pi)

    @cached_property
    def rails(self) -> tuple[power_ina3221.Rail, ...]:
        """INA3221 rails."""
        return power_ina3221.find_rails(self.root)

    @cached_property
    def monitors(self) -> tuple[power_ina2xx.Monitor, ...]:
        """INA2xx chips."""
        return power_ina2xx.find_monitors(self.root, self.power)

    @cached_property
    def counters(self) -> tuple[power_rapl.Counter, ...]:
        """RAPL counters."""
        return power_rapl.find_counters(self.root)

    @cached_property
    def batteries(self) -> tuple[power_battery.Battery, ...]:
        """Batteries."""
        return power_battery.find_batteries(self.root)

    @cached_property
    def external(self) -> MqttMeters | None:
        """Meters in the board's supply, None where none is configured. Raises: ConfigError."""
        if not self.outside.meters:
            return None
        from agent.device.power_mqtt import MqttMeters

        return MqttMeters(self.outside.meters, self.clock)

    @cached_property
    def cards(self) -> Cards | None:
        """NVIDIA's library, None where its driver is not loaded or the library cannot be used."""
        if not any(self.root.exists(node) for node in _NVIDIA_NODES) or not self.root.is_real:
            return None
        from agent.device.power_nvml import Nvml

        try:
            return Nvml()
        except SensorUnavailableError:
            return None

    def _pmic(self) -> tuple[SensorFacts, ...]:
        return power_pmic.describe(self.firmware) if "pmic" in self.power.sources else ()

    def _external(self) -> tuple[SensorFacts, ...]:
        return self.external.describe() if self.external is not None else ()

    def _cards(self) -> tuple[SensorFacts, ...]:
        if self.cards is None:
            return ()
        from agent.device import power_nvml

        return power_nvml.describe(self.clock, self.cards)

    def describe(self) -> tuple[SensorFacts, ...]:
        """State every source of the table, and the absence of power where nothing measures it."""
        power = self.power
        table: tuple[tuple[str, Quantity, Callable[[], tuple[SensorFacts, ...]]], ...] = (
            ("thermal", "temperature", lambda: thermal.describe(self.root, self.zones)),
            ("edge_tpu", "temperature", lambda: edge_tpu.describe(self.root)),
            ("cpufreq", "frequency", lambda: cpufreq.describe(self.root, self.policies)),
            ("throttle", "throttle", self.throttle.describe),
            ("fan", "fan", lambda: fan.describe(self.root)),
            ("ina3221", "power", lambda: power_ina3221.describe(self.root, power, self.rails)),
            ("ina2xx", "power", lambda: power_ina2xx.describe(self.root, self.monitors)),
            ("rapl", "energy", lambda: power_rapl.describe(self.root, self.counters)),
            ("battery", "battery", lambda: power_battery.describe(self.root, self.batteries)),
            ("pmic", "power", self._pmic),
            ("nvml", "power", self._cards),
            ("external meter", "power", self._external),
        )
        facts: list[SensorFacts] = []
        for name, quantity, source in table:
            try:
                facts += source()
            except SensorUnavailableError as error:
                facts.append(SensorFacts(name=name, quantity=quantity, status="broken", reason=error.problem))
        if not any(fact.quantity in {"power", "energy", "battery"} for fact in facts):
            facts.append(absent("power", "power", power.absent_reason or "no known power sensor on this board"))
        return tuple(facts)

    def meters(self) -> tuple[PowerMeter, ...]:
        """Return the meters that read now, best scope first, and the user's own before the board's of one scope."""
        power = self.power
        found: list[PowerMeter] = [
            *(self.external.meters() if self.external is not None else ()),
            *power_ina3221.meters(self.root, self.clock, power, self.rails),
            *power_ina2xx.meters(self.root, self.clock, self.monitors),
            *power_battery.meters(self.root, self.clock, self.batteries),
            *power_rapl.meters(self.root, self.clock, self.counters),
            *(power_pmic.meters(self.clock, self.firmware, self.outside.pmic_fit) if "pmic" in power.sources else ()),
        ]
        if self.cards is not None:
            from agent.device import power_nvml

            found += power_nvml.meters(self.clock, self.cards)
        return tuple(sorted(found, key=lambda meter: _SCOPE_ORDER.index(meter.scope)))

    def rail_meters(self) -> tuple[PowerMeter, ...]:
        """Return a meter for every single rail: for telemetry, none of them is the board's power."""
        return power_ina3221.rail_meters(self.root, self.clock, self.rails)

    def power_absence(self) -> str:
        """Say why there is no power meter: what was found and failed, what reads but is no total, or nothing at all."""
        found = [fact for fact in self.describe() if fact.quantity in {"power", "energy", "battery"}]
        failed = [f"{fact.name} is {fact.status}: {fact.reason}" for fact in found if fact.status != "ok"]
        parts = [fact.name for fact in found if fact.status == "ok"]
        if parts:
            failed.append(f"{', '.join(parts)} can be read, but nothing says that it is the board's total")
        return "; ".join(failed)
