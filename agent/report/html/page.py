"""The whole page: what was decided in words, the plots with their tables, the board, and how it was measured. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape

import msgspec

from agent.core.budget import METRICS, BudgetCheck
from agent.core.decision import Decision
from agent.core.statistics import CONFIDENCE
from agent.report.html.combination import combination_card
from agent.report.html.conditions import temperature_plot
from agent.report.html.distribution import distribution_plot
from agent.report.html.pareto import energy_range, pareto_plot, vertical_metric
from agent.report.html.rows import ReportInput, Row, TaskReport, metric_name, point_text, rows_of, show, show_interval
from agent.report.html.style import SCRIPT, STYLE
from agent.report.html.tables import condition_table, csv_text, facts_list, option_table, untried_table

MAX_RAW_LATENCIES = 200_000  # in the embedded data; beyond, raw values are left out and the page says so
_TILES = ("latency_p95", "accuracy_top1", "memory_peak", "energy_per_inference", "size", "load_time")


def render(report: ReportInput) -> str:
    """Return the page as one HTML document that refers to nothing outside itself."""
    title = f"boardfit – {report.device or report.facts.board.model or 'this board'}"
    names = [f"task-{place}" for place in range(len(report.tasks))]
    links = "".join(
        f'<a href="#{name}">{escape(task.decision.task)}</a>' for name, task in zip(names, report.tasks, strict=True)
    )
    sections = "".join(_task_section(name, task) for name, task in zip(names, report.tasks, strict=True))
    sections = sections or '<section class="task"><h1>Nothing was decided yet.</h1></section>'
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none';style-src 'unsafe-inline';script-src 'unsafe-inline';img-src data:\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<header class="top"><b>boardfit</b><span>{escape(report.facts.board.model or report.facts.board.profile)}'
        f"{f' · {escape(report.device)}' if report.device else ''}</span><span>{_moment(report.generated_at)}</span>"
        f"{f'<nav aria-label=tasks>{links}</nav>' if len(report.tasks) > 1 else ''}</header>"
        f"<main>{combination_card(report.combination)}{sections}"
        '<section class="task"><div class="card"><h2>This board</h2><p class="note">What was found, and what was '
        f"looked for and not found.</p>{facts_list(report.facts)}</div></section></main>"
        f"{_footer(report)}"
        f'<script type="application/json" id="boardfit-data">{_embedded(report)}</script><script>{SCRIPT}</script>'
        "</body></html>\n"
    )


def headline(decision: Decision) -> str:
    """Return the decision in one sentence, as markup whose names do not break."""
    choice = decision.winner
    if choice is None:
        return {
            "nothing_measured": "Nothing was measured, so nothing was chosen.",
        }.get(decision.outcome, "No candidate fits the budgets on this board.")
    verb = "Keep" if decision.outcome == "kept_incumbent" else "Run"
    point = choice.point
    threads = f"{point.threads} thread{'s' if point.threads != 1 else ''}"
    return (
        f'{verb} <span class="nb">{escape(choice.candidate)}</span> on <span class="nb">{escape(point.engine)}</span> '
        f'<span class="nb">({escape(point.provider_label)}, {threads}).</span>'
    )


def _task_section(name: str, task: TaskReport) -> str:
    decision, rows = task.decision, rows_of(task)
    fitting = sum(row.option.standing == "fits" for row in rows)
    what_if = ' <span class="chip">what if: nothing was changed</span>' if decision.what_if else ""
    lead = f"{escape(decision.reason)}"
    if decision.winner is None and decision.nearest_miss is not None:
        miss = decision.nearest_miss
        lead += f" Nearest miss: <em>{escape(miss.candidate)}</em> – {escape(miss.reason)}."
    objective = ", then ".join(
        f"{objective.direction} {metric_name(objective.metric)}" for objective in decision.objectives
    )
    return (
        f'<section class="task" id="{name}"><p class="kicker">Task <b>{escape(decision.task)}</b> · '
        f"{fitting} of {len(rows)} options fit every budget · decided {_moment(decision.decided_at)}{what_if}</p>"
        f'<h1>{headline(decision)}</h1><p class="lead">{lead}'
        f"{f' Objective: <em>{escape(objective)}</em>.' if objective else ''}</p>"
        f"{_tiles(rows)}{_deployment(task)}{_plots(name, task, rows)}"
        f'<div class="card" id="{name}-options"><h2>Every option, and why</h2><p class="note">Small figures are 95 % '
        "intervals. A budget is met only when the whole interval is on its right side. Click a heading to sort.</p>"
        f"{option_table(rows)}<p class=legend>{_csv_link(decision.task, rows)}</p></div>"
        f"{_untried(name, decision)}{_conditions(name, task)}</section>"
    )


def _untried(name: str, decision: Decision) -> str:
    if not decision.untried:
        return ""
    return (
        f'<div class="card" id="{name}-untried"><h2>Not measured in full</h2><p class="note">Measuring ends when the '
        "decision is certain. What could not have changed it, even with the best figures it could have, was left out "
        f"or ended early.</p>{untried_table(decision.untried)}</div>"
    )


def _tiles(rows: Sequence[Row]) -> str:
    winner = next((row for row in rows if row.is_winner), None)
    if winner is None:
        return ""
    checks = {check.metric: check for check in winner.option.checks}
    metrics = [*checks, *(name for name in _TILES if name not in checks and winner.value(name) is not None)]
    return f'<div class="tiles">{"".join(_tile(winner, name, checks.get(name)) for name in metrics)}</div>'


def _tile(row: Row, metric: str, check: BudgetCheck | None) -> str:
    estimate = row.estimate(metric)
    interval = show_interval(estimate, metric)
    bar, against, state = "", "no budget", ""
    if check is not None:
        sign = "≥" if METRICS[metric].higher_is_better else "≤"
        against = f"budget {sign} {show(check.limit, metric)}"
        state = f" {check.state}"
        used = _used(check, metric)
        if used is not None:
            filled = f'<i style="width:{min(used, 1) * 100:.0f}%"></i>'
            bar = f'<div class="bar" title="{used * 100:.0f} % of the budget used">{filled}</div>'
    return (
        f'<div class="tile{state}"><div class="name">{escape(metric_name(metric))}</div>'
        f'<div class="value">{escape(show(estimate.value, metric))}</div>'
        f'<div class="span">{escape(interval) or "&nbsp;"}</div>{bar}<div class="against">{escape(against)}</div></div>'
    )


def _used(check: BudgetCheck, metric: str) -> float | None:
    """Return the share of a budget that is used: of the limit, or of the error that a lower bound on a ratio allows."""
    if check.value is None:
        return None
    if not METRICS[metric].higher_is_better:
        return check.value / check.limit if check.limit > 0 else None
    if METRICS[metric].dimension == "ratio":
        return (1 - check.value) / (1 - check.limit) if check.limit < 1 else None
    return check.limit / check.value if check.value > 0 else None


def _plots(name: str, task: TaskReport, rows: Sequence[Row]) -> str:
    budgets = task.decision.budgets
    views = {
        key: plot
        for key, metric in (("a", "latency_p95"), ("b", "latency_p50"))
        if (plot := pareto_plot(f"{name}-{key}", rows, budgets, metric)) is not None
    }
    out = []
    if views:
        switch = ""
        if len(views) == 2:
            switch = (
                f'<input class="switch a" type="radio" name="{name}-x" id="{name}-x-a" checked>'
                f'<input class="switch b" type="radio" name="{name}-x" id="{name}-x-b">'
                f'<span class="switches"><label class="a" for="{name}-x-a">p95</label>'
                f'<label class="b" for="{name}-x-b">p50</label></span>'
            )
        shown = "".join(
            f'<div class="view {key} scroll"{"" if switch else " style=display:block"}>{plot}</div>'
            for key, plot in views.items()
        )
        y_metric = vertical_metric(rows)
        towards = "up" if y_metric is not None and METRICS[y_metric].higher_is_better else "down"
        out.append(
            f'<div class="card">{switch}<h2>The trade-off</h2>'
            f'<p class="note">Each mark is one option; {towards} and left '
            "is better. The thin line joins the best trade-offs; whiskers are 95 % intervals; the hatched side is over "
            f'budget. The same figures are in the <a href="#{name}-options">table</a>.</p>{shown}{_legend(rows)}</div>'
        )
    ridges = distribution_plot(f"{name}-ridges", rows, budgets)
    if ridges is not None:
        out.append(
            '<div class="card"><h2>How latencies are distributed</h2><p class="note">Every single inference, after '
            "warm-up. The line is the median, the diamond the 95th percentile; the thin line reaches from the fastest "
            f'to the slowest.</p><div class="scroll">{ridges}</div></div>'
        )
    return "".join(out)


def _legend(rows: Sequence[Row]) -> str:
    def sample(shape: str) -> str:
        return f'<svg viewBox="0 0 16 16" aria-hidden="true">{shape}</svg>'

    items = [
        (sample('<circle cx="8" cy="8" r="6" class="mark fits"/>'), "fits"),
        (sample('<circle cx="8" cy="8" r="6" class="mark over_budget"/>'), "over budget"),
        (sample('<path d="M8 2L14 8L8 14L2 8Z" class="mark unknown"/>'), "unknown"),
        (sample('<circle cx="8" cy="8" r="7" class="halo"/><circle cx="8" cy="8" r="3.5" class="mark"/>'), "chosen"),
    ]
    shown = "".join(f"<span>{mark}{word}</span>" for mark, word in items) + "<span>area: size to transfer</span>"
    found = energy_range(rows)
    if found is not None:
        low, high = (show(value, "energy_per_inference") for value in found)
        shown += f'<span>energy per inference {low} <i class="ramp"></i> {high}</span>'
    failed = sum(row.option.standing == "failed" for row in rows)
    if failed:
        shown += f"<span>{failed} failed, not drawn</span>"
    return f'<p class="legend">{shown}</p>'


def _deployment(task: TaskReport) -> str:
    status = task.deployment
    if status is None:
        return ""
    current = status.current
    serving = (
        f"<b>{escape(current.candidate)}</b> serves ({escape(point_text(current.point))}), release "
        f"{escape(current.release[:12])}"
        if current is not None
        else "Nothing is deployed"
    )
    outcome = f" Last attempt: {escape(status.outcome.replace('_', ' '))}" if status.outcome else ""
    reason = f" – {escape(status.reason)}" if status.reason else ""
    return (
        f'<div class="card"><h2>What runs</h2><p class="note" style="margin:0">{serving}. Phase '
        f"{escape(status.phase.lower())} since {_moment(status.changed_at)}.{outcome}{reason}</p></div>"
    )


def _conditions(name: str, task: TaskReport) -> str:
    if not task.measurements:
        return ""
    plot = temperature_plot(f"{name}-heat", task.measurements)
    spent = sum(measurement.duration_s for measurement in task.measurements)
    shown = f'<div class="scroll">{plot}</div>' if plot is not None else ""
    return (
        '<div class="card"><h2>Conditions</h2><p class="note">'
        f"{len(task.measurements)} measurements took {spent:.0f} s of this board. A red mark is a measurement under "
        f"conditions that were flagged.</p>{shown}"
        f'<div class="scroll" style="margin-top:10px">{condition_table(task.measurements)}</div></div>'
    )


def _footer(report: ReportInput) -> str:
    measurements = [measurement for task in report.tasks for measurement in task.measurements]
    counts = sorted({measurement.latency.n for measurement in measurements if measurement.latency is not None})
    spread = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0]) if counts else "no"
    methods = sorted({measurement.memory.method for measurement in measurements if measurement.memory is not None})
    power = sorted(
        {
            f"{measurement.power.source} ({measurement.power.scope}, {measurement.power.sample_rate_hz:g} Hz)"
            for measurement in measurements
            if measurement.power is not None
        }
    )
    absence = sorted({measurement.power_reason for measurement in measurements if measurement.power_reason})
    versions = sorted(
        {
            f"{option.point.engine} {option.point.engine_version}"
            for task in report.tasks
            for option in task.decision.options
        }
    )
    return (
        "<footer>"
        f"<p><b>How it was measured.</b> Each option in a fresh, confined process; {spread} timed single inferences "
        "per option after warm-up, timed inside that process. Intervals are two-sided at "
        f"{CONFIDENCE * 100:.0f} %, from order statistics for latencies and exact for accuracy. "
        f"Memory: {escape('; '.join(methods) or 'not measured')}. "
        f"Power: {escape('; '.join(power) or 'not measured' + (f' – {absence[0]}' if absence else ''))}.</p>"
        f"<p>boardfit {escape(report.agent_version)} · {escape(', '.join(versions) or 'no engine')} · board class "
        f"{escape(report.facts.class_fingerprint[:16])} · made {escape(report.generated_at)}</p></footer>"
    )


def _csv_link(task: str, rows: Sequence[Row]) -> str:
    data = base64.b64encode(csv_text(rows).encode()).decode()
    name = "".join(character if character.isalnum() or character in "-_" else "-" for character in task)
    return f'<a download="boardfit-{name}.csv" href="data:text/csv;base64,{data}">Download as CSV</a>'


def _embedded(report: ReportInput) -> str:
    document = msgspec.to_builtins(report)
    raw = sum(len(measurement.latencies_s) for task in report.tasks for measurement in task.measurements)
    for task in document["tasks"]:
        for measurement in task["measurements"]:
            if raw > MAX_RAW_LATENCIES:
                measurement["latencies_s"] = None
            else:
                measurement["latencies_s"] = [round(value, 7) for value in measurement["latencies_s"]]
    # "<" cannot stand in a script element as it is: "</script>" in a reason would end it.
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _moment(moment: str) -> str:
    """Return an ISO moment as markup that reads ``2026-05-04 03:02 UTC``; other text as it is."""
    if len(moment) >= 17 and moment[10] == "T" and moment.endswith("Z"):
        return f'<time class="nb" datetime="{escape(moment)}">{escape(moment[:10])} {escape(moment[11:16])} UTC</time>'
    return escape(moment)
