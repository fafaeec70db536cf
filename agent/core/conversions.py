"""How the values of the stages become messages. Pure.

Leaves the messages themselves to ``agent.core.messages``. Long texts are cut here, so that a decision over hundreds of
options still fits into one message; how many options were left out is in the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from agent.core.budget import METRICS
from agent.core.combination import CombinationSummary
from agent.core.decision import Decision, InCombination, Option
from agent.core.deployment import DeploymentStatus
from agent.core.facts import DeviceFacts
from agent.core.measurement import ContextReading, Figure, Measurement
from agent.core.messages import (
    DecisionMessage,
    DeploymentMessage,
    Measurements,
    MeasurementSummary,
    Origin,
    Profile,
    Telemetry,
)
from agent.core.summaries import BudgetSummary, OptionSummary, RungSummary
from agent.core.units import Dimension

MAX_OPTIONS_BYTES = 96 * 1024  # leaves room for the rest of a decision within one message
MAX_REASON = 240
MAX_WITHHELD = 20  # of one task, named in its message
_HEADER_BYTES = 512  # of a message without its list: fleet and device take 64 each, boot and times less
_DIGITS = 7  # a clock's nanoseconds over 10 ms; intervals are a hundred thousand times as wide
_SUFFIX: dict[Dimension, str] = {"time": "_s", "bytes": "_bytes", "power": "_w", "energy": "_j", "rate": "_per_s"}
_ORDER = {"fits": 0, "over_budget": 1, "unknown": 2, "failed": 3}


def field_name(metric: str) -> str:
    """Return a metric's name with the suffix of its unit: ``latency_p95`` is ``latency_p95_s``."""
    return metric + _SUFFIX.get(METRICS[metric].dimension, "")


def message_for_profile(facts: DeviceFacts, origin: Origin, agent_version: str | None = None) -> Profile:
    """Return the profile message of a board."""
    return Profile(
        **_header(origin),
        class_fingerprint=facts.class_fingerprint,
        profile=facts.board.profile,
        facts=facts,
        model=facts.board.model,
        soc=facts.board.soc,
        architecture=facts.cpu.architecture,
        cores_usable=len(facts.cpu.usable),
        memory_total_bytes=facts.memory.total_bytes,
        power_mode=facts.power_mode,
        agent_version=agent_version,
    )


def summary_of_measurement(measurement: Measurement, boot_id: str | None) -> MeasurementSummary:
    """Return a measurement flat, raw values left out, as one of a ``Measurements`` message.

    Args: boot_id: the sender's.
    """
    fields: dict[str, Any] = {
        name: getattr(measurement, name)
        for name in (
            "id", "task", "candidate", "artifact_sha256", "size_bytes", "size_unpacked_bytes", "class_fingerprint",
            "verdict", "started_at", "duration_s", "agent_version", "load_time_s", "first_inference_s", "power_reason",
            "accuracy_reason", "engine_build_s",
        )
    }  # fmt: skip
    fields |= msgspec.structs.asdict(measurement.point)
    fields["boot_id"] = None if measurement.boot_id == boot_id else measurement.boot_id
    fields["reason"] = _short(measurement.reason)
    fields["stopped"] = _short(measurement.stopped)
    fields["confinement"] = ",".join(measurement.confinement)
    fields |= _latency_fields(measurement) | _cost_fields(measurement) | _context_fields(measurement)
    for name, value in fields.items():
        fields[name] = _rounded(value) if isinstance(value, float) else value
    return MeasurementSummary(**fields)


def messages_for_measurements(
    summaries: Sequence[MeasurementSummary], origin: Origin, limit_bytes: int
) -> list[Measurements]:
    """Return as few messages as hold these in order, each no longer than ``limit_bytes`` unless one alone is."""
    header = _header(origin)
    made: list[list[MeasurementSummary]] = []
    left = 0
    for summary in summaries:
        length = len(msgspec.json.encode(summary)) + 1
        if not made or length > left:
            made.append([])
            left = limit_bytes - _HEADER_BYTES
        left -= length
        made[-1].append(summary)
    return [Measurements(**header, measurements=tuple(some)) for some in made]


