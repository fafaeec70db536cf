"""``sync``, ``bench``, ``select``, ``deploy``, ``rollback``, ``once``: the stages of a pass, alone or together."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agent import combination, pipeline
from agent.classmates import tell
from agent.core.budget import parse_expression, parse_objective
from agent.core.decision import Choice, Decision, Untried
from agent.core.deployment import DeploymentStatus
from agent.core.manifest import manifest_document
from agent.core.measurement import Measurement
from agent.core.slices import OVERLAP, slice_of
from agent.core.units import format_sizes
from agent.errors import BoardfitError, ConfigError, DeploymentError, NoFeasibleCandidateError
from agent.locks import exclusive
from agent.recovery import finish_steps, recover
from agent.safe_mode import forget_starts
from agent.select.explain import explain, explain_combination, untried_text
from agent.site import Site
from agent.sustained import sustained
from agent.tables import show_decision, show_measurements, sustained_text
from agent.verbs.invocation import Invocation, Verbs
from agent.verbs.publishing import drain


class _Verb(NamedTuple):
    """One row of ``_VERBS``. ``options``: flag and what ``argparse`` is told of it. ``text``: None for the summary."""

    name: str
    handler: Callable[[Invocation], int]
    summary: str
    options: tuple[tuple[str, dict[str, Any]], ...] = ()
    text: str | None = None


def register(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    """Add the verbs of this module."""
    for row in _VERBS:
        text = row.text or f"{row.summary[0].upper()}{row.summary[1:]}."
        parser = verbs.add_parser(row.name, parents=[common], help=row.summary, description=text)
        parser.set_defaults(handler=row.handler)
        for flag, given in row.options:
            parser.add_argument(flag, **given)


def run_sync(call: Invocation) -> int:
    """Refresh and list."""
    with call.site() as site, exclusive(_lock(site), "a pass"):
        status = pipeline.sync(site)
        tasks = {task: site.registry.candidates(task) for task in pipeline.known_tasks(site)}
    if call.console.as_json:
        listed = {
            task: [
                {
                    **manifest_document(c.manifest),
                    "sha256": c.sha256,
                    "size_bytes": c.size_bytes,
                    "size_unpacked_bytes": c.size_unpacked_bytes,
                }
                for c in candidates
            ]
            for task, candidates in tasks.items()
        }
        call.console.document({"schema": "boardfit.sync/1", "status": status, "tasks": listed})
        return 0
    for task, candidates in tasks.items():
        call.console.heading(f"Task {task}: {len(candidates)} candidates")
        rows = [
            (
                c.name,
                c.manifest.format,
                c.manifest.family or "–",
                " + ".join(step.technique for step in c.manifest.compression) or "none",
                format_sizes(c.size_bytes, c.size_unpacked_bytes),
                f"{c.manifest.reference.value * 100:.1f} % of {c.manifest.reference.n}"
                if c.manifest.reference
                else "–",
            )
            for c in candidates
        ]
        columns = ("candidate", "format", "family", "compression", "size", "publisher's top-1")
        call.console.table(columns, rows, right=("size",))
    call.console.line(f"Signed metadata is valid until {min(status.expires.values())}.")
    return 0


def run_bench(call: Invocation) -> int:
    """Measure and print."""
    arguments = call.arguments
    with call.site() as site, exclusive(_lock(site), "a pass"):
        facts = pipeline.profile(site)
        pipeline.sync(site)
        measured: list[Measurement] = []
        untried: list[Untried] = []
        errors: list[BoardfitError] = []
        for task in site.task_names(arguments.task, pipeline.known_tasks(site)):
            only = _wanted(site, task, arguments)
            if arguments.among and not only:
                continue
            if arguments.sustained:
                result = sustained(site, task, facts, only=only)
            else:
                result = pipeline.bench(
                    site,
                    task,
                    facts,
                    only=only,
                    fresh=arguments.again,
                    exhaustive=arguments.exhaustive,
                )
            measured += result.measured
            untried += result.untried
            errors += result.errors
        tell(site, facts)
        drain(site, call.console)
    document = {"schema": "boardfit.bench/1", "measurements": measured, "untried": untried}
    if errors:
        errors[0].facts["result"] = document
    if not call.console.as_json:
        show_measurements(call.console, measured)
        for one in measured:
            if one.sustained is not None:
                call.console.line(sustained_text(one))
        if not measured and not errors:
            call.console.line("All that is needed is measured already; --again measures it anew.")
        if untried:
            call.console.line(untried_text(untried))
    if errors:
        raise errors[0]
    if call.console.as_json:
        call.console.document(document)
    return 0


def _wanted(site: Site, task: str, arguments: Any) -> Sequence[str]:
    """Return the candidates that were asked for by name; of those, or of all, this board's slice where it shares."""
    if not arguments.among:
        return list(arguments.candidate)
    names = arguments.candidate or [candidate.name for candidate in site.registry.candidates(task)]
    return slice_of(site.device_id, arguments.among, names, arguments.overlap)


