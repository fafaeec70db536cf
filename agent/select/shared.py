"""From the decisions of several tasks to what each gets of one board. Pure.

Each task was decided alone before; here its options are taken on to ``combination`` with what they add to the shared
budgets, and what comes back is told as one document. Leaves to ``joint`` what a run together says. Rules:
- Memory adds up: the peak of each process since its start. Pages that two of them share count twice in the sum, so a
  sum within the budget is within it, and one above it might not be: it is not tried.
- Power adds up above idle: idle is in every figure and is there once, for each meter the most that any option showed.
  Of an interval the upper end counts, which must be known.
- A figure that is missing, or power that is calculated and may not decide, is no zero: the option is not considered,
  and where a task has no other the combination is unknown, which is never deployed.
- A task that nothing fits, or that was not asked for, keeps what serves it, and that counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from agent.core.budget import METRICS, Budget, BudgetCheck, Estimate, check_budget
from agent.core.combination import Combination, Outcome, TaskShare
from agent.core.decision import Choice, Decision, Option
from agent.core.measurement import Measurement
from agent.select.combination import Item, Loads, Solution, Unsolved, combine
from agent.select.feasible import miss_text
from agent.select.rank import is_incumbent, name_of, pick

_MICRO = 1e6  # watts are summed as whole microwatts, bytes as bytes

#: What was run together and failed, in the order of the tasks: the choices, and why.
Failed = Mapping[tuple[Choice, ...], str]


class Sharer(NamedTuple):
    """One task that shares: its own decision, and the measurements it was taken from, by id.

    ``held``: it stays with what serves it.
    """

    decision: Decision
    measurements: Mapping[str, Measurement]
    allow_estimated_power: bool = False
    held: bool = False


class _Entry(NamedTuple):
    option: Option
    loads: dict[str, float]  # above ``base``, in SI


class Posed(NamedTuple):
    """The question for ``combination``: of each task that takes part the items, and the options behind them.

    ``missing`` says why a task has nothing that could be added up: then there is no answer.
    """

    budgets: tuple[Budget, ...]
    sharers: tuple[Sharer, ...]
    base: dict[str, float]
    entries: dict[str, dict[str, _Entry]]  # by task and measurement id; a task that is out has none
    items: dict[str, tuple[Item, ...]]
    missing: dict[str, str]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that take part, by priority."""
        return tuple(self.items)

    @property
    def capacity(self) -> Loads:
        """What of each budget is left above the base, in whole units."""
        return tuple(
            math.floor(_scaled(one.metric, max(0.0, one.limit - self.base[one.metric]))) for one in self.budgets
        )

    def choice(self, task: str, key: str) -> Choice:
        """Return the choice behind an item."""
        option = self.entries[task][key].option
        return Choice(candidate=option.candidate, artifact_sha256=option.artifact_sha256, point=option.point)

    def loads_of(self, task: str, choice: Choice | None) -> Loads | None:
        """Return what a choice adds, in whole units; None where nobody knows, zeros for nothing."""
        if choice is None:
            return (0,) * len(self.budgets)
        sharer = next(one for one in self.sharers if one.decision.task == task)
        option = _serving(sharer.decision, choice)
        found = None if option is None else _loads(option, sharer, self.budgets)
        return None if found is None or isinstance(found, str) else _whole_loads(self.budgets, found)


def pose(budgets: Sequence[Budget], sharers: Sequence[Sharer]) -> Posed:
    """Return the question for tasks in the order of their priority."""
    entries: dict[str, dict[str, _Entry]] = {}
    items: dict[str, tuple[Item, ...]] = {}
    missing: dict[str, str] = {}
    for sharer in sharers:
        decision = sharer.decision
        options = _considered(sharer)
        if not options:
            if decision.incumbent is not None:
                missing[decision.task] = f"{decision.incumbent.candidate} serves {decision.task} and was not measured"
            continue
        known, why = dict[str, _Entry](), ""
        for option in options:
            loads = _loads(option, sharer, budgets)
            if isinstance(loads, str):
                why = why or f"{name_of(option)}: {loads}"
            else:
                known[option.measurement_id] = _Entry(option, loads)
        if known:
            entries[decision.task] = known
            items[decision.task] = _items(known, sharer, budgets)
        else:
            missing[decision.task] = why
    base = {budget.metric: _base(budget.metric, sharers) for budget in budgets}
    return Posed(tuple(budgets), tuple(sharers), base, entries, items, missing)


