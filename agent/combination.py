"""The pass of tasks that share a board: measured one by one, chosen together, run together, then switched.

Decides the order of these steps and when to stop; leaves which combination is best to ``agent.select``, running them at
once to ``agent.joint``, and every step of a single task to ``agent.pipeline``. Rules:
- Without shared budgets nothing is different: each task is served as if it had the board to itself.
- Each task is measured for itself first. Where not all can have what they would get alone, each is asked again which
  option that is not measured yet could change what it gets beside the others, one task after the other, until nothing
  is left that could.
- Nothing is switched before the very combination has met every budget with all of it running. One that does not is
  left out, the next best is tried, a stated number of times in one pass; all of it is in the document.
- What shrinks is switched first. After a failure nothing is switched that would take the sum over a budget beside what
  stays; the others are, and it is said.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from agent import pipeline
from agent.classmates import of_class
from agent.clock import iso
from agent.core.combination import Attempt, Combination, JointMeasurement, JointMember
from agent.core.decision import Choice, Decision
from agent.core.facts import DeviceFacts
from agent.core.measurement import Measurement
from agent.errors import BoardfitError, DeploymentError, Interrupted, NoFeasibleCandidateError
from agent.joint import key_of, run_together, stored_run
from agent.pipeline import PassResult, Tally
from agent.question import accounted, current_measurements, question_for
from agent.select.combination import Loads, Move, switching_order
from agent.select.joint import (
    attempted,
    confirmed,
    in_combination,
    judge_joint,
    judged_budgets,
    ladder_beside,
    unproven,
)
from agent.select.shared import Posed, Sharer, choices_of, choose, pose
from agent.site import Site

Run = Callable[[Mapping[str, Choice]], JointMeasurement]
_SLICE_S = 0.2  # how soon a stop request is noticed
_MOST_ROUNDS = 10  # of asking every task again; each round measures something, and what is measured is known


class Settled(NamedTuple):
    """What the tasks get, each one's decision beside the others, and the question behind it."""

    combination: Combination
    decisions: tuple[Decision, ...]
    joint: JointMeasurement | None
    posed: Posed

    def member(self, task: str) -> JointMember | None:
        """Return what was seen of a task while all ran."""
        seen = () if self.joint is None else self.joint.members
        return next((one for one in seen if one.task == task), None)


def once(site: Site, task: str | None = None, *, fresh: bool = False, exhaustive: bool = False) -> PassResult:
    """The whole pass for one task or all; those that share the board are chosen together.

    Where one task alone is asked for that shares, the others stay with what serves them, and that counts.
    Raises: as ``pipeline.once``.
    """
    sharing = site.config.sharing
    if not sharing or (task is not None and task not in sharing):
        return pipeline.once(site, task, fresh=fresh, exhaustive=exhaustive)
    tally = Tally(site)
    names = site.task_names(task, pipeline.known_tasks(site))
    for name in names:
        if name not in sharing:
            pipeline.serve(site, name, tally, fresh=fresh, exhaustive=exhaustive)
    asked = tuple(name for name in sharing if name in names)
    for name in asked:
        _stop_here(site)
        site.deployer(site.config.task(name)).recover(name)
        tally.take(pipeline.bench(site, name, tally.facts, fresh=fresh, exhaustive=exhaustive))
    settled = _choose_and_run(site, asked, tally, fresh=fresh)
    keep(site, settled, news_only=True)
    tally.combination = settled.combination
    tally.decisions += settled.decisions
    _switch(site, settled, tally)
    return tally.result()


def settle_from_stored(site: Site, facts: DeviceFacts, asked: Sequence[str]) -> Settled:
    """Decide from stored measurements alone; what was never run together is not known to fit, and not chosen."""
    return _settle(site, facts, asked, None, _Tried())


def keep(site: Site, settled: Settled, *, news_only: bool) -> None:
    """Store what was decided and tell the fleet. Args: news_only: as ``pipeline.choose`` has it."""
    site.records.add_combination(settled.combination)
    for decision in settled.decisions:
        pipeline.keep_decision(site, decision, news_only=news_only)


class _Tried:
    """What was run together in one pass: what failed and why, and the record of all of it."""

    def __init__(self) -> None:
        self.failed: dict[tuple[Choice, ...], str] = {}
        self.attempts: list[Attempt] = []
        self.contended = 0

    def add(self, attempt: Attempt) -> None:
        """Take an attempt; one that stands here already is not repeated."""
        if all(attempt.joint_id != one.joint_id for one in self.attempts):
            self.attempts.append(attempt)
        if attempt.passed is False:
            self.failed[attempt.choices] = attempt.reason


