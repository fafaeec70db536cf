"""How well boardfit's reported p50 repeats, beside MLPerf's load generator.

    python benchmarks/repeatability.py [MODEL.onnx ...] [--rounds 10] [--runs 40] [--json FILE | --markdown]

Each round measures the model in full with boardfit, which takes several processes, and in one process with loadgen's
SingleStream (`make peers`), in an order drawn anew, with the same threads and, all processes together, the same least
number and least time of runs. What is compared is the coefficient of
variation of the reported p50 over the rounds. As many more boardfit runs as make ``--runs`` follow, between the rounds;
an interval *holds* if the median of all runs' p50 lies in it, its own run left out.

A run that boardfit refuses as contended is no calm run: its round is taken again, loadgen's part with it, at most as
often as there are rounds. The noise floor is the same for a tight loop before and after loadgen, in its process.
The verdict on the coefficient is withheld where boardfit's over loadgen's is within what chance does with so few
rounds: 95 % of the ratios of two such coefficients from one distribution, by drawing labels at random.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.core.measurement import Figure, OperatingPoint  # noqa: E402
from agent.core.statistics import percentile  # noqa: E402
from agent.measure.settings import IN_FULL, MeasureSettings  # noqa: E402
from agent.runtimes.prove import prove_engines  # noqa: E402
from benchmarks.big_model import write  # noqa: E402
from benchmarks.hogs import two_cores  # noqa: E402
from benchmarks.notices import Product  # noqa: E402
from benchmarks.peers.ask import PeerAbsentError, ask  # noqa: E402
from benchmarks.table import render  # noqa: E402

SETTINGS = MeasureSettings()
HOLDS = 0.95


class Run(NamedTuple):
    """One boardfit run: its p50 with interval, and the raw latencies of its clean runs. Seconds."""

    p50: Figure
    latencies_s: tuple[float, ...]


class Seen(NamedTuple):
    """All runs of one model; ``paired`` are the places in ``runs`` of those taken beside loadgen."""

    runs: list[Run]
    paired: list[int]
    peer_s: list[float]
    loops_s: list[list[float]]
    refused: int


def spread(values: Sequence[float]) -> float:
    """Return the coefficient of variation. Raises: statistics.StatisticsError: fewer than two values."""
    return stdev(values) / fmean(values)


def chance(first: Sequence[float], second: Sequence[float], draws: int = 2000) -> float:
    """Return what the ratio of the two coefficients exceeds in 5 % of random labellings, each side over its mean."""
    together = [value / fmean(side) for side in (first, second) for value in side]
    drawn = random.Random(1)
    ratios = []
    for _ in range(draws):
        drawn.shuffle(together)
        one, other = spread(together[: len(first)]), spread(together[len(first) :])
        if other > 0:
            ratios.append(one / other)
    return percentile(ratios, 0.95) if ratios else 1.0


def held(runs: Sequence[Run]) -> int:
    """Return how many intervals hold the median p50 of all other runs; a bound that is not known holds nothing."""
    count = 0
    for place, run in enumerate(runs):
        truth = median(other.p50.value for number, other in enumerate(runs) if number != place)
        low, high = run.p50.low, run.p50.high
        count += low is not None and high is not None and low <= truth <= high
    return count


def collect(product: Product, rounds: int, runs: int, *, peers: bool) -> Seen:
    """Take the rounds, and the runs between them."""
    seen = Seen([], [], [], [], 0)
    refused = 0
    begin = time.monotonic()
    for number in range(rounds):
        while True:
            peer_first = random.Random(number + 1000 * refused).random() < 0.5
            peer = loadgen(product) if peers and peer_first else None
            run = one(product)
            peer = loadgen(product) if peers and not peer_first else peer
            if run is not None:
                break
            refused += 1
            if refused > rounds:
                raise SystemExit("the machine is too busy: more runs were refused than there are rounds")
        seen.paired.append(len(seen.runs))
        seen.runs.append(run)
        if peer is not None:
            seen.peer_s.append(peer["p50_s"])
            seen.loops_s.append([loop["p50_s"] for loop in peer["loops"]])
        while len(seen.runs) < runs * (number + 1) // rounds and refused <= rounds:
            run = one(product)
            refused += run is None
            if run is not None:
                seen.runs.append(run)
        spent = time.monotonic() - begin
        print(f"{product.case.model.stem}: round {number + 1} of {rounds}, {spent:.0f} s", file=sys.stderr, flush=True)
    return seen._replace(refused=refused)


def one(product: Product) -> Run | None:
    """Return one run, None if it was refused. Raises: SystemExit: the model does not run."""
    measurement = product.measure(SETTINGS, IN_FULL)
    if measurement.verdict == "contended":
        return None
    if measurement.latency is None:
        raise SystemExit(f"{measurement.verdict}: {measurement.reason}")
    return Run(measurement.latency.p50_s, measurement.latencies_s)


def loadgen(product: Product) -> dict[str, Any]:
    times = SETTINGS.processes
    return ask("loadgen", product.case.model, least_runs=times * SETTINGS.min_runs, least_s=times * SETTINGS.min_time_s)


def judge(seen: Seen) -> dict[str, Any]:
    """Return the figures of one model."""
    ours_s = [seen.runs[place].p50.value for place in seen.paired]
    row: dict[str, Any] = {
        "p50_s": median(run.p50.value for run in seen.runs),
        "runs": len(seen.runs),
        "rounds": len(ours_s),
        "refused": seen.refused,
        "cv": spread(ours_s),
        "cv_loadgen": None,
        "cv_loops": None,
        "verdict": "loadgen is not installed",
        "held": held(seen.runs),
        "half_width": median(
            (run.p50.high - run.p50.low) / 2 / run.p50.value
            for run in seen.runs
            if run.p50.high is not None and run.p50.low is not None
        ),
    }
    if seen.peer_s:
        row["cv_loadgen"] = spread(seen.peer_s)
        row["cv_loops"] = [spread([pair[place] for pair in seen.loops_s]) for place in (0, 1)]
        ratio, limit = row["cv"] / row["cv_loadgen"], chance(ours_s, seen.peer_s)
        row["ratio"], row["chance"] = ratio, limit
        row["verdict"] = "met" if ratio <= 1 else "withheld: noise" if ratio <= limit else "missed"
    row["interval_verdict"] = "met" if row["held"] >= HOLDS * row["runs"] else "missed"
    return row


def table(rows: dict[str, dict[str, Any]], *, markdown: bool) -> str:
    heads = (
        "model", "p50", "CV boardfit", "CV loadgen", "CV loops", "ratio", "by chance up to", "verdict",
        "intervals that hold", "half width", "verdict",
    )  # fmt: skip
    body = []
    for name, row in rows.items():
        if row["cv_loadgen"] is not None:
            peer = [f"{row['cv_loadgen']:.1%}", " ".join(f"{cv:.1%}" for cv in row["cv_loops"])]
            peer += [f"{row['ratio']:.2f}", f"{row['chance']:.2f}"]
        else:
            peer = ["not installed", "-", "-", "-"]
        interval = [f"{row['held']} of {row['runs']}", f"±{row['half_width']:.1%}", row["interval_verdict"]]
        body.append([name, f"{row['p50_s'] * 1e3:.2f} ms", f"{row['cv']:.1%}", *peer, row["verdict"], *interval])
    return render(heads, body, markdown=markdown)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("models", nargs="*", type=Path, help="ONNX files (default: MobileNetV2 at 224 and 96 pixels)")
    parser.add_argument("--rounds", type=int, default=10, help="beside loadgen; 3 or more")
    parser.add_argument("--runs", type=int, default=40, help="boardfit's, the rounds included")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run here")
    parser.add_argument("--markdown", action="store_true", help="the table for the README")
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error("--rounds must be 3 or more")
    core, _ = two_cores()
    os.sched_setaffinity(0, {core})
    engine = next((engine for engine in prove_engines() if engine.name == "onnxruntime" and engine.proven), None)
    if engine is None:
        raise SystemExit("onnxruntime is not proven here")
    point = OperatingPoint(
        engine=engine.name, engine_version=engine.version or "", provider="CPUExecutionProvider", threads=1
    )
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        models = [model.resolve() for model in options.models] or [
            write(Path(folder) / "mobilenet_v2-224.onnx"),
            write(Path(folder) / "mobilenet_v2-w035-96.onnx", 96, 0.35),
        ]
        peers = True
        try:
            ask("loadgen", models[0], only=True)
        except PeerAbsentError as error:
            print(f"loadgen: {error}", file=sys.stderr)
            peers = False
        seen = {
            model.stem: collect(Product(model, point), options.rounds, options.runs, peers=peers) for model in models
        }
    rows = {name: judge(found) for name, found in seen.items()}
    print(table(rows, markdown=options.markdown))
    print(
        f"\n{point.label}, at least {SETTINGS.min_runs} runs and {SETTINGS.min_time_s:g} s in each of "
        f"{SETTINGS.processes} processes, as much in loadgen's one; {options.rounds} "
        f"rounds; refused as contended and taken again: {sum(row['refused'] for row in rows.values())}. "
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"measured in {time.monotonic() - begin:.0f} s."
    )
    if options.json:
        kept = {
            name: {
                "row": rows[name],
                "runs": [(run.p50.value, run.p50.low, run.p50.high, run.latencies_s) for run in found.runs],
                "loadgen_s": found.peer_s,
                "loops_s": found.loops_s,
            }
            for name, found in seen.items()
        }
        options.json.write_text(json.dumps(kept))
    return int(any("missed" in (row["verdict"], row["interval_verdict"]) for row in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main())
