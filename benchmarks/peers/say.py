"""What the peers say of a model, each beside a tight loop in its own runtime. Runs in the environment of `make peers`.

    .peers-venv/bin/python benchmarks/peers/say.py loadgen|benchmark_app MODEL.onnx [--least-runs 100] [--least-s 0.5]

Prints one JSON line: ``p50_s`` and ``p90_s`` as the tool reports them (None where it does not), ``loops``: the same of
a tight loop before and after it. ``--only`` leaves the loops out. It needs nothing of boardfit.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WARMUP_RUNS = 20
Run = Callable[[], object]


def onnxruntime_loop(model: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    feed = {given.name: filled([size if isinstance(size, int) else 1 for size in given.shape])}
    outputs = [output.name for output in session.get_outputs()]
    return lambda: session.run(outputs, feed)


def openvino_loop(model: Path, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = core.compile_model(str(model), "CPU", options).create_infer_request()
    shape = list(request.get_input_tensor(0).shape)
    request.set_input_tensor(0, openvino.Tensor(filled(shape)))
    infer: Run = request.infer
    return infer


def filled(shape: list[int]) -> Any:
    """Return an input; as with the tools, any values will do."""
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def tight(run: Run, least_runs: int, least_s: float) -> dict[str, float]:
    """Time single runs until there are enough of them."""
    for _ in range(WARMUP_RUNS):
        run()
    taken: list[float] = []
    clock = time.perf_counter
    begin = clock()
    while len(taken) < least_runs or clock() - begin < least_s:
        start = clock()
        run()
        taken.append(clock() - start)
    return {"p50_s": float(np.percentile(taken, 50)), "p90_s": float(np.percentile(taken, 90))}


def loadgen(run: Run, least_runs: int, least_s: float) -> dict[str, float | None]:
    """Report what MLPerf's load generator reports in its SingleStream scenario."""
    import mlperf_loadgen

    def issue(samples: Any) -> None:
        for sample in samples:
            run()
            mlperf_loadgen.QuerySamplesComplete([mlperf_loadgen.QuerySampleResponse(sample.id, 0, 0)])

    for _ in range(WARMUP_RUNS):
        run()
    settings = mlperf_loadgen.TestSettings()
    settings.scenario = mlperf_loadgen.TestScenario.SingleStream
    settings.mode = mlperf_loadgen.TestMode.PerformanceOnly
    settings.min_query_count = max(64, least_runs)  # it takes no fewer
    settings.min_duration_ms = int(least_s * 1e3)
    logs = mlperf_loadgen.LogSettings()
    logs.enable_trace = False
    system = mlperf_loadgen.ConstructSUT(issue, lambda: None)
    samples = mlperf_loadgen.ConstructQSL(1, 1, lambda _: None, lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        logs.log_output.outdir = folder
        mlperf_loadgen.StartTestWithLogSettings(system, samples, settings, logs)
        text = (Path(folder) / "mlperf_log_summary.txt").read_text()
    found = {rank: re.search(rf"^{rank}.00 percentile latency \(ns\)\s*:\s*(\d+)", text, re.M) for rank in (50, 90)}
    if found[50] is None or found[90] is None:
        raise SystemExit(f"loadgen's summary has no percentiles:\n{text}")
    return {"p50_s": int(found[50].group(1)) / 1e9, "p90_s": int(found[90].group(1)) / 1e9}


def benchmark_app(model: Path, threads: int, least_s: float) -> dict[str, float | None]:
    """Report what OpenVINO's benchmark_app reports; two decimals, and no p90."""
    command = [
        str(Path(sys.executable).with_name("benchmark_app")), "-m", str(model), "-d", "CPU", "-api", "sync",
        "-hint", "none", "-nstreams", "1", "-nthreads", str(threads), "-t", str(max(1, round(least_s))),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Median:\s*([\d.]+) (ms|us)", done.stdout)
    if found is None:
        raise SystemExit(f"benchmark_app ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    return {"p50_s": float(found.group(1)) / {"ms": 1e3, "us": 1e6}[found.group(2)], "p90_s": None}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("tool", choices=("loadgen", "benchmark_app"))
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--least-runs", type=int, default=100)
    parser.add_argument("--least-s", type=float, default=0.5)
    parser.add_argument("--only", action="store_true", help="without the loops")
    options = parser.parse_args()
    model, least = options.model, (options.least_runs, options.least_s)
    loops: list[dict[str, float]] = []
    if options.tool == "loadgen":
        run = onnxruntime_loop(model, options.threads)
        if not options.only:
            loops.append(tight(run, *least))
        said = loadgen(run, *least)
    else:
        run = None if options.only else openvino_loop(model, options.threads)
        if run is not None:
            loops.append(tight(run, *least))
        said = benchmark_app(model, options.threads, options.least_s)
    if run is not None and not options.only:
        loops.append(tight(run, *least))
    print(json.dumps({**said, "loops": loops}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
