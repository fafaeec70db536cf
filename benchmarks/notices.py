"""Whether boardfit notices neighbours, and what it does then, with peers beside it.

    python benchmarks/notices.py [MODEL] [--runs 40] [--json FILE | --markdown]

Half of the runs are quiet, half have neighbours made on purpose (``benchmarks/hogs.py``): one or two busy loops on the
same core, one on the other, copies that take memory bandwidth or the shared cache. Everything is pinned to one core.
In each run, with the same neighbours, in turn:

- ``raw``: boardfit told to keep every timed run (``contended="flag"``): its p50 is what a tool without the rule says,
  and its flags are what is judged. *Slow* is a p50 above 1.10 of that of the four quiet runs nearest in time.
- ``quick``: the same with no more than 10 inferences or 250 ms, whatever is longer: is it flagged by then?
- ``used``: boardfit as it is delivered: a figure, or ``contended`` and none.
- a plain loop, and OpenVINO's benchmark_app where `make peers` was run: what they report, over their own quiet runs.

Stated: every slow run flagged, also when quick; at most 1 of 20 quiet runs flagged; with one neighbour a figure is
used only if within 1.10 of the quiet one. Withheld where the quartiles of the quiet runs are further apart than 0.05,
half the margin, or others kept more than a tenth of a core busy in the quiet runs: then nothing was quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.core.facts import DeviceFacts  # noqa: E402
from agent.core.manifest import Candidate, Manifest, TargetRef  # noqa: E402
from agent.core.measurement import Measurement, OperatingPoint  # noqa: E402
from agent.core.statistics import percentile  # noqa: E402
from agent.device.board import Board, this_board  # noqa: E402
from agent.measure.bench import measure_one  # noqa: E402
from agent.measure.settings import NOTHING_AT_STAKE, MeasureSettings, Stakes  # noqa: E402
from agent.runtimes.prove import prove_engines  # noqa: E402
from benchmarks.big_model import write  # noqa: E402
from benchmarks.fidelity import Case, Clock, Loops  # noqa: E402
from benchmarks.hogs import Hog, Hogs, over_quiet, two_cores  # noqa: E402
from benchmarks.peers.ask import PeerAbsentError, ask  # noqa: E402
from benchmarks.table import render  # noqa: E402

SLOW = 1.10
SPREAD = 0.05
OTHERS = 0.1
FALSE_ALARMS = 1 / 20
USED = MeasureSettings()
RAW = MeasureSettings(contended="flag")
QUICK = MeasureSettings(contended="flag", min_runs=10, max_runs=10, min_time_s=0.001, max_time_s=0.25)
DOUBTS = {"contended", "steal", "throttled", "clock_changed", "hot", "low_supply"}


class Seen(NamedTuple):
    """What one run gave. Seconds; None is no figure."""

    kind: str
    raw_s: float
    wait: float | None
    others: float
    flags: tuple[str, ...]
    quick_flags: tuple[str, ...]
    verdict: str
    used_s: float | None
    loop_s: float
    peer_s: float | None


def kinds(core: int, other: int | None) -> dict[str, list[Hog]]:
    """Return the neighbours of each kind, in the order of the table."""
    found = {"1 spin, same core": [Hog("spin", core)], "2 spin, same core": [Hog("spin", core)] * 2}
    found["1 stream, same core"] = [Hog("stream", core)]
    if other is not None:
        found["1 spin, other core"] = [Hog("spin", other)]
        found["1 stream, other core"] = [Hog("stream", other)]
        found["2 stream, other core"] = [Hog("stream", other)] * 2
        found["1 cache, other core"] = [Hog("cache", other)]
    return found


def schedule(names: Sequence[str], runs: int) -> list[str]:
    """Return the kind of each run: quiet ones in turn with the others, whose order is drawn anew each time round."""
    drawn = random.Random(1)
    order: list[str] = []
    while len(order) < runs // 2:
        order += drawn.sample(list(names), len(names))
    return [kind for loaded in order[: runs // 2] for kind in ("quiet", loaded)]


class Product:
    """boardfit's own path for one model at one point, with this board's readings."""

    def __init__(self, model: Path, point: OperatingPoint) -> None:
        self.case = Case(model, point)
        self._board: Board = this_board()
        self._facts: DeviceFacts = self._board.facts(prove_engines())
        form = "onnx" if model.suffix == ".onnx" else "tflite"
        self._candidate = Candidate(
            manifest=Manifest(task="notices", name=model.stem, format=form, inputs=(), outputs=()),
            target=TargetRef(path=model.name, sha256="0" * 64, length=model.stat().st_size),
        )

    def measure(self, settings: MeasureSettings, stakes: Stakes = NOTHING_AT_STAKE) -> Measurement:
        model, point = self.case
        return measure_one(
            self._candidate, point, model, None, None,
            facts=self._facts, board=self._board, clock=Clock(), settings=settings, stakes=stakes,
        )  # fmt: skip


def one(product: Product, kind: str, hogs: Sequence[Hog], *, peers: bool) -> Seen:
    """Take one run. Raises: SystemExit: the model does not run."""
    with Hogs(hogs) if hogs else nullcontext(), Loops(product.case.point.engine) as loops:
        busy_s, own_s, begin_s = busy(), used_s(), time.monotonic()
        raw = product.measure(RAW)
        others = (busy() - busy_s - (used_s() - own_s)) / (time.monotonic() - begin_s)
        if raw.latency is None or raw.context is None:
            raise SystemExit(f"{raw.verdict}: {raw.reason}")
        quick, used = product.measure(QUICK), product.measure(USED)
        loop = loops.time(product.case)
        peer = ask("benchmark_app", product.case.model, only=True) if peers else None
    return Seen(
        kind=kind,
        raw_s=raw.latency.p50_s.value,
        wait=raw.latency.run_queue_wait_ratio,
        others=max(0.0, others),
        flags=raw.context.flags,
        quick_flags=quick.context.flags if quick.context is not None else (),
        verdict=used.verdict,
        used_s=used.latency.p50_s.value if used.latency is not None else None,
        loop_s=loop["p50_s"],
        peer_s=peer["p50_s"] if peer is not None else None,
    )


def busy() -> float:
    """Return the seconds all cores have worked. Source: proc(5), /proc/stat: user, nice, system, irq, softirq."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(fields[place]) for place in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


