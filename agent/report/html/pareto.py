"""The trade-off plot: accuracy against latency, size as area, energy as colour, budgets as borders. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import msgspec

from agent.core.budget import METRICS, Budget
from agent.report.html.rows import STANDINGS, Row, metric_name, pareto_front, show, show_interval
from agent.report.html.svg import Box, Label, Scale, element, figure, make_scale, place_labels, text

WIDTH, HEIGHT = 1040, 576
_AREA = Box(78.0, 50.0, 1016.0, 508.0)
_SMALLEST_PX, _LARGEST_PX = 5.0, 17.0
_MAX_LABELS = 14


class Axes(msgspec.Struct, frozen=True, kw_only=True):
    """Which metrics are drawn, and where."""

    x_metric: str
    y_metric: str
    x: Scale
    y: Scale


def vertical_metric(rows: Sequence[Row]) -> str | None:
    """Return what to draw against latency: accuracy where it is known, else peak memory, else size."""
    for metric in ("accuracy_top1", "memory_peak", "size"):
        if any(row.value(metric) is not None for row in rows):
            return metric
    return None


def pareto_plot(name: str, rows: Sequence[Row], budgets: Sequence[Budget], x_metric: str) -> str | None:
    """Return the plot of every option whose figures are known, None when there is none.

    Args: name: prefix of ids within the page.   x_metric: latency_p50 or latency_p95.
    """
    y_metric = vertical_metric(rows)
    if y_metric is None:
        return None
    drawn = [row for row in rows if row.value(x_metric) is not None and row.value(y_metric) is not None]
    if not drawn:
        return None
    limits = {budget.metric: budget.limit for budget in budgets}
    axes = _axes(drawn, limits, x_metric, y_metric)
    front = pareto_front(drawn, x_metric, y_metric)
    sizes = [row.value("size") or 0.0 for row in drawn]
    radii = {row.number: _radius(row.value("size"), max(sizes)) for row in drawn}
    order = sorted(drawn, key=lambda row: (row.is_winner, -radii[row.number]))
    parts = (
        _grid(axes),
        _budget_borders(name, axes, limits),
        _front_line(axes, front),
        *(_whiskers(row, axes) for row in order),
        *(_mark(row, axes, radii[row.number], _energy_share(row, drawn)) for row in order),
        _labels(drawn, front, axes, radii),
        _axis_names(axes),
    )
    title = f"{metric_name(y_metric).capitalize()} against {metric_name(x_metric)}"
    return figure(name, title, _describe(drawn, front, axes, limits), WIDTH, HEIGHT, *parts)


def energy_range(rows: Sequence[Row]) -> tuple[float, float] | None:
    """Return the lowest and highest energy per inference in joules, None when fewer than two were measured."""
    known = [value for row in rows if (value := row.value("energy_per_inference")) is not None and value > 0]
    return (min(known), max(known)) if len(known) > 1 else None


def _axes(rows: Sequence[Row], limits: dict[str, float], x_metric: str, y_metric: str) -> Axes:
    def spread(metric: str) -> list[float]:
        values = [bound for row in rows for bound in _bounds(row, metric)]
        limit = limits.get(metric)
        if limit is not None and min(values) / 4 <= limit <= max(values) * 4:
            values.append(limit)
        return values

    ratio = METRICS[y_metric].dimension == "ratio"
    return Axes(
        x_metric=x_metric,
        y_metric=y_metric,
        x=make_scale(spread(x_metric), _AREA.left, _AREA.right, floor=0.0),
        y=make_scale(spread(y_metric), _AREA.bottom, _AREA.top, floor=0.0, ceiling=1.0 if ratio else None),
    )


def _bounds(row: Row, metric: str) -> list[float]:
    estimate = row.estimate(metric)
    return [value for value in (estimate.low, estimate.value, estimate.high) if value is not None]


def _radius(size: float | None, largest: float) -> float:
    share = math.sqrt(size / largest) if size and largest > 0 else 0.0
    return round(_SMALLEST_PX + share * (_LARGEST_PX - _SMALLEST_PX), 1)


def _energy_share(row: Row, rows: Sequence[Row]) -> float | None:
    found, value = energy_range(rows), row.value("energy_per_inference")
    if found is None or value is None or value <= 0:
        return None
    low, high = found
    return math.log(value / low) / math.log(high / low) if high > low else 0.0


def _grid(axes: Axes) -> str:
    lines = []
    for value in axes.x.ticks(8, _tick_unit(axes.x_metric)):
        x = axes.x(value)
        lines.append(element("line", x1=x, x2=x, y1=_AREA.top, y2=_AREA.bottom, class_="grid"))
        lines.append(text(show(value, axes.x_metric), x, _AREA.bottom + 20, class_="tick", text_anchor="middle"))
    for value in axes.y.ticks(6, _tick_unit(axes.y_metric)):
        y = axes.y(value)
        lines.append(element("line", x1=_AREA.left, x2=_AREA.right, y1=y, y2=y, class_="grid"))
        lines.append(text(show(value, axes.y_metric), _AREA.left - 10, y + 4, class_="tick", text_anchor="end"))
    return element("g", *lines)


def _tick_unit(metric: str) -> float:
    return 2.0**20 if METRICS[metric].dimension == "bytes" else 1.0


def _axis_names(axes: Axes) -> str:
    x_note = "log scale, " if axes.x.logarithmic else ""
    y_better = "higher" if METRICS[axes.y_metric].higher_is_better else "lower"
    middle = (_AREA.left + _AREA.right) / 2
    return element(
        "g",
        text(f"{metric_name(axes.x_metric)} ({x_note}left is better)", middle, HEIGHT - 14.0, text_anchor="middle"),
        text(f"{metric_name(axes.y_metric)} ({y_better} is better)", 14.0, 18.0),
        class_="axis",
    )


def _budget_borders(name: str, axes: Axes, limits: dict[str, float]) -> str:
    hatch = element(
        "pattern",
        element("line", x1=0, y1=0, x2=0, y2=7, class_="hatch"),
        id=f"{name}-hatch", width=7, height=7, patternUnits="userSpaceOnUse", patternTransform="rotate(45)",
    )  # fmt: skip
    parts = [element("defs", hatch)]
    fill = f"url(#{name}-hatch)"
    limit = limits.get(axes.x_metric)
    if limit is not None and axes.x.low < limit < axes.x.high:
        x = axes.x(limit)
        parts += [
            element("rect", x=x, y=_AREA.top, width=_AREA.right - x, height=_AREA.bottom - _AREA.top, fill=fill),
            element("line", x1=x, x2=x, y1=_AREA.top, y2=_AREA.bottom, class_="limit"),
            text(f"budget {show(limit, axes.x_metric)}", x, _AREA.top - 8, class_="limit-name", text_anchor="middle"),
        ]
    limit = limits.get(axes.y_metric)
    if limit is not None and axes.y.low < limit < axes.y.high:
        y = axes.y(limit)
        worse_below = METRICS[axes.y_metric].higher_is_better
        top, bottom = (y, _AREA.bottom) if worse_below else (_AREA.top, y)
        parts += [
            element("rect", x=_AREA.left, y=top, width=_AREA.right - _AREA.left, height=bottom - top, fill=fill),
            element("line", x1=_AREA.left, x2=_AREA.right, y1=y, y2=y, class_="limit"),
            text(
                f"budget {show(limit, axes.y_metric)}", _AREA.right - 6, y + (15 if worse_below else -7),
                class_="limit-name", text_anchor="end",
            ),
        ]  # fmt: skip
    return element("g", *parts)


def _front_line(axes: Axes, front: Sequence[Row]) -> str:
    if len(front) < 2:
        return ""
    steps: list[str] = []
    for row in front:
        x, y = axes.x(row.value(axes.x_metric) or 0.0), axes.y(row.value(axes.y_metric) or 0.0)
        steps.append(f"M{x} {y}" if not steps else f"H{x}V{y}")
    return element("path", d="".join(steps), class_="front")


def _whiskers(row: Row, axes: Axes) -> str:
    x_estimate, y_estimate = row.estimate(axes.x_metric), row.estimate(axes.y_metric)
    x, y = axes.x(x_estimate.value or 0.0), axes.y(y_estimate.value or 0.0)
    parts = []
    if x_estimate.low is not None or x_estimate.high is not None:
        low, high = (axes.x(bound) if bound is not None else x for bound in (x_estimate.low, x_estimate.high))
        parts.append(element("line", x1=low, x2=high, y1=y, y2=y))
    if y_estimate.low is not None or y_estimate.high is not None:
        low, high = (axes.y(bound) if bound is not None else y for bound in (y_estimate.low, y_estimate.high))
        parts.append(element("line", x1=x, x2=x, y1=low, y2=high))
    emphasis = " strong" if row.is_winner else ""
    return element("g", *parts, class_=f"whisker {row.option.standing}{emphasis}") if parts else ""


def _mark(row: Row, axes: Axes, radius: float, energy: float | None) -> str:
    x, y = axes.x(row.value(axes.x_metric) or 0.0), axes.y(row.value(axes.y_metric) or 0.0)
    style = None if energy is None else f"--mark:{energy_colour(energy)}"
    lines = [row.title, STANDINGS[row.option.standing][1] + (", the winner" if row.is_winner else "")]
    for metric in ("latency_p50", "latency_p95", "accuracy_top1", "memory_peak", "energy_per_inference", "size"):
        estimate = row.estimate(metric)
        if estimate.value is not None:
            interval = show_interval(estimate, metric)
            lines.append(
                f"{metric_name(metric)} {show(estimate.value, metric)}" + (f" ({interval})" if interval else "")
            )
    lines.append(row.option.reason)
    if row.option.standing == "unknown":
        side = radius * 0.9
        path = f"M{x} {y - side}L{x + side} {y}L{x} {y + side}L{x - side} {y}Z"
        shape = element("path", d=path, class_="mark unknown")
    else:
        shape = element("circle", cx=x, cy=y, r=radius, class_=f"mark {row.option.standing}")
    halo = element("circle", cx=x, cy=y, r=radius + 5, class_="halo") if row.is_winner else ""
    return element(
        "g", element("title", escape("\n".join(lines))), halo, shape, style=style, class_="option", tabindex=0
    )


def energy_colour(share: float) -> str:
    """Return the colour of an energy, 0 (least) to 1 (most): blue over teal to amber, told apart by every eye."""
    stops = ((58, 99, 204), (38, 160, 152), (232, 147, 38))
    place = min(max(share, 0.0), 1.0) * 2
    first = min(int(place), 1)
    mixed = (round(a + (b - a) * (place - first)) for a, b in zip(stops[first], stops[first + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _labels(rows: Sequence[Row], front: Sequence[Row], axes: Axes, radii: dict[int, float]) -> str:
    def position(row: Row) -> tuple[float, float]:
        return axes.x(row.value(axes.x_metric) or 0.0), axes.y(row.value(axes.y_metric) or 0.0)

    wanted = sorted(
        (row for row in rows if row in front or row.is_winner or row.is_incumbent or row.is_nearest_miss),
        key=lambda row: (not row.is_winner, not row.is_incumbent, not row.is_nearest_miss, row.number),
    )[:_MAX_LABELS]
    names = [row.option.candidate for row in wanted]
    labels = []
    for row in wanted:
        x, y = position(row)
        notes = [
            note
            for note, holds in (
                ("chosen", row.is_winner), ("runs now", row.is_incumbent and not row.is_winner),
                ("nearest miss", row.is_nearest_miss),
            )
            if holds
        ]  # fmt: skip
        point = row.option.point
        which = f" ({point.engine} ×{point.threads})" if names.count(row.option.candidate) > 1 else ""
        said = row.option.candidate + which + (f" – {', '.join(notes)}" if notes else "")
        radius = radii[row.number] + (6 if row.is_winner else 0)
        labels.append(Label(text=said, x=x, y=y, radius=radius, bold=row.is_winner))
    marks = [
        Box(x - radii[row.number], y - radii[row.number], x + radii[row.number], y + radii[row.number])
        for row in rows
        for x, y in (position(row),)
    ]
    parts = []
    for placed in place_labels(labels, marks, _AREA):
        label, box = placed.label, placed.box
        if placed.distance > 9:
            end_x = min(max(label.x, box.left), box.right)
            end_y = min(max(label.y, box.top + 2), box.bottom - 2)
            parts.append(element("line", x1=label.x, y1=label.y, x2=end_x, y2=end_y, class_="leader"))
        class_ = "label strong" if label.bold else "label"
        parts.append(
            text(label.text, (box.left + box.right) / 2, box.bottom - 3.5, class_=class_, text_anchor="middle")
        )
    return element("g", *parts) if parts else ""


def _describe(rows: Sequence[Row], front: Sequence[Row], axes: Axes, limits: dict[str, float]) -> str:
    said = [f"{len(rows)} options; {sum(row.option.standing == 'fits' for row in rows)} fit every budget."]
    winner = next((row for row in rows if row.is_winner), None)
    if winner is not None:
        said.append(
            f"Chosen: {winner.title}, {show(winner.value(axes.x_metric), axes.x_metric)}, "
            f"{show(winner.value(axes.y_metric), axes.y_metric)}."
        )
    said.append(f"Best trade-offs: {', '.join(row.option.candidate for row in front)}.")
    said += [
        f"Budget for {metric_name(metric)}: {show(limits[metric], metric)}."
        for metric in (axes.x_metric, axes.y_metric)
        if metric in limits
    ]
    return " ".join(said) + " All figures are in the table below."
