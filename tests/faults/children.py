"""Stands in for the children that measure and prove, below real verbs: simulated results, and no runtime is started.

Imported into the warm process of ``tests.deploy.killing``. What the agent itself reads and writes is the real thing.
A candidate called ``late`` is proven before the switch and fails after it. Each measurement is noted in
``measured.log`` beside the state directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from agent import pipeline
from agent.core.deployment import Deployment
from agent.core.facts import EngineFacts
from agent.core.manifest import Candidate
from agent.core.measurement import Measurement, OperatingPoint
from agent.core.ports import ProbeResult
from agent.measure import bench
from tests.select.measured import measurement

ENGINE = EngineFacts(
    name="onnxruntime", formats=("onnx",), version="0-simulated", providers=("CPUExecutionProvider",), proven=True
)


def prove_engines(*_: Any) -> tuple[EngineFacts, ...]:
    return (ENGINE,)


def measure_one(candidate: Candidate, point: OperatingPoint, artifact: Path, *_: Any, **given: Any) -> Measurement:
    state = artifact.parents[4]
    with (state.parent / "measured.log").open("a") as log:
        log.write(f"{candidate.name}\n")
    made = measurement(candidate.name)
    return msgspec.structs.replace(
        made, id=f"simulated-{candidate.name}", task=candidate.task, artifact_sha256=candidate.sha256,
        size_bytes=candidate.size_bytes, point=point, class_fingerprint=given["facts"].class_fingerprint,
        agent_version=given["agent_version"], started_at=given["clock"].utc().strftime("%Y-%m-%dT%H:%M:%SZ"),
    )  # fmt: skip


def prove_release(release: Path, deployment: Deployment, **_: Any) -> ProbeResult:
    if not (release / deployment.model.path).is_file():
        return ProbeResult(passed=False, reason="simulated: there is no model")
    if deployment.candidate == "late" and release.name == "current":
        return ProbeResult(passed=False, reason="simulated: golden outputs differ")
    return ProbeResult(passed=True, reason="simulated: golden outputs agree")


pipeline.prove_engines = prove_engines
pipeline.measure_one = measure_one  # type: ignore[assignment]
bench.prove_release = prove_release  # type: ignore[assignment]
