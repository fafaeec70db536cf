"""The class fingerprint: two boards with the same one may share measurements. Pure.

It covers, and nothing else: profile and SoC, virtualization; architecture, pointer size, page size; clusters by kind,
count and top clock; usable threads; arithmetic features; RAM by size as sold, memory limit; engines with version and
proven providers; accelerators by name; power mode; and, where a provider beyond the engine's own is proven, the driver
libraries it runs with, by whose versions its speed changes. It leaves out serial numbers, names, addresses, kernel and
Python patch levels, and what changes from minute to minute (governor, temperature, load): a measurement carries those
itself.
"""

from __future__ import annotations

import hashlib

import msgspec

from agent.core.facts import Accelerator, BoardIdentity, CpuFacts, EngineFacts, MemoryFacts

_VERSION = "boardfit.class/1"
_MIB = 1 << 20
_HZ_PER_MHZ = 1e6


def ram_size_mib(total_bytes: int) -> int:
    """Round what the kernel has up to the size as sold: it keeps some for firmware, GPU and itself.

    Steps of 256 MiB up to 1 GiB, of 1 GiB up to 16 GiB, of 4 GiB above (chosen: a Raspberry Pi of 4 GiB has 3.7 to
    3.9 GiB in MemTotal by GPU split, an Orin Nano of 8 GiB has 7.4 GiB).
    """
    total = -(-total_bytes // _MIB)
    step = 256 if total <= 1024 else 1024 if total <= 16 * 1024 else 4096
    return -(-total // step) * step


def class_fingerprint(
    *,
    board: BoardIdentity,
    cpu: CpuFacts,
    memory: MemoryFacts,
    pointer_bits: int | None,
    engines: tuple[EngineFacts, ...],
    accelerators: tuple[Accelerator, ...],
    power_mode: str | None,
) -> str:
    """Return the SHA-256 (hex) over the class-relevant facts."""
    clusters = sorted(
        (cluster.part or "", len(cluster.cores), round((cluster.max_freq_hz or 0.0) / _HZ_PER_MHZ))
        for cluster in cpu.clusters
    )
    document = {
        "version": _VERSION,
        "profile": board.profile,
        "soc": board.soc,
        "virtualization": board.virtualization,
        "architecture": cpu.architecture,
        "pointer_bits": pointer_bits,
        "page_size_bytes": memory.page_size_bytes,
        "clusters": clusters,
        "threads": cpu.worker_threads,
        "features": sorted(cpu.features),
        "ram_mib": ram_size_mib(memory.total_bytes),
        "limit_bytes": memory.limit_bytes,
        "engines": sorted((e.name, e.version or "", sorted(e.providers)) for e in engines if e.proven),
        "accelerators": sorted(accelerator.name for accelerator in accelerators),
        "power_mode": power_mode,
    }
    drivers = sorted(
        (engine.name, one.name, sorted(one.drivers))
        for engine in engines
        for one in engine.beyond
        if one.state != "refused" and one.drivers
    )
    if drivers:  # without one the class is that of before
        document["drivers"] = drivers
    return hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()