def run_select(call: Invocation) -> int:
    """Decide from stored measurements; code 3 when nothing fits."""
    arguments = call.arguments
    budgets = [parse_expression(text, where="--budget") for text in arguments.budget] or None
    objectives = [parse_objective(text, where="--objective") for text in arguments.objective] or None
    with call.site() as site:
        facts = site.facts()
        names = site.task_names(arguments.task, site.records.tasks())
        what_if = budgets is not None or objectives is not None
        together = () if what_if else tuple(name for name in site.config.sharing if name in names)
        decisions = [
            pipeline.choose(site, task, facts, budgets=budgets, objectives=objectives)
            for task in names
            if task not in together
        ]
        if together:
            settled = combination.settle_from_stored(site, facts, together)
            combination.keep(site, settled, news_only=False)
            decisions += settled.decisions
    if call.console.as_json:
        call.console.document({"schema": "boardfit.select/1", "decisions": decisions})
    else:
        for decision in decisions:
            _print_decision(call, decision)
    return 0 if all(decision.winner for decision in decisions) else 3


def run_deploy(call: Invocation) -> int:
    """Deploy the last decision's winner, or the named candidate at its best measured point."""
    task, wanted = call.arguments.task, call.arguments.candidate
    with call.site() as site, exclusive(_lock(site), "a pass"):
        facts = site.facts()
        decision = together = None
        if wanted is None and task in site.config.sharing:
            settled = combination.settle_from_stored(site, facts, (task,))
            combination.keep(site, settled, news_only=False)
            decision, together = settled.decisions[0], settled.member(task)
            choice = decision.winner
        else:
            decision = None if wanted else pipeline.choose(site, task, facts)
            choice = _named_choice(site, task, wanted) if decision is None else decision.winner
        if choice is None:
            raise NoFeasibleCandidateError(
                f"no candidate fits the budgets of {task}", fix=f"see `boardfit explain --task {task}`"
            )
        try:
            ladder = () if decision is None else decision.ladder
            status = pipeline.deploy(
                site, task, choice, facts, force=wanted is not None, ladder=ladder, together=together
            )
        finally:
            drain(site, call.console)
    _print_deployment(call, status)
    return 0


def run_rollback(call: Invocation) -> int:
    """Go back to the previous deployment."""
    with call.site() as site, exclusive(_lock(site), "a pass"):
        status = pipeline.rollback(site, call.arguments.task, call.arguments.release)
        drain(site, call.console)
    _print_deployment(call, status)
    return 0


def run_pardon(call: Invocation) -> int:
    """Let models be tried again."""
    task, candidate = call.arguments.task, call.arguments.candidate
    with call.site() as site, exclusive(_lock(site), "a pass"):
        deployer = site.deployer(site.config.task(task))
        pardoned = deployer.withheld.pardon(task, candidate)
        for one in pardoned:
            site.report.event("model_pardoned", f"{one.candidate} may be tried again", level="info", task=task)
        site.report.deployment(deployer.status(task))
        drain(site, call.console)
    if call.console.as_json:
        call.console.document({"schema": "boardfit.pardon/1", "pardoned": pardoned})
        return 0
    for one in pardoned:
        call.console.line(f"{one.candidate} may be tried again; it was {one.text}.")
    if not pardoned:
        call.console.line(f"Nothing of {task} was kept out.")
    return 0


def run_recover(call: Invocation) -> int:
    """Settle what is unfinished."""
    with call.site() as site:
        if call.arguments.leave_safe_mode:
            forget_starts(site.database)
        settled = finish_steps(site) if call.arguments.steps else recover(site)
        drain(site, call.console)
    if call.console.as_json:
        call.console.document({"schema": "boardfit.recovery/1", "settled": settled})
        return 0
    for status in settled:
        _print_deployment(call, status)
    if not settled:
        call.console.line("Nothing is unfinished.")
    return 0


def run_once(call: Invocation) -> int:
    """The whole pass."""
    arguments = call.arguments
    with call.site() as site:
        try:
            with exclusive(_lock(site), "a pass"):
                result = combination.once(site, arguments.task, fresh=arguments.again, exhaustive=arguments.exhaustive)
        finally:
            drain(site, call.console, settings=True)
    if call.console.as_json:
        call.console.document(result)
        return 0
    for decision in result.decisions:
        _print_decision(call, decision)
    if result.combination is not None:
        call.console.line()
        call.console.line(explain_combination(result.combination))
    for status in result.deployments:
        _print_deployment(call, status)
    return 0


def _named_choice(site: Site, task: str, name: str) -> Choice:
    """Return a named candidate at the operating point that decided best for it, whether it fits or not."""
    decision = pipeline.choose(site, task, site.facts(), budgets=(), respect_withheld=False)
    for option in decision.options:
        if option.candidate == name and option.standing == "fits":
            return Choice(candidate=name, artifact_sha256=option.artifact_sha256, point=option.point)
    failed = next((option for option in decision.options if option.candidate == name), None)
    if failed is not None:
        raise DeploymentError(f"{name} does not run on this board: {failed.reason}", fix="choose another candidate")
    raise ConfigError(
        f"{name} was not measured here", fix=f"run `boardfit bench --task {task} --candidate {name}` first"
    )