class _Table(NamedTuple):
    """All tasks that share as they stand now, and what was tried with them."""

    site: Site
    facts: DeviceFacts
    sharers: tuple[Sharer, ...]
    tried: _Tried

    def beside(self, decision: Decision, measurements: Sequence[Measurement]) -> Decision:
        """Return a task's decision, anew, as sums allow it beside the others as they stand."""
        by_id = {one.id: one for one in measurements}
        replaced = [
            one._replace(decision=decision, measurements=by_id) if one.decision.task == decision.task else one
            for one in self.sharers
        ]
        posed = pose(self.site.config.board.budgets, replaced)
        plan = choose(posed, self.tried.failed, combination_id="", decided_at=decision.decided_at)
        return self.laddered(in_combination(decision, plan, None), posed)

    def laddered(self, decision: Decision, posed: Posed) -> Decision:
        """Return a decision beside others with its ladder, where one is wanted: that of its own begins with another."""
        wanted = self.site.config.task(decision.task).ladder
        rungs = () if wanted is None else ladder_beside(posed, decision, wanted.rungs)
        return msgspec.structs.replace(decision, ladder=rungs)


def _choose_and_run(site: Site, asked: Sequence[str], tally: Tally, *, fresh: bool) -> Settled:
    """Settle, measuring what could change it, until nothing is left that could."""

    def run(choices: Mapping[str, Choice]) -> JointMeasurement:
        key = key_of(tally.facts, choices)
        known = next((one for one in tally.joint if one.key == key and one.verdict == "ok"), None)
        if known is None and not fresh:
            known = stored_run(site, tally.facts, choices)
        if known is None:
            known = run_together(site, tally.facts, choices)
            tally.joint.append(known)
        return known

    tried = _Tried()
    settled = _settle(site, tally.facts, asked, run, tried)
    for _ in range(_MOST_ROUNDS):
        if not _is_less_than_alone(settled.combination) or not _measure_more(site, asked, tally, tried):
            break
        settled = _settle(site, tally.facts, asked, run, tried)
    return settled


def _is_less_than_alone(combination: Combination) -> bool:
    """Tell whether some task does not get what it would get alone."""
    return combination.outcome != "chosen" or any(
        share.role == "shares" and share.choice != share.alone for share in combination.shares
    )


def _measure_more(site: Site, asked: Sequence[str], tally: Tally, tried: _Tried) -> bool:
    """Measure what could change what a task gets beside the others. Returns: whether anything was measured."""
    before = len(tally.measured)
    for name in asked:
        _stop_here(site)
        table = _Table(site, tally.facts, _sharers(site, tally.facts, asked), tried)
        tally.take(pipeline.bench(site, name, tally.facts, beside=table.beside))
    return len(tally.measured) > before


def _sharers(site: Site, facts: DeviceFacts, asked: Sequence[str]) -> tuple[Sharer, ...]:
    """Return every task that shares with its decision as if it were alone."""
    sharers = []
    for name in site.config.sharing:
        question = question_for(site, name, facts)
        measurements = current_measurements(site, name, facts)
        sharers.append(
            Sharer(
                decision=question.decide(measurements),
                measurements={one.id: one for one in measurements},
                allow_estimated_power=question.wanted.allow_estimated_power,
                held=name not in asked,
            )
        )
    return tuple(sharers)


def _settle(site: Site, facts: DeviceFacts, asked: Sequence[str], run: Run | None, tried: _Tried) -> Settled:
    """Choose, judge what was seen together, and choose again without what failed.

    Args: run: runs a combination, or returns what is known of it; None: only what is stored counts.
    """
    table = _Table(site, facts, _sharers(site, facts, asked), tried)
    posed = pose(site.config.board.budgets, table.sharers)
    joint: JointMeasurement | None = None
    final: Combination | None = None
    while final is None:
        plan = choose(posed, tried.failed, combination_id=uuid.uuid4().hex, decided_at=iso(site.clock.utc()))
        joint = None
        if plan.outcome != "chosen":
            final = msgspec.structs.replace(plan, attempts=tuple(tried.attempts))
        elif len(tried.failed) >= site.config.board.tries:
            number = len(tried.failed)
            text = (
                f"{number} combination{'s were' if number > 1 else ' was'} run together and failed, the most of a pass"
            )
            final = unproven(plan, tried.attempts, text)
        else:
            joint, final = _try(table, plan, run)
    decisions = tuple(_decision(table, one, Settled(final, (), joint, posed)) for one in table.sharers if not one.held)
    return Settled(final, decisions, joint, posed)


