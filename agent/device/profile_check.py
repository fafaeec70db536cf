"""What a profile says beside what was read: issues that concern this board, and what contradicts the profile. Pure.

Rules:
- An issue is told unless it is known not to hold: its engine is here in another version, or its release is another.
- Only what cannot be so is a contradiction: a core of a kind the board does not have, an instruction set extension its
  cores lack, more memory or cores than were ever sold, a clock above the stated one. Less of anything is a variant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.core.facts import CpuFacts, EngineFacts, MemoryFacts, OsFacts
from agent.core.units import format_quantity
from agent.device.fingerprint import ram_size_mib
from agent.device.profiles import Issue, Profile

_CLOCK_MARGIN = 1.005  # chosen: published clocks are rounded (1479 MHz is sold as 1.43 GHz, 1510.4 as 1.51)
_HZ_PER_MHZ = 1e6
_BYTES_PER_MIB = 1 << 20


def issues_here(profile: Profile, engines: Iterable[EngineFacts], system: OsFacts) -> tuple[str, ...]:
    """Return the texts of the issues that concern a board. Args: engines: empty where none was looked for."""
    versions = {engine.name: engine.version for engine in engines if engine.version}
    return tuple(issue.text for issue in profile.known_issues if _concerns(issue, versions, system))


def _concerns(issue: Issue, versions: dict[str, str], system: OsFacts) -> bool:
    if issue.engine in versions and versions[issue.engine] not in issue.versions:
        return False
    return not (issue.l4t and system.l4t and not system.l4t.startswith(issue.l4t))


def contradictions(profile: Profile, cpu: CpuFacts, memory: MemoryFacts) -> tuple[str, ...]:
    """Return what was read on a board and cannot be so by its profile."""
    return tuple(_contradictions(profile, cpu, memory))


def _contradictions(profile: Profile, cpu: CpuFacts, memory: MemoryFacts) -> Iterator[str]:
    stated = profile.cpu.clusters
    extra = [feature for feature in cpu.features if feature in profile.cpu.features_absent]
    if extra:
        yield f"the cores list {', '.join(extra)}, which the profile says they lack"
    if stated and all(cluster.part for cluster in stated):
        parts = {cluster.part for cluster in stated}
        for cluster in cpu.clusters:
            if cluster.part is not None and cluster.part not in parts:
                yield f"a core is {cluster.part}, the profile states {', '.join(sorted(map(str, parts)))}"
    if stated and len(cpu.present) > sum(cluster.cores for cluster in stated):
        yield f"{len(cpu.present)} cores, the profile states {sum(cluster.cores for cluster in stated)}"
    for cluster in cpu.clusters:
        ceilings = [spec.freq_max_mhz for spec in stated if spec.part == cluster.part and spec.freq_max_mhz]
        if ceilings and cluster.max_freq_hz and cluster.max_freq_hz > max(ceilings) * _HZ_PER_MHZ * _CLOCK_MARGIN:
            seen, said = (format_quantity(hz, "frequency") for hz in (cluster.max_freq_hz, max(ceilings) * _HZ_PER_MHZ))
            yield f"a clock of up to {seen}, the profile states {said}: overclocked, or a newer board"
    if profile.memory_sizes_mib and ram_size_mib(memory.total_bytes) > max(profile.memory_sizes_mib):
        seen, said = (
            format_quantity(size, "bytes")
            for size in (memory.total_bytes, max(profile.memory_sizes_mib) * _BYTES_PER_MIB)
        )
        yield f"{seen} of memory, the profile states {said} at most"