def message_for_decision(decision: Decision, origin: Origin) -> DecisionMessage:
    """Return a decision: the winner's figures at the top, and every option's standing and reason in short."""
    winner = _winner(decision)
    options = _summaries(decision)
    fields: dict[str, Any] = {}
    if decision.winner is not None:
        fields |= {
            "candidate": decision.winner.candidate,
            "artifact_sha256": decision.winner.artifact_sha256,
            "engine": decision.winner.point.engine,
            "provider": decision.winner.point.provider,
            "threads": decision.winner.point.threads,
            "batch": decision.winner.point.batch,
        }
    if winner is not None:
        fields |= {field_name(name): _estimate(winner, name) for name in METRICS}
        fields["size_bytes"] = _estimate(winner, "size") or winner.size_bytes
        fields["size_unpacked_bytes"] = winner.size_unpacked_bytes
        p95 = winner.estimates.get("latency_p95")
        if p95 is not None:
            fields |= {"latency_p95_low_s": p95.low, "latency_p95_high_s": p95.high}
    if decision.incumbent is not None:
        fields["incumbent_candidate"] = decision.incumbent.candidate
        fields["incumbent_point"] = decision.incumbent.point.label
    if decision.nearest_miss is not None:
        fields["nearest_miss_candidate"] = decision.nearest_miss.candidate
        fields["nearest_miss_metric"] = decision.nearest_miss.metric
        fields["nearest_miss_ratio"] = decision.nearest_miss.miss_ratio
        fields["nearest_miss_reason"] = _short(decision.nearest_miss.reason)
    if decision.combination is not None:
        fields["combination"] = _in_combination(decision.combination)
    if decision.from_class is not None:
        owed = decision.from_class
        fields |= {"class_boards": owed.boards, "class_use": owed.use, "class_left_out": owed.left_out}
    return DecisionMessage(
        **_header(origin),
        id=decision.id,
        task=decision.task,
        decided_at=decision.decided_at,
        class_fingerprint=decision.class_fingerprint,
        outcome=decision.outcome,
        reason=decision.reason[:1000],
        options_total=len(decision.options),
        options_fitting=sum(option.standing == "fits" for option in decision.options),
        options=options,
        options_left_out=len(decision.options) - len(options),
        options_untried=len(decision.untried),
        options_untried_that_matter=sum(option.could_matter for option in decision.untried),
        ladder=tuple(
            RungSummary(
                candidate=rung.choice.candidate,
                point=rung.choice.point.label,
                latency_p95_s=rung.latency_p95_s,
                accuracy_top1=rung.accuracy_top1,
            )
            for rung in decision.ladder
        ),
        budgets=_budgets(decision, winner),
        objectives=tuple(objective.text for objective in decision.objectives),
        what_if=decision.what_if,
        **fields,
    )


def message_for_deployment(status: DeploymentStatus, origin: Origin) -> DeploymentMessage:
    """Return the state of one task's deployment, flat."""
    current = status.current
    fields: dict[str, Any] = {}
    if current is not None:
        fields = {
            "release": current.release,
            "candidate": current.candidate,
            "model_sha256": current.model.sha256,
            "model_bytes": current.model.length,
            "format": current.format,
            "engine": current.point.engine,
            "provider": current.point.provider,
            "threads": current.point.threads,
            "batch": current.point.batch,
            "expected_latency_p95_s": current.expected.get("latency_p95_s"),
        }
    if status.rung is not None:
        fields |= {"rung": status.rung, "rungs": len(status.ladder)}
    if status.rung:
        fields |= {"chosen_candidate": status.ladder[0].candidate, "chosen_release": status.ladder[0].release}
    return DeploymentMessage(
        **_header(origin),
        task=status.task,
        phase=status.phase,
        changed_at=status.changed_at,
        outcome=status.outcome,
        reason=_short(status.reason),
        previous_release=status.previous_release,
        withheld={name: _short(text) or "" for name, text in sorted(status.withheld.items())[:MAX_WITHHELD]},
        withheld_count=len(status.withheld),
        **fields,
    )


def message_for_reading(reading: ContextReading, origin: Origin, *, group: str = "board") -> Telemetry:
    """Return one reading of the board's condition as telemetry."""
    return Telemetry(
        **_header(origin),
        group=group,
        temperature_celsius=reading.temperature_celsius,
        clock_hz=reading.clock_hz,
        clock_max_hz=reading.clock_max_hz,
        governor=reading.governor,
        load_1min=reading.load_1min,
        steal_ratio=reading.steal_ratio,
        memory_available_bytes=reading.memory_available_bytes,
        throttle_now=None if reading.throttle_now is None else ",".join(reading.throttle_now),
        supply_ok=reading.supply_ok,
        power_mode=reading.power_mode,
    )


def _in_combination(part: InCombination) -> CombinationSummary:
    alone = part.alone
    return CombinationSummary(
        id=part.id, outcome=part.outcome, tasks=part.tasks, reason=_short(part.reason) or "", metric=part.metric,
        alone_candidate=None if alone is None else alone.candidate,
        alone_point=None if alone is None else alone.point.label, excess_ratio=part.excess_ratio,
        latency_p95_s=part.latency_p95_s, memory_bytes=part.memory_bytes, power_mean_w=part.power_mean_w,
    )  # fmt: skip


def _header(origin: Origin) -> dict[str, Any]:
    return {name: getattr(origin, name) for name in Origin.__struct_fields__}


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _estimate(option: Option, metric: str) -> float | None:
    estimate = option.estimates.get(metric)
    return None if estimate is None else estimate.value


def _winner(decision: Decision) -> Option | None:
    chosen = decision.winner
    if chosen is None:
        return None
    return next(
        (
            option
            for option in decision.options
            if option.artifact_sha256 == chosen.artifact_sha256 and option.point == chosen.point
        ),
        None,
    )


