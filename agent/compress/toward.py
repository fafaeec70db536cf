"""From what boards could not run to the variants most likely to close the miss, and how sure that is. Pure.

The rule:
- A board's decision names the candidate that came closest and the metric it missed. What one more technique does to
  that metric is taken from the decisions themselves: every pair of a candidate and its parent that were measured at
  the same operating point gives one ratio. Their geometric mean is what is expected; the chance to close the miss is
  that of a further ratio, by Student's distribution of the logarithms (n pairs, n - 1 degrees of freedom).
- A narrower network is proposed by the slope of log metric over log width, where the family was measured at several
  widths with the same chain; with three widths or more its residuals give the chance.
- With one pair, or two widths, there is an expectation and no chance: nobody can say how sure it is. A technique that
  was never measured is proposed last, without a figure.
- What it costs in accuracy is the mean difference of the same pairs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import msgspec

from agent.compress.made import Made
from agent.compress.recipe import Recipe
from agent.compress.technique import Technique
from agent.core.budget import METRICS
from agent.core.decision import Decision, Option
from agent.core.statistics import student_t_cdf
from agent.errors import ConfigError

_WIDTHS = (0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2)


class Miss(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate nearest to fitting, and by which factor the metric must change: below 1 for an upper limit."""

    candidate: str
    metric: str
    factor: float
    board: str


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """One variant. ``step`` is appended to the nearest candidate's chain; or ``width`` replaces its model's.

    ``expected``: the factor the metric is expected to change by; ``chance`` to close the miss, 0..1; ``accuracy``: the
    expected change; ``seen``: how many measured pairs, or widths, all that rests on.
    """

    step: dict[str, Any] | None
    width: float | None
    expected: float | None
    chance: float | None
    accuracy: float | None
    seen: int

    @property
    def text(self) -> str:
        """What it is, in words."""
        if self.step is not None:
            ((name, given),) = self.step.items()
            return name + "".join(f" {key} {value}" for key, value in given.items())
        return f"width {self.width:g}"


def miss_of(decision: Decision) -> Miss | None:
    """Return what kept everything out; None where something fits. Raises: ConfigError: the miss has no figure."""
    nearest = decision.nearest_miss
    if nearest is None:
        return None
    if nearest.miss_ratio is None or nearest.metric not in METRICS:
        raise ConfigError(
            f"{nearest.candidate} is kept out by {nearest.metric}, of which there is no figure: {nearest.reason}",
            fix="no other model changes that; see `boardfit doctor`",
        )
    higher = METRICS[nearest.metric].higher_is_better
    factor = 1.0 / (1.0 - nearest.miss_ratio) if higher else 1.0 / (1.0 + nearest.miss_ratio)
    return Miss(candidate=nearest.candidate, metric=nearest.metric, factor=factor, board=decision.class_fingerprint)


def proposals(
    miss: Miss,
    decisions: Sequence[Decision],
    family: Mapping[str, Made],
    recipe: Recipe,
    known: Sequence[Technique],
) -> tuple[Proposal, ...]:
    """Return proposals, the surest first.

    Args:
        family: what was made, by candidate's name. known: techniques that may be proposed.
    """
    if miss.candidate not in family:
        raise ConfigError(f"{miss.candidate} is not among what this recipe made", fix="give the recipe it came from")
    nearest = family[miss.candidate]
    found = [*_steps(miss, decisions, family, nearest, known), *_narrower(miss, decisions, family, nearest, recipe)]
    return tuple(sorted(found, key=_order))


def _order(one: Proposal) -> tuple[float, float, float, float, str]:
    """The surest first; of equals what costs least accuracy, then what changes least."""
    accuracy = one.accuracy if one.accuracy is not None else 0.0
    change = math.inf if one.expected is None else abs(math.log(one.expected))
    if one.chance is not None:
        return (0.0, -round(one.chance, 2), -accuracy, change, one.text)
    return (1.0, 0.0 if one.expected is not None else 1.0, -accuracy, -change, one.text)


def _steps(
    miss: Miss,
    decisions: Sequence[Decision],
    family: Mapping[str, Made],
    nearest: Made,
    known: Sequence[Technique],
) -> list[Proposal]:
    ratios: dict[str, list[float]] = defaultdict(list)
    losses: dict[str, list[float]] = defaultdict(list)
    steps: dict[str, dict[str, Any]] = {}
    for child, parent in _pairs(decisions, family):
        relative = family[child.candidate]
        if len(relative.chain) != len(family[parent.candidate].chain) + 1:
            continue
        last = relative.chain[-1]
        step = {last["technique"]: _given(last["parameters"])}
        key = msgspec.json.encode(step, order="sorted").decode()
        own, before = _value(child, miss.metric), _value(parent, miss.metric)
        if own is None or before is None or own <= 0 or before <= 0:
            continue
        steps[key] = step
        ratios[key].append(own / before)
        after, earlier = _value(child, "accuracy_top1"), _value(parent, "accuracy_top1")
        if after is not None and earlier is not None:
            losses[key].append(after - earlier)
    done = {step["technique"] for step in nearest.chain}
    on_files = bool(done & {name for one in known for name in [one.name] if "torch" not in one.kinds})
    found = [
        Proposal(
            step=step, width=None, expected=math.exp(fmean(map(math.log, ratios[key]))),
            chance=_chance(ratios[key], miss), accuracy=fmean(losses[key]) if losses[key] else None,
            seen=len(ratios[key]),
        )
        for key, step in steps.items()
        if _may_follow(next(iter(step)), done, known, on_files=on_files)
    ]  # fmt: skip
    tried = {next(iter(step)) for step in steps.values()}
    found += [
        Proposal(step={one.name: {}}, width=None, expected=None, chance=None, accuracy=None, seen=0)
        for one in known
        if one.name not in tried and not one.models and _may_follow(one.name, done, known, on_files=on_files)
    ]
    return found


