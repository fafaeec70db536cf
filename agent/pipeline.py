"""One pass: six stages called in order on a ``Site``. The map of boardfit; no rule of a stage lives here.

Each function is one verb of the command line; ``once`` is all of them. Values go one way: facts to candidates to
measurements to a decision to a deployment, and each result is kept for the fleet as soon as it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent import __version__
from agent.classmates import hear, of_class, tell
from agent.core.budget import Budget, Objective
from agent.core.combination import Combination, JointMeasurement, JointMember, as_together
from agent.core.conversions import message_for_decision
from agent.core.decision import Choice, Decision, LadderRung, Untried
from agent.core.deployment import DeploymentStatus
from agent.core.facts import DeviceFacts
from agent.core.manifest import TargetRef
from agent.core.measurement import Measurement, as_listed
from agent.core.ports import ProgressEvent
from agent.errors import (
    BoardfitError,
    ConfigError,
    DeviceError,
    DownloadError,
    Interrupted,
    ModelError,
    NoFeasibleCandidateError,
    StorageError,
    TrustError,
)
from agent.measure.bench import measure_one, record_refusal
from agent.measure.engine_cache import EngineCache
from agent.measure.plan import LASTING, PlannedRun
from agent.measure.race import Heat
from agent.measure.session import Session
from agent.measure.sustained import carried
from agent.question import Beside, accounted, candidates_of, current_measurements, question_for, race_for
from agent.registry.client import RegistryStatus
from agent.rehearsal import rehearse
from agent.rungs import lay_rungs, rung_sources
from agent.runtimes.prove import prove_engines
from agent.site import Site


class PassResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass did, for printing; the same documents went to the fleet."""

    facts: DeviceFacts
    registry: RegistryStatus | None
    measured: tuple[Measurement, ...]
    decisions: tuple[Decision, ...]
    deployments: tuple[DeploymentStatus, ...]
    combination: Combination | None = None
    joint: tuple[JointMeasurement, ...] = ()
    schema: str = "boardfit.pass/1"


def profile(site: Site) -> DeviceFacts:
    """Stage 1: read what this board is, prove its engines and store it; whoever publishes tells the fleet."""
    site.progress(ProgressEvent(stage="device", text="proving the inference engines"))
    facts = site.board.facts(prove_engines())
    site.records.keep_facts(facts)
    site.progress(
        ProgressEvent(stage="device", text=f"this is a {facts.board.model or facts.board.profile}", done=1, total=1)
    )
    return facts


