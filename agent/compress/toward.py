"""From what boards could not run to the variants most likely to close the miss, and how sure that is. Pure.

The model, fitted on the measurements at hand: log(metric of a variant / metric of what it is a variant of) = slope * x,
least squares through the origin. x is 1 for a technique that is added or put in another's place, log(strength) for one
that has a strength (the share of multiply-accumulates or parameters left), log(width ratio) for another width.

- A measurement is a pair of candidates that differ in that one thing, at one operating point of one board. A pair seen
  at several points or on several boards counts once, by its mean: such figures are not independent.
- The chance to close a miss is that of a new value beyond it: Student's t with as many degrees of freedom as there are
  pairs less one, standard error s * sqrt(1 + x^2 / sum of x^2). One pair gives an expectation and no chance.
- What no board measured is expected to do what it did on the machine that made the candidates, without a chance. Sizes
  are the files' own. What nobody measured comes last, without a figure. Zeroed and shared weights leave every operator
  as it is, so they are not proposed for speed unless measured.
- A variant that takes accuracy below its budget, or is not expected to come nearer, is shown and not chosen.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import msgspec

from agent.compress.made import Made
from agent.compress.recipe import Recipe
from agent.compress.technique import Technique
from agent.compress.told import Miss, Told
from agent.core.budget import METRICS
from agent.core.statistics import student_t_cdf
from agent.errors import ConfigError

_WIDTHS = (0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2)
_STRENGTH = {"channel_pruning": "macs", "low_rank": "ratio"}  # share left: 1 is unchanged
_STRENGTHS = (0.75, 0.6, 0.5, 0.4, 0.3, 0.2)
_UNTRIED_STRENGTH = 0.6
_NUMBERS = frozenset({"float16", "dynamic_int8", "static_int8", "int8_int16"})  # one of them in a chain
_ZEROS = frozenset({"magnitude_pruning", "n_m_sparsity", "weight_clustering"})
_LEAST_CHANGE = 0.01  # of a logarithm: less is no step nearer

Steps = tuple[dict[str, Any], ...]  # as a recipe writes a chain


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of the nearest candidate: its whole ``chain``, of its model or of one with another ``width``.

    ``expected``: the factor the metric is expected to change by; ``chance`` to close the miss, 0..1; ``accuracy``: the
    expected change; ``seen``: how many pairs that rests on, ``source`` where they were measured. ``against``: why it is
    not worth making.
    """

    text: str
    chain: Steps
    width: float | None = None
    expected: float | None = None
    chance: float | None = None
    accuracy: float | None = None
    seen: int = 0
    source: str | None = None  # boards | workstation | files
    against: str | None = None


class _Change(NamedTuple):
    """What was changed, and how much of it: pairs of one ``kind`` are on one line through the origin."""

    kind: str
    x: float


class _Line(NamedTuple):
    """A fit through the origin of n points; ``spread`` is the residuals' standard deviation, None with one point."""

    slope: float
    spread: float | None
    xx: float
    seen: int

    def chance(self, x: float, beyond: float, *, upward: bool) -> float | None:
        """Return the probability of a value beyond a limit at x; ``upward``: beyond is above."""
        if self.spread is None:
            return None
        distance = beyond - self.slope * x if not upward else self.slope * x - beyond
        error = self.spread * math.sqrt(1.0 + x * x / self.xx)
        if error == 0.0:
            return 1.0 if distance >= 0.0 else 0.0
        return student_t_cdf(distance / error, self.seen - 1)


def _fit(points: Sequence[tuple[float, float]]) -> _Line:
    xx = sum(x * x for x, _ in points)
    slope = sum(x * y for x, y in points) / xx
    rest = sum((y - slope * x) ** 2 for x, y in points)
    spread = math.sqrt(rest / (len(points) - 1)) if len(points) > 1 else None
    return _Line(slope, spread, xx, len(points))


def proposals(
    miss: Miss, told: Sequence[Told], family: Mapping[str, Made], recipe: Recipe, known: Sequence[Technique]
) -> tuple[Proposal, ...]:
    """Return proposals, the surest first.

    Args:
        family: what was made, by candidate's name. known: techniques that may be proposed.
    Raises: ConfigError: the candidate is of another recipe.
    """
    if miss.candidate not in family or family[miss.candidate].model not in recipe.models:
        raise ConfigError(f"{miss.candidate!r} is not among what this recipe made", fix="give the recipe it came from")
    scene = _Scene(miss, family, recipe, {one.name: one for one in known})
    for source, groups in _sources(miss.metric, told, family):
        scene.learn(source, groups)
    found = [*scene.chains(), *scene.narrower()]
    return tuple(sorted(found, key=lambda one: _order(one, miss)))


