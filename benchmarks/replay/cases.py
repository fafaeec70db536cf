"""The frozen cases: which recorded points compete, for what, under which budgets. Seeded; the same from the same bank.

Rules:
- A budget on latency lies between the 15th and the 85th percentile of the true p95s of the case; in the main set no
  true p95 is within 8 % of it, and a measured objective's best is 20 % ahead of the next: what a figure moves by
  between minutes on a shared machine, such as the one the bank is from. The other set (``near_tie``)
  has the smallest file within 5 % of the limit, and is scored by regret alone.
- Truth is the dump whole, less blocks that waited for a core; of a point that is contended throughout it is what it
  does when it is left alone, and no protocol can be asked to choose it.
- What is drawn and not recorded says so in ``drawn``: sizes, lower accuracies, power. Latency is always recorded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from agent.core.budget import Budget, Objective, parse_limit
from agent.core.manifest import Candidate, ReferenceAccuracy
from agent.core.measurement import Figure
from agent.core.statistics import percentile, proportion_interval
from benchmarks.replay.bank import Bank, Dump, Point
from benchmarks.replay.virtual import WARM_RUNS, Power

MARGIN = 0.08
OBJECTIVE_MARGIN = 0.2
NEAR = 0.05
MOST_WAIT = 0.1  # of a block's wall time: the product's own rule of what is contended
BLOCK_NS = 100_000_000
SPEEDS = (0.5e-3, 4e-3)  # seconds; points are drawn evenly from below, between and above
_TRIES = 400


class Entry(NamedTuple):
    """One point of a case: what was recorded of it, and which dump each attempt at it meets; the last one repeats."""

    point: Point
    attempts: tuple[Dump, ...]  # empty where it does not load
    alone: Dump | None  # what it does when it is left alone, for the truth

    @property
    def candidate(self) -> Candidate:
        return self.point.candidate


class Case(NamedTuple):
    """One decision to be made."""

    name: str
    kind: str
    seed: int
    entries: tuple[Entry, ...]
    budgets: tuple[Budget, ...]
    objectives: tuple[Objective, ...]
    near_tie: bool = False
    power: Mapping[str, Power] = MappingProxyType({})  # by point key
    drawn: tuple[str, ...] = ()


def clean_latencies(dump: Dump) -> list[float]:
    """Return the seconds of all runs after warm-up that stood in blocks of 0.1 s that had their cores, in order."""
    return list(_clean(dump))


@cache
def _clean(dump: Dump) -> tuple[float, ...]:
    kept: list[float] = []
    block: list[int] = []
    waited = wall = seen = 0
    for piece in dump.pieces:
        seen += len(piece.latencies_ns)
        if seen <= WARM_RUNS and seen < dump.head.runs // 2:
            continue
        block += piece.latencies_ns
        waited, wall = waited + piece.waited_ns, wall + piece.wall_ns
        if wall >= BLOCK_NS:
            if waited <= MOST_WAIT * wall:
                kept += [ns / 1e9 for ns in block]
            block, waited, wall = [], 0, 0
    return tuple(kept)


@cache
def true_p95_s(dump: Dump) -> float:
    """Return the p95 of ``clean_latencies``."""
    return percentile(_clean(dump), 0.95)


def clean_share(dump: Dump) -> float:
    """Return the share of runs that stood in clean blocks."""
    return len(_clean(dump)) / max(1, dump.head.runs)


class _Pool:
    """What cases draw from."""

    def __init__(self, bank: Bank) -> None:
        self.good: list[Entry] = []
        self.broken: list[Entry] = []
        self.under: dict[str, list[Entry]] = {"contended": [], "drifting": [], "bimodal": [], "throttled": []}
        for key, point in bank.points.items():
            quiet = [dump for dump in bank.dumps_of(key, "quiet") if clean_share(dump) >= 0.8]
            if point.verdict != "ok":
                if point.verdict != "wrong_output" or quiet:
                    self.broken.append(Entry(point, tuple(quiet), quiet[0] if quiet else None))
                continue
            if not quiet:
                continue
            self.good.append(Entry(point, (quiet[0],), quiet[0]))
            for dump in bank.dumps_of(key, "contended"):
                self.under["contended"].append(Entry(point, (dump,), quiet[0]))
            for name in ("drifting", "bimodal", "throttled"):
                for dump in bank.dumps_of(key, name):
                    if len(_clean(dump)) >= 200:
                        self.under[name].append(Entry(point, (dump,), dump))


def _with_candidate(entry: Entry, candidate: Candidate) -> Entry:
    return entry._replace(point=msgspec.structs.replace(entry.point, candidate=candidate))


def _draw_sizes(entries: Sequence[Entry], draw: random.Random) -> tuple[Entry, ...]:
    """Give every candidate a file length between 50 kB and 20 MB, drawn on a logarithmic scale."""
    names = sorted({entry.candidate.name for entry in entries})
    sizes = {name: int(50e3 * 400 ** draw.random()) for name in names}
    return tuple(
        _with_candidate(entry, msgspec.structs.replace(
            entry.candidate, target=msgspec.structs.replace(entry.candidate.target, length=sizes[entry.candidate.name])
        ))
        for entry in entries
    )  # fmt: skip


def _draw_accuracies(entries: Sequence[Entry], draw: random.Random) -> tuple[Entry, ...]:
    """Take right answers away at random, so that candidates differ: each keeps a share of 0.78 to 1 of its own."""
    names = sorted({entry.candidate.name for entry in entries})
    kept = {name: draw.choice((1.0, draw.uniform(0.78, 0.9), draw.uniform(0.9, 1.0))) for name in names}
    lost: dict[str, int] = {}  # as one number: the samples that a candidate gets wrong from now on
    found = []
    for entry in entries:
        accuracy = entry.point.accuracy
        assert accuracy is not None
        length = 8 * len(bytes.fromhex(accuracy.correct_bits))
        name = entry.candidate.name
        if name not in lost:
            lost[name] = sum(1 << place for place in range(length) if draw.random() > kept[name])
        bits = int(accuracy.correct_bits, 16) & ~lost[name]
        correct = bits.bit_count()
        interval = proportion_interval(correct, accuracy.n)
        drawn = msgspec.structs.replace(
            accuracy, correct=correct, correct_bits=f"{bits:0{length // 4}x}",
            top1=Figure(value=correct / accuracy.n, low=interval.low, high=interval.high),
        )  # fmt: skip
        reference = ReferenceAccuracy(value=correct / accuracy.n, n=accuracy.n, data="drawn")
        manifest = msgspec.structs.replace(entry.candidate.manifest, reference=reference)
        candidate = msgspec.structs.replace(entry.candidate, manifest=manifest)
        found.append(entry._replace(point=msgspec.structs.replace(entry.point, candidate=candidate, accuracy=drawn)))
    return tuple(found)


def _draw_power(entries: Sequence[Entry], draw: random.Random) -> dict[str, Power]:
    """Declare 2 W of idle, and 1 to 4 W above it for each point."""
    return {entry.point.key: Power(2.0, 2.0 + draw.uniform(1.0, 4.0)) for entry in entries}


def p95s(entries: Sequence[Entry]) -> list[float]:
    """Return the true p95s of all that load, in seconds."""
    return [true_p95_s(entry.alone) for entry in entries if entry.alone is not None and entry.point.verdict == "ok"]


def _clear_limit(values: Sequence[float], draw: random.Random, low: float = 0.15, high: float = 0.85) -> float | None:
    """Draw a limit between two quantiles of ``values`` from which all of them keep their distance."""
    ordered = sorted(values)
    for _ in range(_TRIES):
        place = draw.uniform(low, high) * (len(ordered) - 1)
        below, above = ordered[int(place)], ordered[min(int(place) + 1, len(ordered) - 1)]
        limit = _rounded(draw.uniform(below, above))
        if all(abs(value / limit - 1.0) > MARGIN for value in ordered):
            return limit
    return None


def _is_clear(figure: Figure, limit: float) -> bool:
    return figure.low is not None and figure.high is not None and not figure.low <= limit <= figure.high


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _latency(limit_s: float) -> Budget:
    return parse_limit("latency_p95", f"{limit_s * 1e3:.6g} ms", where="case")


_SIZE = (Objective(direction="minimize", metric="size"),)
_ACCURACY = (Objective(direction="maximize", metric="accuracy_top1"),)
_FAST = (Objective(direction="minimize", metric="latency_p95"),)
_THRIFTY = (Objective(direction="minimize", metric="energy_per_inference"),)


Change = Callable[[list[Entry]], list[Entry]]


class _Maker:
    """Draws the cases of one seed."""

    def __init__(self, pool: _Pool, seed: int) -> None:
        self.pool, self.seed = pool, seed
        self.draw = random.Random(seed)

    def some(self, wanted: Callable[[Entry], bool] = lambda _: True, least: int = 8, most: int = 20) -> list[Entry]:
        """Draw 8 to 20 points that load, none twice, as many below 0.5 ms as from there to 4 ms and above."""
        left: list[list[Entry]] = [[], [], []]
        for entry in self.pool.good:
            if wanted(entry) and entry.alone is not None:
                left[sum(true_p95_s(entry.alone) >= edge for edge in SPEEDS)].append(entry)
        for group in left:
            self.draw.shuffle(group)
        taken: list[Entry] = []
        count = self.draw.randint(least, most)
        while len(taken) < count and any(left):
            taken += [group.pop() for group in left if group]
        return taken[:count]

    def size(self, kind: str, change: Change | None = None, *, real: bool = False) -> Case | None:
        """Smallest file within a latency budget; ``change`` puts other entries in the place of some."""
        entries = self.some()
        if change is not None:
            entries = change(entries)
        chosen = tuple(entries) if real else _draw_sizes(entries, self.draw)
        limit = _clear_limit(p95s(chosen), self.draw)
        return (limit and self._case(kind, chosen, (_latency(limit),), _SIZE, drawn=() if real else ("size",))) or None

    def put(self, condition: str, count: int) -> Change:
        """Return a change that lets ``count`` points meet a condition instead."""

        def change(entries: list[Entry]) -> list[Entry]:
            others = self.draw.sample(self.pool.under[condition], min(count, len(self.pool.under[condition])))
            keys = {entry.point.key for entry in others}
            return [entry for entry in entries if entry.point.key not in keys] + others

        return change

    def put_passing(self, count: int) -> Change:
        """Return a change under which ``count`` points are contended at the first attempt and alone at the next."""

        def change(entries: list[Entry]) -> list[Entry]:
            changed = self.put("contended", count)(entries)
            return [
                entry._replace(attempts=(*entry.attempts, entry.alone))
                if entry.alone is not None and entry.attempts != (entry.alone,) else entry
                for entry in changed
            ]  # fmt: skip

        return change

    def put_broken(self, count: int) -> Change:
        def change(entries: list[Entry]) -> list[Entry]:
            return entries + self.draw.sample(self.pool.broken, min(count, len(self.pool.broken)))

        return change

    def accurate(self) -> Case | None:
        """Highest accuracy within a latency budget."""
        entries = _draw_accuracies(self.some(lambda entry: entry.point.accuracy is not None), self.draw)
        limit = _clear_limit(p95s(entries), self.draw)
        return (limit and self._case("accuracy", entries, (_latency(limit),), _ACCURACY, drawn=("accuracy",))) or None

    def accuracy_budget(self) -> Case | None:
        """Smallest file within a latency and an accuracy budget; no accuracy's interval spans its limit."""
        entries = _draw_accuracies(self.some(lambda entry: entry.point.accuracy is not None), self.draw)
        entries = _draw_sizes(entries, self.draw)
        figures = [entry.point.accuracy.top1 for entry in entries if entry.point.accuracy is not None]
        limit = _clear_limit(p95s(entries), self.draw, 0.3)
        for percent in self.draw.sample(range(80, 98), 18):
            if limit and all(_is_clear(figure, percent / 100) for figure in figures):
                accuracy = parse_limit("accuracy_top1", f">= {percent} %", where="case")
                budgets = (_latency(limit), accuracy)
                return self._case("accuracy budget", entries, budgets, _SIZE, drawn=("size", "accuracy"))
        return None

    def memory_budget(self) -> Case | None:
        """Smallest file within a latency and a memory budget."""
        entries = _draw_sizes(self.some(lambda entry: entry.point.memory is not None), self.draw)
        peaks = [float(entry.point.memory.admission_peak_bytes) for entry in entries if entry.point.memory is not None]
        limit = _clear_limit(p95s(entries), self.draw, 0.3)
        ordered = sorted(peaks)
        memory = ordered[self.draw.randint(len(ordered) // 3, len(ordered) - 2)] * 1.01
        if limit is None:
            return None
        budgets = (_latency(limit), parse_limit("memory_peak", f"{memory / 1e6:.4g} MB", where="case"))
        return self._case("memory budget", entries, budgets, _SIZE, drawn=("size",))

    def fastest(self) -> Case | None:
        """Lowest p95 within a budget on the file's size, which is known: the objective has to be measured."""
        entries = _draw_sizes(self.some(most=12), self.draw)
        ordered = sorted(entry.candidate.size_bytes for entry in entries)
        size = ordered[self.draw.randint(len(ordered) // 2, len(ordered) - 1)]
        fit = sorted(p95s([entry for entry in entries if entry.candidate.size_bytes <= size * 1.001]))
        if len(fit) < 3 or fit[1] < fit[0] * (1.0 + OBJECTIVE_MARGIN):
            return None
        budgets = (parse_limit("size", f"{size * 1.001 / 1e6:.6g} MB", where="case"),)
        return self._case("latency objective", entries, budgets, _FAST, drawn=("size",))

    def thriftiest(self) -> Case | None:
        """Lowest energy within a latency budget."""
        entries = tuple(self.some(most=12))
        power = _draw_power(entries, self.draw)
        limit = _clear_limit(p95s(entries), self.draw, 0.4)
        if limit is None:
            return None
        energies = sorted(
            (power[e.point.key].running_w - power[e.point.key].idle_w) * mean_s(e.alone)
            for e in entries if e.alone is not None and true_p95_s(e.alone) <= limit
        )  # fmt: skip
        if len(energies) < 2 or energies[1] < energies[0] * (1.0 + OBJECTIVE_MARGIN):
            return None
        return self._case("energy objective", entries, (_latency(limit),), _THRIFTY, power=power, drawn=("power",))

    def nothing_fits(self) -> Case | None:
        """A budget below everything."""
        entries = _draw_sizes(self.some(), self.draw)
        limit = _rounded(min(p95s(entries)) / (1.0 + self.draw.uniform(0.15, 1.0)))
        return self._case("nothing fits", entries, (_latency(limit),), _SIZE, drawn=("size",))

    def near(self) -> Case | None:
        """A budget within 5 % of the p95 of the smallest file, above or below."""
        entries = _draw_sizes(self.some(), self.draw)
        smallest = min(entries, key=lambda entry: entry.candidate.size_bytes)
        assert smallest.alone is not None
        limit = _rounded(true_p95_s(smallest.alone) * (1.0 + self.draw.uniform(-NEAR, NEAR)))
        case = self._case("near tie", entries, (_latency(limit),), _SIZE, drawn=("size",))
        return case._replace(near_tie=True)

    def _case(
        self, kind: str, entries: Sequence[Entry], budgets: tuple[Budget, ...], objectives: tuple[Objective, ...],
        *, power: dict[str, Power] | None = None, drawn: tuple[str, ...] = (),
    ) -> Case:  # fmt: skip
        name = f"{kind} {self.seed}"
        return Case(name, kind, self.seed, tuple(entries), budgets, objectives, False, power or {}, drawn)


@cache
def mean_s(dump: Dump) -> float:
    """Return the mean of ``clean_latencies``."""
    values = _clean(dump)
    return sum(values) / len(values)


#: How many of each kind; every function takes the maker of one seed.
KINDS: tuple[tuple[int, Callable[[_Maker], Case | None]], ...] = (
    (16, lambda m: m.size("size", real=True)),
    (16, lambda m: m.size("size, drawn")),
    (20, _Maker.accurate),
    (12, _Maker.accuracy_budget),
    (12, _Maker.memory_budget),
    (10, _Maker.fastest),
    (6, _Maker.thriftiest),
    (6, _Maker.nothing_fits),
    (6, lambda m: m.size("contended throughout", m.put("contended", 4))),
    (8, lambda m: m.size("contended, then not", m.put_passing(4))),
    (10, lambda m: m.size("drifting", m.put("drifting", 5))),
    (10, lambda m: m.size("bimodal", m.put("bimodal", 5))),
    (10, lambda m: m.size("throttled", m.put("throttled", 5))),
    (10, lambda m: m.size("not loading", m.put_broken(5))),
    (20, _Maker.near),
)


def make(bank: Bank, draw_number: int = 0) -> tuple[Case, ...]:
    """Return all cases of a bank; another draw has other cases of the same kinds.

    Raises: ValueError: the bank has too little of something.
    """
    pool = _Pool(bank)
    cases: list[Case] = []
    for number, (count, draw) in enumerate(KINDS):
        found = 0
        for attempt in range(200):
            if found == count:
                break
            case = draw(_Maker(pool, 100_000 * draw_number + 1000 * (number + 1) + attempt))
            if case is not None:
                cases.append(case)
                found += 1
        if found < count:
            raise ValueError(f"the bank gives {found} of {count} cases of kind {number}")
    return tuple(cases)