def sync(site: Site) -> RegistryStatus:
    """Stage 2: refresh the signed metadata; where the registry is away, what was verified before serves.

    Raises: TrustError: it lies, or has expired. DownloadError: away, and nothing is stored. StorageError. ConfigError.
    """
    site.registry.tidy()
    try:
        status = site.registry.refresh()
    except (TrustError, DownloadError) as error:
        site.report.failure("registry_untrusted" if isinstance(error, TrustError) else "registry_unreachable", error)
        raise
    site.take_operators()
    if status.stale is not None:
        site.report.event("registry_unreachable", f"{status.stale}; going on with what was verified before")
    for refused in status.refused:
        site.report.event("candidate_refused", f"{refused.path}: {refused.reason}")
    site.progress(ProgressEvent(stage="registry", text=f"{status.candidates} candidates", done=1, total=1))
    return status


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, what need not be, and why candidates could not be had: download failed, or refused."""

    measured: tuple[Measurement, ...]
    untried: tuple[Untried, ...] = ()
    errors: tuple[BoardfitError, ...] = ()


def bench(
    site: Site,
    task: str,
    facts: DeviceFacts,
    *,
    only: Sequence[str] = (),
    fresh: bool = False,
    exhaustive: bool = False,
    beside: Beside | None = None,
) -> BenchResult:
    """Stage 3: measure until the decision is certain; each result is stored at once, so that a pass can be resumed.

    A candidate that cannot be fetched is reported and left out; each file is verified by itself, so the others count.

    Args:
        only: measure these candidates, at every point and in full.
        fresh: measure again what is measured already. exhaustive: that, everything, in full, needed or not.
        beside: what the decision becomes beside other tasks; measured is then what could change that. None: alone.
    Raises: ConfigError: a named candidate is not in the registry. Interrupted: a stop was asked for. StorageError.
    """
    candidates = candidates_of(site, task, only, site.config.task(task).pin)
    stored = as_listed(site.records.measurements(task, facts.class_fingerprint), candidates)
    known = {m.key for m in stored if m.verdict in LASTING}
    question = question_for(site, task, facts)
    race = race_for(
        question, candidates, () if fresh or exhaustive else stored, exhaustive=exhaustive or bool(only),
        beside=beside, of_class=of_class(site, facts, task),
    )  # fmt: skip
    session = Session(
        site.board.read_context, facts.throttle_celsius, site.measure_settings,
        clock=site.clock, stop=site.stop, progress=site.progress,
    )  # fmt: skip
    measured: list[Measurement] = []
    missing: dict[str, BoardfitError] = {}
    while (heat := race.next()) is not None:
        run = heat.run
        again = f" (again, try {heat.tries + 1}: the machine was busy)" if heat.tries else ""
        text = f"{run.candidate.name}  {run.point.label}{again}"
        done = len(measured)
        site.progress(ProgressEvent(stage="measure", text=text, done=done, total=done + max(1, race.open_runs)))
        try:
            files = _files(site, run)
        except (TrustError, DownloadError, StorageError, ModelError, DeviceError) as error:
            site.report.failure("candidate_not_fetched", error, task=task)
            missing[run.candidate.sha256] = error
            race.leave_out(run.candidate, f"it could not be fetched: {error.problem}")
            continue
        measure = partial(_measure, site, heat, files, facts)
        measurement = measure() if files is None else session.take(heat.tries, measure)  # a refusal waits for nothing
        if site.stop():
            raise Interrupted("stopped on request", fix="run again: finished measurements are stored and not repeated")
        if not race.add(heat, measurement):
            continue
        before = next((one for one in stored if one.key == measurement.key), None)
        measurement = carried(measurement, before, site.clock.utc(), site.measure_settings.reuse_max_age_s)
        measured.append(measurement)
        site.report.measured(measurement)
        if measurement.verdict in LASTING or measurement.key not in known:  # a busy hour hides no good figure
            site.records.add_measurement(measurement)
    owed = race.from_class()
    if owed is not None:
        site.records.keep_class_checks(task, facts.class_fingerprint, owed.checks)
    site.progress(ProgressEvent(stage="measure", text="done", done=len(measured), total=len(measured) or 1))
    return BenchResult(measured=tuple(measured), untried=race.untried(), errors=tuple(missing.values()))


def choose(
    site: Site,
    task: str,
    facts: DeviceFacts,
    *,
    budgets: Sequence[Budget] | None = None,
    objectives: Sequence[Objective] | None = None,
    respect_withheld: bool = True,
    news_only: bool = False,
) -> Decision:
    """Stage 4: decide from stored measurements alone; with other budgets or objectives it is a what-if, not stored.

    Args: respect_withheld: leave out models that failed too often here or were rolled back by hand.   news_only: tell
        the fleet only what is new; who ordered a decision waits for its id.
    """
    question = question_for(site, task, facts, budgets, objectives)
    if not respect_withheld:
        question = question._replace(withheld={})
    measurements = current_measurements(site, task, facts)
    decision = question.decide(measurements)
    decision = accounted(question, measurements, decision, of_class=of_class(site, facts, task))
    if not question.what_if:
        keep_decision(site, decision, news_only=news_only)
    return decision


def keep_decision(site: Site, decision: Decision, *, news_only: bool) -> None:
    """Store a decision and tell the fleet. Args: news_only: as ``choose`` has it."""
    site.records.add_decision(decision)
    site.report.tell(
        "decision", lambda origin: message_for_decision(decision, origin), decision.task, news_only=news_only
    )


def deploy(
    site: Site,
    task: str,
    choice: Choice,
    facts: DeviceFacts,
    *,
    force: bool = False,
    ladder: Sequence[LadderRung] = (),
    together: JointMember | None = None,
) -> DeploymentStatus:
    """Stage 5: stage, prove, switch, watch, lay the ladder. What serves is always whole.

    Args:
        force: a person asked for this model by name, so that earlier failures do not keep it out.
        ladder: of the decision, this choice first; it is laid once that serves.
        together: how fast it was while other tasks ran, where it shares the board: what may be expected of it.
    Raises: DeploymentError, RolledBackError.
    """
    candidate = next((c for c in candidates_of(site, task, ()) if c.sha256 == choice.artifact_sha256), None)
    if candidate is None:
        raise ConfigError(f"{choice.candidate} is no longer in the registry", fix="run `boardfit once` to decide anew")
    measurement = next(
        (m for m in site.records.measurements(task, facts.class_fingerprint)
         if (m.artifact_sha256, m.point) == (choice.artifact_sha256, choice.point)),
        None,
    )  # fmt: skip
    artifact = site.registry.fetch_model(candidate, progress=site.progress, stop=site.stop)
    if measurement is not None:
        measurement = as_together(measurement, together)
    golden = _fetch(site, candidate.manifest.golden)
    deployer = site.deployer(site.config.task(task))
    rungs = rung_sources(site, task, ladder, facts)
    lower = [one.document for one in rungs]
    try:
        if not force:
            rehearse(site, candidate, choice.point, artifact, measurement)
        done = deployer.deploy(task, candidate, choice.point, artifact, golden, measurement, force=force, rungs=lower)
    except BoardfitError as error:
        site.report.failure("deployment_failed", error, task=task)
        raise
    finally:
        site.report.deployment(deployer.status(task))
    return done if force and done.outcome == "unchanged" else lay_rungs(site, done, rungs)


def rollback(site: Site, task: str, leaving: str | None = None) -> DeploymentStatus:
    """Go back to the previous deployment, from the release ``leaving`` only. Raises: DeploymentError: there is none."""
    status = site.deployer(site.config.task(task)).rollback(task, leaving)
    site.report.deployment(status)
    return status


class Tally:
    """What a pass has done so far; ``errors`` are those it went on after."""

    def __init__(self, site: Site) -> None:
        """Begin a pass: profile the board, refresh the registry's metadata, hear its class. Raises: as ``sync``."""
        self._site = site
        self.facts = profile(site)
        self.registry = sync(site)
        hear(site, self.facts)
        self.measured: list[Measurement] = []
        self.decisions: list[Decision] = []
        self.deployments: list[DeploymentStatus] = []
        self.errors: list[BoardfitError] = []
        self.combination: Combination | None = None
        self.joint: list[JointMeasurement] = []

    def take(self, result: BenchResult) -> None:
        """Take what was measured."""
        self.measured += result.measured
        self.errors += result.errors

    def result(self) -> PassResult:
        """Return what was done, and tell the class; what a stage could not do is raised, the first of it, with that."""
        tell(self._site, self.facts)
        done = PassResult(
            facts=self.facts, registry=self.registry, measured=tuple(self.measured), decisions=tuple(self.decisions),
            deployments=tuple(self.deployments), combination=self.combination, joint=tuple(self.joint),
        )  # fmt: skip
        if self.errors:
            self.errors[0].facts["result"] = done
            raise self.errors[0]
        return done


