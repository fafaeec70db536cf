"""A model timed as anybody would: load it, feed it, run it in a loop. The other side of ``fidelity.py``.

    python benchmarks/plain_loop.py ENGINE        one JSON job per line on stdin, one JSON answer per line on stdout

The engine is imported once; each job runs in a fork, so that every loop starts from the same clean process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.core.manifest import TensorSpec  # noqa: E402
from agent.core.statistics import percentile  # noqa: E402
from agent.measure.evaluate import synthetic  # noqa: E402

_ONNX_TYPES = {"tensor(float)": "float32", "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(int64)": "int64"}
_TFLITE = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}


def fill(dtype: str, shape: tuple[int, ...]) -> Any:
    """Return the same input that boardfit times with."""
    return synthetic(TensorSpec(name="x", dtype=dtype, shape=shape), shape)


def open_model(engine: Any, path: str, threads: int) -> Callable[[], object]:
    """Load a model and return what runs it once."""
    if hasattr(engine, "InferenceSession"):
        options = engine.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = engine.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {
            i.name: fill(_ONNX_TYPES[i.type], tuple(size if isinstance(size, int) else 1 for size in i.shape))
            for i in session.get_inputs()
        }
        outputs = [output.name for output in session.get_outputs()]
        return lambda: session.run(outputs, feed)
    interpreter = engine.Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        shape = tuple(int(size) for size in detail["shape"])
        interpreter.set_tensor(detail["index"], fill(detail["dtype"].__name__, shape))
    invoke: Callable[[], object] = interpreter.invoke
    return invoke


def loop(run: Callable[[], object], job: dict[str, Any]) -> dict[str, float]:
    """Warm up, then time single runs until there are enough of them."""
    for _ in range(job["warmup_runs"]):
        run()
    taken: list[float] = []
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        taken.append(now - start)
        n, spent = len(taken), now - begin
        enough = n >= job["min_runs"] and spent >= job["min_time_s"]
        if enough or n >= job["max_runs"] or spent >= job["max_time_s"]:
            return {"p50_s": percentile(taken, 0.5), "p90_s": percentile(taken, 0.9), "n": n}


def serve(engine_name: str) -> None:
    """Answer jobs until stdin ends."""
    import importlib

    engine = importlib.import_module(_TFLITE.get(engine_name, engine_name))
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                answer: dict[str, Any] = loop(open_model(engine, job["model"], job["threads"]), job)
            except Exception as error:  # noqa: BLE001 - whatever an engine raises is the answer
                answer = {"error": f"{type(error).__name__}: {error}"}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            sys.stdout.write(json.dumps({"error": f"ended with status {status}"}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
