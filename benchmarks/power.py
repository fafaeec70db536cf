"""Energy from simulated sensors over the integral of simulated loads: does the arithmetic hold, and its interval too?

    python benchmarks/power.py [--rounds 40] [--markdown]

No time passes: meters and sampler run on a simulated clock, so the result depends on no load of the machine, and the
same seeds give the same figures. Each round reads idle and then a window of a simulated load through boardfit's own
meters (INA3221 and RAPL from simulated kernel files, an MQTT-like meter of both kinds) and sampler, and compares the
energy above idle with the load's exact integral.

- Loads: steps, ramps, bursts, autocorrelated noise.
- Troubles: values that do not come, EAGAIN, a counter that wraps many times, a counter of whole watt-hours, a reader
  that is late; and sensors that die in the middle, of which no figure may come.
- Beside it, in the same rounds: what a plain mean of the same readings times the time makes of them.

Fails where the median of read / set is off by more than 2 %, where more than 5 % of the rounds are, where fewer than
90 % of the intervals hold the truth, or where a dead sensor gets a figure.
"""

from __future__ import annotations

import argparse
import errno
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.core.ports import PowerMeter, PowerSample  # noqa: E402
from agent.device import power_ina3221, power_rapl  # noqa: E402
from agent.device.profiles import PowerSpec  # noqa: E402
from agent.device.root import SysRoot  # noqa: E402
from agent.errors import SensorUnavailableError  # noqa: E402
from agent.measure.sampler import PowerSeries, power_figures, read_idle  # noqa: E402
from benchmarks.power_traces import SHAPES, Trace  # noqa: E402
from benchmarks.table import render  # noqa: E402

GOAL, MOST_OFF, LEAST_HELD = 0.02, 0.05, 0.90
IDLE_W, LOW_W, HIGH_W = 2.0, 3.0, 9.0
INFERENCES = 100
HEADS = (
    "sensor (simulated)",
    "load",
    "read / set, median",
    "5 % to 95 %",
    "plain mean / set",
    "interval holds",
    "missed",
)


class SimulatedClock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        """Return simulated seconds."""
        return self.now_s

    def utc(self) -> datetime:
        """Return a fixed day."""
        return datetime(2026, 1, 1, tzinfo=timezone.utc)


class Load:
    """Idle first, then a trace from ``start_s`` on."""

    def __init__(self, clock: SimulatedClock) -> None:
        self.clock = clock
        self.trace: Trace | None = None
        self.start_s = 0.0
        self.origin_s = clock.now_s

    def begin(self, trace: Trace) -> None:
        """Let the trace begin now."""
        self.trace, self.start_s = trace, self.clock.now_s

    def power_w(self) -> float:
        """Return the power now."""
        return IDLE_W if self.trace is None else self.trace.power_w(self.clock.now_s - self.start_s)

    def energy_j(self) -> float:
        """Return the energy since the clock began."""
        if self.trace is None:
            return IDLE_W * (self.clock.now_s - self.origin_s)
        return IDLE_W * (self.start_s - self.origin_s) + self.trace.energy_j(self.clock.now_s - self.start_s)


Fault = Callable[[float], int | None]  # seconds on the simulated clock -> an errno, or None


def no_fault(_now_s: float) -> int | None:
    """Return None: every read succeeds."""
    return None


class SimulatedFiles(SysRoot):
    """Kernel files that are written when they are read, in the drivers' own units and steps."""

    def __init__(self, folder: Path, load: Load, fault: Fault, wrap_uj: int = 262143328850) -> None:
        super().__init__(folder)
        self._load, self._fault, self._wrap_uj = load, fault, wrap_uj
        chip, zone = folder / "sys/class/hwmon/hwmon0", folder / "sys/class/powercap/intel-rapl:0"
        files = {"name": "ina3221", "in1_label": "VDD_IN", "update_interval": "100", "shunt1_resistor": "5000"}
        for place, named in ((chip, files), (zone, {"name": "package-0", "max_energy_range_uj": str(wrap_uj)})):
            place.mkdir(parents=True)
            for name, text in named.items():
                (place / name).write_text(text)
        for path in (chip / "in1_input", chip / "curr1_input", zone / "energy_uj"):
            path.touch()

    def read_bytes(self, rel: str) -> bytes:
        """Return what the kernel would say now. Raises: OSError: the simulated fault."""
        name = rel.rsplit("/", 1)[-1]
        if name in ("in1_input", "curr1_input", "energy_uj"):
            error = self._fault(self._load.clock.now_s)
            if error is not None:
                raise OSError(error, "simulated")
        if name == "in1_input":
            return b"5000"
        if name == "curr1_input":  # one step of the shunt voltage, 40 uV, is 8 mA at 5 mohm
            return str(round(self._load.power_w() / 5.0 / 0.008) * 8).encode()
        if name == "energy_uj":
            return str(int(self._load.energy_j() * 1e6) % (self._wrap_uj + 1)).encode()
        return super().read_bytes(rel)


