"""What the sandbox of a measuring worker costs: median latency with and without it, in pairs.

    python benchmarks/confinement.py [--pairs 20] [--candidates NAME ...] [--seconds 1] [--json | --markdown]

A pair is two fresh workers of one candidate, one right after the other: one with Landlock, the filter of system calls
and without capabilities, one without those three; which comes first changes from pair to pair, and candidates take
turns, so that a drift of the machine falls on both. All else is the same: session, rlimits, the look at the file.

Shown is the median over the pairs of (median latency with / without), its 95 % interval (binomial, from the ranks), and
what starting a worker until its engine is imported costs more. Exit status 1 where the median over all pairs is above
1.02.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.clock import SystemClock  # noqa: E402
from agent.core.measurement import OperatingPoint  # noqa: E402
from agent.core.ports import never_stop  # noqa: E402
from agent.core.statistics import percentile_interval  # noqa: E402
from agent.measure.protocol import Imported, Job, Started, Timed, TimingPlan  # noqa: E402
from agent.measure.supervisor import Child, is_last, needs_answer  # noqa: E402
from benchmarks.table import render  # noqa: E402
from benchmarks.zoo.files import artifact  # noqa: E402

CANDIDATES = (
    "mobilenet_v1-w025-onnx-f32", "mobilenet_v1-w100-onnx-static-int8", "mobilenet_v1-w025-tflite-f32",
    "mobilenet_v2-w025-tflite-static-int8",
)  # fmt: skip
MOST_RATIO = 1.02
# Both workers begin with a module of this benchmark's; one takes the entry into the sandbox away. Nothing else differs.
CONFINED = """
import sys
if 'agent.measure.worker' in sys.orig_argv:
    import agent.measure.confine as stage
    from agent.sandbox.entry import Level
"""
OPEN = CONFINED + "    stage.enter = lambda *given, **more: Level((), ())\n"


class Run(NamedTuple):
    """One worker: its median latency, and how long it took until its engine was imported, in seconds."""

    latency_s: float
    started_s: float


class Pair(NamedTuple):
    """Two workers of one candidate."""

    candidate: str
    confined: Run
    open: Run

    @property
    def ratio(self) -> float:
        """Latency with the sandbox over latency without."""
        return self.confined.latency_s / self.open.latency_s


def run(name: str, seconds: float, threads: int, folder: Path) -> Run:
    """Time one worker. Args: folder: of the module that it begins with, ``open`` or ``confined``."""
    path = artifact(name)
    engine, provider = (
        ("onnxruntime", "CPUExecutionProvider") if path.suffix == ".onnx" else ("ai-edge-litert", "XNNPACK")
    )
    point = OperatingPoint(engine=engine, engine_version="", provider=provider, threads=threads)
    timing = TimingPlan(
        min_runs=50, min_time_s=seconds, max_runs=100_000, max_time_s=2 * seconds, warmup_max_runs=500,
        warmup_max_s=seconds, block_runs=10, block_s=0.02, contended_wait_ratio=None, contended_patience_s=0.0,
        one_thread=threads == 1,
    )  # fmt: skip
    os.environ["PYTHONPATH"] = str(folder)
    begin = time.monotonic()
    started_s, latencies = 0.0, ()
    job = Job(model=str(path), point=point, timing=timing)
    with Child(job, clock=SystemClock(), stop=never_stop, deadline_s=60.0 + 4 * seconds) as child:
        while not is_last(event := child.next_event()):
            if isinstance(event, Started):
                inside = {one for one in event.confinement if one.startswith(("landlock", "seccomp"))}
                assert bool(inside) == (folder.name == "confined"), f"{name} ran with {event.confinement}"
            elif isinstance(event, Imported):
                started_s = time.monotonic() - begin
            elif isinstance(event, Timed):
                latencies = event.latencies_ns
            if needs_answer(event):
                child.go()
    return Run(median(latencies) / 1e9, started_s)


def measure(names: Sequence[str], pairs: int, seconds: float, threads: int) -> list[Pair]:
    """Take the pairs, candidates in turn."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        confined, unconfined = (Path(name) / kind for kind in ("confined", "open"))
        for folder, code in ((confined, CONFINED), (unconfined, OPEN)):
            folder.mkdir()
            (folder / "sitecustomize.py").write_text(code)
        for number in range(pairs):
            for candidate in names:
                order = (confined, unconfined) if number % 2 == 0 else (unconfined, confined)
                runs = {one: run(candidate, seconds, threads, one) for one in order}
                found.append(Pair(candidate, runs[confined], runs[unconfined]))
    return found


def summarise(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return the median ratio with its interval, and the cost at the start."""
    ratios = [pair.ratio for pair in pairs]
    interval = percentile_interval(ratios, 0.5)
    return {
        "pairs": len(pairs),
        "ratio": median(ratios),
        "ratio_low": interval.low,
        "ratio_high": interval.high,
        "latency_s": median(pair.confined.latency_s for pair in pairs),
        "start_added_s": median(pair.confined.started_s - pair.open.started_s for pair in pairs),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the pairs and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=20, help="of each candidate")
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=1.0, help="of timed runs in each worker")
    parser.add_argument("--threads", type=int, default=1)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    pairs = measure(options.candidates, options.pairs, options.seconds, options.threads)
    rows = {name: summarise([pair for pair in pairs if pair.candidate == name]) for name in options.candidates}
    rows["all"] = summarise(pairs)
    passed = rows["all"]["ratio"] <= MOST_RATIO
    if options.json:
        raw = [[pair.candidate, *pair.confined, *pair.open] for pair in pairs]
        machine = {"machine": platform.machine(), "kernel": platform.release(), "cores": os.cpu_count()}
        print(json.dumps({**machine, "passed": passed, "rows": rows, "pairs": raw}, indent=2))
        return 0 if passed else 1
    heads = ("candidate", "pairs", "latency", "with / without", "95 %", "start")
    cells = [
        (
            name, str(row["pairs"]), f"{row['latency_s'] * 1e3:.2f} ms", f"{row['ratio']:.3f}",
            " to ".join("?" if end is None else f"{end:.3f}" for end in (row["ratio_low"], row["ratio_high"])),
            f"{row['start_added_s'] * 1e3:+.0f} ms",
        )
        for name, row in rows.items()
    ]  # fmt: skip
    print(render(heads, cells, markdown=options.markdown))
    print(f"\nallowed: {MOST_RATIO}; {'kept' if passed else 'NOT KEPT'}")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
