"""What the page is drawn from: each option of a decision with its measurement beside it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.core.budget import METRICS, Estimate
from agent.core.combination import Combination
from agent.core.decision import Decision, Option
from agent.core.deployment import DeploymentStatus
from agent.core.facts import DeviceFacts
from agent.core.measurement import Figure, Measurement, OperatingPoint
from agent.core.units import format_quantity

STANDINGS = {
    "fits": ("✓", "fits"),
    "over_budget": ("✕", "over budget"),
    "unknown": ("?", "unknown"),
    "failed": ("!", "failed"),
}
_ORDER = {name: place for place, name in enumerate(STANDINGS)}


class TaskReport(msgspec.Struct, frozen=True, kw_only=True):
    """One task: the decision, the measurements it looked at, and what is deployed (None: not known)."""

    decision: Decision
    measurements: tuple[Measurement, ...] = ()
    deployment: DeploymentStatus | None = None


class ReportInput(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the page shows. ``generated_at``: UTC, ISO 8601 with Z."""

    facts: DeviceFacts
    tasks: tuple[TaskReport, ...]
    generated_at: str
    agent_version: str
    device: str | None = None
    combination: Combination | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One option, numbered from 1 in the order of the table."""

    number: int
    option: Option
    measurement: Measurement | None
    is_winner: bool = False
    is_incumbent: bool = False
    is_nearest_miss: bool = False

    @property
    def title(self) -> str:
        """Candidate and operating point in one line."""
        return f"{self.option.candidate} · {point_text(self.option.point)}"

    def estimate(self, metric: str) -> Estimate:
        """Return what is known of a metric: as the decision saw it, else as it was measured."""
        seen = self.option.estimates.get(metric)
        return seen if seen is not None else _measured(self, metric)

    def value(self, metric: str) -> float | None:
        """Return a metric's value, None when unknown."""
        return self.estimate(metric).value


def rows_of(task: TaskReport) -> tuple[Row, ...]:
    """Return the options in reading order: what fits by rank, then over budget, unknown, failed."""
    decision = task.decision
    by_id = {measurement.id: measurement for measurement in task.measurements}

    def order(option: Option) -> tuple[int, float, str]:
        known = option.estimates.get("latency_p95")
        latency = known.value if known is not None and known.value is not None else float("inf")
        return (_ORDER[option.standing], option.rank if option.rank is not None else latency, option.candidate)

    winner, incumbent, miss = decision.winner, decision.incumbent, decision.nearest_miss
    return tuple(
        Row(
            number=number,
            option=option,
            measurement=by_id.get(option.measurement_id),
            is_winner=winner is not None and (option.artifact_sha256, option.point) == _key(winner),
            is_incumbent=incumbent is not None and (option.artifact_sha256, option.point) == _key(incumbent),
            is_nearest_miss=miss is not None and (option.candidate, option.point) == (miss.candidate, miss.point),
        )
        for number, option in enumerate(sorted(decision.options, key=order), start=1)
    )


def pareto_front(rows: Sequence[Row], x_metric: str, y_metric: str) -> tuple[Row, ...]:
    """Return the rows that no other row beats in one metric without being worse in the other, best x first."""

    def cost(row: Row, metric: str) -> float:
        value = row.value(metric)
        assert value is not None
        return -value if METRICS[metric].higher_is_better else value

    known = [row for row in rows if row.value(x_metric) is not None and row.value(y_metric) is not None]
    front: list[Row] = []
    best = float("inf")
    for row in sorted(known, key=lambda row: (cost(row, x_metric), cost(row, y_metric))):
        if cost(row, y_metric) < best:
            best = cost(row, y_metric)
            front.append(row)
    return tuple(front)


def point_text(point: OperatingPoint) -> str:
    """Return an operating point for a person: ``onnxruntime CPU, 4 threads``."""
    batch = f", batch {point.batch}" if point.batch != 1 else ""
    return f"{point.engine} {point.provider_label}, {point.threads} thread{'s' if point.threads != 1 else ''}{batch}"


def metric_name(metric: str) -> str:
    """Return a metric's name for a person: ``latency p95``."""
    return metric.replace("accuracy_top1", "top-1 accuracy").replace("_", " ")


def show(value: float | None, metric: str) -> str:
    """Return a metric's value for a person; an en dash when unknown. Accuracies are percentages."""
    if value is None:
        return "–"
    if METRICS[metric].dimension == "ratio":
        return f"{value * 100:.1f} %"
    return format_quantity(value, METRICS[metric].dimension)


def show_interval(estimate: Estimate, metric: str) -> str:
    """Return the 95 % interval for a person, empty when there is none to show."""
    if estimate.value is None or estimate.low == estimate.high:
        return ""
    low, high = (show(bound, metric) if bound is not None else "?" for bound in (estimate.low, estimate.high))
    unit = low.rpartition(" ")[2]
    if unit == high.rpartition(" ")[2] and " " in low:
        low = low.rpartition(" ")[0]
    return f"{low} – {high}"


def _key(choice: object) -> tuple[object, object]:
    return (getattr(choice, "artifact_sha256", None), getattr(choice, "point", None))


def _measured(row: Row, metric: str) -> Estimate:
    if metric == "size" and row.option.size_bytes:
        return Estimate.exact(float(row.option.size_bytes))
    measurement = row.measurement
    if measurement is None or measurement.verdict != "ok":
        return Estimate.unknown(row.option.reason)
    figures: dict[str, Figure | None] = {}
    if (latency := measurement.latency) is not None:
        figures |= {"latency_p50": latency.p50_s, "latency_p90": latency.p90_s}
        figures |= {"latency_p95": latency.p95_s, "latency_p99": latency.p99_s}
    if (power := measurement.power) is not None:
        figures |= {"energy_per_inference": power.energy_per_inference_j, "power_mean": power.mean_w}
    if measurement.accuracy is not None:
        figures["accuracy_top1"] = measurement.accuracy.top1
    figure = figures.get(metric)
    if figure is not None:
        return Estimate(value=figure.value, low=figure.low, high=figure.high)
    if metric == "memory_peak" and measurement.memory is not None:
        return Estimate.exact(float(measurement.memory.admission_peak_bytes))
    if metric == "load_time" and measurement.load_time_s is not None:
        return Estimate.exact(measurement.load_time_s)
    return Estimate.unknown("not measured")
