"""Synthetic figures for the page: made up by formulas and a seeded generator, measured on no board.

Only the page's tests and its pictures use them; nothing here may be quoted as a result.
"""

from __future__ import annotations

import functools
import random

from agent.core.budget import Budget, Estimate, Objective, check_budget, parse_budgets
from agent.core.decision import Choice, Decision, NearestMiss, Option
from agent.core.deployment import DeployedFile, Deployment, DeploymentStatus
from agent.core.facts import (
    Accelerator,
    BoardIdentity,
    CpuCluster,
    CpuFacts,
    DeviceFacts,
    EngineFacts,
    MemoryFacts,
    OsFacts,
    SensorFacts,
)
from agent.core.measurement import (
    AccuracyFigures,
    Context,
    ContextReading,
    Figure,
    LatencyFigures,
    Measurement,
    MemoryFigures,
    OperatingPoint,
    PowerFigures,
)
from agent.core.statistics import percentile, percentile_interval, proportion_interval
from agent.report.html import ReportInput, TaskReport

FAMILIES = {"mobilenet_v2": (0.957, 9.0, 14.0), "densenet_small": (0.968, 21.0, 22.0), "tinycnn": (0.921, 2.2, 1.4)}
COMPRESSIONS = {
    "fp32": (0.0, 1.0, 1.0), "fp16": (-0.0005, 1.15, 0.5), "int8": (-0.006, 0.42, 0.26),
    "int8_dyn": (-0.004, 1.9, 0.27),
    "pruned60_int8": (-0.014, 0.33, 0.19), "lowrank50": (-0.011, 0.62, 0.55),
}  # fmt: skip
POINTS = (
    OperatingPoint(engine="onnxruntime", engine_version="1.31.1", provider="CPUExecutionProvider", threads=1),
    OperatingPoint(engine="onnxruntime", engine_version="1.31.1", provider="CPUExecutionProvider", threads=4),
    OperatingPoint(engine="ai-edge-litert", engine_version="2.3.0", provider="CPU", threads=4),
)
FACTS = DeviceFacts(
    board=BoardIdentity(
        model="Raspberry Pi 5 Model B Rev 1.0 (synthetic)", soc="BCM2712", profile="raspberry-pi-5", matched_on="test"
    ),
    cpu=CpuFacts(
        architecture="aarch64", present=(0, 1, 2, 3), usable=(0, 1, 2, 3),
        clusters=(CpuCluster(cores=(0, 1, 2, 3), name="Cortex-A76", max_freq_hz=2.4e9, governor="ondemand"),),
    ),
    memory=MemoryFacts(total_bytes=8 * 1024**3),
    os=OsFacts(name="Debian GNU/Linux 12", kernel="6.6.31"),
    class_fingerprint="5f3c9d0a7b1e4c22",
    accelerators=(Accelerator(kind="gpu", name="VideoCore VII"),),
    engines=(
        EngineFacts(name="onnxruntime", formats=("onnx",), version="1.31.1", proven=True),
        EngineFacts(name="ai-edge-litert", formats=("tflite",), version="2.3.0", proven=True),
        EngineFacts(name="tflite-runtime", formats=("tflite",), reason="not installed"),
    ),
    sensors=(
        SensorFacts(name="thermal_zone0", quantity="temperature", status="ok"),
        SensorFacts(name="ina3221", quantity="power", status="absent", reason="no such chip"),
    ),
    power_mode=None,
)  # fmt: skip
BUDGETS = {"latency_p95": "20 ms", "accuracy_top1": 0.94, "memory_peak": "96 MiB", "energy_per_inference": "60 mJ"}


def synthetic_report(
    *,
    seed: int = 7,
    energy: bool = True,
    accuracy: bool = True,
    budgets: dict[str, object] | None = None,
    runs: int = 240,
) -> ReportInput:
    """Return a report over 54 options of one task, two of which fail."""
    generator = random.Random(seed)
    limits = parse_budgets(BUDGETS if budgets is None else budgets, where="budgets")
    measurements, options = [], []
    for family in FAMILIES:
        for compression in COMPRESSIONS:
            for point in POINTS:
                measurement = _measure(generator, family, compression, point, len(measurements), energy, accuracy, runs)
                measurements.append(measurement)
                options.append(_judge(measurement, limits))
    decision = _decide(options, limits)
    winner = decision.winner
    status = DeploymentStatus(
        task="digits", phase="CONFIRMED", changed_at="2026-05-04T03:05:40Z", outcome="deployed",
        current=winner and Deployment(
            release="9b" * 32, task="digits", candidate=winner.candidate, format="onnx", point=winner.point,
            model=DeployedFile(path="model.onnx", sha256=winner.artifact_sha256, length=1), inputs=(), outputs=(),
        ),
    )  # fmt: skip
    task = TaskReport(decision=decision, measurements=tuple(measurements), deployment=status)
    return ReportInput(
        facts=FACTS, tasks=(task,), generated_at="2026-05-04T03:06:00Z", agent_version="0.1.0", device="pi5-kitchen"
    )