def _summaries(decision: Decision) -> tuple[OptionSummary, ...]:
    ranked = sorted(decision.options, key=lambda option: (_ORDER[option.standing], option.rank or 10**6))
    kept: list[OptionSummary] = []
    left_bytes = MAX_OPTIONS_BYTES
    for option in ranked:
        summary = _summary(option)
        left_bytes -= len(msgspec.json.encode(summary)) + 1
        if left_bytes < 0:
            break
        kept.append(summary)
    return tuple(kept)


def _summary(option: Option) -> OptionSummary:
    return OptionSummary(
        candidate=option.candidate,
        point=option.point.label,
        standing=option.standing,
        verdict=option.verdict,
        reason=_short(option.reason) or "",
        rank=option.rank,
        latency_p95_s=_estimate(option, "latency_p95"),
        accuracy_top1=_estimate(option, "accuracy_top1"),
        energy_per_inference_j=_estimate(option, "energy_per_inference"),
        size_bytes=option.size_bytes or None,
        size_unpacked_bytes=option.size_unpacked_bytes,
        artifact_sha256=option.artifact_sha256,
    )


def _budgets(decision: Decision, winner: Option | None) -> tuple[BudgetSummary, ...]:
    checks = {check.metric: check for check in winner.checks} if winner is not None else {}
    return tuple(
        BudgetSummary(
            metric=budget.metric,
            limit=budget.limit,
            text=budget.text,
            state=checks[budget.metric].state if budget.metric in checks else None,
            miss_ratio=checks[budget.metric].miss_ratio if budget.metric in checks else None,
        )
        for budget in decision.budgets
    )


def _bounds(prefix: str, unit: str, figure: Figure | None) -> dict[str, float | None]:
    if figure is None:
        return {}
    return {f"{prefix}{unit}": figure.value, f"{prefix}_low{unit}": figure.low, f"{prefix}_high{unit}": figure.high}


def _latency_fields(measurement: Measurement) -> dict[str, Any]:
    latency = measurement.latency
    if latency is None:
        return {}
    return {
        "latency_n": latency.n,
        **_bounds("latency_p50", "_s", latency.p50_s),
        "latency_p90_s": latency.p90_s.value,
        **_bounds("latency_p95", "_s", latency.p95_s),
        "latency_p99_s": latency.p99_s.value,
        "latency_mean_s": latency.mean_s.value,
        "latency_min_s": latency.min_s,
        "latency_max_s": latency.max_s,
        "throughput_per_s": latency.throughput_per_s,
        "warmup_runs": latency.warmup_runs,
        "warmup_settled": latency.warmup_settled,
        "run_queue_wait_ratio": latency.run_queue_wait_ratio,
    }


def _cost_fields(measurement: Measurement) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if memory := measurement.memory:
        fields["memory_peak_bytes"] = memory.admission_peak_bytes
        fields["memory_model_peak_bytes"] = memory.model_peak_bytes
        fields["memory_model_steady_bytes"] = memory.model_steady_bytes
        fields["memory_runtime_baseline_bytes"] = memory.runtime_baseline_bytes
    if power := measurement.power:
        fields["power_mean_w"] = power.mean_w.value
        fields["power_idle_w"] = power.idle_w
        fields["power_scope"] = power.scope
        fields["power_source"] = power.source
        fields |= _bounds("energy_per_inference", "_j", power.energy_per_inference_j)
    if sustained := measurement.sustained:
        fields |= _bounds("latency_p95_sustained", "_s", sustained.latency_p95_s)
        fields["power_mean_sustained_w"] = None if sustained.power_mean_w is None else sustained.power_mean_w.value
        fields["sustained_steady"] = sustained.steady
        fields["sustained_duration_s"] = sustained.duration_s
        fields["sustained_reason"] = _short(sustained.reason)
        fields["sustained_at"] = sustained.measured_at
    if accuracy := measurement.accuracy:
        fields |= _bounds("accuracy_top1", "", accuracy.top1)
        fields["accuracy_n"] = accuracy.n
    if golden := measurement.golden:
        fields["golden_passed"] = golden.passed
        fields["golden_max_abs_error"] = golden.max_abs_error
    if placement := measurement.placement:
        fields["placement_actual"] = ",".join(placement.actual)
        fields["placement_fallback"] = placement.fallback
    return fields


def _context_fields(measurement: Measurement) -> dict[str, Any]:
    context = measurement.context
    if context is None:
        return {}
    return {
        "temperature_before_celsius": context.before.temperature_celsius,
        "temperature_after_celsius": context.after.temperature_celsius,
        "clock_before_hz": context.before.clock_hz,
        "clock_after_hz": context.after.clock_hz,
        "governor": context.after.governor,
        "load_1min_before": context.before.load_1min,
        "supply_ok": context.after.supply_ok,
        "flags": ",".join(context.flags),
    }
