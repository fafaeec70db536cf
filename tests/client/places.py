"""Releases of real, bundled models in a state directory, put there by the store that deploys them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np

from agent.core.deployment import DeployedFile, Deployment
from agent.core.manifest import Manifest
from agent.core.measurement import OperatingPoint
from agent.deploy.document import release_of
from agent.deploy.store import CURRENT, ReleaseStore
from benchmarks.zoo.files import artifact, bundled

TASK = "digits"
ONNX, ONNX_INT8 = "mobilenet_v1-w025-onnx-f32", "mobilenet_v1-w025-onnx-static-int8"
TFLITE, TFLITE_INT8 = "mobilenet_v1-w025-tflite-f32", "mobilenet_v1-w025-tflite-static-int8"


def point_of(name: str) -> OperatingPoint:
    tflite = "tflite" in name
    return OperatingPoint(
        engine="ai-edge-litert" if tflite else "onnxruntime", engine_version="",
        provider="XNNPACK" if tflite else "CPUExecutionProvider", threads=1,
    )  # fmt: skip


def document_for(name: str, model: Path | None = None, **more: object) -> Deployment:
    """Return the document of a bundled candidate; ``model`` is another file under its name."""
    manifest = msgspec.convert(bundled()[name].manifest, Manifest)
    data = (model or artifact(name)).read_bytes()
    file = DeployedFile(path=f"model.{manifest.format}", sha256=hashlib.sha256(data).hexdigest(), length=len(data))
    fields = {
        "release": "", "task": TASK, "candidate": name, "format": manifest.format, "model": file,
        "point": point_of(name), "inputs": manifest.inputs, "outputs": manifest.outputs,
        "preprocessing": manifest.preprocessing, "labels": manifest.labels,
        "expected": {"latency_p95_s": 0.001},
    }  # fmt: skip
    made = Deployment(**{**fields, **more})
    return msgspec.structs.replace(made, release=release_of(made))


def stage(state: Path, name: str, model: Path | None = None, **more: object) -> Deployment:
    """Make a release folder and leave ``current`` alone."""
    document = document_for(name, model, **more)
    ReleaseStore(state / "deploy").stage(document, model or artifact(name), None)
    return document


def deploy(state: Path, name: str, model: Path | None = None, **more: object) -> Deployment:
    """Make a release and point ``current`` at it."""
    document = stage(state, name, model, **more)
    ReleaseStore(state / "deploy").set_link(TASK, CURRENT, document.release)
    return document


def digits(count: int = 1) -> np.ndarray:
    """Images as the bundled evaluation pack has them: uint8 [count, H, W, 1]."""
    from benchmarks.zoo.files import evaluation_pack

    images = np.load(evaluation_pack(), allow_pickle=False)["inputs"][:count]
    return images if images.ndim == 4 else images[..., None]
