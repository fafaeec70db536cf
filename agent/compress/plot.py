"""Accuracy against size as a plot that stays readable with one bad candidate among thirty good ones. Pure.

Rules:
- Size is on a logarithmic axis. So is the share of wrong answers, upside down: 90, 99 and 99.9 % stand equally far
  apart. Marks on that axis say accuracy.
- The axis begins at half the least error, so that an interval that reaches to no error at all does not take the room;
  what reaches beyond is cut there. An error of zero, which has no logarithm, stands at that of half a wrong answer.
- Names stand beside candidates that no other beats in size and accuracy; each mark tells its own when it is pointed at
  or reached by the keyboard.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from agent.compress.made import Made
from agent.core.units import format_quantity
from agent.report.html.svg import Box, Label, Scale, element, figure, place_labels, text

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 1040, 440, 78, 54, 18, 24
_AREA = Box(_LEFT, _TOP, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM)
_RADIUS = 6.0
_MOST_NAMES = 14
_AIR = 1.15  # a factor at both ends of an axis


def percent(share: float) -> str:
    """Return a share as text, with the digits that tell it from 100 %: 97.6%, 99.95%, 100%."""
    return f"{round(100.0 * share, 4 if share > 0.999 else 1):g}%"


def top1(one: Made) -> float:
    """Return the accuracy of a candidate that has one."""
    assert one.accuracy is not None
    value = one.accuracy.top1.value
    assert value is not None
    return value


def told(one: Made) -> str:
    """Return what is known of a candidate in one line."""
    accuracy = one.accuracy
    if accuracy is None or not one.transfer_bytes:
        return one.reason or "no reason is known"
    interval = ""
    if accuracy.top1.low is not None and accuracy.top1.high is not None:
        interval = f" ({percent(accuracy.top1.low)} to {percent(accuracy.top1.high)})"
    return f"{one.size_text}, {percent(top1(one))}{interval} of {accuracy.n}"


def best_trade_offs(whole: Sequence[Made]) -> list[Made]:
    """Return the candidates that no other beats in size and accuracy, the smallest first."""
    front: list[Made] = []
    for one in sorted(whole, key=lambda one: (one.transfer_bytes or 0, -top1(one))):
        if not front or top1(one) > top1(front[-1]):
            front.append(one)
    return front


def scatter(whole: Sequence[Made]) -> str:
    """Return the plot of candidates that all have an accuracy and a size; there must be one."""
    x, y = _size_scale(whole), _error_scale(whole)
    front = best_trade_offs(whole)
    sizes, accuracies = [one.transfer_bytes or 0 for one in whole], [top1(one) for one in whole]
    described = (
        f"{len(whole)} candidates from {format_quantity(min(sizes), 'bytes')} to "
        f"{format_quantity(max(sizes), 'bytes')}, top-1 from {percent(min(accuracies))} to {percent(max(accuracies))}. "
        f"Best trade-offs: {', '.join(one.name for one in front)}. All figures are in the table below."
    )
    parts = [*_grid(x, y), *_lines(whole, x, y), *(_mark(one, x, y) for one in whole), *_names(whole, front, x, y)]
    return figure("family-scatter", "Accuracy against size", described, _WIDTH, _HEIGHT, *parts)


def legend(whole: Sequence[Made]) -> str:
    """Return what the marks mean, those that are there."""
    shapes = {
        "ONNX": ('<circle cx="8" cy="8" r="6" class="mark"/>', any(one.format == "onnx" for one in whole)),
        "TFLite": (
            '<rect x="3" y="3" width="10" height="10" class="mark"/>',
            any(one.format == "tflite" for one in whole),
        ),
        "left out": (
            '<circle cx="8" cy="8" r="6" class="mark unknown"/>',
            any(one.reason is not None for one in whole),
        ),
    }
    shown = "".join(
        f'<span><svg viewBox="0 0 16 16" aria-hidden="true">{shape}</svg>{word}</span>'
        for word, (shape, there) in shapes.items()
        if there
    )
    return f'<p class="legend">{shown}<span>lines lead from parent to child</span></p>'


def _size_scale(whole: Sequence[Made]) -> Scale:
    sizes = [float(one.transfer_bytes or 0) for one in whole]
    return Scale(
        low=min(sizes) / _AIR, high=max(sizes) * _AIR, start_px=_AREA.left, end_px=_AREA.right, logarithmic=True
    )


def _error_scale(whole: Sequence[Made]) -> Scale:
    """Return pixels of an error, the least at the top."""
    accuracies = [one.accuracy for one in whole if one.accuracy is not None]
    errors = [1.0 - top1(one) for one in whole]
    half = min(0.5 / max(1, one.n) for one in accuracies)
    low = min(errors) / 2.0 if min(errors) > 0 else half
    high = max(*(1.0 - one.top1.low for one in accuracies if one.top1.low is not None), *errors, 2.0 * low)
    return Scale(low=low / _AIR, high=high * _AIR, start_px=_AREA.top, end_px=_AREA.bottom, logarithmic=True)


def _place(one: Made, x: Scale, y: Scale) -> tuple[float, float]:
    return x(float(one.transfer_bytes or 0)), y(1.0 - top1(one))


def _grid(x: Scale, y: Scale) -> list[str]:
    parts = []
    for tick in _binary_ticks(x):
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=_AREA.top, y2=_AREA.bottom, class_="grid"))
        said = format_quantity(tick, "bytes")
        parts.append(text(said, x(tick), _AREA.bottom + 18, class_="tick", text_anchor="middle"))
    for tick in y.ticks():
        if tick <= 1.0:
            parts.append(element("line", x1=_AREA.left, x2=_AREA.right, y1=y(tick), y2=y(tick), class_="grid"))
            parts.append(text(percent(1.0 - tick), _AREA.left - 8, y(tick) + 4, class_="tick", text_anchor="end"))
    middle = (_AREA.left + _AREA.right) / 2
    parts.append(text("size to transfer", middle, _HEIGHT - 10, class_="axis", text_anchor="middle"))
    return parts


def _binary_ticks(x: Scale) -> list[float]:
    """Return powers of two bytes, as many as can be read."""
    powers = [2.0**power for power in range(41) if x.low <= 2.0**power <= x.high]
    step = 1 + len(powers) // 9
    return powers[::step] or [x.low * _AIR]


def _lines(whole: Sequence[Made], x: Scale, y: Scale) -> list[str]:
    by_name = {one.name: one for one in whole}
    parts = []
    for one in whole:
        if one.parent is not None and one.parent in by_name:
            (x1, y1), (x2, y2) = _place(by_name[one.parent], x, y), _place(one, x, y)
            parts.append(element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="whisker"))
    return parts


def _mark(one: Made, x: Scale, y: Scale) -> str:
    assert one.accuracy is not None
    across, up = _place(one, x, y)
    said = "\n".join([one.name, told(one), *([f"left out: {one.reason}"] if one.reason is not None else [])])
    parts = [element("title", escape(said))]
    low, high = one.accuracy.top1.low, one.accuracy.top1.high
    if low is not None and high is not None:
        parts.append(element("line", x1=across, x2=across, y1=y(1.0 - low), y2=y(1.0 - high), class_="whisker strong"))
    kind = "mark" if one.reason is None else "mark unknown"
    if one.format == "tflite":
        side = 2 * _RADIUS - 2
        parts.append(element("rect", x=across - side / 2, y=up - side / 2, width=side, height=side, class_=kind))
    else:
        parts.append(element("circle", cx=across, cy=up, r=_RADIUS, class_=kind))
    return element("g", *parts, class_="option", tabindex=0)


def _names(whole: Sequence[Made], front: Sequence[Made], x: Scale, y: Scale) -> list[str]:
    def box(one: Made) -> Box:
        across, up = _place(one, x, y)
        return Box(across - _RADIUS, up - _RADIUS, across + _RADIUS, up + _RADIUS)

    wanted = sorted(front, key=top1, reverse=True)[:_MOST_NAMES]
    labels = [
        Label(text=one.name, x=across, y=up, radius=_RADIUS) for one in wanted for across, up in (_place(one, x, y),)
    ]
    parts = []
    for placed in place_labels(labels, [box(one) for one in whole], _AREA):
        label, at = placed.label, placed.box
        if placed.distance > 9:
            end_x, end_y = min(max(label.x, at.left), at.right), min(max(label.y, at.top + 2), at.bottom - 2)
            parts.append(element("line", x1=label.x, y1=label.y, x2=end_x, y2=end_y, class_="leader"))
        parts.append(text(label.text, (at.left + at.right) / 2, at.bottom - 3.5, class_="label", text_anchor="middle"))
    return parts
