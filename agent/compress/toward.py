"""From what boards could not run to the variants most likely to close the miss, and how sure that is. Pure.

The model, fitted on the measurements at hand: log(metric of a variant / metric of what it is a variant of) = slope * x.
x is 1 for a technique that is added or put in another's place, log(strength) for one that has a strength (the share of
multiply-accumulates or parameters left), log(width ratio) for another width. The line and the chance are ``line``'s.

- A measurement is a pair of candidates that differ in that one thing, at one operating point of one board. A pair seen
  at several points or on several boards counts once, by its mean: such figures are not independent.
- Nor are pairs that share a candidate: linked candidates are a group, and degrees of freedom are candidates - groups
  - 1. A network counts once for each width, in whatever chains and formats its widths were compared; two files of the
  same content are one candidate. One pair, or two widths, give an expectation and no chance.
- What no board measured is expected to do what it did on the machine that made the candidates, without a chance. Sizes
  are the files' own, as they are transferred. What nobody measured comes last, without a figure.
- Zeroed and shared weights leave every operator as it is, so they are not proposed for speed unless measured; for size
  they are proposed packed, by what pairs tell that were packed in the same way. What is made and not packed is told
  and not made again: under another name it would be the same file, which boards know by its content.
- An accuracy that is missed is sought in wider networks and milder chains: a step left out, a strength given up. What
  that costs in size and time is for the boards to say.
- A variant that takes accuracy below its budget, or is not expected to come nearer, is shown and not chosen.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import msgspec

from agent.compress.changes import NUMBERS, STRENGTH, ZEROS, Change, Steps, alike, change_of, text, written
from agent.compress.line import Line, fit
from agent.compress.made import Made
from agent.compress.recipe import Recipe, same_but_width, width_of
from agent.compress.technique import Technique
from agent.compress.told import Miss, Told
from agent.core.budget import METRICS
from agent.errors import ConfigError

_NARROWER = (0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2)
_WIDER = (1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
_UNTRIED_WIDTH = 1.5
_STRENGTHS = (0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2)
_UNTRIED_STRENGTH = 0.6
_FINER_NUMBERS = frozenset({"float16", "int8_int16"})
_LEAST_CHANGE = 0.01  # of a logarithm: less is no step nearer
_WAYS = {(False, False): "", (True, True): "packed: ", (False, True): "packed by it: "}  # before and after a change


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of the nearest candidate: its whole ``chain``, of its model or of one with another ``width``.

    ``pack``: it is to be published packed.
    ``expected``: the factor the metric is expected to change by; ``chance`` to close the miss, 0..1; ``accuracy``: the
    expected change; ``seen``: how many independent pairs that rests on, ``source`` where they were measured;
    ``against``: why it is not worth making.
    """

    text: str
    chain: Steps
    width: float | None = None
    pack: bool = False
    expected: float | None = None
    chance: float | None = None
    accuracy: float | None = None
    seen: int = 0
    source: str | None = None  # boards | workstation | files
    against: str | None = None


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
    found = [*scene.chains(), *scene.milder(), *scene.packed(), *scene.widths()]
    return tuple(sorted(found, key=lambda one: _order(one, miss)))


