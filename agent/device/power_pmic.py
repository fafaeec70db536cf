"""The power management chip of Raspberry Pi 5 and 500, asked through ``vcgencmd pmic_read_adc``.

Rules:
- Currents and voltages are paired by rail name. What has no current (EXT5V, BATT) is no power.
- The sum leaves out USB, HATs, NVMe and the regulators' own loss, so its scope is ``rails``, never ``board``. A fit of
  the sum against a wall meter is one author's board: it is taken from the configuration alone, and its result is
  ``estimated``, which decides no power budget unless the task says so.

Sources: line format and rails: jfikar/RPi5-power README.md, ml-energy/zeus issue 273. One call starts a process and
costs about 14 ms and more on a Pi 5, hence the period.
"""

from __future__ import annotations

import math
import re

from agent.core.facts import SensorFacts
from agent.core.ports import Clock, PowerMeter, PowerSample
from agent.device.outside import Fit
from agent.device.root import unavailable
from agent.device.sensor_state import absent, try_sensor
from agent.device.vcgencmd import Firmware
from agent.errors import SensorUnavailableError

_LINE = re.compile(r"\s*(\w+?)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*")
_PERIOD_S = 0.25  # chosen: 4 Hz, so that asking costs below a tenth of one core
_COMMAND = "pmic_read_adc"
_NAME = "pmic:paired rails"


def parse_pmic(text: str) -> dict[str, float]:
    """Return watts per rail that has both a current and a voltage. Raises: SensorUnavailableError: no such rail."""
    currents: dict[str, float] = {}
    voltages: dict[str, float] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is not None:
            try:
                (currents if match[2] == "A" else voltages)[match[1]] = float(match[3])
            except ValueError:
                continue
    products = {rail: currents[rail] * voltages[rail] for rail in currents if rail in voltages}
    powers = {rail: power_w for rail, power_w in products.items() if math.isfinite(power_w)}
    if not powers:
        raise unavailable("pmic_read_adc", "broken", why="no rail with both current and voltage in its answer")
    return powers


class PmicMeter:
    """Sum over the rails that have both a current and a voltage; with a fit, an estimate of the whole board."""

    def __init__(self, clock: Clock, firmware: Firmware, fit: Fit | None = None) -> None:
        self.name = _NAME if fit is None else f"{_NAME}, fitted"
        self.scope = "rails" if fit is None else "estimated"
        self.period_s = _PERIOD_S
        self._clock, self._firmware, self._fit = clock, firmware, fit or Fit(1.0, 0.0)

    def read(self) -> PowerSample:
        """Read once; stamped halfway between question and answer. Raises: SensorUnavailableError."""
        asked_s = self._clock.monotonic_s()
        rails_w = sum(parse_pmic(self._firmware(_COMMAND)).values())
        at_s = (asked_s + self._clock.monotonic_s()) / 2.0
        return PowerSample(monotonic_s=at_s, power_w=self._fit.gain * rails_w + self._fit.offset_w)


def meters(clock: Clock, firmware: Firmware | None, fit: Fit | None = None) -> tuple[PowerMeter, ...]:
    """Return the meter if the firmware answers: the user's estimate of the board where there is one, else the rails."""
    if firmware is None:
        return ()
    meter = PmicMeter(clock, firmware, fit)
    try:
        meter.read()
    except SensorUnavailableError:
        return ()
    return (meter,)


def describe(firmware: Firmware | None) -> tuple[SensorFacts, ...]:
    """State whether the chip can be asked."""
    if firmware is None:
        return (absent(_NAME, "power", "vcgencmd is not there to ask the firmware"),)
    ask = firmware
    return (
        try_sensor(
            _NAME, "power", lambda: parse_pmic(ask(_COMMAND)), source=f"vcgencmd {_COMMAND}", unit="W", scope="rails"
        ),
    )
