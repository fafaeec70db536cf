"""What the runs say: requests over budget, accuracy, reactions, the oracle, the verdicts. Pure.

Rules:
- A request is over budget where it ended later than the budget in force when it was due, counted from then.
- Accuracy comes twice: counted (the share of requests answered rightly, of those fed), and expected (each request by
  the accuracy that was measured of the model that served it), which the draw of the inputs does not blur.
- The oracle knows each phase beforehand: in each it serves the most accurate of the models there are by then whose
  calls kept the budget in that very phase (95 of 100 of them, timed from their begin, and on average less than the time
  between requests). Waiting of before does not count against it, so it is at least as good as any real switching. Where
  none keeps the budget it serves the fastest.
- A reaction lasts until the first request that another model served than at the event, or of what was published that
  model; coming back lasts until the first one that the model of before the disturbance served, or one at least as
  accurate. None: not within the phase. Of the worse model none is what is wanted.
- Quiet is a machine on which the first model, with nothing disturbed yet, was over budget in ``QUIET`` of its requests
  at most; and a comparison needs ``ENOUGH`` requests over budget without an agent. Else the verdict is withheld.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.closed_loop.models import BETTER, FIRST, WORSE
from benchmarks.closed_loop.record import Run
from benchmarks.closed_loop.schedule import PERIOD_S, Phase, Schedule

OVER_MOST = 0.2  # of the over-budget requests without an agent
ACCURACY_LEAST = 0.95  # of the oracle's
QUIET = 0.02
ENOUGH = 50


class Counted(NamedTuple):
    """One run's sums. ``by_phase``: requests over budget."""

    mode: str
    requests: int
    failed: int
    over: int
    by_phase: dict[str, int]
    accuracy_counted: float
    accuracy_expected: float
    served_by: dict[str, int]


def in_phase(run: Run, phase: Phase) -> Any:
    """Return which requests were due in a phase, bool [requests]."""
    return (run.due_s >= phase.begin_s - 1e-9) & (run.due_s < phase.end_s - 1e-9)


def over_budget(run: Run) -> Any:
    """Return which requests were over the budget of when they were due, bool [requests]; a failed one is."""
    latency = run.end_s - run.due_s
    over = np.array(run.failed, bool)
    for phase in run.phases:
        over |= in_phase(run, phase) & (latency > phase.budget_s)
    return over


def count(run: Run, accuracy: Mapping[str, float]) -> Counted:
    """Sum up a run. Args: accuracy: of each model, as measured."""
    over, names = over_budget(run), run.served_by.tolist()
    return Counted(
        mode=run.mode, requests=len(names), failed=int(run.failed.sum()), over=int(over.sum()),
        by_phase={phase.name: int(over[in_phase(run, phase)].sum()) for phase in run.phases},
        accuracy_counted=float(run.correct.mean()),
        accuracy_expected=float(np.mean([accuracy[name] for name in names])),
        served_by={name: names.count(name) for name in dict.fromkeys(names)},
    )  # fmt: skip


class Oracle(NamedTuple):
    """Which model hindsight serves in each phase, and the accuracy that comes of it."""

    serves: dict[str, str]
    accuracy: float


def oracle(fixed: Mapping[str, Run], phases: Schedule, accuracy: Mapping[str, float]) -> Oracle:
    """Return what hindsight would serve. Args: fixed: each model alone through the same phases, of whatever length."""
    serves, there = {}, set(FIRST)
    for number, phase in enumerate(phases):
        there |= {BETTER} if phase.event == "better" else set()
        taken = {name: _taken(fixed[name], fixed[name].phases[number]) for name in there if name in fixed}
        keeps = [name for name, one in taken.items() if _keeps(one, phase.budget_s)]
        fastest = min(taken, key=lambda name: float(np.median(taken[name])))
        serves[phase.name] = max(keeps, key=lambda name: accuracy[name], default=fastest)
    seconds = sum(phase.seconds for phase in phases)
    return Oracle(serves, sum(accuracy[serves[phase.name]] * phase.seconds for phase in phases) / seconds)


def _taken(run: Run, phase: Phase) -> Any:
    """Return what calls took that began in a phase, or of those that were due in it where none began."""
    began = (run.begin_s >= phase.begin_s) & (run.begin_s < phase.end_s)
    chosen = began if began.any() else in_phase(run, phase)
    return (run.end_s - run.begin_s)[chosen]


