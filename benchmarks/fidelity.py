"""How close boardfit's reported latency is to a plain loop around the same engine: goal G1 of the README.

    python benchmarks/fidelity.py MODEL [MODEL ...] [--threads 1] [--rounds 10] [--json]

Each round runs, each in a fresh process: a plain loop, boardfit, a plain loop (boardfit first in every other round).
The figure is the median over rounds of boardfit's p50 (p90) over the mean of the two loops'; beside it stands the same
for one loop over the other, which is what this machine can tell apart at all. A verdict is withheld where the standard
error of that noise floor's median is above half the margin. On a busy machine start it with ``chrt -f 1``.

Loop and product use the same settings: threads, warm-up runs, least number and time of timed runs, the same input.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

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

SETTINGS = MeasureSettings(contended="flag")
SLOW_S = 5e-3
MARGIN_SLOW, MARGIN_FAST = 0.02, 0.04


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

    def scheduler_counters(self, pid: int) -> None:  # noqa: ARG002
        return None


class Clock:
    def monotonic_s(self) -> float:
        return time.monotonic()

    def utc(self) -> datetime:
        return datetime.now(timezone.utc)


def loop(model: Path, engine: str, threads: int) -> dict[str, float]:
    """Time one model as anybody would; runs in a process of its own."""
    import numpy as np

    from agent.core.manifest import TensorSpec
    from agent.measure.evaluate import synthetic

    def fill(dtype: str, shape: tuple[int, ...]) -> Any:
        return synthetic(TensorSpec(name="x", dtype=dtype, shape=shape), shape)

    if engine == "onnxruntime":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        names = {"tensor(float)": "float32", "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(int64)": "int64"}
        feed = {
            i.name: fill(names[i.type], tuple(s if isinstance(s, int) else 1 for s in i.shape))
            for i in session.get_inputs()
        }
        outputs = [o.name for o in session.get_outputs()]

        def run() -> None:
            session.run(outputs, feed)
    else:
        if engine == "ai-edge-litert":
            from ai_edge_litert.interpreter import Interpreter
        else:
            from tflite_runtime.interpreter import Interpreter
        interpreter = Interpreter(str(model), num_threads=threads)
        interpreter.allocate_tensors()
        for detail in interpreter.get_input_details():
            shape = tuple(int(size) for size in detail["shape"])
            interpreter.set_tensor(detail["index"], fill(np.dtype(detail["dtype"]).name, shape))
        run = interpreter.invoke

    for _ in range(15):
        run()
    taken: list[float] = []
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        taken.append(now - start)
        n, spent = len(taken), now - begin
        enough = n >= SETTINGS.min_runs and spent >= SETTINGS.min_time_s
        if enough or n >= SETTINGS.max_runs or spent >= SETTINGS.max_time_s:
            return {"p50_s": percentile(taken, 0.5), "p90_s": percentile(taken, 0.9)}


def loop_in_child(model: Path, engine: str, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--loop", engine, "--threads", str(threads), str(model)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    # A session of its own, as the worker has: the kernel's autogroups share the cores out by session.
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, start_new_session=True)
    answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def product(model: Path, point: OperatingPoint, engines: tuple[EngineFacts, ...]) -> dict[str, float]:
    """Let boardfit measure; without evaluation and golden data, as the loop has neither."""
    form = "onnx" if model.suffix == ".onnx" else "tflite"
    candidate = Candidate(
        manifest=Manifest(task="fidelity", name=model.stem, format=form, inputs=(), outputs=()),
        target=TargetRef(path=model.name, sha256="0" * 64, length=model.stat().st_size),
    )
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
        raise SystemExit(f"{model.name} at {point.label}: {measurement.verdict}: {measurement.reason}")
    return {"p50_s": measurement.latency.p50_s.value, "p90_s": measurement.latency.p90_s.value}


def compare(model: Path, point: OperatingPoint, engines: tuple[EngineFacts, ...], rounds: int) -> dict[str, Any]:
    """Run the interleaved rounds of one model at one point."""
    ratios: dict[str, list[float]] = {"p50": [], "p90": [], "noise_p50": [], "noise_p90": []}
    p50s = []
    for number in range(rounds):
        if number % 2:
            ours = product(model, point, engines)
        first = loop_in_child(model, point.engine, point.threads)
        if not number % 2:
            ours = product(model, point, engines)
        second = loop_in_child(model, point.engine, point.threads)
        p50s.append(first["p50_s"])
        for name in ("p50", "p90"):
            a, b = first[f"{name}_s"], second[f"{name}_s"]
            ratios[name].append(ours[f"{name}_s"] / ((a + b) / 2))
            ratios[f"noise_{name}"].append(a / b)
    slow = median(p50s) >= SLOW_S
    margin = MARGIN_SLOW if slow else MARGIN_FAST
    # The standard error of a median is 1.25 sigma / sqrt(n); a normal distribution's quartiles are 1.35 sigma apart.
    if 0.93 * quartile_spread(ratios["noise_p50"]) / rounds**0.5 > margin / 2:
        verdict = "withheld: noise"
    else:
        verdict = "met" if abs(median(ratios["p50"]) - 1) <= margin else "missed"
    return {
        "model": model.name,
        "point": point.label,
        "loop_p50_s": median(p50s),
        "rounds": rounds,
        "margin": margin,
        "verdict": verdict,
        **{f"{name}_ratio": median(values) for name, values in ratios.items()},
        **{f"{name}_spread": quartile_spread(values) for name, values in ratios.items()},
        "ratios": ratios,
    }


def quartile_spread(values: list[float]) -> float:
    """Return the distance of the quartiles."""
    return percentile(values, 0.75) - percentile(values, 0.25)


def main() -> int:
    parser = argparse.ArgumentParser(description="boardfit's reported latency over a plain loop's")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--engine", action="append", help="only this engine; may be repeated")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--loop", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        print(json.dumps(loop(options.models[0], options.loop, options.threads)))
        return 0
    engines = prove_engines()
    rows = []
    if not options.json:
        print(f"{'model':34} {'point':24} {'loop p50':>9}  {'p50 ratio':>15} {'p90 ratio':>15} {'loop/loop p50':>15}")
    for model in options.models:
        form = model.suffix.removeprefix(".")
        for engine in engines:
            if not engine.proven or form not in engine.formats or engine.name not in (options.engine or [engine.name]):
                continue
            point = OperatingPoint(
                engine=engine.name,
                engine_version=engine.version or "",
                provider=engine.providers[0],
                threads=options.threads,
            )
            row = compare(model.resolve(), point, engines, options.rounds)
            rows.append(row)
            if not options.json:
                cells = [f"{row[f'{n}_ratio']:.3f} ± {row[f'{n}_spread']:.3f}" for n in ("p50", "p90", "noise_p50")]
                name, loop_ms = model.name[:34], row["loop_p50_s"] * 1e3
                figures = " ".join(f"{cell:>15}" for cell in cells)
                print(f"{name:34} {point.label:24} {loop_ms:6.2f} ms  {figures}  {row['verdict']}", flush=True)
    if options.json:
        print(json.dumps({"schema": "boardfit.fidelity/1", "load_1min": os.getloadavg()[0], "rows": rows}, indent=1))
    else:
        print("± is the distance of the quartiles over rounds")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