def once(site: Site, task: str | None = None, *, fresh: bool = False, exhaustive: bool = False) -> PassResult:
    """The whole pass for one task or all, each as if alone. What a stage cannot do is raised after it was reported.

    Raises: TrustError: nothing new is measured or deployed. NoFeasibleCandidateError: what runs keeps running.
    """
    tally = Tally(site)
    for name in site.task_names(task, known_tasks(site)):
        serve(site, name, tally, fresh=fresh, exhaustive=exhaustive)
    return tally.result()


def serve(site: Site, name: str, tally: Tally, *, fresh: bool = False, exhaustive: bool = False) -> None:
    """Measure, decide and deploy one task as if it had the board to itself. Raises: Interrupted: a stop was asked for.

    Any other failure is tallied: it must not keep other tasks from being served.
    """
    if site.stop():
        raise Interrupted("stopped on request", fix="run again: what was finished is stored and not repeated")
    site.deployer(site.config.task(name)).recover(name)
    tally.take(bench(site, name, tally.facts, fresh=fresh, exhaustive=exhaustive))
    decision = choose(site, name, tally.facts, news_only=True)
    tally.decisions.append(decision)
    try:
        if decision.winner is None:
            raise NoFeasibleCandidateError(f"{name}: {decision.reason}", fix="see `boardfit explain`", task=name)
        tally.deployments.append(deploy(site, name, decision.winner, tally.facts, ladder=decision.ladder))
    except BoardfitError as error:
        tally.errors.append(error)


def known_tasks(site: Site) -> tuple[str, ...]:
    """Return the tasks the registry has candidates for, as last verified."""
    return tuple(dict.fromkeys(candidate.task for candidate in site.registry.candidates()))


def _fetch(site: Site, ref: TargetRef | None) -> Path | None:
    return None if ref is None else site.registry.fetch(ref, progress=site.progress, stop=site.stop)


class _Files(NamedTuple):
    artifact: Path
    golden: Path | None
    evaluation: Path | None


def _files(site: Site, run: PlannedRun) -> _Files | None:
    """Fetch what a run needs; a refused one needs nothing."""
    if run.refusal is not None:
        return None
    manifest = run.candidate.manifest
    artifact = site.registry.fetch_model(run.candidate, progress=site.progress, stop=site.stop)
    return _Files(artifact, _fetch(site, manifest.golden), _fetch(site, manifest.evaluation))


def _measure(site: Site, heat: Heat, files: _Files | None, facts: DeviceFacts) -> Measurement:
    run = heat.run
    common: dict[str, Any] = {
        "facts": facts,
        "board": site.board,
        "settings": site.measure_settings,
        "clock": site.clock,
        "agent_version": __version__,
        "boot_id": site.board.boot_id(),
    }
    if files is None:
        return record_refusal(run.candidate, run.point, refused=run.refusal, **common)
    with site.ledger.measuring(site.stop) as stop:
        return measure_one(
            run.candidate, run.point, *files, stakes=heat.stakes, progress=site.progress, stop=stop,
            engines=EngineCache(site.engines), **common,
        )  # fmt: skip
