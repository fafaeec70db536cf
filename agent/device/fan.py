"""Fans: present, and whether their speed reads. A stopped fan explains many a hot board.

Sources: hwmon ``pwmfan``/``pwm_tach``/``gpio_fan`` (torvalds/linux Documentation/hwmon/); the tachometer of Jetsons
calls its file ``rpm`` and JP4 keeps sys/devices/pwm-fan/rpm_measured: rbonghi/jetson_stats jtop/core/fan.py.
"""

from __future__ import annotations

from functools import partial

from agent.core.facts import SensorFacts
from agent.device import hwmon
from agent.device.root import SysRoot
from agent.device.sensor_state import try_sensor

_CHIPS = ("pwmfan", "pwm_tach", "gpio_fan")
_FILES = ("fan1_input", "rpm")
_JP4 = "sys/devices/pwm-fan/rpm_measured"


def describe(root: SysRoot) -> tuple[SensorFacts, ...]:
    """State each fan with a speed to read; empty where there is none (most boards)."""
    candidates = [
        (chip.name, f"{chip.path}/{name}")
        for chip in hwmon.find_chips(root, *_CHIPS)
        for name in _FILES
        if root.exists(f"{chip.path}/{name}")
    ]
    if root.exists(_JP4):
        candidates.append(("pwm-fan", _JP4))
    return tuple(
        try_sensor(f"fan:{name}", "fan", partial(root.read_int, path), source=path, unit="1/min")
        for name, path in candidates
    )
