"""A board for tests: real processes are read, sensors are simulated or absent."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path

from agent.core.measurement import ContextReading
from agent.core.ports import PowerMeter, PowerSample, ProcessMemory, SchedulerCounters


class RealClock:
    def monotonic_s(self) -> float:
        return time.monotonic()

    def utc(self) -> datetime:
        return datetime.now(timezone.utc)


class ScriptedMeter:
    """A simulated power meter: the values of ``power_w`` in turn, the last one for ever."""

    name = "simulated"
    scope = "board"
    period_s = 0.02

    def __init__(self, power_w: list[float]) -> None:
        self._power_w = power_w
        self.reads = 0

    def read(self) -> PowerSample:
        value = self._power_w[min(self.reads, len(self._power_w) - 1)]
        self.reads += 1
        return PowerSample(monotonic_s=time.monotonic(), power_w=value)


class TestBoard:
    """Implements ``BoardReadings``; ``contexts`` are handed out in turn, the last one for ever."""

    __test__ = False

    def __init__(self, *, meter: PowerMeter | None = None, contexts: list[ContextReading] | None = None) -> None:
        self._meters = (meter,) if meter is not None else ()
        self._contexts = contexts or [ContextReading(monotonic_s=0.0)]
        self._given = 0

    def read_context(self) -> ContextReading:
        reading = self._contexts[min(self._given, len(self._contexts) - 1)]
        self._given += 1
        return reading

    def power_meters(self) -> tuple[PowerMeter, ...]:
        return self._meters

    def power_absence(self) -> str:
        return "the test board has no power meter"

    def process_memory(self, pid: int) -> ProcessMemory | None:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return None
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        size = {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM", "RssAnon", "RssFile")}
        return ProcessMemory(
            rss_bytes=size["VmRSS"],
            peak_bytes=size["VmHWM"],
            anonymous_bytes=size["RssAnon"],
            file_bytes=size["RssFile"],
        )

    def worker_group(self) -> None:
        return None

    def reset_peak_memory(self, pid: int) -> bool:
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except OSError:
            return False
        return True

    def scheduler_counters(self, pid: int) -> SchedulerCounters | None:
        run_s = wait_s = 0.0
        switches = 0
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                run, wait, _ = (task / "schedstat").read_text().split()
                run_s, wait_s = run_s + int(run) / 1e9, wait_s + int(wait) / 1e9
                status = (task / "status").read_text()
                switches += int(status.rsplit("nonvoluntary_ctxt_switches:", 1)[1].split()[0])
        except (OSError, ValueError, IndexError):
            return None
        return SchedulerCounters(run_s=run_s, wait_s=wait_s, involuntary_switches=switches)
