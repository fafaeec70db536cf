"""Everything a board says about itself, once and whole: its fact sheet.

Composition only: each fact comes from the module of its source. Loaded when the facts are asked for: an idle agent,
which reads conditions alone, carries nothing of what only they need.
"""

from __future__ import annotations

from collections.abc import Collection

from agent.core.facts import BoardIdentity, DeviceFacts, EngineFacts
from agent.device import accelerators, cpu, fingerprint, memory, osinfo, power_mode, profile_check, traps
from agent.device.host import Host
from agent.device.profiles import Profile
from agent.device.root import SysRoot
from agent.device.sensors import Sensors


def read_facts(
    root: SysRoot,
    *,
    host: Host,
    architecture: str,
    affinity: Collection[int] | None,
    identity: BoardIdentity,
    profile: Profile,
    sensors: Sensors,
    engines: tuple[EngineFacts, ...],
) -> DeviceFacts:
    """Read all facts of a board that was recognised as ``identity`` and is described by ``profile``.

    Raises: DeviceError: procfs is not mounted.
    """
    processor = cpu.read_cpu(root, sensors.policies, architecture, affinity)
    ram = memory.read_memory(root, host.page_size_bytes)
    mode = power_mode.read_power_mode(root, profile.power_modes)
    parts = accelerators.read_accelerators(root, profile.accelerators, engines)
    evidence = traps.Evidence(
        root=root,
        cpu=processor,
        memory=ram,
        pointer_bits=host.pointer_bits,
        policies=sensors.policies,
        throttle=sensors.throttle.read(),
        power_mode=mode,
    )
    system = osinfo.read_os(root, host)
    return DeviceFacts(
        board=identity,
        cpu=processor,
        memory=ram,
        os=system,
        class_fingerprint=fingerprint.class_fingerprint(
            board=identity,
            cpu=processor,
            memory=ram,
            pointer_bits=host.pointer_bits,
            engines=engines,
            accelerators=parts,
            power_mode=mode.text if mode else None,
        ),
        accelerators=parts,
        engines=engines,
        sensors=sensors.describe(),
        power_mode=mode.text if mode else None,
        throttle_celsius=profile.thermal.throttle_celsius,
        traps=traps.find_traps(evidence, profile.traps),
        default_budgets=dict(profile.default_budgets),
        known_issues=profile_check.issues_here(profile, engines, system),
        unlike_profile=profile_check.contradictions(profile, processor, ram),
    )
