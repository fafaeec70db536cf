"""What is to be decided for a task, and from what: one question for the race, the decision and a long run alike.

Decides which candidates and stored measurements count, what is withheld and what serves now; leaves the race to
``agent.measure``, the rule to ``agent.select`` and the order of the stages to ``agent.pipeline``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from agent.clock import iso
from agent.config import TaskConfig
from agent.core.budget import Budget, Objective
from agent.core.class_results import ClassView
from agent.core.decision import Choice, ClassCheck, Decision
from agent.core.facts import DeviceFacts
from agent.core.manifest import Candidate
from agent.core.measurement import Measurement, as_listed
from agent.errors import ConfigError, DownloadError, StorageError, TrustError
from agent.measure.plan import plan
from agent.measure.race import Race
from agent.measure.sustained import hopeful
from agent.select.decision import decide, pinned_out
from agent.select.ladder import ladder_of
from agent.site import Site


class OfClass(NamedTuple):
    """What other boards of the class told of a task, and how this board stood to it before."""

    view: ClassView | None = None
    checks: tuple[ClassCheck, ...] = ()


NOTHING_KNOWN = OfClass()


class Question(NamedTuple):
    """What is to be decided, but for the measurements: the same for the race and for the decision it is run for."""

    site: Site
    facts: DeviceFacts
    wanted: TaskConfig
    what_if: bool
    withheld: dict[str, str]
    incumbent: Choice | None

    def decide(self, measurements: Sequence[Measurement]) -> Decision:
        """Decide from these measurements."""
        decision = decide(
            self.wanted.name,
            measurements,
            self.wanted.budgets,
            self.wanted.objectives,
            incumbent=self.incumbent,
            class_fingerprint=self.facts.class_fingerprint,
            decided_at=iso(self.site.clock.utc()),
            decision_id=uuid.uuid4().hex,
            what_if=self.what_if,
            allow_estimated_power=self.wanted.allow_estimated_power,
            withheld=self.withheld,
        )
        if self.wanted.ladder is None:
            return decision
        return msgspec.structs.replace(decision, ladder=ladder_of(decision.options, self.wanted.ladder.rungs))


def question_for(
    site: Site,
    task: str,
    facts: DeviceFacts,
    budgets: Sequence[Budget] | None = None,
    objectives: Sequence[Objective] | None = None,
) -> Question:
    """Return what is to be decided for a task; with other budgets or objectives it is a what-if."""
    wanted = site.config.task(task)
    what_if = budgets is not None or objectives is not None
    if budgets is not None:
        wanted = msgspec.structs.replace(wanted, budgets=tuple(budgets))
    if objectives is not None:
        wanted = msgspec.structs.replace(wanted, objectives=tuple(objectives))
    return Question(site, facts, wanted, what_if, _withheld(site, task, facts), _incumbent(site, task))


#: What becomes of a task's own decision beside other tasks: told it, and the measurements it was taken from.
Beside = Callable[[Decision, Sequence[Measurement]], Decision]


def race_for(
    question: Question,
    candidates: Sequence[Candidate],
    stored: Sequence[Measurement],
    *,
    exhaustive: bool = False,
    beside: Beside | None = None,
    of_class: OfClass = NOTHING_KNOWN,
) -> Race:
    """Return the race over a task's candidates, those with a stored measurement measured already."""
    site = question.site

    def decide_hopefully(measurements: Sequence[Measurement]) -> Decision:
        hoped = hopeful(measurements)
        decision = question.decide(hoped)
        return decision if beside is None else beside(decision, hoped)

    return Race(
        plan(candidates, question.facts, site.measure_settings, stored, site.clock.utc()),
        question.wanted.budgets,
        question.wanted.objectives,
        decide_hopefully,
        class_fingerprint=question.facts.class_fingerprint,
        with_power=bool(site.board.power_meters()),
        retries=site.measure_settings.contended_retries,
        exhaustive=exhaustive,
        view=of_class.view,
        checks=of_class.checks,
    )


def candidates_of(site: Site, task: str, only: Sequence[str], pin: str | None = None) -> tuple[Candidate, ...]:
    """Return a task's candidates, those of ``only`` or the pinned one. Raises: ConfigError: there is none of a name."""
    only = only or (() if pin is None else (pin,))
    known = site.registry.candidates(task)
    unknown = set(only) - {candidate.name for candidate in known}
    if unknown:
        names = ", ".join(sorted(candidate.name for candidate in known)) or "none"
        raise ConfigError(f"{task} has no candidate {', '.join(sorted(unknown))}", fix=f"candidates here: {names}")
    return tuple(candidate for candidate in known if not only or candidate.name in only)


def accounted(
    question: Question,
    measurements: Sequence[Measurement],
    decision: Decision,
    *,
    beside: Beside | None = None,
    of_class: OfClass = NOTHING_KNOWN,
) -> Decision:
    """Return a decision with what it did without, and what of that it owes to the class.

    Nothing is added where the registry cannot be asked.
    """
    try:
        candidates = question.site.registry.candidates(question.wanted.name)
    except (TrustError, DownloadError, StorageError, ConfigError):
        return decision
    race = race_for(question, candidates, measurements, beside=beside, of_class=of_class)
    return msgspec.structs.replace(decision, untried=race.untried(), from_class=race.from_class())


def current_measurements(site: Site, task: str, facts: DeviceFacts) -> tuple[Measurement, ...]:
    """Return stored measurements of candidates the registry still lists; all of them where it cannot be asked."""
    measurements = site.records.measurements(task, facts.class_fingerprint)
    if site.config.registry is None:
        return measurements
    try:
        candidates = site.registry.candidates(task)
    except (TrustError, DownloadError, StorageError, ConfigError):
        return measurements
    listed = {candidate.sha256 for candidate in candidates}
    return as_listed((m for m in measurements if m.artifact_sha256 in listed), candidates)


def _withheld(site: Site, task: str, facts: DeviceFacts) -> dict[str, str]:
    """Return the models of a task that no pass may choose: failed too often, rolled back by hand, or not the pinned."""
    others = pinned_out(site.records.measurements(task, facts.class_fingerprint), site.config.task(task).pin)
    found = site.deployer(site.config.task(task)).quarantined()
    return others | {one.artifact_sha256: one.text for one in found if one.task == task}


def _incumbent(site: Site, task: str) -> Choice | None:
    """Return what was chosen; a lower rung that serves in its place was not, and wins no tie."""
    store = site.deployer(site.config.task(task)).store
    chosen = store.read(task, store.chosen(task))
    if chosen is None:
        return None
    return Choice(candidate=chosen.candidate, artifact_sha256=chosen.model.sha256, point=chosen.point)
