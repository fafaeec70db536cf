"""How close boardfit's reported latency is to a plain loop around the same engine.

    python benchmarks/fidelity.py [MODEL ...] [--candidate NAME] [--rounds 10] [--most-rounds 40] [--json | --markdown]

Without a model it takes the real MobileNets where they lie beside the repository (or under $BOARDFIT_REAL), on every
engine that runs them, and two MobileNetV2 with random weights, of 10 ms and of 1 ms or so (``big_model.py``);
``--bundled`` adds every bundled candidate, of 0.05 to 0.5 ms. Of the two, what MLPerf's loadgen and OpenVINO's
benchmark_app report stands in a second table, each over a tight loop in its own runtime; `make peers` installs them.

In each round every row, in an order drawn anew, is measured three times: plain loop, boardfit, plain loop. The ratio of
a round is boardfit's p50 (p90) over the mean of its two loops, which cancels a drift; one loop over the other is the
noise floor. A row's figure is the median over rounds. A row that is still too noisy for a verdict after ``--rounds``
goes on, up to ``--most-rounds``: what it reads has no part in that.

Loop and product have the same input, threads, least number and time of runs; boardfit keeps the runs of contended
blocks here, as the loop does. Both run in fresh processes in sessions of their own, as the kernel's autogroups share
the cores out by session. A verdict is withheld where the standard error of the row's median, or of its noise floor's,
is above half the margin. On a busy machine start it with ``chrt -f 1``.
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
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.core.facts import (  # noqa: E402
    BoardIdentity,
    CpuFacts,
    DeviceFacts,
    EngineFacts,
    MemoryFacts,
    OsFacts,
)
from agent.core.manifest import Candidate, Manifest, TargetRef  # noqa: E402
from agent.core.measurement import ContextReading, OperatingPoint  # noqa: E402
from agent.core.statistics import percentile  # noqa: E402
from agent.measure.bench import measure_one  # noqa: E402
from agent.measure.settings import MeasureSettings  # noqa: E402
from agent.runtimes.prove import prove_engines  # noqa: E402
from benchmarks.big_model import write  # noqa: E402
from benchmarks.peers.ratios import Peers  # noqa: E402
from benchmarks.table import render  # noqa: E402
from benchmarks.zoo.files import bundled  # noqa: E402

SETTINGS = MeasureSettings(min_runs=30, min_time_s=0.2, max_time_s=1.5, contended="flag")
WARMUP_RUNS = 20
SLOW_S = 5e-3
MARGIN_SLOW, MARGIN_FAST = 0.02, 0.04
NAMES = ("p50", "p90", "noise_p50", "noise_p90")


class Case(NamedTuple):
    """One row: a model at one point."""

    model: Path
    point: OperatingPoint


class NoSensors:
    """A board that says nothing: what it could say is not timed."""

    def read_context(self) -> ContextReading:
        return ContextReading(monotonic_s=time.monotonic(), load_1min=os.getloadavg()[0])

    def power_meters(self) -> tuple[()]:
        return ()

    def power_absence(self) -> str:
        return "not read here"

    def process_memory(self, pid: int) -> None:  # noqa: ARG002
        return None

    def reset_peak_memory(self, pid: int) -> bool:  # noqa: ARG002
        return False

    def worker_group(self) -> None:
        return None

    def scheduler_counters(self, pid: int) -> None:  # noqa: ARG002
        return None


class Clock:
    def monotonic_s(self) -> float:
        return time.monotonic()

    def utc(self) -> datetime:
        return datetime.now(timezone.utc)


class RowFailedError(Exception):
    """A model does not run on an engine; the text says why."""


class Loops:
    """The plain loops of one engine."""

    def __init__(self, engine: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("plain_loop.py")), engine]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Loops:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def time(self, case: Case) -> dict[str, float]:
        """Raises: RowFailedError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {
            "model": str(case.model), "threads": case.point.threads, "warmup_runs": WARMUP_RUNS,
            "min_runs": SETTINGS.min_runs, "max_runs": SETTINGS.max_runs,
            "min_time_s": SETTINGS.min_time_s, "max_time_s": SETTINGS.max_time_s,
        }  # fmt: skip
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RowFailedError(answer["error"])
        return answer


def product(case: Case, engines: tuple[EngineFacts, ...]) -> dict[str, float]:
    """Let boardfit measure; without evaluation and golden data, as the loop has neither. Raises: RowFailedError."""
    model, point = case
    candidate = Candidate(
        manifest=Manifest(
            task="fidelity", name=model.stem, format="onnx" if model.suffix == ".onnx" else "tflite",
            inputs=(), outputs=(),
        ),
        target=TargetRef(path=model.name, sha256="0" * 64, length=model.stat().st_size),
    )  # fmt: skip
    facts = DeviceFacts(
        board=BoardIdentity(model=None, profile="generic", matched_on="nothing"),
        cpu=CpuFacts(architecture="", present=(0,), usable=tuple(sorted(os.sched_getaffinity(0)))),
        memory=MemoryFacts(total_bytes=1 << 40),
        os=OsFacts(),
        class_fingerprint="fidelity",
        engines=engines,
    )
    board: Any = NoSensors()
    measurement = measure_one(
        candidate, point, model, None, None, facts=facts, board=board, clock=Clock(), settings=SETTINGS
    )
    if measurement.latency is None:
        raise RowFailedError(f"{measurement.verdict}: {measurement.reason}")
    return {"p50_s": measurement.latency.p50_s.value, "p90_s": measurement.latency.p90_s.value}


