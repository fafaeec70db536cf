"""``status``, ``explain`` and ``report``: what runs here and why, from what is stored; nothing is changed."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from agent import __version__
from agent.clock import iso
from agent.core.combination import Combination
from agent.core.decision import Decision
from agent.core.deployment import DeploymentStatus
from agent.core.drift import Replay, line
from agent.core.live import LiveFigures
from agent.core.shadow import Shadow
from agent.core.units import format_quantity
from agent.durable import write_file
from agent.errors import ConfigError
from agent.rehearsal import Shadows
from agent.replay import Replays
from agent.report.html.page import render
from agent.report.html.rows import ReportInput, TaskReport
from agent.safe_mode import REASON, is_active
from agent.select.explain import explain, explain_combination
from agent.site import Site
from agent.verbs.invocation import Invocation, Verbs
from agent.watch.asking import ask_live


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What runs for one task, and the decision that put it there."""

    task: str
    deployment: DeploymentStatus
    decision: Decision | None
    replay: Replay | None = None  # the newest golden replay of what serves
    shadow: Shadow | None = None  # the newest shadow run, whatever came of it


def register(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    """Add the verbs of this module."""
    text = "What runs for each task, what was decided last, and what waits for the broker."
    parser = verbs.add_parser("status", parents=[common], help="what runs, and what waits", description=text)
    parser.set_defaults(handler=run_status)

    text = "Tells the last decision in words: what won and why, what kept each other candidate out, the nearest miss."
    parser = verbs.add_parser("explain", parents=[common], help="the last decision, in words", description=text)
    parser.add_argument("--task", metavar="T", help="one task (default: all)")
    parser.set_defaults(handler=run_explain)

    text = "Writes one self-contained HTML page: the Pareto plot, latency distributions, every figure as a table."
    parser = verbs.add_parser("report", parents=[common], help="the page with the plots", description=text)
    parser.add_argument("--html", type=Path, required=True, metavar="FILE")
    parser.set_defaults(handler=run_report)


def run_status(call: Invocation) -> int:
    """Print what runs and what waits."""
    with call.site() as site:
        names = sorted({*site.config.tasks, *site.records.tasks()})
        replays, shadows = Replays(site.database).all(), Shadows(site.database).all()
        tasks = [
            _of_what_serves(
                TaskStatus(
                    task=name,
                    deployment=site.deployer(site.config.task(name)).status(name),
                    decision=site.records.last_decision(name),
                    replay=replays.get(name),
                    shadow=shadows.get(name),
                )
            )
            for name in names
        ]
        waiting = site.outbox.fill() if site.outbox is not None else None
        facts = site.records.facts()
        safe = REASON if is_active(site.database) else None
        live = ask_live(site.state_dir)
    if call.console.as_json:
        told = {"live": None, "live_reason": live} if isinstance(live, str) else {"live": live}
        report = {"schema": "boardfit.status-report/1", "tasks": tasks, "outbox": waiting, "board": facts}
        call.console.document({**report, "safe_mode": safe, **told})
        return 0
    console = call.console
    if safe is not None:
        console.line(f"{safe[0].upper()}{safe[1:]}.", "yellow")
    console.line(f"Board: {facts.board.model or facts.board.profile if facts else 'not profiled yet'}")
    rows = []
    for task in tasks:
        current = task.deployment.current
        rows.append(
            (
                task.task,
                _runs(task.deployment),
                current.point.label if current else "–",
                task.deployment.phase,
                task.decision.outcome.replace("_", " ") if task.decision else "never decided",
                task.deployment.reason or (task.decision.reason if task.decision else ""),
            )
        )
    console.table(("task", "runs", "as", "deployment", "last decision", "reason"), rows)
    for task in tasks:
        for name, text in task.deployment.withheld.items():
            console.line(f"{task.task}: {name} is kept out: {text}.", "yellow")
        if (seen := task.replay) is not None:
            console.line(f"Golden replay: {line(seen)}.", style=None if seen.outcome == "agrees" else "yellow")
        if (ran := task.shadow) is not None:
            text = f"Shadow run: {task.task}: {ran.candidate} beside {ran.incumbent}: {ran.verdict.replace('_', ' ')}"
            console.line(f"{text}: {ran.text}.", style=None if ran.verdict == "passed" else "yellow")
    for one in () if isinstance(live, str) else live.tasks:
        console.line(_live_line(one), style="yellow" if one.degraded else None)
    if waiting is not None:
        size = format_quantity(waiting.bytes, "bytes")
        console.line(f"Outbox: {waiting.messages} messages, {size}; {waiting.lost} lost for lack of room or age.")
    return 0


def _of_what_serves(status: TaskStatus) -> TaskStatus:
    """Leave out a replay of a release that serves no longer."""
    current = status.deployment.current
    of_it = status.replay is not None and current is not None and status.replay.release == current.release
    return status if of_it else msgspec.structs.replace(status, replay=None)


def _runs(deployment: DeploymentStatus) -> str:
    """Name what serves, and its rung where it has one."""
    if deployment.current is None:
        return "nothing deployed"
    name = deployment.current.candidate
    return name if deployment.rung is None else f"{name} (rung {deployment.rung + 1} of {len(deployment.ladder)})"


def _live_line(one: LiveFigures) -> str:
    """Say how a task's model fares in the applications that tell."""
    if not one.requests and not one.errors:
        return f"Live: {one.task} was last asked {format_quantity(one.idle_s, 'time')} ago."
    budget = format_quantity(one.budget_latency_p95_s, "time") if one.budget_latency_p95_s else None
    bench = format_quantity(one.expected_latency_p95_s, "time") if one.expected_latency_p95_s else None
    against = [f"against budget {budget}"] if budget else ["no budget for it"]
    against += [f"{bench} when measured"] if bench else []
    degraded = f" Degraded: {one.degraded}." if one.degraded else ""
    return (
        f"Live: {one.task} p95 {format_quantity(one.latency_p95_s, 'time')} {', '.join(against)}; "
        f"{one.requests} requests, {one.errors} errors in {format_quantity(one.window_s, 'time')}.{degraded}"
    )


def run_explain(call: Invocation) -> int:
    """Tell the last decisions."""
    with call.site() as site:
        names = (call.arguments.task,) if call.arguments.task else site.records.tasks()
        decisions = [(name, site.records.last_decision(name)) for name in names]
        combination = _in_force(site)
    known = [decision for _, decision in decisions if decision is not None]
    if not known:
        raise ConfigError("nothing was decided here yet", fix="run `boardfit once` first")
    if call.console.as_json:
        texts = [{"task": decision.task, "text": explain(decision)} for decision in known]
        document = {"schema": "boardfit.explain/1", "decisions": known, "texts": texts, "combination": combination}
        call.console.document(document)
        return 0
    for decision in known:
        call.console.line(explain(decision))
        call.console.line()
    if combination is not None and not call.arguments.task:
        call.console.line(explain_combination(combination))
        call.console.line()
    return 0


def _in_force(site: Site) -> Combination | None:
    """Return the last combination, where tasks share the board now."""
    return site.records.last_combination() if site.config.sharing else None


def run_report(call: Invocation) -> int:
    """Write the page."""
    path: Path = call.arguments.html
    with call.site() as site:
        write_report(site, path)
    if call.console.as_json:
        call.console.document({"schema": "boardfit.report-written/1", "path": str(path.resolve())})
    else:
        call.console.line(f"Wrote {path.resolve()}")
    return 0


def write_report(site: Site, path: Path) -> None:
    """Render the stored state of a site as one HTML file. Raises: ConfigError, StorageError."""
    facts = site.facts()
    tasks = []
    for name in site.records.tasks():
        decision = site.records.last_decision(name)
        if decision is not None:
            measurements = site.records.measurements(name, facts.class_fingerprint)
            deployment = site.deployer(site.config.task(name)).status(name)
            tasks.append(TaskReport(decision=decision, measurements=measurements, deployment=deployment))
    page = ReportInput(
        facts=facts,
        tasks=tuple(tasks),
        generated_at=iso(site.clock.utc()),
        agent_version=__version__,
        device=site.device_id,
        combination=_in_force(site),
    )
    write_file(path.resolve(), render(page).encode())
