"""Elements, scales, ticks and label placement for the plots. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import msgspec

CHARACTER_PX = 6.5  # of the 12 px system fonts; on the wide side, so that boxes do not overlap


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """Maps a quantity onto pixels, linearly or logarithmically."""

    low: float
    high: float
    start_px: float
    end_px: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; values outside stay at the edges."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start_px + share * (self.end_px - self.start_px), 1)

    def ticks(self, count: int = 6, unit: float = 1.0) -> tuple[float, ...]:
        """Return values to label, round multiples of ``unit``."""
        if unit != 1.0:
            plain = Scale(
                low=self.low / unit, high=self.high / unit, start_px=0, end_px=1, logarithmic=self.logarithmic
            )
            return tuple(value * unit for value in plain.ticks(count))
        if not self.logarithmic:
            return _linear_ticks(self.low, self.high, count)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = tuple(
                step * 10.0**decade
                for decade in decades
                for step in steps
                if self.low <= step * 10.0**decade <= self.high
            )
            if len(found) <= 2 * count:
                break
        return found if len(found) >= 2 else _linear_ticks(self.low, self.high, count)


class Box(msgspec.Struct, frozen=True):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Return the shared area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """A text that wants to stand beside a round mark. Earlier labels get the better places."""

    text: str
    x: float
    y: float
    radius: float
    bold: bool = False


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """Where a label went."""

    label: Label
    box: Box

    @property
    def distance(self) -> float:
        """Pixels between the mark's edge and the box."""
        x = max(self.box.left - self.label.x, 0.0, self.label.x - self.box.right)
        y = max(self.box.top - self.label.y, 0.0, self.label.y - self.box.bottom)
        return math.hypot(x, y) - self.label.radius


def make_scale(
    values: Sequence[float], start_px: float, end_px: float, *, floor: float | None = None, ceiling: float | None = None
) -> Scale:
    """Return a scale over the values with some air; logarithmic where they spread more than tenfold.

    Args: floor, ceiling: what the axis must not pass, such as 0 and 1 for a ratio.
    """
    low, high = min(values), max(values)
    if low > 0 and high / low > 10:
        air = (high / low) ** 0.06
        return Scale(low=low / air, high=high * air, start_px=start_px, end_px=end_px, logarithmic=True)
    air = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low, high = low - air, high + air
    low = low if floor is None else max(low, floor)
    high = high if ceiling is None else min(high, ceiling)
    return Scale(low=low, high=high, start_px=start_px, end_px=end_px)


def place_labels(labels: Sequence[Label], marks: Sequence[Box], area: Box) -> tuple[Placed, ...]:
    """Find a place for each label near its mark, clear of other labels and of marks; leave out what finds none.

    Greedy in the given order over rings of positions; the cheapest of overlap (labels forbid, marks cost) and distance.
    """
    placed: list[Placed] = []
    for label in labels:
        best: tuple[float, Placed] | None = None
        width, height = len(label.text) * CHARACTER_PX * (1.06 if label.bold else 1.0), 15.0
        for ring in (5.0, 14.0, 26.0, 40.0, 58.0):
            for step in range(16):
                angle = math.tau * step / 16
                anchor_x = label.x + (label.radius + ring) * math.cos(angle)
                anchor_y = label.y - (label.radius + ring) * math.sin(angle)
                # The box hangs on its near side: left-aligned to the right of the mark, and so on round.
                left = anchor_x - width * (1 - math.cos(angle)) / 2
                top = anchor_y - height * (1 + math.sin(angle)) / 2
                box = Box(left, top, left + width, top + height)
                outside = (
                    box.left < area.left or box.right > area.right or box.top < area.top or box.bottom > area.bottom
                )
                if outside or any(box.overlap(other.box) > 0 for other in placed):
                    continue
                cost = ring + 0.35 * sum(min(box.overlap(mark), 120.0) for mark in marks) + 3 * abs(math.sin(angle))
                if best is None or cost < best[0]:
                    best = (cost, Placed(label=label, box=box))
        if best is not None:
            placed.append(best[1])
    return tuple(placed)


def element(name: str, *children: str, **attributes: object) -> str:
    """Return an element; ``class_`` and ``stroke_width`` become ``class`` and ``stroke-width``. Children are markup."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{shown}>{''.join(children)}</{name}>" if children else f"<{name}{shown}/>"


def text(content: str, x: float, y: float, **attributes: object) -> str:
    """Return a text element; the content is escaped."""
    return element("text", escape(content), x=x, y=y, **attributes)


def figure(name: str, title: str, description: str, width: int, height: int, *content: str) -> str:
    """Return a complete plot with its title and description for people who cannot see it."""
    return element(
        "svg",
        element("title", escape(title), id=f"{name}-title"),
        element("desc", escape(description), id=f"{name}-desc"),
        *content,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def _number(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def _linear_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return tuple(index * step for index in range(first, math.floor(high / step + 1e-9) + 1))
