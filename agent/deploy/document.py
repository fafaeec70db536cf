"""The document an application reads, made from a candidate and the measurement that decided for it. Pure.

``release`` is the SHA-256 of the document's canonical JSON without that field: keys sorted, no spaces, UTF-8, so that
anybody can compute it again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from agent.core.deployment import DeployedFile, Deployment, RungPlace
from agent.core.manifest import Candidate
from agent.core.measurement import Figure, Measurement, OperatingPoint
from agent.deploy.files import describe_file

GOLDEN_NAME = "golden.npz"
DOCUMENT_NAME = "deployment.json"


def deployment_for(
    candidate: Candidate, point: OperatingPoint, golden: DeployedFile | None, measurement: Measurement | None,
    rung: RungPlace | UnsetType = UNSET,
) -> Deployment:  # fmt: skip
    """Return the whole document, its release computed."""
    manifest = candidate.manifest
    model = DeployedFile(path=f"model.{manifest.format}", sha256=candidate.sha256, length=candidate.model_bytes)
    document = Deployment(
        release="", task=manifest.task, candidate=manifest.name, format=manifest.format, model=model, point=point,
        inputs=manifest.inputs, outputs=manifest.outputs, golden=golden, preprocessing=manifest.preprocessing,
        labels=manifest.labels, label_offset=manifest.label_offset, family=manifest.family,
        compression=manifest.compression, licence=manifest.licence,
        expected={} if measurement is None else expected_figures(measurement), rung=rung,
    )  # fmt: skip
    return msgspec.structs.replace(document, release=release_of(document))


def release_of(deployment: Deployment) -> str:
    """Return the SHA-256 (hex) of the canonical document without its ``release``."""
    document = msgspec.to_builtins(deployment)
    del document["release"]
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def is_same_model(first: Deployment, second: Deployment) -> bool:
    """Return whether two documents say the same but for the figures of the measurement behind them.

    A new measurement of what already runs is no reason to switch: the application would restart every night. Nor is a
    ladder that has become longer or shorter; another place in it is, since the application is told of it.
    """
    return _plain(first) == _plain(second)


def _plain(document: Deployment) -> Deployment:
    place = RungPlace(index=document.rung_index, count=0) if document.rung_index else UNSET
    return msgspec.structs.replace(document, release="", expected={}, rung=place)


def golden_file(candidate: Candidate, golden: Path | None) -> DeployedFile | None:
    """Return what a document says of a golden file. Raises: DeploymentError: it is not signed and cannot be read."""
    if golden is None:
        return None
    signed = candidate.manifest.golden
    if signed is None:
        return describe_file(golden, GOLDEN_NAME)
    return DeployedFile(path=GOLDEN_NAME, sha256=signed.sha256, length=signed.length)


def expected_figures(measurement: Measurement) -> dict[str, float | None]:
    """Return the figures an application may hold the model to; SI, unit in the name, None where not measured."""
    latency, memory, power = measurement.latency, measurement.memory, measurement.power
    energy = None if power is None else power.energy_per_inference_j
    return {
        "latency_p50_s": None if latency is None else latency.p50_s.value,
        "latency_p95_s": None if latency is None else latency.p95_s.value,
        "throughput_per_s": None if latency is None else latency.throughput_per_s,
        "load_time_s": measurement.load_time_s,
        "first_inference_s": measurement.first_inference_s,
        "memory_peak_bytes": None if memory is None else float(memory.admission_peak_bytes),
        "power_mean_w": None if power is None else power.mean_w.value,
        "energy_per_inference_j": _value(energy),
        "accuracy_top1": None if measurement.accuracy is None else measurement.accuracy.top1.value,
    }


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else figure.value