def _keeps(taken: Any, budget_s: float) -> bool:
    return bool(np.quantile(taken, 0.95) <= budget_s and taken.mean() < PERIOD_S)


class Reaction(NamedTuple):
    """How long an event took to show in what serves, and how long its end; in seconds. ``to``: what serves then."""

    react_s: float | None
    to: str | None
    back_s: float | None


def reaction(run: Run, phase: Phase, accuracy: Mapping[str, float]) -> Reaction:
    """Return what followed the event of a phase; the phase after it says how long coming back took."""
    before = _serving_at(run, phase.begin_s)
    published = {"worse": WORSE, "better": BETTER}.get(phase.event)
    react_s, to = _first(run, phase, lambda name: name != before if published is None else name == published)
    after = next((one for one in run.phases if one.ends == phase.event), None)
    if after is None or react_s is None:
        return Reaction(react_s, to, None)
    back_s, _ = _first(run, after, lambda name: accuracy[name] >= accuracy[before])
    return Reaction(react_s, to, back_s)


def _serving_at(run: Run, at_s: float) -> str:
    """Return what served the last request that ended before a moment."""
    ended = np.flatnonzero(run.end_s <= at_s)
    return str(run.served_by[ended[-1] if len(ended) else 0])


def _first(run: Run, phase: Phase, wanted: Any) -> tuple[float | None, str | None]:
    for index in np.flatnonzero((run.begin_s >= phase.begin_s) & (run.begin_s < phase.end_s)):
        if wanted(str(run.served_by[index])):
            return float(run.begin_s[index]) - phase.begin_s, str(run.served_by[index])
    return None, None


class Verdict(NamedTuple):
    """One claim: what was found, the goal, and met, missed or withheld with the reason."""

    claim: str
    found: str
    goal: str
    verdict: str


def noise(first: str, quiet_share: float) -> str:
    """Return why the machine was too busy to judge, empty where it was not.

    Args: first: what was chosen first; quiet_share: of its requests over budget before anything happened, no agent.
    """
    if first != next(iter(FIRST)):
        return f"withheld: not quiet, {next(iter(FIRST))} did not fit and {first} was chosen first"
    if quiet_share > QUIET:
        return f"withheld: not quiet, {quiet_share:.1%} over budget before anything happened"
    return ""


def verdicts(
    with_agent: Sequence[Counted], without: Sequence[Counted], others: Sequence[Counted], best: Oracle, noisy: str
) -> tuple[Verdict, ...]:
    """Judge. Args: with_agent, without: pairs of the same round. noisy: what ``noise`` says."""
    all_runs = (*with_agent, *without, *others)
    failed, total = sum(one.failed for one in all_runs), sum(one.requests for one in all_runs)
    pairs = [(ours.over, theirs.over) for ours, theirs in zip(with_agent, without, strict=True)]
    few = "" if all(theirs >= ENOUGH for _, theirs in pairs) else f"withheld: under {ENOUGH} without an agent"
    ratios = [ours / max(1, theirs) for ours, theirs in pairs]
    shares = [one.accuracy_expected / best.accuracy for one in with_agent]
    worse = sum(one.served_by.get(WORSE, 0) for one in with_agent)
    return (
        Verdict("requests that failed, every run", f"{failed} of {total}", "0", _said(failed == 0)),
        Verdict(
            "over budget with boardfit, of those with no agent", spread(ratios, "{:.3f}"), f"at most {OVER_MOST:g}",
            noisy or few or _said(median(ratios) <= OVER_MOST),
        ),
        Verdict(
            "accuracy with boardfit, of the oracle's", spread(shares, "{:.3f}"), f"at least {ACCURACY_LEAST:g}",
            noisy or _said(median(shares) >= ACCURACY_LEAST),
        ),
        Verdict("requests that the worse one served", f"{worse}", "0", _said(worse == 0)),
    )  # fmt: skip


def _said(good: bool) -> str:
    return "met" if good else "missed"


def spread(values: Sequence[float | None], form: str) -> str:
    """Return the median and, of several, the least and the greatest; how many there are none of is said."""
    known = [one for one in values if one is not None]
    if not known:
        return "none"
    text = form.format(median(known))
    if len(known) > 1:
        text += f" ({form.format(min(known))} to {form.format(max(known))})"
    return text + (f", {len(values) - len(known)} none" if len(known) < len(values) else "")
