"""Is the board slowing itself down, or being starved by its supply?

Two kinds of evidence, kept apart: *states* that hold now (by name), and *counters* since boot, of which the difference
over a run counts. A firmware's "has occurred" bits are neither: raspberrypi-hwmon clears them on its own schedule, so
they only say "at some time before now".

What the profile names as the board's own way to tell states decides: while none of those answers, that nothing else
reports slowing down says nothing, and the state is unknown, with a note.

Sources:
- Raspberry Pi get_throttled bits: raspberrypi/documentation os/graphics-utilities.adoc; the sysfs attribute is hex
  without 0x: raspberrypi/linux drivers/firmware/raspberrypi.c. Where it lies differs per SoC and kernel, hence globs.
- rpi_volt in0_lcrit_alarm: raspberrypi/linux drivers/hwmon/raspberrypi-hwmon.c.
- Jetson Orin over-current counters: OE4T/linux-tegra-5.10 drivers/thermal/tegra23x_oc_event.c; ``*-throttle-alert``
  cooling devices: device trees of Orin and Thor.
- INA3221 curr*_crit_alarm: torvalds/linux Documentation/hwmon/ina3221.rst.
- cpufreq cooling devices: torvalds/linux drivers/thermal/cpufreq_cooling.c (``cpufreq-cpu0``, earlier
  ``thermal-cpufreq-0``).
- x86 thermal_throttle counters: torvalds/linux arch/x86/kernel/cpu/mce/therm_throt.c.
"""

from __future__ import annotations

import re
from functools import partial
from typing import NamedTuple

from agent.core.facts import SensorFacts
from agent.device import edge_tpu, hwmon
from agent.device.profiles import UNKNOWN, Profile
from agent.device.root import SysRoot, unavailable
from agent.device.sensor_state import absent, try_sensor
from agent.device.vcgencmd import Firmware
from agent.errors import SensorUnavailableError

_NOW_BITS = ((0, "under_voltage"), (1, "frequency_capped"), (2, "throttled"), (3, "soft_temperature_limit"))
_EVER_SHIFT = 16
_WORD = re.compile(r"[0-9a-f]{1,8}")  # the firmware answers with 32 bits
_PI_GLOBS = (
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/devices/platform/soc*/*firmware*/get_throttled",
    "sys/devices/platform/*firmware*/get_throttled",
)
_COOLING = re.compile(r"(.*-throttle-alert|(thermal-)?cpufreq-.*|Processor)")
_OC_COUNTER = re.compile(r"oc\d+_event_cnt")
# A profile's word for a source that tells states, and how the names of its sensors begin
_STATES = {"get_throttled": "get_throttled", "throttle-alert": "cooling:", "cooling": "cooling:", "apex": "apex:"}
_OTHERS = {
    "rpi_volt": "rpi_volt",
    "soctherm_oc": "over_current:",
    "ina3221": "rail_alarm:",
    "thermal_throttle": "thermal_throttle",
}
_X86_GLOB = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"


class ThrottleReading(NamedTuple):
    """What is known now; None is "this board does not say"."""

    now: tuple[str, ...] | None
    counts: dict[str, int] | None
    supply_ok: bool | None
    ever: tuple[str, ...]
    notes: tuple[str, ...]


def parse_get_throttled(text: str) -> int:
    """Read the word, from sysfs (bare hex) or vcgencmd (``throttled=0x50000``). Raises: SensorUnavailableError."""
    digits = text.strip().rpartition("=")[2].lower().removeprefix("0x")
    if _WORD.fullmatch(digits) is None:  # int() would take a sign, and -1 is every bit
        raise unavailable("get_throttled", "broken", why=f"{text[:40]!r} is not a hexadecimal word")
    return int(digits, 16)


def names_now(word: int) -> tuple[str, ...]:
    """Name the bits 0 to 3 that are set."""
    return tuple(name for bit, name in _NOW_BITS if word >> bit & 1)


def names_ever(word: int) -> tuple[str, ...]:
    """Name the bits 16 to 19 that are set."""
    return names_now(word >> _EVER_SHIFT)


