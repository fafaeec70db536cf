"""What a board is and can do: the values the device stage produces. Pure.

``class_fingerprint`` stands for "measurements of one board hold for the other": it covers SoC, cores, ISA, RAM,
engines with versions and providers, power mode and page size, and leaves out serial numbers, names and addresses.

History: ``boardfit.profile/1`` first version.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA = "boardfit.profile/1"

SensorStatus = Literal["ok", "absent", "denied", "broken"]
PowerScope = Literal["board", "module", "rails", "package", "gpu", "estimated"]


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """By what one machine is told from another, hashed: the board's serial number, and the installed system's id."""

    serial: str | None = None
    machine: str | None = None

    def differs(self, other: Hardware) -> bool:
        """Return whether these are two machines: by their serials, else by their systems; False where unknown."""
        if self.serial and other.serial:
            return self.serial != other.serial
        return bool(self.machine and other.machine) and self.machine != other.machine


class BoardIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Which board this is. ``profile`` names a file of profiles/; ``matched_on`` says by what it was recognised."""

    model: str | None
    compatible: tuple[str, ...] = ()
    soc: str | None = None
    profile: str
    matched_on: str
    virtualization: str | None = None  # kvm, vmware, docker ... None on bare metal
    device_id: str | None = None


class CpuCluster(msgspec.Struct, frozen=True, kw_only=True):
    """Cores of one kind. ``cores`` are kernel numbers, not necessarily contiguous."""

    cores: tuple[int, ...]
    part: str | None = None  # "0x41/0xd0b" or a vendor's model name
    name: str | None = None  # Cortex-A76
    max_freq_hz: float | None = None
    governor: str | None = None


class CpuFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Processor facts; ``usable`` leaves out cores that affinity or a cgroup quota withholds."""

    architecture: str
    present: tuple[int, ...]
    usable: tuple[int, ...]
    quota_cores: float | None = None  # cgroup cpu.max as a number of cores; None without a limit
    clusters: tuple[CpuCluster, ...] = ()
    features: tuple[str, ...] = ()
    model_name: str | None = None

    @property
    def worker_threads(self) -> int:
        """How many threads can truly run at once: usable cores, capped by the cgroup quota (at least 1)."""
        cores = len(self.usable)
        return max(1, cores if self.quota_cores is None else min(cores, int(self.quota_cores + 1e-9)))


class MemoryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Memory in bytes; ``limit_bytes`` is a container's or unit's cgroup limit, None without one."""

    total_bytes: int
    available_bytes: int | None = None
    swap_bytes: int | None = None
    limit_bytes: int | None = None
    limit_source: str | None = None
    page_size_bytes: int = 4096
    cma_bytes: int | None = None

    @property
    def usable_bytes(self) -> int:
        """The smaller of total memory and the cgroup limit."""
        return self.total_bytes if self.limit_bytes is None else min(self.total_bytes, self.limit_bytes)


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU, NPU or TPU. Present is not usable: ``usable_by`` names engine/provider pairs proven here."""

    kind: Literal["gpu", "npu", "tpu", "dla", "dsp"]
    name: str
    node: str | None = None
    usable_by: tuple[str, ...] = ()
    note: str | None = None


class ProviderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One execution provider or delegate beyond the engine's own that was found here, and what became of proving it.

    ``proven``: it ran the tiny model, all of it, and right. ``opened``: it takes only models made for it, and opened
    its device; each such model proves itself before it is timed. ``refused``: not used, for the reason given.
    """

    name: str
    state: Literal["proven", "opened", "refused"]
    reason: str | None = None
    fix: str | None = None  # what to do about a refusal
    library: str | None = None  # the file of an external delegate
    drivers: tuple[str, ...] = ()  # libraries it ran with, by whose versions speed changes: name and size


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An inference engine: proven by a tiny model run in a child, or not, with the reason."""

    name: str  # onnxruntime | ai-edge-litert | tflite-runtime
    formats: tuple[str, ...]
    version: str | None = None
    providers: tuple[str, ...] = ()  # execution providers (onnxruntime) or delegates (TFLite), proven or opened ones
    proven: bool = False
    reason: str | None = None
    beyond: tuple[ProviderFacts, ...] = ()  # those beyond the engine's own, in the order they were tried


class OsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Operating system and Python."""

    name: str | None = None
    kernel: str | None = None
    python: str | None = None
    libc: str | None = None
    pointer_bits: int | None = None
    l4t: str | None = None  # NVIDIA Linux for Tegra release, e.g. R36.4.3
    container: str | None = None


class SensorFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One sensor source and its state; ``status`` other than ok always has a reason."""

    name: str
    quantity: Literal["temperature", "power", "energy", "frequency", "throttle", "fan", "voltage", "battery"]
    status: SensorStatus
    unit: str | None = None
    scope: PowerScope | None = None
    source: str | None = None
    reason: str | None = None


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the device stage knows about this board."""

    board: BoardIdentity
    cpu: CpuFacts
    memory: MemoryFacts
    os: OsFacts
    class_fingerprint: str
    schema: str = SCHEMA
    accelerators: tuple[Accelerator, ...] = ()
    engines: tuple[EngineFacts, ...] = ()
    sensors: tuple[SensorFacts, ...] = ()
    power_mode: str | None = None  # nvpmodel mode, with id
    throttle_celsius: float | None = None  # where the board slows itself down, from its profile; None is unknown
    traps: tuple[str, ...] = ()  # known traps of this board that hold right now
    default_budgets: dict[str, str] = {}  # from the profile, as written there
    known_issues: tuple[str, ...] = ()  # of this board with these engines and this system, from its profile
    unlike_profile: tuple[str, ...] = ()  # what was read here and contradicts the profile

    def lasting(self) -> DeviceFacts:
        """Return these facts without what differs at every look: how much memory is free."""
        return msgspec.structs.replace(self, memory=msgspec.structs.replace(self.memory, available_bytes=None))

    def engine(self, name: str) -> EngineFacts | None:
        """Return the named engine's facts, or None."""
        return next((engine for engine in self.engines if engine.name == name), None)