def _print_decision(call: Invocation, decision: Decision) -> None:
    title = f"Task {decision.task}" + (" (what if: nothing is changed)" if decision.what_if else "")
    call.console.heading(title)
    show_decision(call.console, decision)
    call.console.line()
    call.console.line(explain(decision).split("\n\n")[0])
    if decision.untried:
        call.console.line(untried_text(decision.untried))


def _print_deployment(call: Invocation, status: DeploymentStatus) -> None:
    if call.console.as_json:
        call.console.document(status)
        return
    if status.current is not None and status.path is not None:
        verb = "still runs" if status.outcome == "unchanged" else "runs"
        call.console.line(
            f"{status.task}: {status.current.candidate} {verb} at {status.current.point.label}", style="bold"
        )
        call.console.line(f"  model         {Path(status.path) / status.current.model.path}")
        call.console.line(f"  how to open   {Path(status.path) / 'deployment.json'}")
    if status.reason:
        call.console.line(f"  {status.reason}")


def _lock(site: Site) -> Path:
    return site.state_dir / "pass.lock"


_ONE_TASK = ("--task", {"metavar": "T", "help": "one task (default: every configured task)"})
_THE_TASK = ("--task", {"metavar": "T", "required": True})
_EXTENT = (
    ("--again", {"action": "store_true", "help": "measure again what is already measured"}),
    ("--exhaustive", {
        "action": "store_true",
        "help": "measure every candidate at every operating point in full, in several processes each, again, whether "
        "it can change the decision or not; without it the measuring ends when the decision is certain",
    }),
)  # fmt: skip
_VERBS = (
    _Verb("sync", run_sync, "refresh the registry's signed metadata and list the candidates of each task"),
    _Verb("bench", run_bench, "measure candidates on this board", (
        _ONE_TASK,
        ("--candidate", {"action": "append", "default": [], "metavar": "C",
                         "help": "only this one, and in full (repeatable)"}),
        ("--among", {"action": "append", "default": [], "metavar": "BOARD",
                     "help": "boards that share the work (repeatable)"}),
        ("--overlap", {"type": int, "default": OVERLAP, "metavar": "N",
                       "help": "of them, who measure each candidate"}),
        ("--sustained", {
            "action": "store_true",
            "help": "run what serves, and what only an unknown sustained latency keeps from being chosen, without "
            "pause until the board is as warm as it gets",
        }),
        *_EXTENT,
    )),
    _Verb("select", run_select, "decide from stored measurements; with --budget or --objective: what if", (
        _ONE_TASK,
        ("--budget", {"action": "append", "default": [], "metavar": "'latency_p95<=20ms'",
                      "help": "instead of the configured budgets"}),
        ("--objective", {"action": "append", "default": [], "metavar": "'minimize latency_p95'",
                         "help": "instead of the configured ones"}),
    ), "Decides from stored measurements alone. With --budget or --objective it answers what would be chosen under "
       "other wishes, and changes nothing. Exit code 3: no candidate fits."),
    _Verb("deploy", run_deploy, "put a candidate in place: stage, prove, switch, watch, or go back", (
        _THE_TASK, ("--candidate", {"metavar": "C", "help": "this one instead of the last decision's winner"}),
    )),
    _Verb("rollback", run_rollback, "go back to the previous deployment of a task", (
        _THE_TASK,
        ("--release", {"metavar": "R", "help": "only from this release; where it has gone already, that was it"}),
    )),
    _Verb("pardon", run_pardon, "let models that failed too often, or were rolled back by hand, be tried again", (
        _THE_TASK, ("--candidate", {"metavar": "C", "help": "this one only"}),
    ), "A model whose deployment failed three times in a row is quarantined: no pass selects it any more. This lets "
       "it be tried again; `boardfit status` names it and the reason."),
    _Verb("recover", run_recover, "settle deployments that a crash or a power cut left unfinished", (
        ("--leave-safe-mode", {"action": "store_true",
                               "help": "let an agent that died again and again go back to work"}),
        ("--steps", {"action": "store_true",
                     "help": "only run the hooks of steps along a ladder, beside a pass"}),
    ), "Settles what a crash or a power cut left unfinished: what was not switched is cleaned up, what was not proven "
       "in service goes back. The daemon does this at its start and when a child of its own has died."),
    _Verb("once", run_once, "the whole pass, once: profile, pull, measure, select, deploy, report",
          (_ONE_TASK, *_EXTENT),
          "Profiles the board, pulls the registry's candidates, measures what is not measured yet, selects, deploys "
          "and reports. This is the main job; `boardfit run` does it on a schedule."),
)  # fmt: skip
