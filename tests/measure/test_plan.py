from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from agent.core.facts import CpuFacts, EngineFacts, MemoryFacts
from agent.core.manifest import Candidate, Manifest, Needs, TargetRef
from agent.core.measurement import Measurement, OperatingPoint
from agent.measure.plan import nominal_point, operating_points, plan, refusal, thread_counts
from agent.measure.settings import MeasureSettings
from tests.measure.models import facts

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
SETTINGS = MeasureSettings()


def candidate(name: str = "m", size: int = 1000, form: str = "tflite", **needs: Any) -> Candidate:
    manifest = Manifest(task="t", name=name, format=form, inputs=(), outputs=(), needs=Needs(**needs))  # type: ignore[arg-type]
    return Candidate(manifest=manifest, target=TargetRef(path=name, sha256=name * 8, length=size))


def cores(n: int, quota: float | None = None) -> CpuFacts:
    return CpuFacts(architecture="aarch64", present=tuple(range(n)), usable=tuple(range(n)), quota_cores=quota)


@pytest.mark.parametrize(
    ("count", "threads"),
    [
        (0, (1,)),
        (1, (1,)),
        (3, (1, 2, 3)),
        (4, (1, 2, 3, 4)),
        (6, (1, 2, 4, 6)),
        (8, (1, 2, 4, 8)),
        (12, (1, 2, 4, 8, 12)),
    ],
)
def test_thread_counts(count: int, threads: tuple[int, ...]) -> None:
    assert thread_counts(count) == threads


def test_points_are_proven_engines_times_providers_times_threads() -> None:
    gpu = EngineFacts(
        name="onnxruntime",
        formats=("onnx",),
        version="1.31.1",
        providers=("CPUExecutionProvider", "CUDAExecutionProvider"),
        proven=True,
    )
    broken = EngineFacts(name="ai-edge-litert", formats=("tflite",), version="2.3.0", reason="it crashed")
    old = EngineFacts(name="tflite-runtime", formats=("tflite",), version="2.14.0", providers=("XNNPACK",), proven=True)
    board = facts(engines=(gpu, broken, old), cpu=cores(4, quota=2.0))
    assert [point.label for point in operating_points(candidate(form="onnx"), board)] == [
        "onnxruntime/CPU x1",
        "onnxruntime/CPU x2",
        "onnxruntime/CUDA x1",
    ]
    assert [point.label for point in operating_points(candidate(), board)] == [
        "tflite-runtime/XNNPACK x1",
        "tflite-runtime/XNNPACK x2",
    ]
    assert operating_points(candidate(engines=("ai-edge-litert",)), board) == ()


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        ({}, None),
        ({"opset": 20, "ir_version": 10, "isa": ("sse2",), "memory_bytes": 1 << 30}, None),
        ({"opset": 21}, "it needs opset 21; 20 is the newest that every supported engine runs"),
        ({"ir_version": 11}, "it needs IR version 11; 10 is the newest every supported engine reads"),
        ({"isa": ("sse2", "avx512_vnni")}, "this processor (x86_64) lacks avx512_vnni"),
        ({"memory_bytes": 1 << 31}, "it needs 2147483648 bytes of memory; this board has 1073741824"),
        ({"engines": ("other",)}, "no engine of other for tflite is proven here"),
    ],
)
def test_static_refusals(needs: dict[str, Any], reason: str | None) -> None:
    found = refusal(candidate(**needs), facts(memory=MemoryFacts(total_bytes=1 << 30)))
    assert found == reason if reason is None else (found or "").startswith(reason)


def stored(point: OperatingPoint, age: timedelta, verdict: str = "ok", **changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "id": f"{verdict}-{age}",
        "task": "t",
        "candidate": "m",
        "artifact_sha256": "m" * 8,
        "size_bytes": 1000,
        "point": point,
        "class_fingerprint": "test-class",
        "verdict": verdict,
        "started_at": (NOW - age).isoformat().replace("+00:00", "Z"),
        "duration_s": 1.0,
    }
    return Measurement(**{**fields, **changes})


def test_young_results_of_the_same_key_stand_in() -> None:
    subject, board = candidate(), facts()
    point, *others = operating_points(subject, board)
    old, young = stored(point, timedelta(days=2)), stored(point, timedelta(days=1))
    runs = plan([subject], board, SETTINGS, [young, old], NOW)
    assert [run.point for run in runs] == [point, *others]
    assert [run.stored for run in runs] == [young] + [None] * len(others)


@pytest.mark.parametrize(
    "useless",
    [
        {"verdict": "contended"},
        {"verdict": "interrupted"},
        {"verdict": "timeout"},
        {"age": timedelta(days=31)},
        {"age": timedelta(days=-1)},
        {"started_at": "yesterday"},
        {"class_fingerprint": "another"},
        {"artifact_sha256": "another"},
    ],
    ids=str,
)
def test_other_results_do_not(useless: dict[str, Any]) -> None:
    point = operating_points(candidate(), facts())[0]
    measurement = stored(point, useless.pop("age", timedelta(days=1)), **useless)
    assert all(run.stored is None for run in plan([candidate()], facts(), SETTINGS, [measurement], NOW))


def test_small_files_come_first_and_refusals_are_planned_with_their_reason() -> None:
    subjects = [candidate("big", 5000), candidate("small", 10), candidate("odd", 20, isa=("none",))]
    runs = plan(subjects, facts(), SETTINGS, [], NOW)
    assert list(dict.fromkeys(run.candidate.name for run in runs)) == ["small", "odd", "big"]
    refused = [run for run in runs if run.refusal is not None]
    assert [(run.candidate.name, run.refusal) for run in refused] == [("odd", "this processor (x86_64) lacks none")]


def test_a_refusal_without_any_engine_is_recorded_under_the_formats_first_one() -> None:
    point = nominal_point(candidate(), facts(engines=()))
    assert point == OperatingPoint(engine="ai-edge-litert", engine_version="", provider="XNNPACK", threads=1)
