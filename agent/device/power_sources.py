"""What measures this board's power: every source there may be, which of them read now, and why none does.

Rules:
- Every source is asked on its own; one that fails states so and never takes another down.
- Meters outside the board, and the libraries behind them and behind graphics cards, are loaded where there are any.

Loaded when a pass asks for power or for the facts: an idle agent, which reads neither, carries nothing of this.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from agent.core.facts import SensorFacts
from agent.core.ports import Clock, PowerMeter
from agent.device import power_battery, power_ina2xx, power_ina3221, power_pmic, power_rapl
from agent.device.outside import Outside
from agent.device.profiles import PowerSpec
from agent.device.root import SysRoot
from agent.device.sensor_state import absent, state_each
from agent.device.vcgencmd import Firmware
from agent.errors import SensorUnavailableError

if TYPE_CHECKING:  # loaded where they are used: most boards have neither
    from agent.device.power_mqtt import MqttMeters
    from agent.device.power_nvml import Cards

_NVIDIA_NODES = ("dev/nvidiactl", "proc/driver/nvidia/version")  # there while the driver is loaded
_SCOPE_ORDER = ("board", "module", "package", "gpu", "rails", "estimated")


class PowerSources:
    """Every power source of one board, found once and kept: numbers of hwmon chips hold until the next boot."""

    def __init__(
        self, root: SysRoot, spec: PowerSpec, clock: Clock, firmware: Firmware | None, outside: Outside
    ) -> None:
        self._root, self._spec, self._clock = root, spec, clock
        self._firmware = firmware if "pmic" in spec.sources else None
        self._outside = outside

    @cached_property
    def rails(self) -> tuple[power_ina3221.Rail, ...]:
        """INA3221 rails."""
        return power_ina3221.find_rails(self._root)

    @cached_property
    def monitors(self) -> tuple[power_ina2xx.Monitor, ...]:
        """INA2xx chips."""
        return power_ina2xx.find_monitors(self._root, self._spec)

    @cached_property
    def counters(self) -> tuple[power_rapl.Counter, ...]:
        """RAPL counters."""
        return power_rapl.find_counters(self._root)

    @cached_property
    def batteries(self) -> tuple[power_battery.Battery, ...]:
        """Batteries."""
        return power_battery.find_batteries(self._root)

    @cached_property
    def external(self) -> MqttMeters | None:
        """Meters in the board's supply, None where none is configured. Raises: ConfigError."""
        if not self._outside.meters:
            return None
        from agent.device.power_mqtt import MqttMeters

        return MqttMeters(self._outside.meters, self._clock)

    @cached_property
    def cards(self) -> Cards | None:
        """NVIDIA's library, None where its driver is not loaded or the library cannot be used."""
        if not any(self._root.exists(node) for node in _NVIDIA_NODES) or not self._root.is_real:
            return None
        from agent.device.power_nvml import Nvml

        try:
            return Nvml()
        except SensorUnavailableError:
            return None

    def _describe_pmic(self) -> tuple[SensorFacts, ...]:
        return power_pmic.describe(self._firmware) if "pmic" in self._spec.sources else ()

    def _describe_external(self) -> tuple[SensorFacts, ...]:
        return self.external.describe() if self.external is not None else ()

    def _describe_cards(self) -> tuple[SensorFacts, ...]:
        if self.cards is None:
            return ()
        from agent.device import power_nvml

        return power_nvml.describe(self._clock, self.cards)

    def describe(self) -> tuple[SensorFacts, ...]:
        """State every source there is, and the absence of power where nothing measures it."""
        facts = state_each(
            ("ina3221", "power", lambda: power_ina3221.describe(self._root, self._spec, self.rails)),
            ("ina2xx", "power", lambda: power_ina2xx.describe(self._root, self.monitors)),
            ("rapl", "energy", lambda: power_rapl.describe(self._root, self.counters)),
            ("battery", "battery", lambda: power_battery.describe(self._root, self.batteries)),
            ("pmic", "power", self._describe_pmic),
            ("nvml", "power", self._describe_cards),
            ("external meter", "power", self._describe_external),
        )
        reason = self._spec.absent_reason or "no known power sensor on this board"
        return facts or (absent("power", "power", reason),)

    def meters(self) -> tuple[PowerMeter, ...]:
        """Return the meters that read now, best scope first, and the user's own before the board's of one scope."""
        found: list[PowerMeter] = [
            *(self.external.meters() if self.external is not None else ()),
            *power_ina3221.meters(self._root, self._clock, self._spec, self.rails),
            *power_ina2xx.meters(self._root, self._clock, self.monitors),
            *power_battery.meters(self._root, self._clock, self.batteries),
            *power_rapl.meters(self._root, self._clock, self.counters),
            *power_pmic.meters(self._clock, self._firmware, self._outside.pmic_fit),
        ]
        if self.cards is not None:
            from agent.device import power_nvml

            found += power_nvml.meters(self._clock, self.cards)
        return tuple(sorted(found, key=lambda meter: _SCOPE_ORDER.index(meter.scope)))

    def rail_meters(self) -> tuple[PowerMeter, ...]:
        """Return a meter for every single rail: none of them is the board's power."""
        return power_ina3221.rail_meters(self._root, self._clock, self.rails)

    def absence(self) -> str:
        """Say why there is no power meter: what was found and failed, what reads but is no total, or nothing at all."""
        found = self.describe()
        failed = [f"{fact.name} is {fact.status}: {fact.reason}" for fact in found if fact.status != "ok"]
        parts = [fact.name for fact in found if fact.status == "ok"]
        if parts:
            failed.append(f"{', '.join(parts)} can be read, but nothing says that it is the board's total")
        return "; ".join(failed)