def choose(posed: Posed, failed: Failed, *, combination_id: str, decided_at: str) -> Combination:
    """Return the best combination that did not fail together, as sums allow it; nothing was run for it here."""
    places = {
        (task, posed.choice(task, item.key)): item.key for task, items in posed.items.items() for item in items
    }  # fmt: skip
    excluded = {
        tuple(places.get(pair, "") for pair in zip(posed.tasks, choices, strict=True))
        for choices in failed
        if len(choices) == len(posed.tasks)
    }
    found = None
    if posed.items and not posed.missing:
        found = combine(list(posed.items.values()), posed.capacity, excluded)
    picks = found.picks if isinstance(found, Solution) else ()
    alone = _alone(posed)
    alone_checks = _checks(posed, alone)
    chosen = dict(zip(posed.tasks, picks, strict=True)) if picks else {}
    outcome, reason = _outcome(posed, found, failed, alone_checks)
    return Combination(
        id=combination_id,
        decided_at=decided_at,
        class_fingerprint=posed.sharers[0].decision.class_fingerprint if posed.sharers else "",
        outcome=outcome,
        reason=reason,
        budgets=posed.budgets,
        shares=tuple(_share(posed, sharer, chosen, failed, reason) for sharer in posed.sharers),
        alone=alone_checks,
        planned=_checks(posed, {task: item.key for task, item in chosen.items()}) if chosen else (),
        tiers=found.tiers if isinstance(found, Solution) else (),
        bound=found.bound if isinstance(found, Solution) else (),
        exact=found.exact if found is not None else True,
        combinations=math.prod(len(items) for items in posed.items.values()) if posed.items else 0,
    )


def choices_of(combination: Combination) -> tuple[tuple[str, ...], tuple[Choice, ...]]:
    """Return the tasks that take part and what each of them has."""
    having = [(share.task, share.choice) for share in combination.shares if share.choice is not None]
    return tuple(task for task, _ in having), tuple(choice for _, choice in having)


def _considered(sharer: Sharer) -> list[Option]:
    """Return the options a task may get: those that fit, or what serves where it is held or nothing fits."""
    decision = sharer.decision
    fitting = [option for option in decision.options if option.standing == "fits"]
    if fitting and not sharer.held:
        return fitting
    serving = _serving(decision, decision.incumbent)
    return [] if serving is None else [serving]


def _serving(decision: Decision, choice: Choice | None) -> Option | None:
    """Return the option that a choice is; where its engine has moved on since, that of the new version."""
    same = [option for option in decision.options if is_incumbent(option, choice)]
    exact = [option for option in same if choice is not None and option.point == choice.point]
    return next(iter(exact or same), None)


def _loads(option: Option, sharer: Sharer, budgets: Sequence[Budget]) -> dict[str, float] | str:
    """Return what an option adds to each shared budget above the base, or the figure that is missing."""
    found: dict[str, float] = {}
    for budget in budgets:
        estimate = option.estimates.get(budget.metric) or Estimate.unknown("not measured")
        if estimate.value is None:
            return f"{budget.metric} is unknown: {estimate.reason or 'not measured'}"
        if budget.metric != "power_mean":
            found[budget.metric] = estimate.value if estimate.high is None else estimate.high
            continue
        if estimate.scope == "estimated" and not sharer.allow_estimated_power:
            return f"{budget.metric} is unknown: it is estimated, not measured"
        if estimate.high is None:
            return f"{budget.metric} is not bounded from above: more samples bound it"
        found[budget.metric] = max(0.0, estimate.high - (_idle_w(option, sharer) or 0.0))
    return found


def _idle_w(option: Option, sharer: Sharer) -> float | None:
    measurement = sharer.measurements.get(option.measurement_id)
    return None if measurement is None or measurement.power is None else measurement.power.idle_w