def _may_follow(name: str, done: set[str], known: Sequence[Technique], *, on_files: bool) -> bool:
    """Tell whether a technique may stand behind a chain: once, and not on torch behind one that works on files."""
    kinds = next((one.kinds for one in known if one.name == name), ())
    return bool(kinds) and name not in done and not (on_files and kinds == ("torch",))


def _given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that make variants differ: how to fine-tune is left to defaults."""
    return {
        key: value for key, value in parameters.items()
        if not isinstance(value, Mapping) and key != "seed" and value is not None
    }  # fmt: skip


def _pairs(decisions: Sequence[Decision], family: Mapping[str, Made]) -> list[tuple[Option, Option]]:
    """Return measured children with their measured parents, of one board and operating point."""
    found = []
    for decision in decisions:
        at = {(option.candidate, option.point): option for option in decision.options if option.verdict == "ok"}
        for (name, point), option in at.items():
            parent = family[name].parent if name in family else None
            if parent is not None and parent in family and (parent, point) in at:
                found.append((option, at[parent, point]))
    return found


def _value(option: Option, metric: str) -> float | None:
    if metric == "size":
        return float(option.size_bytes)
    estimate = option.estimates.get(metric)
    return None if estimate is None else estimate.value


def _chance(ratios: Sequence[float], miss: Miss) -> float | None:
    if len(ratios) < 2:
        return None
    logs = [math.log(ratio) for ratio in ratios]
    spread = stdev(logs) * math.sqrt(1.0 + 1.0 / len(logs))
    wanted = math.log(miss.factor)
    if METRICS[miss.metric].higher_is_better:
        return _student_below((fmean(logs) - wanted), spread, len(logs) - 1)
    return _student_below((wanted - fmean(logs)), spread, len(logs) - 1)


def _student_below(distance: float, spread: float, freedom: int) -> float:
    """Return the probability that Student's t stays below distance / spread."""
    if spread == 0.0:
        return 1.0 if distance >= 0.0 else 0.0
    return student_t_cdf(distance / spread, freedom)


def _narrower(
    miss: Miss, decisions: Sequence[Decision], family: Mapping[str, Made], nearest: Made, recipe: Recipe
) -> list[Proposal]:
    own = _width(recipe, nearest.model)
    if own is None:
        return []
    seen: dict[float, list[float]] = defaultdict(list)
    for decision in decisions:
        for option in decision.options:
            relative = family.get(option.candidate)
            value = _value(option, miss.metric)
            if relative is None or value is None or value <= 0 or option.verdict != "ok":
                continue
            width = _width(recipe, relative.model)
            alike = (relative.format, relative.chain) == (nearest.format, nearest.chain)
            same_net = recipe.models[relative.model].torch == recipe.models[nearest.model].torch
            if width is not None and alike and same_net:
                seen[width].append(math.log(value))
    if len(seen) < 2 or own not in seen:
        return []
    xs, ys = [math.log(width) for width in seen], [fmean(values) for values in seen.values()]
    x_mean, y_mean = fmean(xs), fmean(ys)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum((x - x_mean) ** 2 for x in xs)
    rest = [y - y_mean - slope * (x - x_mean) for x, y in zip(xs, ys, strict=True)]
    freedom = len(xs) - 2
    found = []
    for share in _WIDTHS:
        expected = slope * math.log(share)
        reaches = expected <= math.log(miss.factor)
        if METRICS[miss.metric].higher_is_better or not reaches:
            continue
        spread = math.sqrt(sum(one * one for one in rest) / freedom) * math.sqrt(1 + 1 / len(xs)) if freedom else None
        chance = None if spread is None else _student_below(math.log(miss.factor) - expected, spread, freedom)
        found.append(
            Proposal(
                step=None, width=round(own * share, 3), expected=math.exp(expected), chance=chance, accuracy=None,
                seen=len(xs),
            )
        )  # fmt: skip
    return found[:2]  # the widest that reaches it, and the next


def _width(recipe: Recipe, model: str) -> float | None:
    found = recipe.models[model].settings.get("width") if model in recipe.models else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def extended(
    document: Mapping[str, Any], family: Mapping[str, Made], miss: Miss, chosen: Sequence[Proposal]
) -> dict[str, Any]:
    """Return the recipe's document with the proposals as candidates, and models of the widths they name."""
    nearest = family[miss.candidate]
    chain = [{step["technique"]: _given(step["parameters"])} for step in nearest.chain]
    models = dict(document["models"])
    candidates = list(document["candidates"])
    for one in chosen:
        if one.step is not None:
            candidates.append({"of": nearest.model, "chain": [*chain, one.step], "formats": [nearest.format]})
            continue
        name = f"{nearest.model}-w{round((one.width or 0.0) * 1000):04d}"
        base = models[nearest.model]
        models[name] = {**base, "settings": {**base.get("settings", {}), "width": one.width}}
        candidates.append({"of": name, "chain": chain, "formats": [nearest.format]})
    return {**document, "models": models, "candidates": candidates}
