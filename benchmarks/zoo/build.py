"""Train, export, quantize, evaluate: fill a directory with model files, manifests, evaluation pack and results."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from agent.compress import exporting
from benchmarks.zoo import data, evaluate, export, quantize, train
from benchmarks.zoo.catalog import (
    FLOAT16,
    FLOAT32,
    INT8,
    INT8_FULL_RANGE,
    LABELS,
    ONNX,
    PACK_NAME,
    TFLITE,
    Entry,
    Network,
    entries,
)

RESULTS_NAME = "results.json"
LOG_NAME = "converters.log"
_TOOLS = (
    "torch", "numpy", "scikit-learn", "pillow", "onnx", "onnxslim", "onnxconverter-common", "onnxruntime",
    "litert-torch", "ai-edge-quantizer", "ai-edge-litert", "tflite-runtime",
)  # fmt: skip


def extra_manifest(entry: Entry, compression: list[dict[str, Any]], parameters: int) -> dict[str, Any]:
    """Return what ``registry add`` cannot read from the model file; ``reference`` comes after evaluation."""
    kind = {FLOAT32: "float32", FLOAT16: "float16", INT8: "static int8", INT8_FULL_RANGE: "static int8, full range"}
    return {
        "family": entry.network.family,
        "compression": compression,
        **({"parent": entry.parent} if entry.parent else {}),
        "preprocessing": data.preprocessing_steps(entry.format),
        "labels": list(LABELS),
        "label_offset": 0,
        "licence": "Apache-2.0",
        "description": f"{entry.network.remark}; {parameters} parameters, {kind[entry.precision]}; handwritten digits",
    }


@contextmanager
def _tool_output_to(log: Path) -> Iterator[None]:
    """Append what the converters print, from Python and from C++, to a file instead of the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with log.open("a", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])


def build_network(
    network: Network, splits: tuple[data.Split, data.Split], work: Path, built: Path, *, reuse: bool
) -> dict[str, Any]:
    """Make every artifact of one network under ``built``; return the results of each by name."""
    training, _ = splits
    print(f"{network.name}: {network.remark}", flush=True)
    trained = reuse and (work / f"{network.name}.pt").exists()
    model = train.load_network(network, work) if trained else train.train_network(network, training, work)
    parameters = sum(tensor.numel() for tensor in model.parameters())
    floats = {}
    for format_, exporter in ((ONNX, export.export_onnx), (TFLITE, export.export_tflite)):
        if any(entry.format == format_ for entry in entries(network)):
            floats[format_] = work / f"{network.name}.{format_}"
            with _tool_output_to(work / LOG_NAME):
                exporter(model, floats[format_])
    results = {}
    for entry in entries(network):
        path = built / entry.file_name
        source = floats[entry.format]
        compression = []
        if entry.precision == FLOAT32:
            path.write_bytes(source.read_bytes())
        else:
            calibration = data.calibration_inputs(training, entry.format)
            with _tool_output_to(work / LOG_NAME):
                compression.append(quantize.QUANTIZERS[entry.format, entry.precision](source, path, calibration))
        with _tool_output_to(work / LOG_NAME):
            exporting.finish(path, path, "onnx" if entry.format == ONNX else "tflite")
        results[entry.name] = _measure(entry, path, extra_manifest(entry, compression, parameters), parameters)
    return results


def _measure(entry: Entry, path: Path, manifest: dict[str, Any], parameters: int) -> dict[str, Any]:
    """Evaluate on every engine of the format, and write the manifest with the reference engine's accuracy."""
    manifest_path = path.with_suffix(".yaml")
    pack = path.parent / PACK_NAME
    manifest_path.write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    engines = {}
    for engine in evaluate.ENGINES[entry.format]:
        started = time.monotonic()
        engines[engine] = evaluate.evaluate(engine, path, pack, manifest_path)
        print(f"  {entry.name} {path.stat().st_size} bytes, {engine}: {engines[engine]} "
              f"({time.monotonic() - started:.1f} s)", flush=True)  # fmt: skip
    reference = engines[evaluate.ENGINES[entry.format][0]]
    if "error" in reference:
        raise RuntimeError(f"{entry.name} does not run on its reference engine: {reference['error']}")
    manifest["reference"] = {
        "metric": "top1", "value": reference["top1"], "n": reference["n"], "data": data.REFERENCE_DATA
    }  # fmt: skip
    manifest_path.write_text(yaml.safe_dump(manifest, sort_keys=False, width=120), encoding="utf-8")
    return {
        "network": entry.network.remark,
        "format": entry.format,
        "precision": entry.precision,
        "parameters": parameters,
        "size_bytes": path.stat().st_size,
        "engines": engines,
    }


def build_all(networks: Sequence[Network], work: Path, built: Path, *, reuse: bool) -> None:
    """Make the artifacts of the networks and write ``results.json``; results of other networks there are kept."""
    work.mkdir(parents=True, exist_ok=True)
    built.mkdir(parents=True, exist_ok=True)
    splits = data.load_digits_splits()
    data.write_pack(splits[1], built)
    results_path = built / RESULTS_NAME
    candidates = json.loads(results_path.read_text(encoding="utf-8"))["candidates"] if results_path.exists() else {}
    for network in networks:
        candidates.update(build_network(network, splits, work, built, reuse=reuse))
        document = {
            "split": {"seed": data.SPLIT_SEED, "train": len(splits[0].labels), "test": len(splits[1].labels)},
            "tools": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in _TOOLS},
            },
            "candidates": candidates,
        }
        results_path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