def run_rounds(
    cases: Sequence[Case], engines: tuple[EngineFacts, ...], rounds: int, most_rounds: int, peers: Peers
) -> tuple[dict[Case, dict[str, list[float]]], dict[Case, str]]:
    """Run every case in every round. Returns: what each gave round by round, and why some gave nothing."""
    seen: dict[Case, dict[str, list[float]]] = {case: {name: [] for name in (*NAMES, "loop")} for case in cases}
    failed: dict[Case, str] = {}
    begin = time.monotonic()
    for number in range(most_rounds):
        order = [case for case in cases if case not in failed and (number < rounds or is_noisy(seen[case]))]
        if not order:
            break
        random.Random(number).shuffle(order)
        with ExitStack() as stack:  # fresh in each round, as where code and heap lie in memory moves a figure by 1 %
            loops = {name: stack.enter_context(Loops(name)) for name in {case.point.engine for case in order}}
            for case in order:
                try:
                    first = loops[case.point.engine].time(case)
                    ours = product(case, engines)
                    second = loops[case.point.engine].time(case)
                except RowFailedError as error:
                    failed[case] = str(error)
                    continue
                seen[case]["loop"].append((first["p50_s"] + second["p50_s"]) / 2)
                for name in ("p50", "p90"):
                    a, b = first[f"{name}_s"], second[f"{name}_s"]
                    seen[case][name].append(ours[f"{name}_s"] / ((a + b) / 2))
                    seen[case][f"noise_{name}"].append(a / b)
        if number < rounds:
            peers.round()
        spent = time.monotonic() - begin
        print(f"round {number + 1}, {len(order)} rows: {spent:.0f} s so far", file=sys.stderr, flush=True)
    return {case: values for case, values in seen.items() if case not in failed}, failed


def margin_of(values: dict[str, list[float]]) -> float:
    return MARGIN_SLOW if median(values["loop"]) >= SLOW_S else MARGIN_FAST


def quartiles_apart(values: Sequence[float]) -> float:
    return percentile(values, 0.75) - percentile(values, 0.25)


def is_noisy(values: dict[str, list[float]]) -> bool:
    """Tell whether the rounds so far hold no verdict."""
    # The standard error of a median is 1.25 sigma / sqrt(n); a normal distribution's quartiles are 1.35 sigma apart.
    spread = max(quartiles_apart(values["p50"]), quartiles_apart(values["noise_p50"]))
    return 0.93 * spread / len(values["p50"]) ** 0.5 > margin_of(values) / 2


