"""The sensors of one board: what its condition is read from, always; what measures its power, once that is asked for.

Rules: every source is asked on its own; one that fails states so and never takes another down. What a whole board lacks
is stated too, so that silence and absence differ. An idle agent reads temperature, clock and throttling only: power
(``power_sources``) is loaded when a pass first asks for meters or for the facts.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from agent.core.facts import SensorFacts
from agent.core.ports import Clock
from agent.device import cpufreq, edge_tpu, fan, thermal
from agent.device.outside import Outside
from agent.device.profiles import PowerSpec, Profile
from agent.device.root import SysRoot
from agent.device.sensor_state import state_each
from agent.device.throttle import ThrottleSources
from agent.device.vcgencmd import Firmware, firmware_of

if TYPE_CHECKING:
    from agent.device.power_sources import PowerSources


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
        self.root, self.profile, self.clock = root, profile, clock
        self._power_spec, self._outside = power or profile.power, outside
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
        return ThrottleSources(self.root, self.firmware, self._is_pi, self.profile)

    @cached_property
    def power(self) -> PowerSources:
        """Power sources."""
        from agent.device.power_sources import PowerSources  # the heavier part, which an idle agent does without

        return PowerSources(self.root, self._power_spec, self.clock, self.firmware, self._outside)

    def describe(self) -> tuple[SensorFacts, ...]:
        """State every source there is, and the absence of what a board should have."""
        condition = state_each(
            ("thermal", "temperature", lambda: thermal.describe(self.root, self.zones)),
            ("edge_tpu", "temperature", lambda: edge_tpu.describe(self.root)),
            ("cpufreq", "frequency", lambda: cpufreq.describe(self.root, self.policies)),
            ("throttle", "throttle", self.throttle.describe),
            ("fan", "fan", lambda: fan.describe(self.root)),
        )
        return condition + self.power.describe()
