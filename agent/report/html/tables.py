"""The tables: every option with its figures and reason, the board's facts, the conditions. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape

from agent.core.budget import METRICS
from agent.core.conversions import field_name
from agent.core.decision import Untried, untried_groups
from agent.core.facts import DeviceFacts
from agent.core.measurement import Measurement
from agent.core.units import format_quantity
from agent.report.html.conditions import condition_rows, flag_counts
from agent.report.html.rows import STANDINGS, Row, metric_name, point_text, show, show_interval

_COLUMNS = (
    "accuracy_top1", "latency_p50", "latency_p95", "memory_peak", "energy_per_inference", "size", "load_time",
)  # fmt: skip
_SHORT = {
    "accuracy_top1": "accuracy", "latency_p50": "p50", "latency_p95": "p95", "memory_peak": "memory",
    "energy_per_inference": "energy", "load_time": "load",
}  # fmt: skip


def option_table(rows: Sequence[Row]) -> str:
    """Return the table of every option; columns that nobody has a value for are left out."""
    columns = [metric for metric in _COLUMNS if any(row.value(metric) is not None for row in rows)]
    budgeted = {check.metric for row in rows for check in row.option.checks}
    columns += [metric for metric in METRICS if metric in budgeted and metric not in columns]
    heads = _head("standing") + _head("candidate, and why")
    heads += "".join(_head(_SHORT.get(metric, metric_name(metric)), metric) for metric in columns)
    body = "".join(_option_row(row, columns) for row in rows)
    return (
        f'<div class="scroll"><table class="options"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def untried_table(untried: Sequence[Untried]) -> str:
    """Return the table of what was not measured in full, what could change the decision first."""
    body = "".join(
        f"<tr><td>{'<span class=chip>could change it</span> ' if matters else ''}<b>{escape(name)}</b>"
        f"<small>{escape(', '.join(labels))}</small></td><td>{escape(reason)}</td></tr>"
        for matters in (True, False)
        for name, labels, reason in untried_groups(untried, could_matter=matters)
    )
    heads = '<th scope="col">candidate</th><th scope="col">why not</th>'
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _head(name: str, metric: str | None = None) -> str:
    if metric is None:
        return f'<th scope="col"><button type="button">{escape(name)}</button></th>'
    meaning = escape(METRICS[metric].meaning)
    return f'<th scope="col" class="n"><button type="button" title="{meaning}">{escape(name)}</button></th>'


def _option_row(row: Row, columns: Sequence[str]) -> str:
    sign, word = STANDINGS[row.option.standing]
    chips = "".join(
        f'<span class="chip">{name}</span>'
        for name, holds in (
            ("chosen", row.is_winner), ("runs now", row.is_incumbent), ("nearest miss", row.is_nearest_miss),
            ("tied", row.option.tied_with_winner and not row.is_winner),
        )
        if holds
    )  # fmt: skip
    standing = f'<span class="standing {row.option.standing}"><i>{sign}</i>{word}</span>'
    name = escape(row.option.candidate)
    why = f'<span class="why">{escape(row.option.reason)}</span>'
    who = f"<b>{name}</b>{chips}<small>{escape(point_text(row.option.point))}</small>{why}"
    cells = [f'<td data-v="{row.number}">{standing}</td>', f'<td class="who" data-v="{name}">{who}</td>']
    states = {check.metric: check.state for check in row.option.checks}
    for metric in columns:
        estimate = row.estimate(metric)
        state = {"missed": " missed", "unknown": " unsure"}.get(states.get(metric, ""), "")
        interval = show_interval(estimate, metric)
        if metric == "size" and row.option.size_unpacked_bytes is not None:
            interval = f"{show(row.option.size_unpacked_bytes, metric)} unpacked"
        raw = "" if estimate.value is None else f"{estimate.value:.9g}"
        note = f"<small>{escape(interval)}</small>" if interval else ""
        cells.append(f'<td class="n{state}" data-v="{raw}">{escape(show(estimate.value, metric))}{note}</td>')
    return f"<tr{' class=winner' if row.is_winner else ''}>{''.join(cells)}</tr>"


def facts_list(facts: DeviceFacts) -> str:
    """Return what this board is."""
    board, cpu, memory = facts.board, facts.cpu, facts.memory
    clusters = ", ".join(
        f"{len(cluster.cores)} × {cluster.name or cluster.part or 'core'}"
        + (f" to {format_quantity(cluster.max_freq_hz, 'frequency')}" if cluster.max_freq_hz else "")
        for cluster in cpu.clusters
    )
    engines = ", ".join(
        f"{engine.name} {engine.version or ''}".strip() + ("" if engine.proven else f" (not usable: {engine.reason})")
        for engine in facts.engines
    )
    sensors = ", ".join(
        sensor.name + ("" if sensor.status == "ok" else f" ({sensor.status}: {sensor.reason})")
        for sensor in facts.sensors
    )
    accelerators = ", ".join(
        accelerator.name + ("" if accelerator.usable_by else " (present, not usable here)")
        for accelerator in facts.accelerators
    )
    pairs = [
        ("Board", f"{board.model or 'unknown'} (profile {board.profile}, by {board.matched_on})"),
        ("Processor", " ".join(filter(None, (board.soc, cpu.architecture, clusters)))),
        ("Usable cores", f"{len(cpu.usable)} of {len(cpu.present)}"),
        ("Memory", format_quantity(memory.usable_bytes, "bytes")),
        ("System", ", ".join(filter(None, (facts.os.name, facts.os.kernel)))),
        ("Engines", engines or "none proven"),
        ("Accelerators", accelerators or "none found"),
        ("Sensors", sensors or "none found"),
        ("Power mode", facts.power_mode or "–"),
        ("Virtual machine", board.virtualization or "no"),
        ("Class fingerprint", facts.class_fingerprint),
    ]
    if facts.traps:
        pairs.append(("Known traps here", "; ".join(facts.traps)))
    return '<dl class="facts">' + "".join(_pair(name, value) for name, value in pairs if value) + "</dl>"


def condition_table(measurements: Sequence[Measurement]) -> str:
    """Return the conditions before and after, over all measurements of a task."""
    body = "".join(
        f'<tr><th scope="row">{escape(what)}</th><td>{escape(before)}</td><td>{escape(after)}</td></tr>'
        for what, before, after in condition_rows(measurements)
    )
    counts = flag_counts(measurements)
    said = ", ".join(f"{name.replace('_', ' ')} ×{count}" for name, count in counts.items()) or "none"
    return (
        '<table><thead><tr><th scope="col">Reading</th><th scope="col">before</th>'
        '<th scope="col">after</th></tr></thead>'
        f'<tbody>{body}<tr><th scope="row">Flags</th><td colspan="2">{escape(said)}</td></tr></tbody></table>'
    )


def csv_text(rows: Sequence[Row]) -> str:
    """Return every option as CSV, one line each, SI units in the column names."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["candidate", "engine", "provider", "threads", "batch", "standing", "rank", "verdict"]
        + [name for metric in METRICS for name in _csv_columns(metric)]
        + ["reason", "measurement_id", "artifact_sha256"]
    )
    for row in rows:
        option, point = row.option, row.option.point
        estimates = [row.estimate(metric) for metric in METRICS]
        writer.writerow([
            option.candidate, point.engine, point.provider, point.threads, point.batch, option.standing, option.rank,
            option.verdict, *(bound for one in estimates for bound in (one.value, one.low, one.high)), option.reason,
            option.measurement_id, option.artifact_sha256,
        ])  # fmt: skip
    return out.getvalue()


def _csv_columns(metric: str) -> tuple[str, str, str]:
    unit = field_name(metric).removeprefix(metric)
    return metric + unit, f"{metric}_low{unit}", f"{metric}_high{unit}"


def _pair(name: str, value: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