def _try(table: _Table, plan: Combination, run: Run | None) -> tuple[JointMeasurement | None, Combination | None]:
    """Hold a combination against what was seen of it. Returns: the run, and the end of it; None: it goes on."""
    site, tried = table.site, table.tried
    choices = dict(zip(*choices_of(plan), strict=True))
    joint = stored_run(site, table.facts, choices) if run is None else run(choices)
    if joint is None:
        return None, unproven(plan, tried.attempts, "what sums allow was not run together yet: `boardfit once` does")
    own = judged_budgets(plan, [one.decision for one in table.sharers])
    estimated = all(one.allow_estimated_power for one in table.sharers)
    judged = judge_joint(joint, site.config.board.budgets, own, allow_estimated_power=estimated)
    if judged.passed is None and tried.contended < site.measure_settings.contended_retries:
        _wait(site, site.measure_settings.contended_backoff_s * 3.0**tried.contended)
        tried.contended += 1
        return None, None
    tried.add(attempted(plan, joint, judged))
    if judged.passed:
        return joint, confirmed(plan, joint, judged, tried.attempts)
    return joint, unproven(plan, tried.attempts, judged.reason) if judged.passed is None else None


def _wait(site: Site, length_s: float) -> None:
    """Let other work pass by. Raises: Interrupted: a stop was asked for."""
    end_s = site.clock.monotonic_s() + length_s
    while (left_s := end_s - site.clock.monotonic_s()) > 0:
        _stop_here(site)
        time.sleep(min(_SLICE_S, left_s))


def _decision(table: _Table, sharer: Sharer, settled: Settled) -> Decision:
    decision = in_combination(sharer.decision, settled.combination, settled.joint)
    return accounted(
        question_for(table.site, decision.task, table.facts),
        tuple(sharer.measurements.values()),
        table.laddered(decision, settled.posed),
        beside=table.beside,
        of_class=of_class(table.site, table.facts, decision.task),
    )


def _switch(site: Site, settled: Settled, tally: Tally) -> None:
    """Deploy what was chosen, what shrinks first; every failure is tallied."""
    posed = settled.posed
    chosen: dict[str, tuple[Decision, Choice, Move]] = {}
    for decision in settled.decisions:
        if decision.winner is None:
            text = f"{decision.task}: {decision.reason}"
            tally.errors.append(NoFeasibleCandidateError(text, fix="see `boardfit explain`", task=decision.task))
            continue
        after = posed.loads_of(decision.task, decision.winner)
        assert after is not None  # it was chosen by them
        before = posed.loads_of(decision.task, decision.incumbent)
        chosen[decision.task] = decision, decision.winner, Move(decision.task, before, after)
    capacity = _left_over(settled, set(chosen))
    standing = {task: move.before or (0,) * len(capacity) for task, (_, _, move) in chosen.items()}
    failed: str | None = None
    for move in switching_order([move for _, _, move in chosen.values()], capacity):
        _stop_here(site)
        then = {**standing, move.task: move.after}
        over = any(sum(loads[n] for loads in then.values()) > most for n, most in enumerate(capacity))
        try:
            if over and failed is not None and move.after != move.before:
                problem = f"{move.task} stays as it is: beside what still serves {failed} it would pass a shared budget"
                raise DeploymentError(problem, fix=f"see why {failed} was not switched, and run `boardfit once` again")
            if over:
                text = f"while {move.task} is switched, all tasks together may pass a shared budget for a moment"
                site.report.event("shared_budget_passed", text, task=move.task)
            decision, choice, _ = chosen[move.task]
            done = pipeline.deploy(
                site, move.task, choice, tally.facts, ladder=decision.ladder, together=settled.member(move.task)
            )
            tally.deployments.append(done)
        except BoardfitError as error:
            tally.errors.append(error)
            failed = failed or move.task
        else:
            standing = then


def _left_over(settled: Settled, switched: set[str]) -> Loads:
    """Return what of the shared budgets is there for the tasks that are switched; the others hold what they have."""
    posed, total = settled.posed, list(settled.posed.capacity)
    for share in settled.combination.shares:
        held = None if share.task in switched else posed.loads_of(share.task, share.choice)
        for place, load in enumerate(held or ()):
            total[place] -= load
    return tuple(max(0, left) for left in total)


def _stop_here(site: Site) -> None:
    if site.stop():
        raise Interrupted("stopped on request", fix="run again: what was finished is stored and not repeated")
