"""The decision told in words for a person. Pure: everything said is in the decision document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.core.budget import METRICS, BudgetCheck
from agent.core.combination import Combination
from agent.core.decision import Decision, Option, Untried, untried_groups
from agent.core.units import format_quantity
from agent.select.rank import figure_text, name_of

_HEADINGS = {
    "over_budget": "Over budget",
    "unknown": "Not proven to fit",
    "failed": "Failed",
}


def explain(decision: Decision) -> str:
    """Return the decision as plain text, a few short paragraphs, without a final newline."""
    blocks = [_head(decision), _beside(decision), _asked(decision)]
    fitting = [option for option in decision.options if option.standing == "fits"]
    if fitting:
        blocks.append(_ranking(fitting, decision))
    for standing, heading in _HEADINGS.items():
        group = [option for option in decision.options if option.standing == standing]
        if group:
            blocks.append("\n".join([f"{heading}:", *(f"  {name_of(o)}: {o.reason}." for o in group)]))
    blocks += [*_ladder(decision), _from_class(decision), *_changes(decision)]
    blocks += [_untried(decision, could_matter=True), _untried(decision, could_matter=False)]
    return "\n\n".join(block for block in blocks if block)


def _head(decision: Decision) -> str:
    lead = f"Task {decision.task}, {'asked as a what-if ' if decision.what_if else 'decided '}{decision.decided_at}:"
    lines = [lead, f"{decision.reason}."]
    if decision.winner is None and decision.incumbent is not None:
        now = decision.incumbent
        lines.append(f"{now.candidate} ({now.point.label}) keeps running.")
    elif decision.outcome == "chosen" and decision.incumbent is not None:
        now = decision.incumbent
        lines.append(f"It replaces {now.candidate} ({now.point.label}): {_fate(decision)}.")
    return "\n".join(lines)


def _fate(decision: Decision) -> str:
    now = decision.incumbent
    for option in decision.options:
        if now is not None and (option.artifact_sha256, option.point) == (now.artifact_sha256, now.point):
            return option.reason
    return "it has no measurement here that can be compared"


def _beside(decision: Decision) -> str:
    """Tell what sharing the board with other tasks did to this one."""
    part = decision.combination
    if part is None:
        return ""
    others = ", ".join(task for task in part.tasks if task != decision.task) or "no other task"
    text = f"Beside {others} on this board: {part.reason}."
    seen = []
    if part.latency_p95_s is not None:
        seen.append(f"latency_p95 of {decision.task} is {format_quantity(part.latency_p95_s, 'time')}")
    if part.memory_bytes is not None:
        seen.append(f"all have {format_quantity(part.memory_bytes, 'bytes')} of memory")
    if part.power_mean_w is not None:
        seen.append(f"the board draws {format_quantity(part.power_mean_w, 'power')}")
    return f"{text}\nWith all of them running: {', '.join(seen)}." if seen else text


def _asked(decision: Decision) -> str:
    budgets = "; ".join(budget.text for budget in decision.budgets) or "none"
    objectives = ", then ".join(objective.text for objective in decision.objectives) or "none"
    return f"Budgets: {budgets}.\nObjective: {objectives}."


def _ranking(fitting: list[Option], decision: Decision) -> str:
    lines = ["Fits, best first:"]
    for option in fitting:
        figures = ", ".join(f"{term.metric} {figure_text(option, term.metric)}" for term in decision.objectives)
        lines.append(f"  {option.rank}. {name_of(option)}{': ' + figures if figures else ''}")
        lines.append(f"     {_sentence(option.reason)}")
    return "\n".join(lines)


def _ladder(decision: Decision) -> list[str]:
    """List what may serve in place of the winner; nothing where no ladder is wanted."""
    if not decision.ladder:
        return []
    if len(decision.ladder) == 1:
        return ["Ladder: nothing that fits is lighter than what was chosen."]
    rungs = [
        f"  {number}. {rung.choice.candidate} ({rung.choice.point.label}): {rung.reason}."
        for number, rung in enumerate(decision.ladder, start=1)
    ]
    return ["\n".join(["Ladder, each lighter than the one above:", *rungs])]


def _changes(decision: Decision) -> list[str]:
    miss = decision.nearest_miss
    if miss is None:
        return []
    lines = [f"Nearest miss: {miss.candidate} ({miss.point.label}): {miss.reason}."]
    option = next((o for o in decision.options if (o.candidate, o.point) == (miss.candidate, miss.point)), None)
    blocking = [check for check in option.checks if check.state != "met"] if option is not None else []
    if blocking:
        lines.append("For it to fit: " + "; ".join(_needed(check) for check in blocking) + ".")
    return ["\n".join(lines)]


def untried_text(untried: Sequence[Untried]) -> str:
    """Say in one sentence what a decision does without; empty if it has everything."""
    total = len(untried)
    if not total:
        return ""
    matter = sum(option.could_matter for option in untried)
    options = "1 option was" if total == 1 else f"{total} options were"
    if matter:
        return f"{options} not measured in full, and {matter} of them could change this: run `boardfit bench`."
    return f"{options} not measured in full: the decision would be the same with the best they could show."


def _untried(decision: Decision, *, could_matter: bool) -> str:
    """List what was not measured, a line for all points of a candidate that share a reason."""
    groups = untried_groups(decision.untried, could_matter=could_matter)
    if not groups:
        return ""
    head = "Not measured in full, and could change the decision:"
    if not could_matter:
        head = "Not measured in full, and could not change the decision, even with the best figures they could have:"
    return "\n".join([head, *(f"  {name} ({', '.join(labels)}): {why}." for name, labels, why in groups)])


def _from_class(decision: Decision) -> str:
    """Say what is owed to other boards of the class, and how this board's own latencies stand to theirs."""
    owed = decision.from_class
    if owed is None:
        return ""
    lines = [f"From its class: {owed.reason}. No budget is met by another board's figure."]
    for check in owed.checks:
        looks = "1 look" if check.looks == 1 else f"{check.looks} looks"
        own = format_quantity(check.own_s, "time")
        lines.append(
            f"  {check.candidate} ({check.point.label}): {own} here, {check.ratio:.2f} of the median of "
            f"{check.boards} boards, in {looks}: {check.state}."
        )
    return "\n".join(lines)


