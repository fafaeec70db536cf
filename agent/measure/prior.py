"""What an option could be at best, before it is measured or after it was measured in part. Pure.

The race asks: if this option turned out as good as it possibly can, would the decision change? Rules for "possibly":
- What is exact stays exact: the size.
- Accuracy is the measured one of the same file under the same engine; under another engine, or by the publisher's
  signed figure, up to ``SLACK`` above it; without any of them, 1. Which samples it would get right is chosen by what
  would help it most.
- Everything else is as if it cost nothing, except what a partial measurement has shown: what is seen once stays, and a
  quantile that missed a limit lies above it, and so do the higher quantiles.
- A figure that cannot be had here stays absent: accuracy without a pack, power without a meter.
- A caller may know that some figures cannot be better than so much: of a leader to be beaten, of other boards of the
  class. That is a bound on what is possible and never a figure.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.manifest import Candidate
from agent.core.measurement import (
    AccuracyFigures,
    Figure,
    LatencyFigures,
    Measurement,
    MemoryFigures,
    OperatingPoint,
    PowerFigures,
    bits_text,
)
from agent.core.statistics import proportion_interval

SLACK = 0.01  # chosen: engines and roundings moved single samples of 540, never one of a hundred
_BELOW, _ABOVE = 1.0 - 1e-9, 1.0 + 1e-9  # limits are inclusive
_FREE = 1e-12  # seconds, watts, joules: above zero, so that its reciprocal exists
_QUANTILES = ("latency_p50", "latency_p90", "latency_p95", "latency_p99")


def accuracy_at_best(candidate: Candidate, engine: str, measured: Sequence[Measurement]) -> float | None:
    """Return the highest top-1 accuracy this candidate can have here, None where it has no evaluation pack."""
    if candidate.manifest.evaluation is None:
        return None
    same = [m for m in measured if m.artifact_sha256 == candidate.sha256 and m.accuracy is not None]
    if same:
        here = [m for m in same if m.point.engine == engine]
        return min(1.0, min(map(_seen_at_best, here or same)) + (0.0 if here else SLACK))
    reference = candidate.manifest.reference
    if reference is None or reference.metric != "top1":
        return 1.0
    best = _best(measured)
    if best is not None and best.n == reference.n:  # the publisher's samples are those of the pack
        return min(1.0, reference.value + SLACK)
    upper = proportion_interval(round(reference.value * reference.n), reference.n).high
    return min(1.0, (reference.value if upper is None else upper) + SLACK)


def _seen_at_best(measurement: Measurement) -> float:
    """Return the measured accuracy, or what the part of the pack that was judged allows."""
    accuracy = measurement.accuracy
    assert accuracy is not None
    if accuracy.whole:
        return accuracy.top1.value
    most = accuracy.top1.high if accuracy.top1.high is not None else 1.0
    for proof in measurement.proofs:
        if proof.metric == "accuracy_top1" and proof.state == "missed":
            most = min(most, proof.limit * _BELOW)
    return most


def at_best(
    candidate: Candidate,
    point: OperatingPoint,
    measured: Sequence[Measurement],
    *,
    class_fingerprint: str,
    with_power: bool,
    at_least: dict[str, float] | None = None,
    errs_like_best: bool = False,
) -> Measurement:
    """Return the measurement this option would have if it were as good as it can be; it is no measurement of anything.

    Args:
        measured: of this task and board, this option's own partial one included.
        with_power: whether this board could measure power at all.
        at_least: by metric, what is taken as no better than this: quantiles and load time (s), memory (bytes), power
            (W), energy (J); of the accuracy it is the most it can be.
        errs_like_best: it errs, as far as it can, on the samples that the best measured one errs on, so that what it is
            worse by is as certain as can be; else on other samples, so that it is as hard as can be to tell apart.
    """
    own = [m for m in measured if (m.artifact_sha256, m.point) == (candidate.sha256, point)]
    floors = dict(at_least or {})
    for measurement in own:
        for proof in measurement.proofs:
            if proof.state == "missed" and proof.metric in _QUANTILES:
                floors[proof.metric] = max(floors.get(proof.metric, 0.0), proof.limit * _ABOVE)
    top1 = accuracy_at_best(candidate, point.engine, measured)
    if top1 is not None:
        top1 = min(top1, floors.get("accuracy_top1", 1.0))
    known = _measured_whole(candidate, point.engine, measured)
    return Measurement(
        id=f"at-best-{candidate.sha256}-{point.label}",
        task=candidate.task,
        candidate=candidate.name,
        artifact_sha256=candidate.sha256,
        size_bytes=candidate.size_bytes,
        size_unpacked_bytes=candidate.size_unpacked_bytes,
        point=point,
        class_fingerprint=class_fingerprint,
        verdict="ok",
        started_at="9999-12-31T23:59:59Z",  # newer than any other of its key
        duration_s=0.0,
        load_time_s=max([floors.get("load_time", _FREE), *(m.load_time_s for m in own if m.load_time_s is not None)]),
        first_inference_s=max([_FREE, *(m.first_inference_s for m in own if m.first_inference_s is not None)]),
        latency=_latency(floors),
        memory=MemoryFigures(
            admission_peak_bytes=max(
                [
                    int(floors.get("memory_peak", 0)),
                    *(m.memory.admission_peak_bytes for m in own if m.memory is not None),
                ]
            ),
            model_peak_bytes=None,
            model_steady_bytes=None,
            runtime_baseline_bytes=None,
        ),
        power=_power(floors) if with_power else None,
        power_reason=None if with_power else "this board has no usable power meter",
        accuracy=known if known is not None or top1 is None else _accuracy(top1, _best(measured), errs_like_best),
        accuracy_reason="no evaluation pack" if top1 is None else None,
    )


def _exactly(value: float) -> Figure:
    return Figure(value=value, low=value, high=value)


def _latency(floors: dict[str, float]) -> LatencyFigures:
    reached, quantiles = _FREE, []
    for metric in _QUANTILES:
        reached = max(reached, floors.get(metric, 0.0))
        quantiles.append(_exactly(reached))
    p50, p90, p95, p99 = quantiles
    return LatencyFigures(
        n=1,
        p50_s=p50,
        p90_s=p90,
        p95_s=p95,
        p99_s=p99,
        mean_s=_exactly(_FREE),
        min_s=_FREE,
        max_s=reached,
        warmup_runs=0,
        warmup_settled=True,
        throughput_per_s=1.0 / _FREE,
    )


def _power(floors: dict[str, float]) -> PowerFigures:
    return PowerFigures(
        source="at best",
        scope="board",
        mean_w=_exactly(floors.get("power_mean", _FREE)),
        idle_w=0.0,
        energy_per_inference_j=_exactly(floors.get("energy_per_inference", _FREE)),
        window_s=1.0,
        inferences=1,
        samples=1,
        sample_rate_hz=1.0,
    )


def _best(measured: Sequence[Measurement]) -> AccuracyFigures | None:
    """Return the best accuracy measured with its single results kept."""
    found = [m.accuracy for m in measured if m.verdict == "ok" and m.accuracy is not None]
    kept = [accuracy for accuracy in found if accuracy.hits() is not None]
    return max(kept, key=lambda accuracy: accuracy.top1.value, default=None)


def _measured_whole(candidate: Candidate, engine: str, measured: Sequence[Measurement]) -> AccuracyFigures | None:
    """Return the accuracy of the same file under the same engine: how many threads run it changes nothing."""
    for measurement in measured:
        accuracy = measurement.accuracy
        whole = accuracy is not None and accuracy.whole
        if whole and measurement.artifact_sha256 == candidate.sha256 and measurement.point.engine == engine:
            return accuracy
    return None


def _accuracy(top1: float, best: AccuracyFigures | None, errs_like_best: bool) -> AccuracyFigures:
    if best is None:
        return AccuracyFigures(top1=_exactly(top1), correct=0, n=0, pack_sha256="")
    correct = min(best.n, round(top1 * best.n))
    interval = proportion_interval(correct, best.n)
    return AccuracyFigures(
        top1=Figure(value=correct / best.n, low=interval.low, high=interval.high),
        correct=correct,
        n=best.n,
        pack_sha256=best.pack_sha256,
        correct_bits=bits_text(_hits(correct, best, first=1 if errs_like_best else 0), best.n),
    )


def _hits(correct: int, best: AccuracyFigures, *, first: int) -> int:
    """Return ``correct`` hits as bits: those samples first on which the best hits (1) or errs (0), then the others."""
    theirs = best.hits() or 0
    bits, left = 0, correct
    for wanted in (first, 1 - first):
        for position in range(best.n):
            if left > 0 and (theirs >> position) & 1 == wanted:
                bits |= 1 << position
                left -= 1
    return bits
