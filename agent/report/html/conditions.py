"""What the board went through while it measured: its temperature, and what was flagged. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from agent.core.measurement import Measurement
from agent.core.units import format_quantity
from agent.report.html.svg import Scale, element, figure, make_scale, text

WIDTH, HEIGHT = 1040, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 78.0, 1016.0, 24.0, 176.0


def in_order(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return the measurements as they were taken."""
    return sorted(measurements, key=lambda measurement: (measurement.started_at, measurement.id))


def temperature_plot(name: str, measurements: Sequence[Measurement]) -> str | None:
    """Return temperature from measurement to measurement, None with fewer than three readings."""
    taken = in_order(measurements)
    known = [
        (place, before, after, measurement)
        for place, measurement in enumerate(taken)
        if measurement.context is not None
        and (before := measurement.context.before.temperature_celsius) is not None
        and (after := measurement.context.after.temperature_celsius) is not None
    ]
    if len(known) < 3:
        return None
    y = make_scale([value for _, before, after, _ in known for value in (before, after)], _BOTTOM, _TOP)
    x = Scale(low=-0.5, high=len(taken) - 0.5, start_px=_LEFT, end_px=_RIGHT)
    parts = [_grid(x, y, len(taken))]
    bar = min(14.0, (_RIGHT - _LEFT) / len(taken) * 0.6)
    for place, before, after, measurement in known:
        flags = measurement.context.flags if measurement.context is not None else ()
        top, bottom = min(y(before), y(after)), max(y(before), y(after))
        tip = f"{measurement.candidate} · {measurement.point.label}\n{before:.1f} °C before, {after:.1f} °C after" + (
            f"\n{', '.join(flags)}" if flags else ""
        )
        shape = element(
            "rect", x=x(place) - bar / 2, y=top - 1, width=bar, height=bottom - top + 2, rx=min(3.0, bar / 2),
            class_="heat flagged" if flags else "heat",
        )  # fmt: skip
        mark = text("▾", x(place), top - 6, class_="flag", text_anchor="middle") if flags else ""
        parts.append(element("g", element("title", escape(tip)), shape, mark, class_="option", tabindex=0))
    parts.append(text("temperature (each bar: from before to after one measurement)", 14.0, 14.0, class_="axis"))
    parts.append(
        text(
            "measurements in the order they were taken",
            (_LEFT + _RIGHT) / 2,
            HEIGHT - 12.0,
            class_="axis",
            text_anchor="middle",
        )
    )
    hottest = max(max(before, after) for _, before, after, _ in known)
    flagged = sum(bool(measurement.context and measurement.context.flags) for *_, measurement in known)
    description = f"{len(known)} measurements, hottest {hottest:.1f} °C, {flagged} of them flagged."
    return figure(name, "Temperature while measuring", description, WIDTH, HEIGHT, *parts)


def condition_rows(measurements: Sequence[Measurement]) -> list[tuple[str, str, str]]:
    """Return (what, before, after) over all measurements: the range of each reading, a dash where none was had."""
    contexts = [measurement.context for measurement in measurements if measurement.context is not None]

    def span(values: list[float | None], dimension: str) -> str:
        known = [value for value in values if value is not None]
        if not known:
            return "–"
        low, high = (
            f"{value:.2f}" if dimension == "plain" else format_quantity(value, dimension)  # type: ignore[arg-type]
            for value in (min(known), max(known))
        )
        return low if low == high else f"{low} to {high}"

    def names(values: list[str | None]) -> str:
        return ", ".join(sorted({value for value in values if value})) or "–"

    table = [
        (
            what,
            span([getattr(context.before, field) for context in contexts], dimension),
            span([getattr(context.after, field) for context in contexts], dimension),
        )
        for what, field, dimension in (
            ("Temperature", "temperature_celsius", "temperature"),
            ("Clock", "clock_hz", "frequency"),
            ("Load, 1 minute", "load_1min", "plain"),
            ("Memory available", "memory_available_bytes", "bytes"),
        )
    ]
    for what, field in (("Governor", "governor"), ("Power mode", "power_mode")):
        table.append(
            (
                what,
                names([getattr(context.before, field) for context in contexts]),
                names([getattr(context.after, field) for context in contexts]),
            )
        )
    table.append(
        (
            "Throttling",
            _throttle([context.before.throttle_now for context in contexts]),
            _throttle([context.after.throttle_now for context in contexts]),
        )
    )
    return table


def flag_counts(measurements: Sequence[Measurement]) -> dict[str, int]:
    """Return how many measurements carry each flag."""
    counts: dict[str, int] = {}
    for measurement in measurements:
        for flag in measurement.context.flags if measurement.context is not None else ():
            counts[flag] = counts.get(flag, 0) + 1
    return dict(sorted(counts.items()))


def _throttle(readings: list[tuple[str, ...] | None]) -> str:
    known = [reading for reading in readings if reading is not None]
    if not known:
        return "this board does not say"
    return ", ".join(sorted({name for reading in known for name in reading})) or "none"


def _grid(x: Scale, y: Scale, count: int) -> str:
    parts = []
    for value in y.ticks(4):
        parts.append(element("line", x1=_LEFT, x2=_RIGHT, y1=y(value), y2=y(value), class_="grid"))
        parts.append(text(f"{value:g} °C", _LEFT - 10, y(value) + 4, class_="tick", text_anchor="end"))
    step = max(1, round(count / 12))
    for place in range(0, count, step):
        parts.append(text(str(place + 1), x(place), _BOTTOM + 20, class_="tick", text_anchor="middle"))
    return element("g", *parts)
