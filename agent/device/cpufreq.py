"""CPU clock and governor per frequency policy.

Source: sys/devices/system/cpu/cpufreq/policy*/ in kHz (torvalds/linux Documentation/admin-guide/pm/cpufreq.rst).
scaling_cur_freq is the clock asked for: on a Raspberry Pi it stays at the maximum while firmware throttles
(raspberrypi/linux issue 2986), so throttling is judged from ``throttle``, never from the clock alone.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from agent.core.facts import SensorFacts
from agent.device.cgroup import parse_cpu_list
from agent.device.root import SysRoot
from agent.device.sensor_state import absent, try_sensor

_HZ_PER_KHZ = 1000.0
_BASE = "sys/devices/system/cpu/cpufreq"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One policy: the CPUs that share a clock, and its fixed limits in Hz."""

    path: str
    cpus: tuple[int, ...]
    min_hz: float | None
    max_hz: float | None
    driver: str | None


class ClockReading(msgspec.Struct, frozen=True, kw_only=True):
    """The clock over some CPUs at one moment."""

    clock_hz: float | None
    clock_max_hz: float | None
    governor: str | None


def _khz(root: SysRoot, rel: str) -> float | None:
    value = root.try_int(rel)
    return None if value is None or value <= 0 else value * _HZ_PER_KHZ


def _cpus(text: str | None) -> tuple[int, ...]:
    # affected_cpus is separated by blanks, a CPU list elsewhere by commas
    try:
        return parse_cpu_list(",".join((text or "").split()))
    except ValueError:
        return ()


def find_policies(root: SysRoot) -> tuple[Policy, ...]:
    """List the frequency policies; empty on machines whose clock the kernel does not steer."""
    policies: list[Policy] = []
    for path in root.glob(f"{_BASE}/policy*"):
        cpus = _cpus(root.try_text(f"{path}/related_cpus")) or _cpus(root.try_text(f"{path}/affected_cpus"))
        if cpus:
            policies.append(
                Policy(
                    path=path,
                    cpus=cpus,
                    min_hz=_khz(root, f"{path}/cpuinfo_min_freq"),
                    max_hz=_khz(root, f"{path}/cpuinfo_max_freq"),
                    driver=root.try_text(f"{path}/scaling_driver"),
                )
            )
    return tuple(policies)


def governor_of(root: SysRoot, policy: Policy) -> str | None:
    """Return the policy's governor now."""
    return root.try_text(f"{policy.path}/scaling_governor") or None


def _mean(values: list[tuple[float, int]]) -> float | None:
    weight = sum(count for _, count in values)
    return sum(value * count for value, count in values) / weight if weight else None


def read_clock(root: SysRoot, policies: tuple[Policy, ...], cpus: Collection[int]) -> ClockReading:
    """Read the mean clock and its present ceiling over ``cpus``, and the governors in use."""
    now: list[tuple[float, int]] = []
    ceiling: list[tuple[float, int]] = []
    governors: set[str] = set()
    for policy in policies:
        count = len(set(policy.cpus) & set(cpus))
        if not count:
            continue
        current = _khz(root, f"{policy.path}/scaling_cur_freq")
        limit = _khz(root, f"{policy.path}/scaling_max_freq") or policy.max_hz
        governor = governor_of(root, policy)
        if current is not None:
            now.append((current, count))
        if limit is not None:
            ceiling.append((limit, count))
        if governor:
            governors.add(governor)
    return ClockReading(clock_hz=_mean(now), clock_max_hz=_mean(ceiling), governor="+".join(sorted(governors)) or None)


def pinned(root: SysRoot, policies: tuple[Policy, ...]) -> bool:
    """Whether every policy that could move has its floor raised to its ceiling, as jetson_clocks does."""
    movable = [policy for policy in policies if policy.min_hz and policy.max_hz and policy.min_hz < policy.max_hz]
    limits = [
        (_khz(root, f"{policy.path}/scaling_min_freq"), _khz(root, f"{policy.path}/scaling_max_freq"))
        for policy in movable
    ]
    return bool(limits) and all(low is not None and low == high for low, high in limits)


def describe(root: SysRoot, policies: tuple[Policy, ...]) -> tuple[SensorFacts, ...]:
    """State whether every policy's clock reads: one line, for a large x86 has one policy per CPU."""
    if not policies:
        return (absent("cpufreq", "frequency", "the kernel offers no cpufreq policy"),)

    def read_all() -> None:
        for policy in policies:
            root.read_int(f"{policy.path}/scaling_cur_freq")

    return (try_sensor("cpufreq", "frequency", read_all, source=f"{_BASE}/policy*/scaling_cur_freq", unit="Hz"),)