def _sources(
    metric: str, told: Sequence[Told], family: Mapping[str, Made]
) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Yield figures by candidate, alike in all else, from the best source to the poorest."""
    if metric == "size":
        yield "files", [{name: float(one.size_bytes) for name, one in family.items() if one.size_bytes}]
        return
    yield (
        "boards",
        [
            {row.candidate: row.values[metric] for row in one.rows if row.point == point and metric in row.values}
            for one in told
            for point in sorted({row.point for row in one.rows})
        ],
    )
    here: dict[str, dict[str, float]] = defaultdict(dict)
    for name, made in family.items():
        for judged in made.judged:
            value = judged.latency_p50_s if metric.startswith("latency") else None
            if metric == "accuracy_top1" and judged.accuracy is not None:
                value = judged.accuracy.top1.value
            if value is not None and value > 0:
                here[judged.engine][name] = value
    yield "workstation", list(here.values())


class _Scene:
    """One miss, and what is learnt about it."""

    def __init__(self, miss: Miss, family: Mapping[str, Made], recipe: Recipe, known: Mapping[str, Technique]) -> None:
        self._miss, self._recipe, self._known = miss, recipe, known
        self._family = {name: one for name, one in family.items() if one.model in recipe.models}
        self._chains = {name: written(one.chain, known) for name, one in self._family.items()}
        self._nearest, self._chain = self._family[miss.candidate], self._chains[miss.candidate]
        self._higher = METRICS[miss.metric].higher_is_better
        self._lines: dict[str, tuple[_Line, str]] = {}
        self._steps: dict[str, dict[str, Any]] = {}
        self._losses = self._fitted([self._accuracies()], lambda before, after: after - before)

    def learn(self, source: str, groups: list[dict[str, float]]) -> None:
        """Take figures; what a better source told before stays."""
        for kind, line in self._fitted(groups, lambda before, after: math.log(after / before)).items():
            self._lines.setdefault(kind, (line, source))

    def _accuracies(self) -> dict[str, float]:
        return {name: one.accuracy.top1.value for name, one in self._family.items() if one.accuracy is not None}

    def _fitted(self, groups: list[dict[str, float]], compare: Callable[[float, float], float]) -> dict[str, _Line]:
        pairs: dict[str, dict[tuple[str, str], tuple[float, list[float]]]] = defaultdict(dict)
        for values in groups:
            names = [name for name in values if name in self._family]
            for one in names:
                for other in names:
                    change = self._change(one, other)
                    if change is not None:
                        place = pairs[change.kind].setdefault((one, other), (change.x, []))
                        place[1].append(compare(values[one], values[other]))
        return {kind: _fit([(x, fmean(ys)) for x, ys in seen.values()]) for kind, seen in pairs.items()}

    def _change(self, one: str, other: str) -> _Change | None:
        """Return what makes one into the other, if that is a single thing; a strength only grows."""
        before, after = self._family[one], self._family[other]
        if before.format != after.format or one == other:
            return None
        if before.model == after.model:
            return self._chain_change(self._chains[one], self._chains[other])
        if self._chains[one] != self._chains[other] or not _same_but_width(self._recipe, before.model, after.model):
            return None
        x = math.log(_width(self._recipe, after.model) / _width(self._recipe, before.model))
        return _Change("width", x) if x < 0 else None

    def _chain_change(self, before: Steps, after: Steps) -> _Change | None:
        if len(after) == len(before) + 1:
            for place, step in enumerate(after):
                if after[:place] + after[place + 1 :] == before:
                    return self._noted(None, step)
        if len(after) == len(before):
            differing = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
            if len(differing) == 1:
                return self._noted(*differing[0])
        return None

    def _noted(self, old: dict[str, Any] | None, new: dict[str, Any]) -> _Change | None:
        change = _change_of(old, new)
        if change is not None and (old is None or change.kind.startswith("in place")):
            self._steps[_text(new)] = new
        return change if change is None or change.x != 0 else None

    def chains(self) -> Iterator[Proposal]:
        """Yield the chains that are one change away: measured ones, stronger ones, and untried techniques."""
        taken = {
            _key(self._chains[name])
            for name, one in self._family.items()
            if (one.model, one.format) == (self._nearest.model, self._nearest.format)
        }
        strong: dict[str, list[Proposal]] = defaultdict(list)
        wanted = [*self._steps.values()]
        for step in [*wanted, *self._chain]:
            ((name, given),) = step.items()
            if given.get(_STRENGTH.get(name, "")):
                wanted += [{name: {**given, _STRENGTH[name]: share}} for share in _STRENGTHS]
        tried = {next(iter(step)) for step in wanted}
        wanted += [
            {name: {_STRENGTH[name]: _UNTRIED_STRENGTH} if name in _STRENGTH else {}}
            for name, one in self._known.items()
            if name not in tried and not one.models
        ]
        for step in wanted:
            ((name, _),) = step.items()
            made = self._placed(step)
            change = None if made is None else _change_of(made[0], step)
            if made is None or change is None or _key(made[1]) in taken:
                continue
            taken.add(_key(made[1]))
            if change.kind not in self._lines and name in _ZEROS and self._miss.metric != "size":
                continue
            text = _text(step) if made[0] is None else f"{_text(step)} in place of {_text(made[0])}"
            found = self._proposal(change, text, made[1], None)
            if name in _STRENGTH:
                strong[name].append(found)
            else:
                yield found
        for same in strong.values():
            yield from self._few(same)

    def _few(self, found: list[Proposal]) -> list[Proposal]:
        """Return the weakest two strengths that are expected to reach it, the strongest where none is."""
        weakest_first = sorted(found, key=lambda one: abs(math.log(one.expected)) if one.expected else 0.0)
        needed = abs(math.log(self._miss.factor))
        reach = [one for one in weakest_first if one.expected and abs(math.log(one.expected)) >= needed]
        unmeasured = [one for one in weakest_first if one.expected is None]
        return reach[:2] or [one for one in weakest_first if one.expected][-1:] or unmeasured[:1]

    def _placed(self, step: dict[str, Any]) -> tuple[dict[str, Any] | None, Steps] | None:
        """Return the step it replaces, and the chain with it; None where it cannot stand there."""
        ((name, _),) = step.items()
        technique = self._known.get(name)
        torch = self._recipe.models[self._nearest.model].kind == "torch"
        if technique is None or not set(technique.kinds) & {self._nearest.format, *(["torch"] if torch else [])}:
            return None
        for place, old in enumerate(self._chain):
            ((had, _),) = old.items()
            if had == name or {had, name} <= _NUMBERS:
                return old, (*self._chain[:place], step, *self._chain[place + 1 :])
        place = len(self._chain)
        if self._nearest.format not in technique.kinds:  # before the first step that needs the file
            on_files = (
                n for n, old in enumerate(self._chain)
                if "torch" not in self._known[next(iter(old))].kinds
            )  # fmt: skip
            place = next(on_files, place)
        return None, (*self._chain[:place], step, *self._chain[place:])

    def narrower(self) -> Iterator[Proposal]:
        """Yield the widest network that is expected to reach it, and the next; the narrowest where none is."""
        settings = self._recipe.models[self._nearest.model].settings
        if "width" not in self._lines or "width" not in settings or self._higher:
            return
        own, slope = _width(self._recipe, self._nearest.model), self._lines["width"][0].slope
        reach = [share for share in _WIDTHS if slope * math.log(share) <= math.log(self._miss.factor)]
        for share in (reach or list(_WIDTHS[-1:]))[:2]:
            width = round(own * share, 3)
            yield self._proposal(_Change("width", math.log(width / own)), f"width {width:g}", self._chain, width)

    def _proposal(self, change: _Change, text: str, chain: Steps, width: float | None) -> Proposal:
        loss = self._losses.get(change.kind)
        accuracy = None if loss is None else loss.slope * change.x
        found = Proposal(text=text, chain=chain, width=width, accuracy=accuracy)
        if change.kind in self._lines:
            line, source = self._lines[change.kind]
            chance = line.chance(change.x, math.log(self._miss.factor), upward=self._higher)
            found = msgspec.structs.replace(
                found, expected=math.exp(line.slope * change.x), seen=line.seen, source=source,
                chance=None if source == "workstation" else chance,
            )  # fmt: skip
        return msgspec.structs.replace(found, against=self._against(found))

    def _against(self, one: Proposal) -> str | None:
        if one.expected is not None:
            nearer = math.log(one.expected) if self._higher else -math.log(one.expected)
            if nearer < _LEAST_CHANGE:
                return "no nearer"
        now, floor = self._nearest.accuracy, self._miss.floor
        if floor is not None and now is not None and one.accuracy is not None and self._miss.metric != "accuracy_top1":
            left = now.top1.value + one.accuracy
            if left < floor:
                return f"accuracy {left:.3f} is below {floor:.3f}"
        return None


def _change_of(old: dict[str, Any] | None, new: dict[str, Any]) -> _Change | None:
    """Return how a step counts that is added, or put in place of another; None for a strength that is given up."""
    ((name, given),) = new.items()
    strength = _STRENGTH.get(name)
    share = given.get(strength) if strength else None
    if old is None or next(iter(old)) != name:
        place = "" if old is None else f"in place of {_text(old)}: "
        if share is None:
            return _Change(place + _text(new), 1.0)
        return _Change(place + _text(new, without=strength), math.log(share))
    had = next(iter(old.values())).get(strength) if strength else None
    if share is None or had is None:
        return _Change(f"in place of {_text(old)}: {_text(new)}", 1.0)
    x = math.log(share / had)
    return _Change(_text(new, without=strength), x) if x < 0 else None


def _text(step: Mapping[str, Any], *, without: str | None = None) -> str:
    """Return a step in words; how it fine-tunes is left out, so that steps that differ in that alone are alike."""
    ((name, given),) = step.items()
    told = {key: value for key, value in given.items() if key != without and not isinstance(value, Mapping)}
    return name + "".join(f" {key} {value}" for key, value in sorted(told.items()))


def written(chain: Sequence[Mapping[str, Any]], known: Mapping[str, Technique]) -> Steps:
    """Return a manifest's chain as a recipe writes it: strengths, and what differs from a technique's defaults."""
    steps = []
    for step in chain:
        name, usual = step["technique"], {"seed": step["parameters"].get("seed")}
        for field in msgspec.structs.fields(known[name].parameters) if name in known else ():
            if field.name != _STRENGTH.get(name) and field.default is not msgspec.NODEFAULT:
                usual[field.name] = msgspec.to_builtins(field.default)
        given = step["parameters"].items()
        steps.append({name: {key: value for key, value in given if value is not None and value != usual.get(key)}})
    return tuple(steps)


def _order(one: Proposal, miss: Miss) -> tuple[float, ...]:
    """The surest first, then what is expected to come nearest; of equals what costs least accuracy.

    An expectation that reaches counts as even where there is no chance, and as half of that from another machine.
    """
    short = math.inf
    if one.expected is not None:
        short = max(0.0, abs(math.log(miss.factor)) - abs(math.log(one.expected)))
    chance = one.chance
    if chance is None:
        chance = 0.0 if short > 0.0 else 0.25 if one.source == "workstation" else 0.5
    return (one.against is not None, -round(chance, 2), round(short, 2), -(one.accuracy or 0.0))


def _key(chain: Steps) -> tuple[str, ...]:
    return tuple(map(_text, chain))  # so that what differs in fine-tuning alone is the same


def _width(recipe: Recipe, model: str) -> float:
    return float(recipe.models[model].settings["width"])


def _same_but_width(recipe: Recipe, one: str, other: str) -> bool:
    """Tell whether two models are one network of two widths."""

    def rest(model: str) -> tuple[object, ...]:
        found = recipe.models[model]
        width = found.settings.get("width")
        usable = isinstance(width, int | float) and not isinstance(width, bool) and width > 0
        settings = {key: value for key, value in found.settings.items() if key != "width"}
        return (found.torch, settings, usable)

    return rest(one) == rest(other) and bool(rest(one)[2]) and recipe.models[one].torch is not None


def chosen(found: Sequence[Proposal], most: int) -> tuple[Proposal, ...]:
    """Return the ones to make."""
    return tuple(one for one in found if one.against is None)[:most]


def extended(
    document: Mapping[str, Any], family: Mapping[str, Made], wanted: Sequence[tuple[Miss, Proposal]]
) -> dict[str, Any]:
    """Return the recipe's document with the proposals as candidates, and models of the widths they name."""
    models, candidates = dict(document["models"]), list(document["candidates"])
    for miss, one in wanted:
        nearest = family[miss.candidate]
        name = nearest.model
        if one.width is not None:
            name = f"{nearest.model}-w{round(one.width * 1000):04d}"
            base = models[nearest.model]
            models[name] = {**base, "settings": {**base.get("settings", {}), "width": one.width}}
        candidate = {"of": name, "chain": [dict(step) for step in one.chain], "formats": [nearest.format]}
        if candidate not in candidates:
            candidates.append(candidate)
    return {**document, "models": models, "candidates": candidates}