class ThrottleSources:
    """Every throttle source this board has, found once; reading is a handful of small file reads."""

    def __init__(self, root: SysRoot, firmware: Firmware | None, is_pi: bool, profile: Profile = UNKNOWN) -> None:
        self._root = root
        self._own = frozenset(profile.throttle_sources)
        self._none_why = profile.not_stated.get("throttle_sources", "no known throttle source on this board")
        self._firmware = firmware if is_pi else None
        self._pi = next((path for pattern in _PI_GLOBS for path in root.glob(pattern)), None) if is_pi else None
        self._volt = tuple(
            f"{chip.path}/in0_lcrit_alarm"
            for chip in hwmon.find_chips(root, "rpi_volt")
            if root.exists(f"{chip.path}/in0_lcrit_alarm")
        )
        self._cooling = tuple(
            (kind, f"{path}/cur_state")
            for path in root.glob("sys/class/thermal/cooling_device*")
            if (kind := root.try_text(f"{path}/type")) and _COOLING.fullmatch(kind)
        )
        self._alarms = tuple(
            (label, path)
            for chip in hwmon.find_chips(root, "ina3221")
            for channel in (1, 2, 3)
            if (label := root.try_text(f"{chip.path}/in{channel}_label") or "NC") != "NC"
            and root.exists(path := f"{chip.path}/curr{channel}_crit_alarm")
        )
        self._counters = tuple(
            (name.removesuffix("_event_cnt"), f"{chip.path}/{name}")
            for chip in hwmon.find_chips(root, "soctherm_oc")
            for name in root.list_dir(chip.path)
            if _OC_COUNTER.fullmatch(name)
        )
        self._x86 = root.glob(_X86_GLOB)
        self._edge_tpus = edge_tpu.find_edge_tpus(root)

    def _word(self) -> int | None:
        if self._pi is not None:
            return parse_get_throttled(self._root.read_text(self._pi))
        return parse_get_throttled(self._firmware("get_throttled")) if self._firmware is not None else None

    def read(self) -> ThrottleReading:
        """Read every source once; one that fails leaves a note and the others stand."""
        states: list[str] = []
        notes: list[str] = []
        ever: tuple[str, ...] = ()
        answered: set[str] = set()
        supply: bool | None = None
        try:
            word = self._word()
        except SensorUnavailableError as error:
            word = None
            notes.append(f"throttle: {error.problem}")
        if word is not None:
            answered.add("get_throttled")
            states += names_now(word)
            ever = names_ever(word)
            supply = not word & 1
        for path in self._volt if supply is None else ():
            alarm = self._root.try_int(path)
            supply = None if alarm is None else alarm == 0
        for name, path in self._cooling:
            level = self._root.try_int(path)
            if level is not None:
                answered.add("throttle-alert" if name.endswith("-throttle-alert") else "cooling")
            if level:
                states.append(name)
        for rail, path in self._alarms:
            if self._root.try_int(path):
                states.append(f"{rail}_over_current")
        for tpu in self._edge_tpus:
            tripped = edge_tpu.is_slowed(self._root, tpu)
            if tripped is not None:
                answered.add("apex")
            if tripped:
                states.append(f"{tpu.name}_trip_point")
        counts = self._read_counts()
        deciding = self._own & _STATES.keys()
        known = bool(answered & deciding if deciding else answered)
        if not known and deciding and not states:
            text = f"{' and '.join(sorted(deciding))} would tell, and does not answer"
            notes.append(f"throttle: whether the board slows itself down is not known: {text}")
        return ThrottleReading(
            now=tuple(dict.fromkeys(states)) if known or states else None,
            counts=counts or None,
            supply_ok=supply,
            ever=ever,
            notes=tuple(notes),
        )

    def _read_counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for name, path in self._counters:
            value = self._root.try_int(path)
            if value is not None:
                counts[name] = value
        packages: dict[str, int] = {}
        for path in self._x86:
            core = self._root.try_int(f"{path}/core_throttle_count")
            if core is not None:
                counts["core_throttle"] = counts.get("core_throttle", 0) + core
            package = self._root.try_int(f"{path}/package_throttle_count")
            if package is not None:
                # every CPU of a package repeats that package's count
                cpu = path.rsplit("/", 1)[0]
                number = self._root.try_text(f"{cpu}/topology/physical_package_id") or "0"
                packages[number] = max(packages.get(number, 0), package)
        if packages:
            counts["package_throttle"] = sum(packages.values())
        return counts

    def describe(self) -> tuple[SensorFacts, ...]:
        """State every throttle source and whether it answers."""
        facts: list[SensorFacts] = []
        if self._pi is not None or self._firmware is not None:
            source = self._pi or "vcgencmd get_throttled"
            facts.append(try_sensor("get_throttled", "throttle", self._word, source=source))
        files = [("rpi_volt", path) for path in self._volt]
        files += [(f"cooling:{name}", path) for name, path in self._cooling]
        files += [(f"rail_alarm:{rail}", path) for rail, path in self._alarms]
        files += [(f"over_current:{name}", path) for name, path in self._counters]
        files += [(f"apex:{tpu.name}", f"{tpu.path}/trip_point0_temp") for tpu in self._edge_tpus]
        files += [("thermal_throttle", f"{path}/core_throttle_count") for path in self._x86[:1]]
        facts += [try_sensor(name, "throttle", partial(self._root.read_int, path), source=path) for name, path in files]
        once = {fact.name: fact for fact in reversed(facts)}  # a laptop has a cooling device "Processor" per CPU
        found = tuple(reversed(once.values()))
        why = "its profile names it as a way this board tells of throttling, and nothing of it is here"
        missing = tuple(
            absent(kind, "throttle", why)
            for kind, start in (_STATES | _OTHERS).items()
            if kind in self._own and not any(name.startswith(start) for name in once)
        )
        return (*found, *missing) or (absent("throttle", "throttle", self._none_why),)
