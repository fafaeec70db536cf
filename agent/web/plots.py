"""The plots of the console, drawn by the report's own code. Pure: markup out.

Rules:
- Beside each plot stands a table with the same figures, so that nobody needs to see it.
- A page under a strict content policy takes no ``style`` attribute: colours that are data travel as ``data-mark``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from html import escape
from typing import NamedTuple

from agent.clock import read_iso
from agent.collector.reading import OptionFigures
from agent.core.budget import METRICS, Budget, Estimate
from agent.core.decision import Decision, Option
from agent.core.measurement import OperatingPoint
from agent.core.units import format_quantity
from agent.report.html.pareto import pareto_plot
from agent.report.html.rows import Row, TaskReport, pareto_front, rows_of
from agent.report.html.rows import show as show_metric
from agent.report.html.svg import Box, element, figure, make_scale, text

X_METRIC = "latency_p95"
_WIDTH, _HEIGHT = 560, 190
_AREA = Box(62.0, 14.0, 548.0, 158.0)
MAX_SERIES = 5
_STEPS_S = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 2 * 86400, 7 * 86400, 14 * 86400, 30 * 86400)


class Series(NamedTuple):
    """One line: its name, and (UTC time, value in SI units) in any order."""

    name: str
    points: Sequence[tuple[str, float]]


def decision_plot(name: str, decision: Decision) -> str | None:
    """Return the trade-off plot of a board's decision; None where nothing is known to draw."""
    rows = rows_of(TaskReport(decision=decision))
    return _policy_safe(pareto_plot(name, rows, decision.budgets, X_METRIC))


def class_rows(options: Sequence[OptionFigures], budgets: Sequence[Budget]) -> list[Row]:
    """Return what a class has measured as rows of the plot, best latency first. ``is_incumbent``: it serves."""
    ordered = sorted(options, key=lambda one: (one.latency_p95_s is None, one.latency_p95_s or 0.0, one.candidate))
    return [
        Row(number=number, option=_option(one, budgets), measurement=None, is_incumbent=one.serving > 0)
        for number, one in enumerate(ordered, start=1)
    ]


def class_plot(name: str, rows: Sequence[Row], budgets: Sequence[Budget]) -> tuple[str | None, set[int]]:
    """Return the plot of a class, and the numbers of the rows that no other beats in both directions."""
    front = {row.number for row in pareto_front(rows, X_METRIC, "accuracy_top1")}
    return _policy_safe(pareto_plot(name, rows, budgets, X_METRIC)), front


def _option(one: OptionFigures, budgets: Sequence[Budget]) -> Option:
    low, high = (one.latency_p95_least_s, one.latency_p95_most_s) if one.boards > 1 else (None, None)
    values = {
        "latency_p95": Estimate(value=one.latency_p95_s, low=low, high=high),
        "accuracy_top1": Estimate(value=one.accuracy_top1),
        "energy_per_inference": Estimate(value=one.energy_per_inference_j),
        "memory_peak": Estimate(value=one.memory_peak_bytes),
        "size": Estimate(value=one.size_bytes),
    }
    missed, unknown = [], []
    for budget in budgets:
        known = values.get(budget.metric)
        value = None if known is None else known.value
        if value is None:
            unknown.append(budget.metric)
        elif (value < budget.limit) if METRICS[budget.metric].higher_is_better else (value > budget.limit):
            missed.append(budget.metric)
    said = f"median of {one.boards} board{'s' if one.boards != 1 else ''}"
    said += f"; serves on {one.serving}" if one.serving else ""
    said += f"; over the budget for {', '.join(missed)}" if missed else ""
    said += f"; not known: {', '.join(unknown)}" if unknown else ""
    return Option(
        candidate=one.candidate, artifact_sha256="", measurement_id="", verdict="ok", reason=said,
        standing="over_budget" if missed else "unknown" if unknown else "fits",
        point=OperatingPoint(
            engine=one.engine, engine_version="", provider=one.provider, threads=one.threads, batch=one.batch
        ),
        estimates={metric: value for metric, value in values.items() if value.value is not None},
    )  # fmt: skip


