"""How promising an option is before it is measured: the order in which a race tries them. Pure.

By what is known of the objectives, in their order, then by what tends to be fast. It decides what comes first, never
what is left out: that is ``race``.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.budget import METRICS, Objective
from agent.core.measurement import Measurement
from agent.measure.plan import PlannedRun
from agent.measure.prior import accuracy_at_best

_TIE = 0.02  # accuracies of one pack this close are often told apart by nothing; which is tried first then is its speed


def promise_of(run: PlannedRun, objectives: Sequence[Objective], measured: Sequence[Measurement]) -> tuple[object, ...]:
    """Return the sort key of an option; smaller is better. Args: measured: of any option of the task."""
    candidate, point = run.candidate, run.point
    terms: list[float] = []
    for objective in objectives:
        if objective.metric in {"accuracy_top1", "accuracy_drop"}:
            top1 = accuracy_at_best(candidate, point.engine, tuple(measured))
            terms.append((1.0 - top1) // _TIE if top1 is not None else 1e9)
        elif objective.metric == "size":
            terms.append(candidate.size_bytes)
        elif METRICS[objective.metric].dimension in {"time", "rate"}:
            terms += [_seen_p50(run, measured), candidate.size_bytes / point.threads]
    energetic = any(METRICS[o.metric].dimension in {"power", "energy", "bytes"} for o in objectives[:1])
    threads = point.threads if energetic else -point.threads
    return (run.refusal is None, *terms, candidate.size_bytes, threads, candidate.name, point)


def _seen_p50(run: PlannedRun, measured: Sequence[Measurement]) -> float:
    """Return the median of the same file at another point, as if threads shared the work; infinite if none. Seconds."""
    seen = [
        m.latency.p50_s.value * m.point.threads / run.point.threads
        for m in measured
        if m.artifact_sha256 == run.candidate.sha256 and m.latency is not None
    ]
    return min(seen, default=float("inf"))