def _base(metric: str, sharers: Sequence[Sharer]) -> float:
    """Return what is there before any task: for power the idle of each meter, the most that was seen of it."""
    if metric != "power_mean":
        return 0.0
    idle: dict[str, float] = {}
    for sharer in sharers:
        for option in _considered(sharer):
            measurement = sharer.measurements.get(option.measurement_id)
            if measurement is not None and measurement.power is not None and measurement.power.idle_w is not None:
                source = measurement.power.source
                idle[source] = max(idle.get(source, 0.0), measurement.power.idle_w)
    return math.fsum(idle.values())


def _items(known: Mapping[str, _Entry], sharer: Sharer, budgets: Sequence[Budget]) -> tuple[Item, ...]:
    tiers = tiers_of([entry.option for entry in known.values()], sharer.decision)
    return tuple(
        Item(key, tiers[key], entry.option.rank or 1, _whole_loads(budgets, entry.loads))
        for key, entry in known.items()
    )


def tiers_of(options: Sequence[Option], decision: Decision) -> dict[str, int]:
    """Return the tier of each option by its measurement: 0 cannot be told from the best, 1 from the best of the rest.

    The best of a task is that of all that fits it, so that what is not considered here takes a tier all the same.
    """
    rest = [option for option in decision.options if option.standing == "fits"] or list(options)
    tiers: dict[str, int] = {}
    number = 0
    while rest:
        tied = {option.measurement_id for option in pick(rest, decision.objectives, decision.incumbent).tied}
        tiers |= dict.fromkeys(tied, number)
        rest = [option for option in rest if option.measurement_id not in tied]
        number += 1
    return {option.measurement_id: tiers.get(option.measurement_id, 0) for option in options}


def _scaled(metric: str, value: float) -> float:
    return value * _MICRO if METRICS[metric].dimension == "power" else value


def _whole_loads(budgets: Sequence[Budget], loads: Mapping[str, float]) -> Loads:
    return tuple(math.ceil(_scaled(budget.metric, loads[budget.metric])) for budget in budgets)


def _alone(posed: Posed) -> dict[str, str]:
    """Return the item each task would have if it had the board to itself, where its figures are known."""
    found = {}
    for sharer in posed.sharers:
        task = sharer.decision.task
        best = next((o for o in sharer.decision.options if o.rank == 1), None)
        known = posed.entries.get(task, {})
        if best is not None and best.measurement_id in known:
            found[task] = best.measurement_id
        elif known and (sharer.held or best is None):
            found[task] = next(iter(known))
    return found


def _checks(posed: Posed, keys: Mapping[str, str]) -> tuple[BudgetCheck, ...]:
    """Hold the sum of one item of each task against each budget."""
    return tuple(_sum_check(posed, budget, keys) for budget in posed.budgets)


def _sum_check(posed: Posed, budget: Budget, keys: Mapping[str, str]) -> BudgetCheck:
    absent = [sharer.decision.task for sharer in posed.sharers if _takes_part(posed, sharer.decision.task, keys)]
    if absent:
        task = absent[0]
        why = posed.missing.get(task, "its figures are not known")
        return check_budget(budget, Estimate.unknown(f"{task}: {why}"))
    metric = budget.metric
    total = posed.base[metric] + math.fsum(posed.entries[task][key].loads[metric] for task, key in keys.items())
    return check_budget(budget, Estimate.exact(total))


def _takes_part(posed: Posed, task: str, keys: Mapping[str, str]) -> bool:
    """Tell whether a task should be in a sum and is not."""
    return task not in keys and (task in posed.items or task in posed.missing)


def _outcome(
    posed: Posed, found: Solution | Unsolved | None, failed: Failed, alone: Sequence[BudgetCheck]
) -> tuple[Outcome, str]:
    if posed.missing:
        task, why = next(iter(posed.missing.items()))
        return "unknown", f"what {task} would add to the others is not known: {why}"
    if found is None:
        return "nothing_fits", "no task has an option that fits its own budgets"
    over = [check for check in alone if check.state == "missed"]
    if isinstance(found, Unsolved):
        return "nothing_fits", _nothing_fits(posed, found, failed)
    if not over and not failed:
        return "chosen", f"all get what they would get alone: together {_sums(alone)}"
    text = (
        f"what each would get alone is too much together: {'; '.join(_over(check) for check in over)}" if over else ""
    )
    if failed:
        times = "once" if len(failed) == 1 else f"{len(failed)} times"
        text += ("; " if text else "") + f"what sums allow failed {times} when it was run together"
    return "chosen", text + _gap(found)


