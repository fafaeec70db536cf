"""This machine with the temperature and clock of a fixture board, and a throttle that follows it. Simulated, both.

Rules:
- The agent reads a tree in which everything leads to this machine, but for one thermal zone and one frequency policy:
  those are files of ours. So its facts, its counters and who uses the processors are real, and heat is not.
- A temperature alone slows nothing here. From ``THROTTLES_CELSIUS`` on the application is stopped for most of every
  5 ms (SIGSTOP, SIGCONT): it has ``RUN_SHARE`` of its time, as on a board that lowers its clock to that, and the
  fixture's clock says the same. Nothing else is slowed: not the agent, nor what it measures meanwhile.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

COOL_CELSIUS, HOT_CELSIUS, THROTTLES_CELSIUS = 50.0, 86.0, 80.0
RUN_SHARE = 0.4
RISES_IN_S = 0.5
CLOCK_HZ = 1_800_000_000
_SLICE_S = 0.005
_LOOK_S = 0.02
_OWN = ("sys", "sys/class", "sys/class/thermal", "sys/devices", "sys/devices/system", "sys/devices/system/cpu")


class FixtureBoard:
    """The tree. ``root`` is what the agent takes for the root of the file system."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        folder.mkdir()
        for name in ("proc", "etc", "dev", "run", "var"):
            (folder / name).symlink_to(Path("/") / name)
        for name in _OWN:
            (folder / name).mkdir()
        for name in _OWN:
            for entry in _entries(Path("/") / name):
                place = folder / name / entry
                if entry not in ("cpufreq",) and not place.exists() and name != "sys/class/thermal":
                    place.symlink_to(Path("/") / name / entry)
        zone = folder / "sys/class/thermal/thermal_zone0"
        policy = folder / "sys/devices/system/cpu/cpufreq/policy0"
        zone.mkdir()
        policy.mkdir(parents=True)
        (zone / "type").write_text("cpu-thermal\n")
        khz = CLOCK_HZ // 1000
        cpus = " ".join(str(number) for number in sorted(os.sched_getaffinity(0)))
        for file, text in {
            "related_cpus": cpus, "affected_cpus": cpus, "scaling_driver": "fixture", "scaling_governor": "performance",
            "cpuinfo_min_freq": str(khz // 4), "cpuinfo_max_freq": str(khz), "scaling_min_freq": str(khz // 4),
            "scaling_max_freq": str(khz),
        }.items():  # fmt: skip
            (policy / file).write_text(f"{text}\n")
        self.thermometer = zone / "temp"
        self._clock = policy / "scaling_cur_freq"
        self._heat = (0.0, COOL_CELSIUS, COOL_CELSIUS)  # when it began to change, from, to
        self.tend(0.0)

    def head_for(self, celsius: float, now_s: float) -> None:
        """Let the temperature go there within ``RISES_IN_S``, steadily."""
        self._heat = (now_s, self.celsius(now_s), celsius)

    def celsius(self, now_s: float) -> float:
        """Return the temperature at a moment."""
        began_s, start, end = self._heat
        share = min(1.0, max(0.0, (now_s - began_s) / RISES_IN_S))
        return start + share * (end - start)

    def tend(self, now_s: float) -> None:
        """Write what the sensors say now."""
        celsius = self.celsius(now_s)
        clock_hz = CLOCK_HZ * (RUN_SHARE if celsius >= THROTTLES_CELSIUS else 1.0)
        for path, text in ((self.thermometer, f"{celsius * 1000:.0f}\n"), (self._clock, f"{clock_hz / 1000:.0f}\n")):
            if not path.exists() or path.read_text() != text:
                spare = path.with_name(f".{path.name}")
                spare.write_text(text)
                spare.rename(path)


def _entries(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def throttle(pid: int, thermometer: Path) -> None:
    """Slow a process down while the fixture is hot, until it is gone or we are told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    parent = os.getppid()
    try:
        while os.getppid() == parent:
            if float(thermometer.read_text()) / 1000 < THROTTLES_CELSIUS:
                time.sleep(_LOOK_S)
                continue
            end = time.monotonic() + _LOOK_S
            while time.monotonic() < end:
                os.kill(pid, signal.SIGSTOP)
                time.sleep((1 - RUN_SHARE) * _SLICE_S)
                os.kill(pid, signal.SIGCONT)
                time.sleep(RUN_SHARE * _SLICE_S)
    except ProcessLookupError:
        return
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    throttle(int(sys.argv[1]), Path(sys.argv[2]))
