"""What stages need from each other, as protocols: ``agent.pipeline`` hands the real things in. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec

from agent.core.deployment import Deployment
from agent.core.measurement import ContextReading, GoldenResult, Verdict


class Clock(Protocol):
    """Time: durations from the monotonic clock only, wall time for records only."""

    def monotonic_s(self) -> float:
        """Return seconds on CLOCK_MONOTONIC."""

    def utc(self) -> datetime:
        """Return the wall time, aware, UTC."""


class ProcessMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one process in bytes, from /proc/<pid>/status (VmRSS, VmHWM, RssAnon, RssFile, VmSwap).

    The peak of its group and what it has on an accelerator are read elsewhere; the note beside each says how, or why
    there is none.
    """

    rss_bytes: int
    peak_bytes: int
    anonymous_bytes: int | None = None
    file_bytes: int | None = None
    swap_bytes: int | None = None
    group_peak_bytes: int | None = None
    group_note: str | None = None
    accelerator_bytes: int | None = None
    accelerator_note: str | None = None


class WorkerGroup(Protocol):
    """A memory group (cgroup) that holds one worker and nothing else."""

    entry: Path  # a process enters by writing 0 here
    limits: bool  # whether it takes a limit

    def holds(self, pid: int) -> bool:
        """Whether a process stands in it."""

    def limit(self, growth_bytes: int) -> bool:
        """Allow this many bytes beyond what is used now; False where the kernel takes no such limit."""

    def oom_kills(self) -> int | None:
        """Return how many of its processes the kernel has killed for memory; None where it does not say."""

    def close(self) -> None:
        """Remove it."""


class SchedulerCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Scheduling of one process: CPU time, time runnable but waiting (schedstat), involuntary switches."""

    run_s: float
    wait_s: float
    involuntary_switches: int


class PowerSample(msgspec.Struct, frozen=True, kw_only=True):
    """One reading. A power meter gives ``power_w``; an energy counter gives ``energy_j``, unwrapped; some give both.

    What is known of its error comes with it, since the step of a product of voltage and current depends on both:
    ``resolution_w`` and ``resolution_j`` are the smallest step of the value, ``accuracy_ratio`` the maker's bound on
    the error that grows with the value, as a share of it, and ``offset_w`` on the one that does not, which cancels
    where idle is taken off. None is unknown, never zero.
    """

    monotonic_s: float
    power_w: float | None = None
    energy_j: float | None = None
    resolution_w: float | None = None
    resolution_j: float | None = None
    accuracy_ratio: float | None = None
    offset_w: float | None = None


class PowerMeter(Protocol):
    """One source of power or energy."""

    name: str
    scope: str
    period_s: float  # how often a new value can be had

    def read(self) -> PowerSample:
        """Read once; the same ``monotonic_s`` again says that there is no newer value.

        Raises: SensorUnavailableError: an ``errno`` in its facts that passes by itself (EAGAIN and its like, see
            ``agent.core.power``) is a missing value; anything else says that the meter is gone.
        """


class BoardReadings(Protocol):
    """What the measure stage reads of the board while it works."""

    def read_context(self) -> ContextReading:
        """Read temperature, clock, governor, load, steal, throttle state now; absent is None."""

    def power_meters(self) -> tuple[PowerMeter, ...]:
        """Return the usable meters, best scope first; empty when there is none."""

    def power_absence(self) -> str:
        """Say why there is no power meter."""

    def process_memory(self, pid: int) -> ProcessMemory | None:
        """Return a process's memory, None when it is gone."""

    def worker_group(self) -> WorkerGroup | None:
        """Make a memory group for one worker, which closes it; None where the agent may not make any."""

    def reset_peak_memory(self, pid: int) -> bool:
        """Reset VmHWM to the present RSS; False where the kernel does not allow it."""

    def scheduler_counters(self, pid: int) -> SchedulerCounters | None:
        """Return counters over all threads of a process, None when unknown."""


class MappedMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one process in bytes: its own, swapped memory included, and that of files it has mapped.

    ``files``: of each range of a file, by a name that is the same in every process: what is resident, and its length.
    """

    own_bytes: int
    files: dict[str, tuple[int, int]] = {}


def together_bytes(parts: Sequence[MappedMemory]) -> int:
    """Return the most that processes can have together: a range of a file that several have counts up to its length."""
    resident: dict[str, int] = {}
    lengths: dict[str, int] = {}
    for part in parts:
        for name, (bytes_, length) in part.files.items():
            resident[name] = resident.get(name, 0) + bytes_
            lengths[name] = max(lengths.get(name, 0), length)
    return sum(part.own_bytes for part in parts) + sum(min(resident[name], lengths[name]) for name in resident)


class JointReadings(BoardReadings, Protocol):
    """What it reads beside that while several models run at once."""

    def mapped_memory(self, pid: int) -> MappedMemory | None:
        """Return a process's memory, the files it has mapped apart; None when it is not said."""


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the proof in a fresh child said about a staged deployment."""

    passed: bool
    reason: str
    verdict: Verdict = "ok"  # how its child ended
    golden: GoldenResult | None = None
    load_time_s: float | None = None
    latency_p50_s: float | None = None


class Probe(Protocol):
    """Proves a staged release in a fresh child: it loads, golden outputs agree, and it is not too slow."""

    def __call__(self, release: Path, deployment: Deployment) -> ProbeResult:
        """Prove one release folder."""


class ProgressEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One step of long work. ``total`` is None while unknown; ``text`` names what is worked on."""

    stage: str
    text: str
    done: float = 0
    total: float | None = None
    unit: str = "steps"


Progress = Callable[[ProgressEvent], None]
StopRequested = Callable[[], bool]


def no_progress(event: ProgressEvent) -> None:
    """Ignore progress."""


def never_stop() -> bool:
    """Return False: nobody asked to stop."""
    return False
