"""The page of one run: accuracy against size, the family tree from parent to child, and the table. One HTML file.

Leaves scales, labels and the look to ``agent.report.html``, whose pages this one resembles.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from agent.compress.made import Made
from agent.core.units import format_quantity
from agent.report.html.style import STYLE
from agent.report.html.svg import Box, Label, Scale, element, figure, make_scale, place_labels, text

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 1040, 420, 70, 52, 16, 20
_ROW = 26


def render(task: str, made: Sequence[Made], version: str) -> str:
    """Return the page."""
    whole = [one for one in made if one.accuracy is not None and one.size_bytes]
    left = [one for one in made if one not in whole]
    plot = _scatter(whole) if whole else "<p>No candidate has an accuracy.</p>"
    failed = "".join(f"<li>{escape(one.name)}: {escape(one.reason or 'no reason is known')}</li>" for one in left)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(task)}: compressed candidates</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>
<body><main><section class="task"><h1>{escape(task)}: {len(whole)} candidates</h1>
<div class="card"><h2>Accuracy against size</h2><p class="note">Top-1 with its 95 % interval, on samples never trained
or calibrated on. Lines lead from parent to child.</p><div class="scroll">{plot}</div></div>
<div class="card"><h2>Family</h2><div class="scroll">{_tree(made)}</div></div>
<div class="card"><h2>Table</h2><div class="scroll">{_table(made)}</div></div>
{f'<div class="card"><h2>Not made</h2><ul>{failed}</ul></div>' if failed else ""}
</section></main><footer>boardfit {escape(version)}</footer></body></html>
"""


def _place(one: Made, x: Scale, y: Scale) -> tuple[float, float]:
    assert one.accuracy is not None
    return x(float(one.transfer_bytes or 0)), y(one.accuracy.top1.value)


def _scatter(whole: Sequence[Made]) -> str:
    sizes = [float(one.transfer_bytes or 0) for one in whole]
    bounds = [
        bound
        for one in whole
        if one.accuracy
        for bound in (one.accuracy.top1.low, one.accuracy.top1.high)
        if bound is not None
    ]
    x = make_scale(sizes, _LEFT, _WIDTH - _RIGHT)
    y = make_scale(bounds, _HEIGHT - _BOTTOM, _TOP, floor=0.0, ceiling=1.0)
    parts = []
    for tick in x.ticks():
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="grid"))
        parts.append(
            text(format_quantity(tick, "bytes"), x(tick), _HEIGHT - _BOTTOM + 18, class_="tick", text_anchor="middle")
        )
    for tick in y.ticks():
        parts.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(text(f"{tick:.1%}", _LEFT - 8, y(tick) + 4, class_="tick", text_anchor="end"))
    by_name = {one.name: one for one in whole}
    for one in whole:
        if one.parent in by_name:
            (x1, y1), (x2, y2) = _place(by_name[one.parent], x, y), _place(one, x, y)
            parts.append(element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="front"))
    labels, marks = [], []
    for one in whole:
        across, up = _place(one, x, y)
        assert one.accuracy is not None
        low, high = one.accuracy.top1.low, one.accuracy.top1.high
        if low is not None and high is not None:
            parts.append(element("line", x1=across, x2=across, y1=y(low), y2=y(high), class_="whisker"))
        said = f"{one.name}: {one.size_text}, {one.accuracy.top1.value:.1%}"
        kind = "mark" if one.reason is None else "mark unknown"
        shape = (
            element("rect", element("title", escape(said)), x=across - 5, y=up - 5, width=10, height=10, class_=kind)
            if one.format == "tflite"
            else element("circle", element("title", escape(said)), cx=across, cy=up, r=6, class_=kind)
        )
        parts.append(shape)
        marks.append(Box(across - 6, up - 6, across + 6, up + 6))
        labels.append(Label(text=one.name, x=across, y=up, radius=6.0))
    area = Box(_LEFT, _TOP, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM)
    for placed in place_labels(labels[:12], marks, area):
        parts.append(text(placed.label.text, placed.box.left, placed.box.top + 12, class_="label"))
    parts.append(
        text(
            "size to transfer (circles ONNX, squares TFLite)",
            _WIDTH / 2,
            _HEIGHT - 8,
            class_="axis",
            text_anchor="middle",
        )
    )
    described = (
        f"{len(whole)} candidates from {format_quantity(min(sizes), 'bytes')} to {format_quantity(max(sizes), 'bytes')}"
    )
    return figure("family-scatter", "Accuracy against size", described, _WIDTH, _HEIGHT, *parts)


def _tree(made: Sequence[Made]) -> str:
    """Return the candidates as a tree, one row each, children below and to the right of their parent."""
    names = {one.name for one in made}
    rows: list[tuple[int, Made]] = []

    def walk(parent: str | None, depth: int) -> None:
        for one in made:
            if (one.parent if one.parent in names else None) == parent:
                rows.append((depth, one))
                walk(one.name, depth + 1)

    walk(None, 0)
    parts, at = [], {one.name: (depth, number) for number, (depth, one) in enumerate(rows)}
    for number, (depth, one) in enumerate(rows):
        middle = number * _ROW + 18
        if one.parent in at:
            _, above = at[one.parent]
            left = (depth - 1) * 28 + 14
            parts.append(element("path", d=f"M{left} {above * _ROW + 24}V{middle}H{left + 16}", class_="front"))
        accuracy = one.accuracy
        known = f"{accuracy.top1.value:.1%}, {one.size_text}" if accuracy else one.reason or ""
        parts.append(element("circle", cx=depth * 28 + 14, cy=middle, r=5, class_="mark"))
        parts.append(text(one.name, depth * 28 + 26, middle + 4, class_="label strong" if depth == 0 else "label"))
        parts.append(text(known, _WIDTH - _RIGHT, middle + 4, class_="tick", text_anchor="end"))
    height = len(rows) * _ROW + 16
    return figure(
        "family-tree", "Family tree", f"{len(rows)} candidates, children below their parent", _WIDTH, height, *parts
    )


def _table(made: Sequence[Made]) -> str:
    head = "".join(
        f"<th>{name}</th>" for name in ("candidate", "made from", "techniques", "size", "top-1", "p50 here", "")
    )
    rows = []
    for one in made:
        accuracy = one.accuracy
        chain = "; ".join(
            step["technique"] + "".join(
                f" {key} {value}" for key, value in step["parameters"].items() if isinstance(value, str | int | float)
            ) for step in one.chain
        )  # fmt: skip
        latencies = ", ".join(
            f"{found.engine} {format_quantity(found.latency_p50_s, 'time')}"
            for found in one.judged
            if found.latency_p50_s
        )
        interval = ""
        if accuracy is not None and accuracy.top1.low is not None and accuracy.top1.high is not None:
            interval = (
                f"{accuracy.top1.value:.1%} ({accuracy.top1.low:.1%} to {accuracy.top1.high:.1%}) of {accuracy.n}"
            )
        cells = (
            one.name, one.parent or "–", chain or "none",
            one.size_text, interval or "–", latencies or "–",
            one.reason or "",
        )  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