class SimulatedPlug:
    """A meter outside: one value a period, power of 0.1 W steps and a counter, stamped when it arrived."""

    name, scope = "simulated plug", "board"

    def __init__(self, load: Load, period_s: float, step_j: float, fault: Fault, *, power: bool, phase: float):
        self.period_s = period_s
        self._load, self._step_j, self._fault, self._power = load, step_j, fault, power
        self._due_s = load.clock.now_s
        self._counted_j = phase * step_j
        self._newest: PowerSample | None = None

    def read(self) -> PowerSample:
        """Return the newest value. Raises: SensorUnavailableError: the simulated fault."""
        now_s = self._load.clock.now_s
        error = self._fault(now_s)
        if error is not None:
            raise SensorUnavailableError("simulated", state="broken", errno=error)
        if self._newest is None or now_s >= self._due_s:
            self._due_s = max(now_s, self._due_s + self.period_s)
            counted = (self._counted_j + self._load.energy_j()) // self._step_j * self._step_j
            self._newest = PowerSample(
                monotonic_s=now_s,
                power_w=round(self._load.power_w(), 1) if self._power else None,
                energy_j=counted,
                resolution_w=0.1 if self._power else None,
                resolution_j=self._step_j,
            )
        return self._newest


class Case(NamedTuple):
    """One kind of sensor with one kind of trouble; ``late`` is the share of reads that come a few periods late."""

    name: str
    meter: Callable[[Path, Load, Fault, random.Random], PowerMeter]
    fault: Callable[[random.Random], Fault]
    window_s: float
    late: float = 0.0
    dead: bool = False


def ina3221(folder: Path, load: Load, fault: Fault, _dice: random.Random) -> PowerMeter:
    root = SimulatedFiles(folder, load, lambda _: None)
    spec = PowerSpec(total_rail="VDD_IN", total_scope="module")
    (meter,) = power_ina3221.meters(root, load.clock, spec, power_ina3221.find_rails(root))
    root._fault = fault  # from here on: a sensor that does not answer at first is not taken at all
    return meter


def rapl(wrap_uj: int) -> Callable[[Path, Load, Fault, random.Random], PowerMeter]:
    def make(folder: Path, load: Load, fault: Fault, _dice: random.Random) -> PowerMeter:
        root = SimulatedFiles(folder, load, lambda _: None, wrap_uj)
        (meter,) = power_rapl.meters(root, load.clock, power_rapl.find_counters(root))
        root._fault = fault
        return meter

    return make


def plug(period_s: float, step_j: float, *, power: bool) -> Callable[[Path, Load, Fault, random.Random], PowerMeter]:
    return lambda _folder, load, fault, dice: SimulatedPlug(
        load, period_s, step_j, fault, power=power, phase=dice.random()
    )


def now_and_then(error: int, share: float) -> Callable[[random.Random], Fault]:
    """Return a fault of single reads, in ``share`` of them."""
    return lambda dice: lambda _: error if dice.random() < share else None


def for_good(error: int, after_s: float) -> Callable[[random.Random], Fault]:
    """Return a fault that stays, a while after the clock began."""
    return lambda _dice: lambda now_s: error if now_s > 1000.0 + after_s else None


def never(_dice: random.Random) -> Fault:
    """Return the fault that never comes."""
    return no_fault


CASES = (
    Case("INA3221, 0.1 s", ina3221, never, 30.0),
    Case("INA3221, EAGAIN in 10 % of reads", ina3221, now_and_then(errno.EAGAIN, 0.05), 30.0),
    Case("INA3221, a reader late in 5 %", ina3221, never, 60.0, late=0.05),
    Case("RAPL, wraps every 20 J", rapl(20_000_000), never, 10.0),
    Case("RAPL, wraps and EAGAIN in 10 %", rapl(20_000_000), now_and_then(errno.EAGAIN, 0.1), 10.0),
    Case("plug, power and mWh, 1 s", plug(1.0, 3.6, power=True), never, 120.0),
    Case("plug, mWh only, 1 s, EAGAIN in 10 %", plug(1.0, 3.6, power=False), now_and_then(errno.EAGAIN, 0.1), 180.0),
)
DEAD = (
    Case("INA3221, unplugged (ENODEV)", ina3221, for_good(errno.ENODEV, 10.0), 30.0, dead=True),
    Case("INA3221, EIO for good", ina3221, for_good(errno.EIO, 10.0), 30.0, dead=True),
    Case("RAPL, denied in the middle (EACCES)", rapl(10**9), for_good(errno.EACCES, 8.0), 10.0, dead=True),
    Case("plug, whole Wh only, 1 s", plug(1.0, 3600.0, power=False), never, 60.0, dead=True),
)


class Seen(NamedTuple):
    """What one round made of one case."""

    ratio: float | None
    plain: float | None
    held: bool
    missed: int
    reason: str | None


