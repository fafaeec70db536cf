"""Top-1 accuracy of one model file on the evaluation pack, on one engine, each in a process of its own.

The input is made as a board makes it: ``apply_steps``, then, where the model's input is an integer, its own scale and
zero point. A process of its own, because an engine may crash on a file that another one runs.

Run as: ``python -m benchmarks.zoo.evaluate ENGINE MODEL PACK MANIFEST``; prints one JSON document.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from agent.runtimes.preprocess import apply_steps

ENGINES = {"onnx": ("onnxruntime",), "tflite": ("ai-edge-litert", "tflite-runtime")}  # the first is the reference
TIMEOUT_S = 900.0  # chosen: tflite-runtime needs minutes for some int8 nets on a slow machine


def _onnx_outputs(model: Path, inputs: NDArray[np.float32]) -> NDArray[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: sample[None]})[0] for sample in inputs])


def _tflite_outputs(interpreter: Any, inputs: NDArray[np.float32]) -> NDArray[Any]:
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    (wanted,) = interpreter.get_output_details()
    if np.issubdtype(given["dtype"], np.integer):
        scale, zero_point = given["quantization"]
        limits = np.iinfo(given["dtype"])
        inputs = np.clip(np.rint(inputs / scale) + zero_point, limits.min, limits.max).astype(given["dtype"])
    outputs = []
    for sample in inputs:
        interpreter.set_tensor(given["index"], sample[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(wanted["index"]))
    return np.concatenate(outputs)


def top1_correct(engine: str, model: Path, pack: Path, steps: list[dict[str, Any]]) -> tuple[int, int]:
    """Return how many images the model classifies rightly on the engine, and of how many."""
    with np.load(pack, allow_pickle=False) as arrays:
        images, labels = arrays["inputs"], arrays["labels"]
    inputs = apply_steps(steps, images)
    if engine == "onnxruntime":
        outputs = _onnx_outputs(model, inputs)
    else:
        if engine == "ai-edge-litert":
            from ai_edge_litert.interpreter import Interpreter
        else:
            from tflite_runtime.interpreter import Interpreter
        outputs = _tflite_outputs(Interpreter(str(model), num_threads=1), inputs)
    return int((outputs.argmax(axis=1) == labels).sum()), len(labels)


def evaluate(engine: str, model: Path, pack: Path, manifest: Path) -> dict[str, Any]:
    """Return ``{"correct", "n", "top1"}``, or ``{"error"}`` with the reason where the engine gave no result."""
    command = [sys.executable, "-m", "benchmarks.zoo.evaluate", engine, str(model), str(pack), str(manifest)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no result within {TIMEOUT_S:.0f} s"}
    if done.returncode < 0:
        return {"error": f"killed by signal {-done.returncode}"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"exit status {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    engine_, model_, pack_, manifest_ = sys.argv[1:]
    steps_ = yaml.safe_load(Path(manifest_).read_text(encoding="utf-8"))["preprocessing"]
    correct_, n_ = top1_correct(engine_, Path(model_), Path(pack_), steps_)
    print(json.dumps({"correct": correct_, "n": n_, "top1": round(correct_ / n_, 4)}))