def used_s() -> float:
    """Return the CPU time of this process and of its children that have ended, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def doubtful(flags: Sequence[str]) -> bool:
    return bool(DOUBTS & set(flags))


def judge(seen: Sequence[Seen]) -> dict[str, Any]:
    """Count what was stated. Ratios are over the quiet runs nearest in time."""
    quiet = [run.kind == "quiet" for run in seen]
    raw = over_quiet([run.raw_s for run in seen], quiet)
    calm_s = [run.raw_s / ratio for run, ratio in zip(seen, raw, strict=True)]
    used = [None if run.used_s is None else run.used_s / calm for run, calm in zip(seen, calm_s, strict=True)]
    slow = [ratio > SLOW for ratio in raw]
    one_hog = [run.kind.startswith("1 ") for run in seen]
    spread = [ratio for ratio, calm in zip(raw, quiet, strict=True) if calm]
    alarms = sum(doubtful(run.flags) for run, calm in zip(seen, quiet, strict=True) if calm)
    missed = [run.kind for run, late in zip(seen, slow, strict=True) if late and not doubtful(run.flags)]
    quick_missed = [run.kind for run, late in zip(seen, slow, strict=True) if late and not doubtful(run.quick_flags)]
    wrong = [
        (run.kind, ratio)
        for run, ratio, single in zip(seen, used, one_hog, strict=True)
        if single and ratio is not None and ratio > SLOW
    ]
    iqr = percentile(spread, 0.75) - percentile(spread, 0.25)
    others = median(run.others for run, calm in zip(seen, quiet, strict=True) if calm)
    noise = "the machine was not quiet" if others > OTHERS else "noise" if iqr > SPREAD else None
    met = not missed and not quick_missed and not wrong and alarms <= len(spread) * FALSE_ALARMS
    return {
        "raw": raw,
        "used": used,
        "slow": sum(slow),
        "missed": missed,
        "quick_missed": quick_missed,
        "quiet": len(spread),
        "alarms": alarms,
        "quick_alarms": sum(doubtful(run.quick_flags) for run, calm in zip(seen, quiet, strict=True) if calm),
        "wrong": wrong,
        "one_hog": sum(one_hog),
        "one_hog_refused": sum(single and ratio is None for single, ratio in zip(one_hog, used, strict=True)),
        "quiet_spread": iqr,
        "quiet_worst": max(spread),
        "others": others,
        "verdict": f"withheld: {noise}" if noise else "met" if met else "missed",
    }


def table(seen: Sequence[Seen], found: dict[str, Any], *, markdown: bool) -> str:
    """Return one line per kind."""
    quiet = [run.kind == "quiet" for run in seen]
    loop = over_quiet([run.loop_s for run in seen], quiet)
    told = [run.peer_s for run in seen if run.peer_s is not None]
    peer = over_quiet(told, quiet) if len(told) == len(seen) else None
    heads = (
        "neighbours", "raw p50 / quiet", "wait", "flagged", "in 250 ms", "as", "delivered",
        "plain loop says", "benchmark_app says",
    )  # fmt: skip
    body = []
    for kind in dict.fromkeys(run.kind for run in seen):
        places = [place for place, run in enumerate(seen) if run.kind == kind]
        waits = [wait for place in places if (wait := seen[place].wait) is not None]
        named_as = Counter(flag for place in places for flag in seen[place].flags)
        used = [ratio for place in places if (ratio := found["used"][place]) is not None]
        figure = f"{len(used)} x {median(used):.2f}, {max(used):.2f} at most" if used else ""
        refused = f"{len(places) - len(used)} x contended" if len(used) < len(places) else ""
        body.append(
            [
                kind,
                f"{median(found['raw'][place] for place in places):.2f}",
                f"{median(waits):.2f}" if waits else "-",
                f"{sum(doubtful(seen[place].flags) for place in places)} of {len(places)}",
                f"{sum(doubtful(seen[place].quick_flags) for place in places)} of {len(places)}",
                ", ".join(f"{count} {flag}" for flag, count in named_as.items()) or "-",
                "; ".join(part for part in (figure, refused) if part),
                f"{median(loop[place] for place in places):.2f}",
                f"{median(peer[place] for place in places):.2f}" if peer else "not installed",
            ]
        )
    return render(heads, body, markdown=markdown)


def conclusion(found: dict[str, Any]) -> str:
    """Say it in words."""
    missed, quick = found["missed"], found["quick_missed"]
    return (
        f"Slow runs (raw p50 above {SLOW:.2f} of quiet): {found['slow']}; not flagged: {len(missed)}{named(missed)}, "
        f"not flagged within 10 inferences or 250 ms: {len(quick)}{named(quick)}.\n"
        f"Quiet runs flagged: {found['alarms']} of {found['quiet']} (when quick {found['quick_alarms']}).\n"
        f"Runs with one neighbour: {found['one_hog']}, refused as contended: {found['one_hog_refused']}, "
        f"figure off by more than {SLOW:.2f}: {len(found['wrong'])}.\n"
        f"Noise: quiet runs over near quiet ones have quartiles {found['quiet_spread']:.3f} apart, "
        f"{found['quiet_worst']:.2f} at most; others kept {found['others']:.2f} cores busy in them. "
        f"Verdict: {found['verdict']}."
    )


def named(missed: Sequence[str]) -> str:
    return f" ({', '.join(missed)})" if missed else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="ONNX file (default: MobileNetV2-224 with random weights)")
    parser.add_argument("--runs", type=int, default=40, help="half of them quiet; 8 or more")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run here")
    parser.add_argument("--markdown", action="store_true", help="the table for the README")
    options = parser.parse_args()
    if options.runs < 8:
        parser.error("--runs must be 8 or more")
    begin = time.monotonic()
    core, other = two_cores()
    neighbours = kinds(core, other)
    os.sched_setaffinity(0, {core})
    seen: list[Seen] = []
    with tempfile.TemporaryDirectory() as folder:
        model = options.model.resolve() if options.model else write(Path(folder) / "mobilenet_v2-224.onnx")
        engine = next((engine for engine in prove_engines() if engine.name == "onnxruntime" and engine.proven), None)
        if engine is None:
            raise SystemExit("onnxruntime is not proven here")
        point = OperatingPoint(
            engine=engine.name, engine_version=engine.version or "", provider="CPUExecutionProvider", threads=1
        )
        product = Product(model, point)
        peers = True
        try:
            ask("benchmark_app", model, only=True)
        except (PeerAbsentError, subprocess.SubprocessError) as error:
            print(f"benchmark_app: {error}", file=sys.stderr)
            peers = False
        for kind in schedule(list(neighbours), options.runs):
            seen.append(one(product, kind, neighbours.get(kind, []), peers=peers))
            print(
                f"{len(seen)} of {options.runs}: {kind}, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True
            )
    found = judge(seen)
    print(table(seen, found, markdown=options.markdown))
    print(f"\n{conclusion(found)}")
    print(
        f"{model.stem} at {point.label}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"measured in {time.monotonic() - begin:.0f} s."
    )
    if options.json:
        options.json.write_text(json.dumps({"found": found, "runs": [run._asdict() for run in seen]}, indent=1))
    return 1 if found["verdict"] == "missed" else 0


if __name__ == "__main__":
    raise SystemExit(main())