def _measure(  # noqa: PLR0917
    generator: random.Random, family: str, compression: str, point: OperatingPoint, number: int,
    energy: bool, accuracy: bool, runs: int,
) -> Measurement:  # fmt: skip
    base_accuracy, base_ms, base_mib = FAMILIES[family]
    loss, slower, smaller = COMPRESSIONS[compression]
    engine = 1.0 if point.engine == "onnxruntime" else generator.uniform(0.75, 1.5)
    centre_s = base_ms * slower * engine * (3.1 if point.threads == 1 else 1.0) * generator.uniform(0.95, 1.05) / 1000
    tail = generator.uniform(0.02, 0.09)
    latencies = tuple(
        centre_s
        * (1 + abs(generator.gauss(0, tail)) + (generator.uniform(0.3, 0.9) if generator.random() < 0.02 else 0))
        for _ in range(runs)
    )
    samples = 1200
    correct = round(samples * (base_accuracy + loss + generator.uniform(-0.004, 0.004)))
    within = _interval(correct, samples)
    heat = 48.0 + 14.0 * (1 - 0.95**number) + generator.uniform(-1, 1)
    size = int(base_mib * smaller * 2**20)
    power_w = 3.4 + point.threads * 0.95
    failed = number in (11, 29)
    return Measurement(
        id=f"m-{number}", task="digits", candidate=f"{family}-{compression}", artifact_sha256=f"{number // 3:064x}",
        size_bytes=size, point=point, class_fingerprint=FACTS.class_fingerprint,
        verdict="wrong_output" if failed else "ok",
        reason="golden outputs differ by 3.2 where 0.01 is allowed" if failed else None,
        started_at=f"2026-05-04T03:{number // 4:02d}:{number % 4 * 15:02d}Z", duration_s=sum(latencies) + 1.1,
        load_time_s=0.02 + size / 4e8,
        latency=None if failed else LatencyFigures(
            n=runs, p50_s=_figure(latencies, 0.5), p90_s=_figure(latencies, 0.9), p95_s=_figure(latencies, 0.95),
            p99_s=_figure(latencies, 0.99), mean_s=Figure(value=sum(latencies) / runs), min_s=min(latencies),
            max_s=max(latencies), warmup_runs=10, warmup_settled=True, throughput_per_s=runs / sum(latencies),
        ),
        memory=MemoryFigures(
            admission_peak_bytes=int(44e6 + size * 2.3), model_peak_bytes=int(size * 2.2), model_steady_bytes=size * 2,
            runtime_baseline_bytes=int(43e6),
        ),
        power=PowerFigures(
            source="ina226", scope="board", mean_w=Figure(value=power_w), idle_w=2.6,
            energy_per_inference_j=Figure(
                value=(power_w - 2.6) * centre_s, low=(power_w - 2.6) * centre_s * 0.94,
                high=(power_w - 2.6) * centre_s * 1.06,
            ),
            window_s=10.0, inferences=500, samples=100, sample_rate_hz=10.0,
        ) if energy and not failed else None,
        power_reason=None if energy else "no power meter on this board",
        accuracy=AccuracyFigures(
            top1=Figure(value=correct / samples, low=within.low, high=within.high), correct=correct, n=samples,
            pack_sha256="00" * 32,
        ) if accuracy and not failed else None,
        context=Context(
            before=ContextReading(
                monotonic_s=number, temperature_celsius=heat, clock_hz=2.4e9, governor="ondemand", load_1min=0.3,
                throttle_now=(), memory_available_bytes=7 * 2**30,
            ),
            after=ContextReading(
                monotonic_s=number + 1, temperature_celsius=heat + generator.uniform(0.5, 5), clock_hz=2.4e9,
                governor="ondemand", load_1min=0.9, throttle_now=("soft_limit",) if number == 40 else (),
                memory_available_bytes=7 * 2**30,
            ),
            flags=("throttled",) if number == 40 else (),
        ),
        latencies_s=() if failed else latencies,
    )  # fmt: skip