def _needed(check: BudgetCheck) -> str:
    metric = METRICS[check.metric]
    limit = format_quantity(check.limit, metric.dimension)
    verb, side = ("rise", "at least") if metric.higher_is_better else ("fall", "at most")
    bound = check.low if metric.higher_is_better else check.high
    if check.value is None:
        return f"{check.metric} must become measurable and be {side} {limit} ({check.reason})"
    if check.state == "missed":
        text = f"{check.metric} must {verb} from {format_quantity(check.value, metric.dimension)} to {limit}"
        loosened = None if bound is None else format_quantity(bound, metric.dimension)
        return text if loosened is None else f"{text}, or its budget move to {loosened}"
    if bound is None:
        return f"{check.metric} needs more runs to be bounded"
    reaches = format_quantity(bound, metric.dimension)
    return f"{check.metric} must be proven {side} {limit}: its interval reaches {reaches}, more runs narrow it"


def explain_combination(combination: Combination) -> str:
    """Return what several tasks got of one board as plain text, without a final newline."""
    sharing = ", then ".join(share.task for share in combination.shares)
    limits = "; ".join(budget.text for budget in combination.budgets)
    lines = [
        f"The board, decided {combination.decided_at}, for {sharing}:",
        f"{_sentence(combination.reason)}",
        f"Budgets over all of them: {limits}.",
    ]
    for share in combination.shares:
        loads = ", ".join(
            f"{name} {format_quantity(load, METRICS[name].dimension)}" for name, load in share.loads.items()
        )
        lines.append(f"  {share.task} {share.reason}{f' (adds {loads})' if loads else ''}.")
    told = {
        "If each had what it would get alone": combination.alone,
        "Summed up from runs alone": combination.planned,
        "With all of them running": combination.together,
    }
    lines += [f"{head}: {'; '.join(_judged(check) for check in checks)}." for head, checks in told.items() if checks]
    for share in combination.shares:
        if share.checks:
            lines.append(f"  {share.task}, while the others ran: {'; '.join(_judged(one) for one in share.checks)}.")
    for attempt in combination.attempts:
        if not attempt.passed:
            pairs = zip(attempt.tasks, attempt.choices, strict=True)
            names = " + ".join(f"{task} {one.candidate} ({one.point.label})" for task, one in pairs)
            lines.append(f"Run together and left: {names}: {attempt.reason}.")
    if combination.outcome == "chosen":
        lines.append(_proof(combination))
    return "\n".join(lines)


def _loads(loads: Mapping[str, float]) -> str:
    told = ", ".join(f"{name} {format_quantity(load, METRICS[name].dimension)}" for name, load in loads.items())
    return f" (adds {told})" if told else ""


def _judged(check: BudgetCheck) -> str:
    return f"{check.metric} {check.reason} ({check.state})"


def _proof(combination: Combination) -> str:
    number = combination.combinations
    if combination.exact or combination.tiers == combination.bound:
        return f"Of {number} combinations none that sums allow and that did not fail is better in this order of tasks."
    return (
        f"Of {number} combinations this need not be the best: by preference the tasks have options of places "
        f"{_places(combination.tiers)}, and no combination has better than {_places(combination.bound)}."
    )


def _places(tiers: Sequence[int]) -> str:
    return ", ".join(str(tier + 1) for tier in tiers)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
