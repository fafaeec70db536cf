"""Measurements made up for the tests of stage 4: every figure is an argument, nothing is random."""

from __future__ import annotations

from typing import Any

from agent.core.measurement import (
    AccuracyFigures,
    Figure,
    LatencyFigures,
    Measurement,
    MemoryFigures,
    OperatingPoint,
    PowerFigures,
)
from agent.core.statistics import proportion_interval

CLASS = "board-class-1"
PACK = "e" * 64


def point(threads: int = 1, provider: str = "CPUExecutionProvider", version: str = "1.23.2") -> OperatingPoint:
    return OperatingPoint(engine="onnxruntime", engine_version=version, provider=provider, threads=threads)


def bits(correct: list[bool]) -> str:
    length = (len(correct) + 7) // 8
    number = int("".join("1" if right else "0" for right in correct), 2) << (8 * length - len(correct))
    return f"{number:0{2 * length}x}"


def accuracy(correct: list[bool], pack: str = PACK, keep: bool = True) -> AccuracyFigures:
    n, right = len(correct), sum(correct)
    interval = proportion_interval(right, n)
    figure = Figure(value=right / n, low=interval.low, high=interval.high)
    kept = bits(correct) if keep else ""
    return AccuracyFigures(top1=figure, correct=right, n=n, pack_sha256=pack, correct_bits=kept)


def latency(p95_s: float, spread: float = 0.02, high: bool = True) -> LatencyFigures:
    def figure(value: float) -> Figure:
        return Figure(value=value, low=value * (1 - spread), high=value * (1 + spread) if high else None)

    return LatencyFigures(
        n=200, p50_s=figure(p95_s * 0.9), p90_s=figure(p95_s * 0.97), p95_s=figure(p95_s), p99_s=figure(p95_s * 1.1),
        mean_s=figure(p95_s * 0.92), min_s=p95_s * 0.8, max_s=p95_s * 1.5, warmup_runs=10, warmup_settled=True,
        throughput_per_s=1 / (p95_s * 0.92),
    )  # fmt: skip


def power(mean_w: float, energy_j: float | None = 0.01, scope: str = "board") -> PowerFigures:
    energy = None if energy_j is None else Figure(value=energy_j, low=energy_j * 0.95, high=energy_j * 1.05)
    return PowerFigures(
        source="ina219", scope=scope, mean_w=Figure(value=mean_w, low=mean_w * 0.98, high=mean_w * 1.02), idle_w=2.0,
        energy_per_inference_j=energy, window_s=5.0, inferences=500, samples=100, sample_rate_hz=20.0,
    )  # fmt: skip


def measurement(name: str = "fp32", *, p95_s: float | None = 0.010, threads: int = 1, **changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "id": f"m-{name}-{threads}", "task": "digits", "candidate": name, "artifact_sha256": f"{name:0<64}"[:64],
        "size_bytes": 1_000_000, "point": point(threads), "class_fingerprint": CLASS, "verdict": "ok",
        "started_at": "2026-01-01T00:00:00Z", "duration_s": 3.0, "load_time_s": 0.2, "first_inference_s": 0.05,
        "latency": latency(p95_s) if p95_s is not None else None,
        "memory": MemoryFigures(
            admission_peak_bytes=50_000_000, model_peak_bytes=None, model_steady_bytes=None, runtime_baseline_bytes=None
        ),
    }  # fmt: skip
    return Measurement(**(fields | changes))