def _sources(
    metric: str, told: Sequence[Told], family: Mapping[str, Made]
) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Yield figures by candidate, alike in all else, from the best source to the poorest."""
    if metric == "size":
        yield "files", [{name: float(one.transfer_bytes) for name, one in family.items() if one.transfer_bytes}]
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
        self._is_packed = self._nearest.is_packed
        self._by_size, self._by_accuracy = miss.metric == "size", miss.metric == "accuracy_top1"
        self._sign = 1.0 if METRICS[miss.metric].higher_is_better else -1.0
        self._needed = abs(math.log(miss.factor))
        self._lines: dict[str, tuple[Line, str]] = {}
        self._steps: dict[str, dict[str, Any]] = {}
        accuracies = {name: one.accuracy.top1.value for name, one in self._family.items() if one.accuracy is not None}
        self._losses = self._fitted([accuracies], lambda before, after: after - before, by_size=False)

    def learn(self, source: str, groups: list[dict[str, float]]) -> None:
        """Take figures; what a better source told before stays."""
        fitted = self._fitted(groups, lambda before, after: math.log(after / before), by_size=self._by_size)
        for kind, line in fitted.items():
            self._lines.setdefault(kind, (line, source))

    def _fitted(
        self, groups: list[dict[str, float]], compare: Callable[[float, float], float], *, by_size: bool
    ) -> dict[str, Line]:
        pairs: dict[str, dict[tuple[str, str], tuple[float, list[float]]]] = defaultdict(dict)
        for values in groups:
            names = [name for name in values if name in self._family]
            for one in names:
                for other in names:
                    change = self._change(one, other)
                    way = self._way(one, other) if by_size else ""
                    if change is None or way is None or (change.x == 0.0 and way != _WAYS[False, True]):
                        continue
                    ends = self._node(one, change, by_size=by_size), self._node(other, change, by_size=by_size)
                    place = pairs[way + change.kind].setdefault(ends, (change.x or 1.0, []))
                    place[1].append(compare(values[one], values[other]))
        start = {kind: self._node(self._miss.candidate, Change(kind, 1.0), by_size=by_size) for kind in pairs}
        return {
            kind: fit({ends: (x, fmean(ys)) for ends, (x, ys) in seen.items()}, start[kind])
            for kind, seen in pairs.items()
        }

    def _node(self, name: str, change: Change, *, by_size: bool) -> str:
        """Return what a candidate counts as: its network among widths, its file where packing is not asked for."""
        one = self._family[name]
        if change.kind.endswith("width"):
            return one.model
        return name if by_size or one.path is None else one.path

    def _way(self, one: str, other: str) -> str | None:
        return _WAYS.get((self._family[one].is_packed, self._family[other].is_packed))

    def _change(self, one: str, other: str) -> Change | None:
        """Return what makes one into the other, if that is a single thing; a strength only grows; x 0: the same."""
        before, after = self._family[one], self._family[other]
        if before.format != after.format or one == other:
            return None
        if before.model == after.model:
            same = self._chains[one] == self._chains[other]
            return Change("", 0.0) if same else self._chain_change(self._chains[one], self._chains[other])
        if self._chains[one] != self._chains[other] or not same_but_width(self._recipe, before.model, after.model):
            return None
        x = math.log(width_of(self._recipe, after.model) / width_of(self._recipe, before.model))
        return Change("width", x) if x < 0 else None

    def _chain_change(self, before: Steps, after: Steps) -> Change | None:
        if len(after) == len(before) + 1:
            for place, step in enumerate(after):
                if after[:place] + after[place + 1 :] == before:
                    return self._noted(None, step)
        if len(after) == len(before):
            differing = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
            if len(differing) == 1:
                return self._noted(*differing[0])
        return None

    def _noted(self, old: dict[str, Any] | None, new: dict[str, Any]) -> Change | None:
        change = change_of(old, new)
        in_place = change.kind.startswith("in place")
        if old is None or in_place:
            self._steps[text(new)] = new
        return change if change.x < 0 or (change.x > 0 and (old is None or in_place)) else None

    def _wanted(self) -> list[dict[str, Any]]:
        """Return steps to add or to put in place of others: measured ones, other strengths, untried techniques."""
        wanted = [*self._steps.values()]
        for step in [*wanted, *self._chain]:
            ((name, given),) = step.items()
            if given.get(STRENGTH.get(name, "")):
                wanted += [{name: {**given, STRENGTH[name]: share}} for share in _STRENGTHS]
        tried = {next(iter(step)) for step in wanted}
        return wanted + [
            {name: {STRENGTH[name]: _UNTRIED_STRENGTH} if name in STRENGTH else {}}
            for name, one in self._known.items()
            if name not in tried and not one.models
        ]

    def _may_mend(self, name: str, old: dict[str, Any] | None) -> bool:
        """Tell whether an untried technique can raise accuracy: training for int8, or numbers with more digits."""
        had = {next(iter(step)) for step in self._chain}
        return (name == "qat_int8" and "static_int8" in had) or (old is not None and name in _FINER_NUMBERS)

    def chains(self) -> Iterator[Proposal]:
        """Yield the chains that are one change away, of several strengths a few."""
        strong: dict[str, list[Proposal]] = defaultdict(list)
        met = {alike(self._chain)}
        for step in self._wanted():
            ((name, _),) = step.items()
            placed = self._placed(step)
            if placed is None or alike(placed[1]) in met:
                continue
            old, chain = placed
            met.add(alike(chain))
            change = change_of(old, step)
            milder = old is not None and next(iter(old)) == name and change.x > 0 and name in STRENGTH
            if self._by_accuracy:
                worth = milder or change.kind in self._lines or self._may_mend(name, old)
            else:
                worth = not milder and (change.kind in self._lines or name not in ZEROS or self._by_size)
            if not worth:
                continue
            said = text(step) if old is None else f"{text(step)} in place of {text(old)}"
            found = self._proposal(change, said, chain)
            if found is not None and name in STRENGTH:
                strong[name].append(found)
            elif found is not None:
                yield found
        for same in strong.values():
            yield from self._few(same)

    def milder(self) -> Iterator[Proposal]:
        """Yield the chains with a step less, for an accuracy that is missed."""
        for place, step in enumerate(self._chain if self._by_accuracy else ()):
            kind, x = change_of(None, step)
            chain = (*self._chain[:place], *self._chain[place + 1 :])
            found = self._proposal(Change(kind, -x), f"without {text(step)}", chain)
            if found is not None:
                yield found

    def packed(self) -> Iterator[Proposal]:
        """Yield the nearest itself, packed, for a size that is missed."""
        found = self._proposal(Change("", 1.0), "packed", self._chain, pack=True) if self._by_size else None
        if found is not None:
            yield found

    def _few(self, found: list[Proposal]) -> list[Proposal]:
        """Return the smallest two changes that are expected to reach it, the nearest where none is."""
        told = sorted((one for one in found if one.expected), key=self._nearer)
        reach = [one for one in told if self._nearer(one) >= self._needed]
        unmeasured = [one for one in found if one.expected is None]
        return reach[:2] or told[-1:] or unmeasured[:1]

    def _nearer(self, one: Proposal) -> float:  # of a measured one, as a logarithm
        return self._sign * math.log(one.expected or 1.0)

    def _placed(self, step: dict[str, Any]) -> tuple[dict[str, Any] | None, Steps] | None:
        """Return the step it replaces, and the chain with it; None where it cannot stand there."""
        ((name, _),) = step.items()
        technique = self._known.get(name)
        torch = self._recipe.models[self._nearest.model].kind == "torch"
        if technique is None or not set(technique.kinds) & {self._nearest.format, *(["torch"] if torch else [])}:
            return None
        for place, old in enumerate(self._chain):
            ((had, _),) = old.items()
            if had == name or {had, name} <= NUMBERS:
                return old, (*self._chain[:place], step, *self._chain[place + 1 :])
        place = len(self._chain)
        if self._nearest.format not in technique.kinds:  # before the first step that needs the file
            on_files = (
                n for n, old in enumerate(self._chain)
                if "torch" not in self._known[next(iter(old))].kinds
            )  # fmt: skip
            place = next(on_files, place)
        return None, (*self._chain[:place], step, *self._chain[place:])

    def widths(self) -> Iterator[Proposal]:
        """Yield the two least changes of width that are expected to reach it, the greatest where none is."""
        settings, line = self._recipe.models[self._nearest.model].settings, self._lines.get(self._way_of() + "width")
        if "width" not in settings or (line is None and not self._by_accuracy):
            return
        own = width_of(self._recipe, self._nearest.model)
        shares = (_WIDER if line else (_UNTRIED_WIDTH,)) if self._by_accuracy else _NARROWER
        all_of_them = [
            self._proposal(Change("width", math.log(width / own)), f"width {width:g}", self._chain, width=width)
            for width in (round(own * share, 3) for share in shares)
        ]
        found = [one for one in all_of_them if one is not None]
        reach = [one for one in found if one.expected and self._nearer(one) >= self._needed]
        yield from reach[:2] or found[-1:]

    def _way_of(self, chain: Steps = ()) -> str:
        """Return how a variant is packed against the nearest: zeros for size's sake always are."""
        zeros = self._by_size and any(next(iter(step)) in ZEROS for step in chain)
        return (_WAYS[self._is_packed, self._is_packed or zeros]) if self._by_size else ""

    def _made(self, chain: Steps, width: float | None) -> list[Made]:
        """Return the candidates that a variant would be again, but for packing."""
        own = self._nearest.model
        return [
            one for name, one in self._family.items()
            if one.format == self._nearest.format and alike(self._chains[name]) == alike(chain)
            and (one.model == own if width is None else same_but_width(self._recipe, own, one.model)
                 and abs(width_of(self._recipe, one.model) - width) < 1e-6)
        ]  # fmt: skip

    def _proposal(
        self, change: Change, said: str, chain: Steps, *, width: float | None = None, pack: bool = False
    ) -> Proposal | None:
        """Return a proposal, None for what was made before."""
        way = _WAYS[self._is_packed, True] if pack else self._way_of(chain)
        pack, before = self._is_packed or way == _WAYS[False, True], self._made(chain, width)
        if before and not (self._by_size and pack and not any(one.is_packed for one in before)):
            return None
        now, loss = self._nearest.accuracy, self._losses.get(change.kind)
        accuracy = None if loss is None else loss.expected(change.x)
        if accuracy is not None and now is not None:
            accuracy = min(accuracy, 1.0 - now.top1.value)
        found = Proposal(text=said, chain=chain, width=width, pack=pack, accuracy=accuracy)
        if way + change.kind in self._lines:
            line, source = self._lines[way + change.kind]
            chance = line.chance(change.x, math.log(self._miss.factor), upward=self._sign > 0)
            found = msgspec.structs.replace(
                found, expected=math.exp(line.expected(change.x)), seen=line.seen, source=source,
                chance=None if source == "workstation" else chance,
            )  # fmt: skip
        there = f"{before[0].name} is made: publish it with pack: true" if before else None
        return msgspec.structs.replace(found, against=self._against(found) or there)

    def _against(self, one: Proposal) -> str | None:
        if one.expected is not None and self._nearer(one) < _LEAST_CHANGE:
            return "no nearer"
        now, floor = self._nearest.accuracy, self._miss.floor
        if floor is not None and now is not None and one.accuracy is not None and not self._by_accuracy:
            left = now.top1.value + one.accuracy
            if left < floor:
                return f"accuracy {left:.3f} is below {floor:.3f}"
        return None


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
        candidate: dict[str, Any] = {
            "of": name,
            "chain": [dict(step) for step in one.chain],
            "formats": [nearest.format],
        }
        if one.pack:
            candidate["pack"] = True
        if candidate not in candidates:
            candidates.append(candidate)
    return {**document, "models": models, "candidates": candidates}