def one_round(case: Case, shape: str, seed: int) -> Seen:
    """Read idle and a window on a simulated clock; compare the energy above idle with the load's integral."""
    dice = random.Random(seed * 7919 + len(case.name))
    clock = SimulatedClock()
    load = Load(clock)

    def pause(seconds: float) -> None:
        clock.now_s += seconds + dice.uniform(0.0, 0.003)  # a reader is never quite in time
        if dice.random() < case.late:
            clock.now_s += dice.uniform(1.0, 3.0) * meter.period_s

    with tempfile.TemporaryDirectory(prefix="power-simulated-") as folder:
        meter = case.meter(Path(folder), load, case.fault(dice), dice)
        idle = read_idle(meter, case.window_s / 2.0, lambda: False, pause, clock.monotonic_s)
        hold_s = max(1.5, 3.0 * meter.period_s) if shape != "ramp" else 0.25
        trace = SHAPES[shape](case.window_s * 1.5, LOW_W, HIGH_W, hold_s, seed)
        load.begin(trace)
        begin_s = clock.now_s
        window = read_idle(meter, case.window_s, lambda: False, pause, clock.monotonic_s)
        length_s = clock.now_s - begin_s
    truth_j = trace.energy_j(length_s) - IDLE_W * length_s
    figures, reason = power_figures(idle, window, INFERENCES, length_s)
    if figures is None or figures.energy_per_inference_j is None:
        return Seen(None, None, False, 0, reason)
    energy = figures.energy_per_inference_j
    assert figures.energy_uncertainty_j is not None
    held = abs(energy.value * INFERENCES - truth_j) <= figures.energy_uncertainty_j * INFERENCES
    plain = _plain(window, length_s)
    return Seen(energy.value * INFERENCES / truth_j, plain and plain / truth_j, held, figures.missed_samples, reason)


def _plain(series: PowerSeries, length_s: float) -> float | None:
    """Return what a plain mean of the powers times the time says, idle taken off; None without powers."""
    powers = [sample.power_w for sample in series.samples if sample.power_w is not None]
    return (statistics.fmean(powers) - IDLE_W) * length_s if powers else None


def judge(case: Case, shape: str, seen: Sequence[Seen]) -> list[str]:
    """Return what of a case is not as it should be."""
    what = f"{case.name}, {shape}"
    if case.dead:
        return [f"{what}: a figure" for one in seen if one.ratio is not None or not one.reason][:1]
    lost = [one.reason for one in seen if one.ratio is None]
    if lost:
        return [f"{what}: no figure in {len(lost)} rounds: {lost[0]}"]
    ratios = [one.ratio for one in seen if one.ratio is not None]
    wrong = []
    if abs(statistics.median(ratios) - 1.0) > GOAL:
        wrong.append(f"{what}: median {statistics.median(ratios):.4f}")
    off = sum(abs(ratio - 1.0) > GOAL for ratio in ratios) / len(ratios)
    if off > MOST_OFF:
        wrong.append(f"{what}: {off:.0%} of rounds are off by more than {GOAL:.0%}")
    held = sum(one.held for one in seen) / len(seen)
    if held < LEAST_HELD:
        wrong.append(f"{what}: {held:.0%} of intervals hold the truth")
    return wrong


def row(case: Case, shape: str, seen: Sequence[Seen]) -> tuple[str, ...]:
    """Return a case's line of the table."""
    ratios = sorted(one.ratio for one in seen if one.ratio is not None)
    if not ratios:
        reasons = sorted({one.reason or "" for one in seen}, key=len)
        return (case.name, shape, "no figure", "–", "–", "–", reasons[0])
    plain = [one.plain for one in seen if one.plain is not None]
    low, high = ratios[int(0.05 * len(ratios))], ratios[min(len(ratios) - 1, int(0.95 * len(ratios)))]
    return (
        case.name,
        shape,
        f"{statistics.median(ratios):.4f}",
        f"{low:.4f} to {high:.4f}",
        f"{statistics.median(plain):.4f}" if plain else "–",
        f"{sum(one.held for one in seen) / len(seen):.0%}",
        f"{statistics.fmean(one.missed for one in seen):.1f}",
    )


def measure(rounds: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the table's lines and what is not as it should be."""
    rows, wrong = [], []
    for case in CASES + DEAD:
        for shape in SHAPES if not case.dead else ("steps",):
            seen = [one_round(case, shape, seed) for seed in range(rounds)]
            rows.append(row(case, shape, seen))
            wrong += judge(case, shape, seen)
    return rows, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="seeds for each sensor and load")
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    rows, wrong = measure(given.rounds)
    print(render(HEADS, rows, markdown=given.markdown, left=2))
    whole = len(rows)
    print(
        f"\n{given.rounds} rounds each, on a simulated clock: loads and sensors are simulated, the readings boardfit's."
    )
    for text in wrong:
        print(f"missed: {text}")
    print(f"{whole - len({text.split(': ')[0] for text in wrong})} of {whole} as they should be.")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
