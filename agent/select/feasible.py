"""Which options meet every budget. Pure.

Rules:
- Every metric becomes an estimate: a value with its interval, or unknown with the reason. Nothing is filled in.
- A measurement whose verdict is not ``ok``, whose golden outputs differ, or that ran on another provider than it was
  asked to, is ``failed``: its figures count for nothing.
- A model that is withheld (rolled back by hand, failed too often in deployment) is ``failed`` too, with that reason.
- One missed budget makes an option ``over_budget``; without one, a single unknown budget makes it ``unknown``.
- Power of scope ``estimated`` decides no power or energy budget, in either direction, unless the caller allows it.
- Where a limit was tested while the runs went on, the test's word counts for that limit and every easier one, unless
  all runs together lie on its other side; a latency test that is still open leaves its limit unknown, as more runs
  were taken for its sake. For other limits, and for a whole pack, the interval counts. What a test missed is a lower
  bound of the quantile from then on.
- ``load_time``, ``first_inference`` and ``memory_peak`` are single observations and are judged as observed.

Leaves the order among those that fit to ``rank``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from agent.core.budget import METRICS, Budget, BudgetCheck, Estimate, check_budget, distinct_digits
from agent.core.decision import Option
from agent.core.measurement import AccuracyFigures, Figure, Measurement, Proof
from agent.core.statistics import paired_difference_interval
from agent.core.units import format_quantity

_NOBODY: Mapping[str, str] = MappingProxyType({})
_ENERGETIC = frozenset({"power_mean", "energy_per_inference"})


def newest(measurements: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """Return one measurement per key (artifact, point, class): the one started last; in the order of their ids."""
    latest: dict[object, Measurement] = {}
    for measurement in sorted(measurements, key=lambda m: (m.started_at, m.id)):
        latest[measurement.key] = measurement
    return tuple(sorted(latest.values(), key=lambda m: m.id))


def failure(measurement: Measurement) -> str | None:
    """Return why a measurement's figures count for nothing, or None."""
    if measurement.verdict != "ok":
        name = measurement.verdict.replace("_", " ")
        return f"{name}: {measurement.reason}" if measurement.reason else name
    if measurement.golden is not None and measurement.golden.passed is False:
        return f"golden outputs differ: {measurement.golden.reason or 'over the tolerance'}"
    placement = measurement.placement
    if placement is not None and placement.fallback:
        return f"asked for {placement.requested} but ran on {', '.join(placement.actual) or 'something else'}"
    return None


def estimates(measurement: Measurement, all_measurements: Sequence[Measurement]) -> dict[str, Estimate]:
    """Return what one measurement says about every metric of ``core.budget.METRICS``, in their order.

    Args: all_measurements: what ``accuracy_drop`` finds the best candidate in; the measurement itself included.
    Returns: SI values with two-sided 95 % intervals; ``Estimate.unknown`` with a reason where there is none.
    """
    known: dict[str, Estimate] = {"size": Estimate.exact(measurement.size_bytes)}
    wrong = failure(measurement)
    if wrong is not None:
        return {name: known.get(name) or Estimate.unknown(wrong) for name in METRICS}
    known |= _latency_estimates(measurement)
    known |= _power_estimates(measurement)
    known["memory_peak"] = (
        Estimate.exact(measurement.memory.admission_peak_bytes)
        if measurement.memory is not None
        else Estimate.unknown("memory was not measured")
    )
    known["load_time"] = _observed(measurement.load_time_s, "load time was not measured")
    known["first_inference"] = _observed(measurement.first_inference_s, "the first inference was not timed")
    no_accuracy = measurement.accuracy_reason or "accuracy was not measured"
    known["accuracy_top1"] = _estimate(measurement.accuracy.top1 if measurement.accuracy else None, no_accuracy)
    known["accuracy_drop"] = _accuracy_drop(measurement, all_measurements)
    sustained = measurement.sustained
    late = "sustained latency was not measured" if sustained is None else sustained.reason
    known["latency_p95_sustained"] = _estimate(None if sustained is None else sustained.latency_p95_s, late)
    return {name: known[name] for name in METRICS}


def judge(
    measurements: Sequence[Measurement],
    budgets: Sequence[Budget],
    *,
    allow_estimated_power: bool = False,
    withheld: Mapping[str, str] = _NOBODY,
) -> tuple[Option, ...]:
    """Hold every measurement against every budget.

    Args: withheld: artifacts (SHA-256) that may not be chosen whatever they measured, each with its reason.
    Only the newest measurement of each key is used. Returns: options in an order that does not depend on the input's
    (candidate, artifact, point); ``rank`` is not set yet.
    """
    latest = newest(measurements)
    judged = (_judge_one(measurement, latest, budgets, allow_estimated_power) for measurement in latest)
    options = (_withhold(option, withheld.get(option.artifact_sha256)) for option in judged)
    return tuple(sorted(options, key=lambda o: (o.candidate, o.artifact_sha256, o.point, o.measurement_id)))


