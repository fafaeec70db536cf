"""The board, whole: its facts once, and its readings whenever the measure stage asks.

Rules:
- Reading the context never raises and costs a few small file reads; a sensor that is missing or broken is None, with a
  note where it was expected to answer.
- What was found (zones, chips, policies) is kept; what it reads is always read anew.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.apart import done_apart
from agent.clock import SystemClock
from agent.core.facts import BoardIdentity, DeviceFacts, EngineFacts, Hardware
from agent.core.measurement import ContextReading
from agent.core.ports import Clock, MappedMemory, PowerMeter, ProcessMemory, SchedulerCounters
from agent.device import (
    cpu,
    cpufreq,
    identify,
    load,
    mains,
    memory,
    neighbours,
    power_mode,
    pressure,
    profiles,
    scheduler,
    thermal,
    written,
)
from agent.device.clock_sync import ClockSync
from agent.device.host import Host, this_host
from agent.device.outside import Outside
from agent.device.root import SysRoot
from agent.device.vcgencmd import Firmware
from agent.documents import parser_is_loaded

if TYPE_CHECKING:  # loaded where they are used
    from agent.device.accelerator_memory import AcceleratorMemory
    from agent.device.sensors import Sensors
    from agent.device.worker_group import WorkerGroup

_Recognised = tuple[BoardIdentity, profiles.Profile]


class Board:
    """One board below one root. Implements ``agent.core.ports.BoardReadings``.

    Args:
        root: where its files lie.
        profiles_dir: folder of profiles; None finds the installed one.
        affinity: CPUs this process may use, None for all that are online.
        clock: times readings.
        host: what the running process knows of itself; empty for a copied tree.
        power: replaces the profile's power section, for a meter the user wired in; None keeps the profile's.
        outside: meters in the board's supply and the user's own fit, from the configuration.
        firmware: asks a Raspberry Pi's firmware; None finds vcgencmd on a running Pi.
    """

    def __init__(
        self,
        root: SysRoot,
        profiles_dir: Path | None = None,
        *,
        affinity: Collection[int] | None = None,
        clock: Clock | None = None,
        host: Host | None = None,
        firmware: Firmware | None = None,
        power: profiles.PowerSpec | None = None,
        outside: Outside = Outside(),  # noqa: B008 - immutable
    ) -> None:
        self.root = root
        self._profiles_dir = profiles_dir
        self._affinity = affinity
        self._clock: Clock = clock or SystemClock()
        self._host = host or Host()
        self._firmware = firmware
        self._power = power
        self._outside = outside
        self._clock_sync = ClockSync(root, self._clock)
        self._ticks: load.CpuTicks | None = None
        self._group: WorkerGroup | str = "no memory group was made for it"

    @cached_property
    def architecture(self) -> str:
        """The machine architecture as ``uname -m`` says it."""
        return cpu.architecture_of(self.root, self._host.machine)

    @cached_property
    def _recognised(self) -> _Recognised:
        if parser_is_loaded():
            return self._recognise()
        answer = done_apart(lambda: msgspec.msgpack.encode(self._recognise()))  # the other profiles stay in the copy
        return self._recognise() if answer is None else msgspec.msgpack.decode(answer, type=_Recognised)

    def _recognise(self) -> _Recognised:
        known = profiles.load_all(self._profiles_dir or profiles.find_folder())
        return identify.identify(self.root, known, self.architecture)

    @property
    def profile(self) -> profiles.Profile:
        """The profile this board was matched to. Raises: DeviceError: a profile is unusable."""
        return self._recognised[1]

    @cached_property
    def sensors(self) -> Sensors:
        """The board's sensor sources."""
        from agent.device.sensors import Sensors  # not before a board is first read

        return Sensors(self.root, self.profile, self._clock, self._firmware, self._power, outside=self._outside)

    @cached_property
    def _usable(self) -> tuple[int, ...]:
        return cpu.usable_cpus(self.root, cpu.read_online(self.root), self._affinity)

    def facts(self, engines: tuple[EngineFacts, ...] = ()) -> DeviceFacts:
        """Read everything the board says about itself.

        Args: engines: what was proven elsewhere; part of the class fingerprint.
        Raises: DeviceError: a profile is unusable, or procfs is not mounted.
        """
        from agent.device.factsheet import read_facts  # what it composes, an idle agent does without

        identity, profile = self._recognised
        return read_facts(
            self.root,
            host=self._host,
            architecture=self.architecture,
            affinity=self._affinity,
            identity=identity,
            profile=profile,
            sensors=self.sensors,
            engines=engines,
        )

    def boot_id(self) -> str | None:
        """Return the random id of this boot, for the records of measurements and commands."""
        return identify.read_boot_id(self.root)

    def read_context(self) -> ContextReading:
        """Read temperature, clock, governor, load, steal, throttle state now; absent is None."""
        temperature, notes = thermal.read_board(self.root, self.sensors.zones, self.profile.thermal)
        clock = cpufreq.read_clock(self.root, self.sensors.policies, self._usable)
        throttle = self.sensors.throttle.read()
        ticks = load.read_ticks(self.root)
        steal = load.steal_ratio(self._ticks, ticks)
        self._ticks = ticks or self._ticks
        mode = power_mode.read_power_mode(self.root, self.profile.power_modes)
        return ContextReading(
            monotonic_s=self._clock.monotonic_s(),
            temperature_celsius=temperature.celsius if temperature else None,
            temperature_zone=temperature.zone if temperature else None,
            clock_hz=clock.clock_hz,
            clock_max_hz=clock.clock_max_hz,
            governor=clock.governor,
            load_1min=load.read_load_1min(self.root),
            steal_ratio=steal,
            throttle_now=throttle.now,
            throttle_counts=throttle.counts,
            supply_ok=throttle.supply_ok,
            memory_available_bytes=memory.read_available_bytes(self.root),
            power_mode=mode.text if mode else None,
            notes=notes + throttle.notes,
        )

    def power_meters(self) -> tuple[PowerMeter, ...]:
        """Return the usable meters, best scope first; empty when there is none."""
        return self.sensors.power.meters()

    def power_absence(self) -> str:
        """Say why there is no power meter."""
        return self.sensors.power.absence()

    def process_memory(self, pid: int) -> ProcessMemory | None:
        """Return a process's memory, None when it is gone."""
        seen = memory.read_process_memory(self.root, pid)
        if seen is None:
            return None
        group = self._group
        peak, note = None, group if isinstance(group, str) else "this process stands in no group of its own"
        if not isinstance(group, str) and group.holds(pid):
            peak = group.peak_bytes()
            note = group.method if peak is not None else "this kernel keeps no peak of a group (v2 before 5.19)"
        used, how = self._accelerator_memory.read(pid)
        return msgspec.structs.replace(
            seen, group_peak_bytes=peak, group_note=note, accelerator_bytes=used, accelerator_note=how
        )

    @cached_property
    def _accelerator_memory(self) -> AcceleratorMemory:
        from agent.device.accelerator_memory import AcceleratorMemory  # ctypes, which the idle agent does without

        return AcceleratorMemory(self.root)

    def worker_group(self) -> WorkerGroup | None:
        """Make a memory group for one worker, which closes it; None where the agent may not make any."""
        from agent.device.worker_group import open_group

        self._group = open_group(self.root)
        return None if isinstance(self._group, str) else self._group

    def mapped_memory(self, pid: int) -> MappedMemory | None:
        """Return a process's memory, the files it has mapped apart, None when it is not said."""
        return memory.read_mapped(self.root, pid)

    def reset_peak_memory(self, pid: int) -> bool:
        """Reset VmHWM to the present RSS; False where the kernel does not allow it."""
        return memory.reset_peak(self.root, pid)

    def scheduler_counters(self, pid: int) -> SchedulerCounters | None:
        """Return counters over all threads of a process, None when unknown."""
        return scheduler.read_counters(self.root, pid)

    @cached_property
    def device_id(self) -> str | None:
        """A stable name for this board derived from its machine id, None where it has none."""
        return identify.read_device_id(self.root)  # without recognising the board, which reads every profile

    def hardware(self) -> Hardware:
        """Return by what this machine is told from others."""
        return identify.read_hardware(self.root)

    def clock_synced(self) -> bool | None:
        """Return whether the wall clock is synchronised to a time source, None when nobody says."""
        return self._clock_sync.read()

    def on_mains(self) -> bool | None:
        """Return whether the board is fed from mains, None when it does not say."""
        return mains.read_on_mains(self.root)

    def processor_ticks(self, pid: int) -> neighbours.Ticks | None:
        """Return the processors' counters, and how much of them went to a process and those below it."""
        return neighbours.read_ticks(self.root, pid)

    def written_bytes(self, pid: int) -> int | None:
        """Return what a process and its ended children sent towards storage, None when it is not counted."""
        return written.read_written_bytes(self.root, pid)

    def memory_pressure(self) -> float | None:
        """Return the share of the last ten seconds in which somebody waited for memory, None where it is not said."""
        return pressure.read_pressure(self.root, "memory")

    def processor_pressure(self) -> float | None:
        """Return the share of the last ten seconds in which somebody waited for a core, None where it is not said."""
        return pressure.read_pressure(self.root, "cpu")

    def kernel(self) -> str | None:
        """Return the release of the running kernel, None where it is not said."""
        return self.root.try_text("proc/sys/kernel/osrelease")

    def usable_cores(self) -> int:
        """Return how many cores this process may use."""
        return len(self._usable)


def this_board(
    profiles_dir: Path | None = None,
    *,
    power: profiles.PowerSpec | None = None,
    outside: Outside = Outside(),  # noqa: B008 - immutable
) -> Board:
    """Return the machine we run on. Args: as ``Board``."""
    host = this_host()
    return Board(
        SysRoot(),
        profiles_dir,
        affinity=host.affinity,
        clock=SystemClock(),
        host=host,
        power=power,
        outside=outside,
    )
