"""How latencies are distributed, one ridge per option, from the raw values. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from agent.core.budget import Budget
from agent.report.html.rows import STANDINGS, Row, point_text, show
from agent.report.html.svg import Scale, element, figure, make_scale, text

WIDTH = 1040
MAX_RIDGES = 12
_LEFT, _RIGHT, _TOP = 300.0, 1016.0, 30.0
_STEP, _RIDGE = 44.0, 32.0
_BINS = 120


def ridge_rows(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return whose latencies are drawn: chosen, running, nearest miss, what fits, then what is closest to fitting."""
    known = [row for row in rows if row.measurement is not None and len(row.measurement.latencies_s) > 1]

    def order(row: Row) -> tuple[bool, bool, bool, bool, float, int]:
        fits = row.option.standing == "fits"
        misses = [check.miss_ratio or 0.0 for check in row.option.checks if check.state != "met"]
        # What fits keeps its rank; of the rest, those that miss their budgets by least say most.
        miss = 0.0 if fits else sum(max(0.0, one) for one in misses)
        return (not row.is_winner, not row.is_incumbent, not row.is_nearest_miss, not fits, miss, row.number)

    known.sort(key=order)
    return tuple(known[:MAX_RIDGES])


def distribution_plot(name: str, rows: Sequence[Row], budgets: Sequence[Budget]) -> str | None:
    """Return the plot, None when no raw latencies were kept."""
    drawn = ridge_rows(rows)
    if not drawn:
        return None
    limits = [
        budget for budget in budgets if budget.metric.startswith("latency_p") and "sustained" not in budget.metric
    ]
    values = [value for row in drawn if row.measurement for value in row.measurement.latencies_s if value > 0]
    near = [budget.limit for budget in limits if min(values) / 3 <= budget.limit <= max(values) * 3]
    scale = make_scale([*values, *near], _LEFT, _RIGHT, floor=0.0)
    bottom = _TOP + _STEP * len(drawn)
    parts = [_grid(scale, bottom)]
    for budget in limits:
        if scale.low < budget.limit < scale.high:
            x = scale(budget.limit)
            said = f"{budget.metric.removeprefix('latency_')} budget {show(budget.limit, budget.metric)}"
            parts.append(element("line", x1=x, x2=x, y1=_TOP - 8, y2=bottom, class_="limit"))
            parts.append(text(said, x, _TOP - 14, class_="limit-name", text_anchor="middle"))
    parts += [_ridge(row, scale, _TOP + _STEP * place + _RIDGE + 6) for place, row in enumerate(drawn)]
    note = "latency of single inferences" + (" (log scale)" if scale.logarithmic else "")
    parts.append(text(note, (_LEFT + _RIGHT) / 2, bottom + 44, class_="axis", text_anchor="middle"))
    description = "Distribution of single latencies, " + "; ".join(
        f"{row.option.candidate}: median {show(row.value('latency_p50'), 'latency_p50')}, "
        f"p95 {show(row.value('latency_p95'), 'latency_p95')}"
        for row in drawn
    )
    return figure(name, "How latencies are distributed", description, WIDTH, round(bottom + 56), *parts)


def _grid(scale: Scale, bottom: float) -> str:
    parts = []
    for value in scale.ticks(7):
        x = scale(value)
        parts.append(element("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="grid"))
        parts.append(text(show(value, "latency_p50"), x, bottom + 20, class_="tick", text_anchor="middle"))
    return element("g", *parts)


def _ridge(row: Row, scale: Scale, base: float) -> str:
    assert row.measurement is not None
    values = sorted(row.measurement.latencies_s)
    p50, p95 = row.value("latency_p50"), row.value("latency_p95")
    fastest, slowest = show(values[0], "latency_p50"), show(values[-1], "latency_p50")
    tip = f"{row.title}\nn {len(values)}, fastest {fastest}, slowest {slowest}"
    parts = [
        element("title", escape(tip)),
        element("line", x1=scale(values[0]), x2=scale(values[-1]), y1=base, y2=base, class_="ridge-span"),
        element("path", d=_outline(values, scale, base), class_="ridge"),
    ]
    if p50 is not None:
        parts.append(
            element("line", x1=scale(p50), x2=scale(p50), y1=base, y2=base - _RIDGE * 0.62, class_="ridge-p50")
        )
    if p95 is not None:
        x = scale(p95)
        parts.append(element("path", d=f"M{x} {base - 6}l4.5 6l-4.5 6l-4.5 -6z", class_="ridge-p95"))
    strong = " strong" if row.is_winner else ""
    name = f"{row.option.candidate} {STANDINGS[row.option.standing][0]}"
    name = name if len(name) <= 40 else f"{row.option.candidate[:37]}… {name[-1]}"
    parts.append(text(name, _LEFT - 16, base - 13, class_=f"label{strong}", text_anchor="end"))
    parts.append(text(point_text(row.option.point), _LEFT - 16, base + 2, class_="tick", text_anchor="end"))
    return element("g", *parts, class_=f"option {row.option.standing}", tabindex=0)


def _outline(values: Sequence[float], scale: Scale, base: float) -> str:
    """Return the path of a smoothed histogram in pixel space, as high as the ridge at its highest."""
    counts = [0.0] * _BINS
    width = (_RIGHT - _LEFT) / _BINS
    for value in values:
        counts[min(_BINS - 1, int((scale(value) - _LEFT) / width))] += 1.0
    reach = 3
    weights = [math.exp(-0.5 * (offset / 1.3) ** 2) for offset in range(-reach, reach + 1)]
    padded = [0.0] * reach + counts + [0.0] * reach
    smooth = [sum(weight * padded[place + offset] for offset, weight in enumerate(weights)) for place in range(_BINS)]
    highest = max(smooth)
    shown = [place for place in range(_BINS) if smooth[place] > highest * 0.004]
    first, last = shown[0], shown[-1]
    points = [
        (round(_LEFT + (place + 0.5) * width, 1), round(base - _RIDGE * smooth[place] / highest, 1))
        for place in range(first, last + 1)
    ]
    path = "".join(f"L{x} {y}" for x, y in points)
    return f"M{points[0][0]} {base}{path}L{points[-1][0]} {base}Z"