def _withhold(option: Option, reason: str | None) -> Option:
    if reason is None:
        return option
    return msgspec.structs.replace(option, standing="failed", reason=f"withheld: {reason}", checks=())


def _judge_one(
    measurement: Measurement, latest: Sequence[Measurement], budgets: Sequence[Budget], allow_estimated_power: bool
) -> Option:
    figures = estimates(measurement, latest)
    wrong = failure(measurement)
    checks: tuple[BudgetCheck, ...] = ()
    if wrong is None:
        checks = tuple(
            _check(budget, figures[budget.metric], measurement.proofs, allow_estimated_power) for budget in budgets
        )
    states = {check.state for check in checks}
    option = Option(
        candidate=measurement.candidate, artifact_sha256=measurement.artifact_sha256, point=measurement.point,
        measurement_id=measurement.id, verdict=measurement.verdict, standing="fits", reason="",
        checks=checks, estimates=figures, size_bytes=measurement.size_bytes,
        size_unpacked_bytes=measurement.size_unpacked_bytes,
    )  # fmt: skip
    if wrong is not None:
        return msgspec.structs.replace(option, standing="failed", reason=wrong)
    if "missed" in states:
        missed = sorted(_of(checks, "missed"), key=lambda c: -(c.miss_ratio if c.miss_ratio is not None else 1e9))
        return msgspec.structs.replace(option, standing="over_budget", reason="; ".join(map(miss_text, missed)))
    if "unknown" in states:
        reason = "; ".join(f"{check.metric} is unknown: {check.reason}" for check in _of(checks, "unknown"))
        return msgspec.structs.replace(option, standing="unknown", reason=reason)
    count = len(checks)
    said = "no budget is set" if not count else f"meets {'its one budget' if count == 1 else f'all {count} budgets'}"
    return msgspec.structs.replace(option, reason=said)


def miss_text(check: BudgetCheck) -> str:
    """Say a missed budget with its figures: ``latency_p95 31.2 ms is over 20 ms by 56 %``."""
    metric = METRICS[check.metric]
    side = "under" if metric.higher_is_better else "over"
    if check.value is None:
        return f"{check.metric} is {side} its limit"
    digits = distinct_digits(check.value, check.limit, metric.dimension)
    value, limit = (format_quantity(x, metric.dimension, digits=digits) for x in (check.value, check.limit))
    by = "" if check.miss_ratio is None else f" by {percent(check.miss_ratio)}"
    return f"{check.metric} {value} is {side} {limit}{by}"


def percent(ratio: float) -> str:
    """Write a ratio as a percentage with two significant digits, whole from 10 % on."""
    hundredths = ratio * 100.0
    return f"{hundredths:.0f} %" if abs(hundredths) >= 9.95 else f"{hundredths:.2g} %"


def _of(checks: Iterable[BudgetCheck], state: str) -> list[BudgetCheck]:
    return [check for check in checks if check.state == state]


def _check(budget: Budget, estimate: Estimate, proofs: Sequence[Proof], allow_estimated_power: bool) -> BudgetCheck:
    check = check_budget(budget, estimate)
    for proof in proofs:
        if proof.metric == budget.metric:
            check = _with_proof(check, proof)
    if budget.metric in _ENERGETIC and estimate.scope == "estimated" and not allow_estimated_power:
        shown = format_quantity(estimate.value, METRICS[budget.metric].dimension)
        return msgspec.structs.replace(check, state="unknown", reason=f"{shown} is estimated, not measured")
    return check


def _with_proof(check: BudgetCheck, proof: Proof) -> BudgetCheck:
    """Let a sequential test decide the limit it tested, and every limit that follows from it."""
    metric = METRICS[check.metric]
    limit = format_quantity(proof.limit, metric.dimension)
    easier = proof.limit >= check.limit if metric.higher_is_better else proof.limit <= check.limit
    harder = proof.limit <= check.limit if metric.higher_is_better else proof.limit >= check.limit
    unit = "samples" if metric.dimension == "ratio" else "runs"
    said = f"{check.reason}; tested against {limit} as the {unit} came: {proof.state}"
    if proof.state == "missed" and harder:
        return msgspec.structs.replace(check, state="missed", reason=f"{said} after {proof.n}")
    if proof.state == "met" and easier and check.state == "unknown":
        return msgspec.structs.replace(check, state="met", reason=f"{said} after {proof.n}")
    if proof.state == "open" and proof.limit == check.limit and check.state == "met" and unit == "runs":
        return msgspec.structs.replace(check, state="unknown", reason=f"{said} after {proof.n}")
    return check


