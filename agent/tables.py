"""The tables of decisions and measurements, so that a person sees at once what won and what kept the others out.

What fits stands first, best on top, with its figures; what does not follows with its reason. Decides only what is
shown; ``console`` makes it fit the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agent.console import Cell, Column, Console
from agent.core.budget import Estimate
from agent.core.decision import Decision, Option
from agent.core.measurement import Measurement, OperatingPoint
from agent.core.units import format_quantity

_STANDING = {
    "fits": ("fits", "green"),
    "over_budget": ("over budget", "red"),
    "unknown": ("unknown", "yellow"),
    "failed": ("failed", "magenta"),
}
_ORDER = {"fits": 0, "unknown": 1, "over_budget": 2, "failed": 3}


def show_decision(console: Console, decision: Decision) -> None:
    """Print every option of a decision: what fits, best first, then what does not and why."""

    def key(option: Option) -> tuple[int, float, str]:
        return (_ORDER[option.standing], option.rank if option.rank is not None else 1e9, option.candidate)

    ordered = sorted(decision.options, key=key)
    fitting = [option for option in ordered if option.standing == "fits"]
    others = [option for option in ordered if option.standing != "fits"]
    if fitting:
        console.columns(_fitting_columns(decision, fitting), more="fit as well")
    if others:
        if fitting:
            console.line()
        console.columns(_other_columns(others), more="do not fit", most=6)


def _fitting_columns(decision: Decision, options: Sequence[Option]) -> list[Column]:
    winner = decision.winner
    chosen = [
        winner is not None and (o.artifact_sha256, o.point) == (winner.artifact_sha256, winner.point) for o in options
    ]

    def figures(metric: str, dimension: Any) -> list[Cell]:
        return [_figure(option.estimates.get(metric), dimension) for option in options]

    marks: list[Cell] = [
        ("▶", "bold green") if is_chosen else str(option.rank or "")
        for option, is_chosen in zip(options, chosen, strict=True)
    ]
    names: list[Cell] = [
        (option.candidate, "bold" if is_chosen else "") for option, is_chosen in zip(options, chosen, strict=True)
    ]
    top1 = [option.estimates.get("accuracy_top1") for option in options]
    columns = [
        Column("", marks, right=True),
        Column("fits every budget", names),
        _run_as([option.point for option in options]),
        Column("top-1 (95 %)", [_percent(item, True) for item in top1], right=True,
               narrow=("top-1", [_percent(item, False) for item in top1])),
        Column("p50", figures("latency_p50", "time"), right=True, leave_out=1),
        Column("p95", figures("latency_p95", "time"), right=True),
        Column("memory", figures("memory_peak", "bytes"), right=True, leave_out=2),
        Column("size", [format_quantity(option.size_bytes, "bytes") for option in options], right=True, leave_out=3),
    ]  # fmt: skip
    if any(option.size_unpacked_bytes is not None for option in options):  # the size is then that of the packed file
        unpacked = [option.size_unpacked_bytes or option.size_bytes for option in options]
        columns.append(
            Column("unpacked", [format_quantity(size, "bytes") for size in unpacked], right=True, leave_out=1)
        )
    if any(energy.value for option in options if (energy := option.estimates.get("energy_per_inference"))):
        columns.append(Column("energy", figures("energy_per_inference", "energy"), right=True))
    return columns


def _other_columns(options: Sequence[Option]) -> list[Column]:
    return [
        Column("does not", [option.candidate for option in options]),
        _run_as([option.point for option in options]),
        Column("verdict", [_STANDING[option.standing] for option in options], leave_out=1),
        Column("why", [option.reason for option in options], flexible=True),
    ]


def _run_as(points: Sequence[OperatingPoint]) -> Column:
    """Say how it runs; where room is short without the provider, unless that would hide a difference."""
    narrow: list[Cell] = [f"{point.engine} x{point.threads}" for point in points]
    told_apart = len({point.label for point in points}) == len(set(narrow))
    return Column("run as", [point.label for point in points], narrow=("run as", narrow) if told_apart else None)


def _figure(estimate: Estimate | None, dimension: Any) -> str:
    return "–" if estimate is None or estimate.value is None else format_quantity(estimate.value, dimension)


def _percent(estimate: Estimate | None, interval: bool) -> str:
    if estimate is None or estimate.value is None:
        return "–"
    text = f"{estimate.value * 100:.1f} %"
    if interval and estimate.low is not None and estimate.high is not None:
        text += f" ({estimate.low * 100:.1f}..{estimate.high * 100:.1f})"
    return text


def sustained_text(item: Measurement) -> str:
    """Return one sentence on what became of a model that ran on until the board was warm."""
    found = item.sustained
    where = f"{item.candidate} at {item.point.label}"
    if found is None or found.latency_p95_s is None:
        return f"{where}: no sustained latency: {'it was not measured' if found is None else found.reason}"
    power = "" if found.power_mean_w is None else f", {format_quantity(found.power_mean_w.value, 'power')}"
    after = format_quantity(found.duration_s, "time")
    return f"{where}: p95 {format_quantity(found.latency_p95_s.value, 'time')}{power} after {after}: {found.reason}"


def show_measurements(console: Console, measurements: Sequence[Measurement]) -> None:
    """Print measurements with their conditions."""

    def column(name: str, cell: Callable[[Measurement], str], leave_out: int = 0) -> Column:
        return Column(name, [cell(item) for item in measurements], right=True, leave_out=leave_out)

    def latency(item: Measurement, name: str) -> str:
        return format_quantity(getattr(item.latency, name).value, "time") if item.latency else "–"

    def memory(item: Measurement) -> str:
        return format_quantity(item.memory.admission_peak_bytes, "bytes") if item.memory else "–"

    def energy(item: Measurement) -> str:
        known = item.power.energy_per_inference_j if item.power else None
        return format_quantity(known.value, "energy") if known else "–"

    def top1(item: Measurement) -> str:
        return f"{item.accuracy.top1.value * 100:.1f} %" if item.accuracy else "–"

    console.columns(
        [
            Column("candidate", [item.candidate for item in measurements]),
            _run_as([item.point for item in measurements]),
            Column("verdict", [item.verdict for item in measurements]),
            column("top-1", top1),
            column("p50", lambda item: latency(item, "p50_s")),
            column("p95", lambda item: latency(item, "p95_s"), 4),
            column("runs", lambda item: str(item.latency.n) if item.latency else "–", 1),
            column("load", lambda i: format_quantity(i.load_time_s, "time") if i.load_time_s is not None else "–", 2),
            column("memory", memory, 3),
            *([column("energy", energy)] if any(energy(item) != "–" for item in measurements) else []),
            Column("note", [_note(item) for item in measurements], flexible=True),
        ]
    )


def _note(item: Measurement) -> str:
    flags = ", ".join(item.context.flags) if item.context and item.context.flags else ""
    return "; ".join(part for part in (item.reason, item.stopped, flags) if part)