def judge(case: Case, values: dict[str, list[float]]) -> dict[str, Any]:
    """Turn the rounds of one case into its row."""
    loop_p50_s, margin = median(values["loop"]), margin_of(values)
    spread = {name: quartiles_apart(values[name]) for name in NAMES}
    verdict = "met" if abs(median(values["p50"]) - 1) <= margin else "missed"
    return {
        "model": case.model.stem,
        "point": case.point.label,
        "loop_p50_s": loop_p50_s,
        "margin": margin,
        "rounds": len(values["p50"]),
        "verdict": "withheld: noise" if is_noisy(values) else verdict,
        **{f"{name}_ratio": median(values[name]) for name in NAMES},
        **{f"{name}_spread": spread[name] for name in NAMES},
        "ratios": values,
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures over all rows."""
    verdicts = [row["verdict"].partition(":")[0] for row in rows]
    return {
        "rows": len(rows),
        **{f"median_{name}_ratio": median(row[f"{name}_ratio"] for row in rows) for name in NAMES},
        **{name: verdicts.count(name) for name in ("met", "missed", "withheld")},
        "within_margin": sum(abs(row["p50_ratio"] - 1) <= row["margin"] for row in rows),
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]], *, markdown: bool) -> str:
    heads = ("model", "run as", "verdict", "rounds", "loop p50", "p50 ratio", "p90 ratio", "loop / loop")
    body = []
    for row in sorted(rows, key=lambda row: row["loop_p50_s"]):
        cells = [f"{row[f'{name}_ratio']:.3f} ± {row[f'{name}_spread']:.3f}" for name in ("p50", "p90", "noise_p50")]
        body.append(
            [
                row["model"],
                row["point"],
                row["verdict"],
                str(row["rounds"]),
                f"{row['loop_p50_s'] * 1e3:.3f} ms",
                *cells,
            ]
        )
    return render(heads, body, markdown=markdown, left=3)


def conclusion(rows: Sequence[dict[str, Any]], rounds: int) -> str:
    """Say it in words."""
    found = summary(rows)
    slow = sum(row["margin"] == MARGIN_SLOW for row in rows)
    return (
        f"boardfit's p50 over the plain loop's: median {found['median_p50_ratio']:.3f} of {found['rows']} rows, "
        f"p90 {found['median_p90_ratio']:.3f}; one loop over the other: {found['median_noise_p50_ratio']:.3f}.\n"
        f"Within the margin (0.98..1.02 for the {slow} of 5 ms or more, 0.96..1.04 for the {len(rows) - slow} below): "
        f"{found['within_margin']} of {found['rows']}. "
        f"Verdicts: {found['met']} met, {found['missed']} missed, {found['withheld']} withheld for noise.\n"
        f"{rounds} interleaved rounds, more where noise asks for it; ± is the distance of the quartiles over rounds."
    )


def choose_cases(options: argparse.Namespace, engines: Sequence[EngineFacts], made: Sequence[Path]) -> list[Case]:
    """Return what to measure. Raises: SystemExit: nothing of that name.

    Args: made: models of no bundle; taken without a name only.
    """
    models = [path.resolve() for path in options.models]
    if not models:
        real = Path(os.environ.get("BOARDFIT_REAL") or ROOT.parent / "shared" / "real") / "mobilenet"
        named = {path.stem: path for path in (*sorted(real.glob("*")), *made) if is_model(path)}
        if options.bundled or options.candidate:
            named |= {name: one.model for name, one in bundled().items() if is_model(one.model)}
        wanted = set(options.candidate or named)
        if wanted - set(named):
            raise SystemExit(f"no such candidate: {', '.join(sorted(wanted - set(named)))}")
        models = [named[name] for name in sorted(wanted)]
    cases = [
        Case(model, OperatingPoint(
            engine=engine.name, engine_version=engine.version or "", provider=engine.providers[0],
            threads=options.threads,
        ))
        for model in models
        for engine in engines
        if engine.proven and model.suffix.removeprefix(".") in engine.formats
        and engine.name in (options.engine or [engine.name])
    ]  # fmt: skip
    if not cases:
        raise SystemExit("there is nothing to measure: no model, or no proven engine for it")
    return cases


def make_models(folder: Path) -> list[Path]:
    """Return a model of 10 ms or so and one of 1 ms; empty, and said, without what writes them."""
    try:
        large, small = folder / "mobilenet_v2-224.onnx", folder / "mobilenet_v2-w035-96.onnx"
        return [write(large), write(small, 96, 0.35)]
    except ImportError as error:
        print(f"no models with random weights: {error}", file=sys.stderr)
        return []


def is_model(path: Path) -> bool:
    return path.suffix in (".onnx", ".tflite")


def main() -> int:
    parser = argparse.ArgumentParser(description="boardfit's reported latency over a plain loop's")
    parser.add_argument("models", nargs="*", type=Path, help="model files (default: real MobileNets and two made ones)")
    parser.add_argument("--bundled", action="store_true", help="every bundled candidate too")
    parser.add_argument("--candidate", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--engine", action="append", help="only this engine; may be repeated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--most-rounds", type=int, default=40, help="of rows too noisy for a verdict")
    parser.add_argument("--no-peers", action="store_true", help="leave out the tools beside it, and their two models")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true", help="the table for the README")
    options = parser.parse_args()
    begin = time.monotonic()
    engines = prove_engines()
    with tempfile.TemporaryDirectory() as folder:
        made = [] if options.models or options.no_peers else make_models(Path(folder))
        peers = Peers(made, least_runs=SETTINGS.min_runs, least_s=SETTINGS.min_time_s)
        seen, failed = run_rounds(
            choose_cases(options, engines, made), engines, options.rounds, options.most_rounds, peers
        )
    rows = [judge(case, values) for case, values in seen.items()]
    for case, reason in failed.items():
        print(f"left out: {case.model.stem} at {case.point.label}: {reason}", file=sys.stderr)
    if not rows:
        return 1
    spent = f"{time.monotonic() - begin:.0f} s"
    if options.json:
        document = {"schema": "boardfit.fidelity/2", "load_1min": os.getloadavg()[0], "summary": summary(rows)}
        beside = [{"tool": t, "model": m, **found._asdict()} for (t, m), found in peers.seen.items()]
        print(json.dumps({**document, "rows": rows, "peers": beside}, indent=1))
        return 0
    print(table(rows, markdown=options.markdown))
    if made:
        print(
            f"\nWhat peers report over a tight loop in their own runtime:\n\n{peers.table(markdown=options.markdown)}"
        )
    print(f"\n{conclusion(rows, options.rounds)}\n{platform.machine()}, {os.cpu_count()} cores, measured in {spent}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