def time_plot(name: str, title: str, metric: str, lines: Sequence[Series], limit: float | None = None) -> str | None:
    """Return values over time; None where there is none."""
    drawn = [(line.name, sorted((_when(at), value) for at, value in line.points)) for line in lines if line.points]
    if not drawn:
        return None
    times = [at for _, points in drawn for at, _ in points]
    values = [value for _, points in drawn for _, value in points]
    shown_limit = limit if limit is not None and max(values) / 4 <= limit <= max(values) * 4 else None
    y = make_scale([*values, *([shown_limit] if shown_limit else [])], _AREA.bottom, _AREA.top, floor=0.0)
    first, last = min(times), max(times)
    span_s = max((last - first).total_seconds(), 60.0)

    def x(at: datetime) -> float:
        return round(_AREA.left + (at - first).total_seconds() / span_s * (_AREA.right - _AREA.left), 1)

    parts = [_value_grid(y.ticks(3), y, metric), _time_grid(first, span_s, x)]
    if shown_limit is not None:
        at = y(shown_limit)
        parts += [
            element("line", x1=_AREA.left, x2=_AREA.right, y1=at, y2=at, class_="limit"),
            text(f"budget {show(shown_limit, metric)}", _AREA.right, at - 5, class_="limit-name", text_anchor="end"),
        ]
    for number, (said, points) in enumerate(drawn, start=1):
        places = [(x(at), y(value)) for at, value in points]
        path = "M" + "L".join(f"{px} {py}" for px, py in places)
        marks = "".join(
            element(
                "circle", element("title", escape(f"{said}: {show(value, metric)}, {at:%Y-%m-%d %H:%M} UTC")),
                cx=px, cy=py, r=3.2 if len(points) < 40 else 1.6,
            )
            for (px, py), (at, value) in zip(places, points, strict=True)
        )  # fmt: skip
        line = element("path", d=path, class_="line") if len(points) > 1 else ""
        parts.append(element("g", line, marks, class_=f"series s{number}"))
    newest = "; ".join(f"{said}: {len(points)} values, last {show(points[-1][1], metric)}" for said, points in drawn)
    return figure(name, title, f"{newest}. The figures are in the table below.", _WIDTH, _HEIGHT, *parts)


def show(value: float, metric: str) -> str:
    """Return a metric's value for a person; a temperature too."""
    return format_quantity(value, "temperature") if metric == "temperature" else show_metric(value, metric)


def _value_grid(ticks: Sequence[float], y: object, metric: str) -> str:
    lines = []
    for value in ticks:
        at = y(value)  # type: ignore[operator]
        lines.append(element("line", x1=_AREA.left, x2=_AREA.right, y1=at, y2=at, class_="grid"))
        lines.append(text(show(value, metric), _AREA.left - 8, at + 4, class_="tick", text_anchor="end"))
    return element("g", *lines)


def _time_grid(first: datetime, span_s: float, x: object) -> str:
    step_s = next((step for step in _STEPS_S if span_s / step <= 5), span_s / 4)
    midnight = first.replace(hour=0, minute=0, second=0, microsecond=0)
    at, lines = midnight, []
    while at < first:
        at += timedelta(seconds=step_s * max(1, (first - at).total_seconds() // step_s))
    while (at - first).total_seconds() <= span_s:
        place = x(at)  # type: ignore[operator]
        said = f"{at.day} {at:%b}" if step_s >= 86400 or (at.hour, at.minute) == (0, 0) else f"{at:%H:%M}"
        lines.append(element("line", x1=place, x2=place, y1=_AREA.bottom, y2=_AREA.bottom + 4, class_="grid"))
        if _AREA.left + 12 < place < _AREA.right - 12:
            lines.append(text(said, place, _AREA.bottom + 19, class_="tick", text_anchor="middle"))
        at += timedelta(seconds=step_s)
    return element("g", *lines)


def _when(at: str) -> datetime:
    return read_iso(at).astimezone(timezone.utc)


def _policy_safe(plot: str | None) -> str | None:
    return None if plot is None else plot.replace(' style="--mark:', ' data-mark="')