_interval = functools.cache(proportion_interval)


def _figure(values: tuple[float, ...], q: float) -> Figure:
    interval = percentile_interval(values, q)
    return Figure(value=percentile(values, q), low=interval.low, high=interval.high)


def _judge(measurement: Measurement, limits: tuple[Budget, ...]) -> Option:
    def estimate(figure: Figure | None, why: str) -> Estimate:
        return Estimate.unknown(why) if figure is None else Estimate(
            value=figure.value, low=figure.low, high=figure.high
        )  # fmt: skip

    latency, power = measurement.latency, measurement.power
    estimates = {
        "latency_p50": estimate(latency and latency.p50_s, "not measured"),
        "latency_p95": estimate(latency and latency.p95_s, "not measured"),
        "accuracy_top1": estimate(measurement.accuracy and measurement.accuracy.top1, "no evaluation pack"),
        "energy_per_inference": estimate(power and power.energy_per_inference_j, "no power meter"),
        "memory_peak": Estimate.exact(measurement.memory.admission_peak_bytes if measurement.memory else 0),
        "size": Estimate.exact(measurement.size_bytes),
    }
    checks = tuple(check_budget(budget, estimates[budget.metric]) for budget in limits)
    states = {check.state for check in checks}
    standing = (
        "failed" if measurement.verdict != "ok"
        else "over_budget" if "missed" in states else "unknown" if "unknown" in states else "fits"
    )  # fmt: skip
    worst = next((check for check in checks if check.state in ("missed", "unknown")), None)
    reason = measurement.reason or (f"{worst.metric}: {worst.reason}" if worst else "meets every budget")
    return Option(
        candidate=measurement.candidate, artifact_sha256=measurement.artifact_sha256, point=measurement.point,
        measurement_id=measurement.id, verdict=measurement.verdict, standing=standing, reason=reason, checks=checks,  # type: ignore[arg-type]
        estimates={} if standing == "failed" else estimates, size_bytes=measurement.size_bytes,
    )  # fmt: skip


def _decide(options: list[Option], limits: tuple[Budget, ...]) -> Decision:
    import msgspec

    fitting = sorted(
        (option for option in options if option.standing == "fits"),
        key=lambda option: -(option.estimates["accuracy_top1"].value or 0),
    )
    ranks = {option.measurement_id: rank for rank, option in enumerate(fitting, start=1)}
    options = [msgspec.structs.replace(option, rank=ranks.get(option.measurement_id)) for option in options]
    missed = [
        (check.miss_ratio, option, check)
        for option in options
        if option.standing == "over_budget"
        for check in option.checks
        if check.state == "missed" and check.miss_ratio is not None
        and sum(other.state != "met" for other in option.checks) == 1
    ]  # fmt: skip
    nearest = min(missed, key=lambda found: found[0]) if missed else None
    first = fitting[0] if fitting else None
    old = fitting[2] if len(fitting) > 2 else None
    return Decision(
        id="d-1", task="digits", decided_at="2026-05-04T03:05:00Z", class_fingerprint=FACTS.class_fingerprint,
        outcome="chosen" if first else "nothing_fits",
        reason=(
            f"{first.candidate} has the best accuracy of the {len(fitting)} options that meet every budget."
            if first else "Each candidate misses at least one budget."
        ),
        budgets=limits,
        objectives=(
            Objective(direction="maximize", metric="accuracy_top1"),
            Objective(direction="minimize", metric="energy_per_inference"),
        ),
        options=tuple(options),
        winner=first and Choice(candidate=first.candidate, artifact_sha256=first.artifact_sha256, point=first.point),
        incumbent=old and Choice(candidate=old.candidate, artifact_sha256=old.artifact_sha256, point=old.point),
        nearest_miss=nearest and NearestMiss(
            candidate=nearest[1].candidate, point=nearest[1].point, metric=nearest[2].metric, state="missed",
            miss_ratio=nearest[0], reason=nearest[2].reason,
        ),
    )  # fmt: skip