def _gap(found: Solution) -> str:
    if found.exact or found.bound == found.tiers:
        return ""
    place = next(n for n, (low, have) in enumerate(zip(found.bound, found.tiers, strict=True)) if low != have)
    return (
        f"; not proven to be the best: task {place + 1} of {len(found.tiers)} by priority might get an option "
        f"{found.tiers[place] - found.bound[place]} places better, and no combination is better than that"
    )


def _nothing_fits(posed: Posed, found: Unsolved, failed: Failed) -> str:
    if failed:
        return f"no other combination is within the shared budgets; {len(failed)} failed when run together"
    keys = {task: item.key for task, item in zip(posed.tasks, found.nearest, strict=True)}
    checks = [check for check in _checks(posed, keys) if check.state != "met"]
    text = "no combination is within the shared budgets" if found.exact else "no combination was found"
    names = ", ".join(f"{task} {name_of(posed.entries[task][key].option)}" for task, key in keys.items())
    return f"{text}; the nearest ({names}): {'; '.join(_over(check) for check in checks)}"


def _over(check: BudgetCheck) -> str:
    return miss_text(check) if check.state == "missed" else f"{check.metric} is unknown: {check.reason}"


def _sums(checks: Sequence[BudgetCheck]) -> str:
    return ", ".join(f"{check.metric} {check.reason}" for check in checks)


def _share(posed: Posed, sharer: Sharer, chosen: Mapping[str, Item], failed: Failed, reason: str) -> TaskShare:
    """Say what one task got and why."""
    decision = sharer.decision
    task, alone = decision.task, decision.winner
    fits = any(option.standing == "fits" for option in decision.options)
    if task not in posed.items and task not in posed.missing:
        return TaskShare(task=task, role="out", alone=alone, reason="nothing fits it alone, and nothing serves it")
    role: Literal["shares", "held"] = "held" if sharer.held or not fits else "shares"
    item = chosen.get(task)
    if item is None:
        return TaskShare(task=task, role=role, alone=alone, reason=f"nothing is switched: {reason}")
    entry, choice = posed.entries[task][item.key], posed.choice(task, item.key)
    share = TaskShare(
        task=task, role=role, choice=choice, alone=alone, rank=entry.option.rank, tier=item.tier, loads=entry.loads,
        reason="",
    )  # fmt: skip
    if role == "held":
        why = "it was not asked for" if fits else "nothing fits its own budgets"
        return msgspec.structs.replace(share, reason=f"stays with {name_of(entry.option)}: {why}")
    if choice == alone:
        return msgspec.structs.replace(share, reason=f"gets {name_of(entry.option)}, as it would alone")
    return _instead(posed, share, chosen, failed)


def _instead(posed: Posed, share: TaskShare, chosen: Mapping[str, Item], failed: Failed) -> TaskShare:
    """Say why a task does not get what it would get alone: what that would miss beside what the others have."""
    task, alone, choice = share.task, share.alone, share.choice
    assert alone is not None
    assert choice is not None
    text = f"gets {choice.candidate} ({choice.point.label}) instead of {alone.candidate} ({alone.point.label})"
    key = next((key for key in posed.entries[task] if posed.choice(task, key) == alone), None)
    if key is None:
        return msgspec.structs.replace(share, reason=f"{text}, whose figures for the shared budgets are not known")
    keys = {name: item.key for name, item in chosen.items()} | {task: key}
    over = [check for check in _checks(posed, keys) if check.state == "missed"]
    if over:
        worst = max(over, key=lambda check: check.miss_ratio or 0.0)
        told = f"{text}: with that, beside what the others get, {'; '.join(_over(check) for check in over)}"
        return msgspec.structs.replace(share, metric=worst.metric, excess_ratio=worst.miss_ratio, reason=told)
    choices = tuple(posed.choice(name, item) for name, item in keys.items())
    why = failed.get(choices) or next((why for had, why in failed.items() if alone in had), None)
    if why is not None:
        return msgspec.structs.replace(share, reason=f"{text}, with which it failed when all ran together: {why}")
    return msgspec.structs.replace(share, reason=f"{text}, from which it cannot be told, so that the others get more")