def _estimate(figure: Figure | None, absent: str, scope: str | None = None) -> Estimate:
    if figure is None:
        return Estimate.unknown(absent)
    return Estimate(value=figure.value, low=figure.low, high=figure.high, scope=scope)


def _observed(value: float | None, absent: str) -> Estimate:
    return Estimate.unknown(absent) if value is None else Estimate.exact(value)


def _latency_estimates(measurement: Measurement) -> dict[str, Estimate]:
    latency = measurement.latency
    names = ("latency_p50", "latency_p90", "latency_p95", "latency_p99")
    if latency is None:
        return {name: Estimate.unknown("latency was not measured") for name in (*names, "throughput")}
    figures = (latency.p50_s, latency.p90_s, latency.p95_s, latency.p99_s)
    found = {
        name: msgspec.structs.replace(_estimate(figure, ""), seen_high=latency.max_s)
        for name, figure in zip(names, figures, strict=True)
    }
    for proof in measurement.proofs:
        if proof.state == "missed" and proof.metric in found:
            found[proof.metric] = _at_least(found[proof.metric], proof.limit)
    # Throughput is the reciprocal of the mean latency, so its interval is that of the mean, turned over.
    mean, rate = latency.mean_s, latency.throughput_per_s
    found["throughput"] = Estimate(
        value=rate,
        low=rate * mean.value / mean.high if mean.high else None,
        high=rate * mean.value / mean.low if mean.low is not None and mean.low > 0 else None,
    )
    return found


def _at_least(estimate: Estimate, bound: float) -> Estimate:
    low = bound if estimate.low is None else max(estimate.low, bound)
    value = bound if estimate.value is None else max(estimate.value, bound)
    return msgspec.structs.replace(estimate, value=value, low=low)


def _power_estimates(measurement: Measurement) -> dict[str, Estimate]:
    power = measurement.power
    if power is None:
        reason = measurement.power_reason or "power was not measured"
        return {name: Estimate.unknown(reason) for name in sorted(_ENERGETIC)}
    no_energy = "idle power is not known" if power.idle_w is None else "energy could not be computed"
    return {
        "power_mean": _estimate(power.mean_w, "", power.scope),
        "energy_per_inference": _estimate(power.energy_per_inference_j, no_energy, power.scope),
    }


def _reference(measurements: Sequence[Measurement]) -> tuple[Measurement, AccuracyFigures] | None:
    """Return the most accurate measurement on the samples that most artifacts were judged on."""
    judged = [(m, m.accuracy) for m in measurements if m.accuracy is not None and failure(m) is None]
    if not judged:
        return None
    artifacts: dict[tuple[str, int], set[str]] = {}
    for measurement, accuracy in judged:
        artifacts.setdefault((accuracy.pack_sha256, accuracy.n), set()).add(measurement.artifact_sha256)
    common = min(artifacts, key=lambda samples: (-len(artifacts[samples]), -samples[1], samples[0]))
    same = [(m, a) for m, a in judged if (a.pack_sha256, a.n) == common]
    return min(same, key=lambda pair: (-pair[1].top1.value, pair[0].candidate, pair[0].point, pair[0].id))


def _accuracy_drop(measurement: Measurement, all_measurements: Sequence[Measurement]) -> Estimate:
    own = measurement.accuracy
    if own is None:
        return Estimate.unknown(measurement.accuracy_reason or "accuracy was not measured")
    found = _reference(all_measurements)
    if found is None:
        return Estimate.unknown("no candidate's accuracy was measured")
    best, theirs = found
    if best.id == measurement.id:
        return Estimate.exact(0.0)
    if own.pack_sha256 != theirs.pack_sha256:
        return Estimate.unknown(f"judged on another evaluation pack than the best candidate, {best.candidate}")
    if own.n != theirs.n:
        return Estimate.unknown(f"judged on {own.n} samples and the best candidate, {best.candidate}, on {theirs.n}")
    first, second = theirs.hits(), own.hits()
    if first is None or second is None:
        whose = "the best candidate, " + best.candidate if first is None else "this candidate"
        return Estimate.unknown(f"the sample-by-sample results of {whose} were not kept")
    if first == second and best.artifact_sha256 == measurement.artifact_sha256:
        return Estimate.exact(0.0)
    value, interval = paired_difference_interval(
        (first & ~second).bit_count(), (second & ~first).bit_count(), own.n
    )  # fmt: skip
    return Estimate(value=value, low=interval.low, high=interval.high)
