"""Known traps of boards, stated only where they hold right now.

Each check looks at facts or at one file and answers yes or no. A profile may say under the check's name what it means
on that board; otherwise the text here stands. A check that cannot tell stays silent.

Sources: raspberrypi/linux pull request 6439 and issue 6980 (memory cgroup, fake NUMA), bcm2712_defconfig (16 KiB pages,
PSI off by default); raspberrypi/documentation os/graphics-utilities.adoc (supply bits); jetson_clocks of L4T.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from agent.core.facts import CpuFacts, MemoryFacts
from agent.device import cgroup, cpufreq
from agent.device.power_mode import PowerMode
from agent.device.root import SysRoot
from agent.device.throttle import ThrottleReading
from agent.errors import SensorUnavailableError

_SLOW_ON_REQUEST = frozenset({"cpufreq-dt", "scmi", "tegra194", "acpi-cpufreq"})


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks look at."""

    root: SysRoot
    cpu: CpuFacts
    memory: MemoryFacts
    pointer_bits: int | None
    policies: tuple[cpufreq.Policy, ...]
    throttle: ThrottleReading
    power_mode: PowerMode | None


def _memory_cgroup_off(seen: Evidence) -> bool:
    return cgroup.memory_controller_on(seen.root) is False


def _pages_16k(seen: Evidence) -> bool:
    return seen.memory.page_size_bytes == 16384


def _pages_64k(seen: Evidence) -> bool:
    return seen.memory.page_size_bytes == 65536


def _psi_off(seen: Evidence) -> bool:
    # a kernel built with PSI but started without it keeps the file and answers EOPNOTSUPP
    try:
        seen.root.read_text("proc/pressure/cpu")
    except SensorUnavailableError as error:
        return error.facts.get("state") == "broken"
    return False


def _userland_32bit(seen: Evidence) -> bool:
    return seen.pointer_bits == 32 and seen.cpu.architecture in {"aarch64", "x86_64"}


def _supply_weak(seen: Evidence) -> bool:
    return seen.throttle.supply_ok is False or "under_voltage" in seen.throttle.ever


def _throttled(seen: Evidence) -> bool:
    return bool(set(seen.throttle.now or ()) - {"under_voltage"})


def _throttled_before(seen: Evidence) -> bool:
    return bool(set(seen.throttle.ever) - {"under_voltage"})


def _clocks_pinned(seen: Evidence) -> bool:
    return cpufreq.pinned(seen.root, seen.policies)


def _governor_powersave(seen: Evidence) -> bool:
    return any(
        policy.driver in _SLOW_ON_REQUEST and cpufreq.governor_of(seen.root, policy) == "powersave"
        for policy in seen.policies
    )


def _cores_offline(seen: Evidence) -> bool:
    online = {core for cluster in seen.cpu.clusters for core in cluster.cores}
    return bool(set(seen.cpu.present) - online)


def _fake_numa(seen: Evidence) -> bool:
    return "numa=fake=" in (seen.root.try_text("proc/cmdline") or "")


def _power_mode_not_default(seen: Evidence) -> bool:
    return seen.power_mode is not None and seen.power_mode.is_default is False


CHECKS: dict[str, tuple[Callable[[Evidence], bool], str]] = {
    "memory_cgroup_off": (
        _memory_cgroup_off,
        "the kernel does not account memory per group, so memory caps of units and containers have no effect",
    ),
    "pages_16k": (_pages_16k, "memory pages are 16 KiB: resident sizes are larger than on a 4 KiB kernel"),
    "pages_64k": (_pages_64k, "memory pages are 64 KiB: resident sizes are larger than on a 4 KiB kernel"),
    "psi_off": (_psi_off, "pressure stall information is switched off; psi=1 on the kernel command line turns it on"),
    "userland_32bit": (_userland_32bit, "a 32-bit Python runs on a 64-bit kernel: engines have no 32-bit wheels"),
    "supply_weak": (_supply_weak, "the supply voltage is or was too low: figures taken then do not hold"),
    "throttled_now": (_throttled, "the board is slowing itself down right now"),
    "throttled_before": (_throttled_before, "the board has slowed itself down since an earlier reading or its start"),
    "clocks_pinned": (
        _clocks_pinned,
        "clocks are pinned, floor raised to ceiling: idle power is higher than in normal use",
    ),
    "governor_powersave": (_governor_powersave, "governor powersave keeps the clock at its minimum with this driver"),
    "cores_offline": (_cores_offline, "some processor cores are switched off"),
    "fake_numa": (_fake_numa, "the kernel splits memory into pretended NUMA nodes: one chip is shown as several"),
    "power_mode_not_default": (_power_mode_not_default, "the board runs in another power mode than its default"),
}


def find_traps(seen: Evidence, texts: dict[str, str]) -> tuple[str, ...]:
    """Return ``name: text`` of every trap that holds now."""
    return tuple(f"{name}: {texts.get(name, text)}" for name, (holds, text) in CHECKS.items() if holds(seen))
