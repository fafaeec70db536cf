"""Processor: kinds of cores, instruction set features, and which cores are really ours.

Rules:
- Core numbers are the kernel's and need not be contiguous: a TX2 in a saving mode lists 0, 3, 4, 5.
- ``features`` are those every usable core has, so that a thread may run anywhere.
- Usable = online, within the affinity mask handed in, within our cgroup's CPU set; the quota is kept apart.

Sources: proc/cpuinfo; sys/devices/system/cpu/{present,online} (torvalds/linux
Documentation/admin-guide/cputopology.rst); part numbers: Arm MIDR as decoded in llvm/llvm-project
llvm/lib/TargetParser/Host.cpp.
"""

from __future__ import annotations

from collections.abc import Collection

from agent.core.facts import CpuCluster, CpuFacts
from agent.device import cgroup, cpufreq
from agent.device.root import SysRoot
from agent.errors import DeviceError

_CPU = "sys/devices/system/cpu"
PART_NAMES = {
    "0x41/0xc07": "Cortex-A7",
    "0x41/0xd03": "Cortex-A53",
    "0x41/0xd05": "Cortex-A55",
    "0x41/0xd07": "Cortex-A57",
    "0x41/0xd08": "Cortex-A72",
    "0x41/0xd09": "Cortex-A73",
    "0x41/0xd0b": "Cortex-A76",
    "0x41/0xd0c": "Neoverse-N1",
    "0x41/0xd40": "Neoverse-V1",
    "0x41/0xd41": "Cortex-A78",
    "0x41/0xd42": "Cortex-A78AE",
    "0x41/0xd49": "Neoverse-N2",
    "0x41/0xd4f": "Neoverse-V2",
    "0x4e/0x003": "Denver 2",
    "0x4e/0x004": "Carmel",
}
# Of an x86 flags line only what changes arithmetic is kept; mitigations and timers differ from boot to boot.
_X86_PREFIXES = (
    *("mmx", "sse", "ssse3", "avx", "amx", "fma", "f16c", "bmi", "popcnt", "movbe"),
    *("aes", "vaes", "sha_ni", "pclmul", "vpclmul", "gfni"),
)


def parse_cpuinfo(text: str) -> dict[int, dict[str, str]]:
    """Return each processor's fields. Lines before the first and after the last block belong to none."""
    cores: dict[int, dict[str, str]] = {}
    current: dict[str, str] | None = None
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if name == "processor" and value.isdecimal() and len(value) <= 9:
            current = cores.setdefault(int(value), {})
        elif not line.strip():
            current = None
        elif colon and current is not None:
            current[name] = value
    return cores


def part_of(core: dict[str, str]) -> str | None:
    """Return ``implementer/part`` of an Arm core, the model name of another, None where neither is told."""
    implementer, part = core.get("CPU implementer"), core.get("CPU part")
    if implementer and part:
        return f"{implementer.lower()}/{part.lower()}"
    return core.get("model name")


def features_of(core: dict[str, str]) -> tuple[str, ...]:
    """Return the instruction-set features of one core in the kernel's order."""
    if "Features" in core:
        return tuple(core["Features"].split())
    return tuple(flag for flag in core.get("flags", "").split() if flag.startswith(_X86_PREFIXES))


def architecture_of(root: SysRoot, machine: str | None) -> str:
    """Return the machine architecture as ``uname -m`` says it.

    Source: proc/sys/kernel/arch exists since Linux 6.1; an older copied tree is judged by the form of its cpuinfo.
    """
    known = machine or root.try_text("proc/sys/kernel/arch")
    if known:
        return known
    for core in parse_cpuinfo(root.try_text("proc/cpuinfo") or "").values():
        if "CPU architecture" in core:
            return "aarch64" if core["CPU architecture"] == "8" else "armv7l"
        if "vendor_id" in core:
            return "x86_64"
    return "unknown"


def _listed(root: SysRoot, name: str) -> tuple[int, ...]:
    try:
        return cgroup.parse_cpu_list(root.try_text(f"{_CPU}/{name}") or "")
    except ValueError:
        return ()


def _clusters(
    root: SysRoot, cores: dict[int, dict[str, str]], online: tuple[int, ...], policies: tuple[cpufreq.Policy, ...]
) -> tuple[CpuCluster, ...]:
    policy_of = {cpu: policy for policy in policies for cpu in policy.cpus}
    groups: dict[tuple[str | None, float | None], list[int]] = {}
    for cpu in online:
        policy = policy_of.get(cpu)
        groups.setdefault((part_of(cores.get(cpu, {})), policy.max_hz if policy else None), []).append(cpu)
    clusters: list[CpuCluster] = []
    for (part, max_hz), members in groups.items():
        governors = {
            governor
            for policy in policies
            if set(policy.cpus) & set(members) and (governor := cpufreq.governor_of(root, policy))
        }
        name = PART_NAMES.get(part or "", cores.get(members[0], {}).get("model name"))
        clusters.append(
            CpuCluster(
                cores=tuple(members),
                part=part,
                name=name,
                max_freq_hz=max_hz,
                governor="+".join(sorted(governors)) or None,
            )
        )
    return tuple(clusters)


def read_online(root: SysRoot) -> tuple[int, ...]:
    """Return the CPUs that are online. Raises: DeviceError: neither sysfs nor procfs lists any."""
    online = _listed(root, "online") or tuple(sorted(parse_cpuinfo(root.try_text("proc/cpuinfo") or "")))
    if not online:
        raise DeviceError("no processor is listed", fix="mount procfs and sysfs", root=str(root.path))
    return online


def usable_cpus(root: SysRoot, online: tuple[int, ...], affinity: Collection[int] | None) -> tuple[int, ...]:
    """Return the online CPUs left after affinity and the cgroup's CPU set."""
    allowed = set(online)
    if affinity is not None:
        allowed &= set(affinity)
    cpuset = cgroup.read_cpuset(root)
    if cpuset is not None:
        allowed &= set(cpuset)
    return tuple(sorted(allowed)) or online


def read_cpu(
    root: SysRoot, policies: tuple[cpufreq.Policy, ...], architecture: str, affinity: Collection[int] | None
) -> CpuFacts:
    """Read the processor's facts. Raises: DeviceError: no processor is listed."""
    cores = parse_cpuinfo(root.try_text("proc/cpuinfo") or "")
    online = read_online(root)
    usable = usable_cpus(root, online, affinity)
    sets = [set(features_of(cores[cpu])) for cpu in usable if cpu in cores]
    shared = set.intersection(*sets) if sets else set()
    first = cores.get(usable[0], {})
    return CpuFacts(
        architecture=architecture,
        present=_listed(root, "present") or online,
        usable=usable,
        quota_cores=cgroup.read_cpu_quota_cores(root),
        clusters=_clusters(root, cores, online, policies),
        features=tuple(feature for feature in features_of(first) if feature in shared),
        model_name=first.get("model name"),
    )
