"""How far a board may go by what others of its class measured: what it tries first, and what it need not try. Pure.

Leaves who may speak for a class to whoever hands the figures in, and pooling to ``agent.core.class_results``. Rules:
- What the class would choose is measured here first, in full. Then, where the class's figures are firm, one neighbour
  is timed and no more: of the next five of other files in the class's order, the one its boards agree on best.
- The spot-check is a sequential test on the logarithm of own over class, a look being the median of one process: it
  weighs a board ``SHIFT`` times as slow, or as fast, against one of the class, with the class's own spread (Wald 1945,
  Annals of Mathematical Statistics 16(2)). It disagrees with a chance of at most ``FALSE_DISAGREE`` on a board of the
  class, never by one look alone, and agrees with at most ``FALSE_AGREE`` on one that is so far off. What one look
  leaves open is timed again, in another process, up to ``LOOKS`` looks.
- Once the winner and the neighbour agree, firm figures of the class bound what an option can be at best: divided by
  ``BOUND``, as ``prior`` takes them. A metric in which any option measured here is better than that bounds nothing.
- As soon as one of the two disagrees, or any option measured here is faster than its class says, or the two cannot be
  held against the class, nothing is left out on its word: the race goes on as if there were none.
- A budget is met by what this board measured, and by nothing else. What the class says can only keep an option from
  being tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from agent.core.class_results import BOUND, ClassView, OptionPool, Pooled, log_likelihood_ratio, result_of
from agent.core.decision import ClassCheck, Decision, FromClass
from agent.core.manifest import Candidate
from agent.core.measurement import AccuracyFigures, Figure, Measurement, OperatingPoint
from agent.measure.plan import PlannedRun
from agent.measure.prior import SLACK, at_best
from agent.measure.settings import Stakes
from agent.runtimes.table import plain_point

BOUNDING = (
    "latency_p50", "latency_p90", "latency_p95", "latency_p99", "memory_peak", "power_mean", "energy_per_inference",
)  # fmt: skip
_PREDICTING = (*BOUNDING, "load_time", "accuracy_top1")
SHIFT = BOUND * BOUND
FALSE_DISAGREE, FALSE_AGREE = 0.001, 0.05
LOOKS = 6
_WAYS = (math.log(SHIFT), -math.log(SHIFT))
_DISAGREES = math.log((1.0 - FALSE_AGREE) / (FALSE_DISAGREE / 2.0))  # two ways to disagree
_AGREES = math.log(FALSE_AGREE / (1.0 - FALSE_DISAGREE / 2.0))
_NEAR = 5  # options of other files among which the neighbour is
_DEAR = 4.0  # times the winner's latency: what is slower is no neighbour while there is another
_AS_OF = 1000  # samples that a class's accuracy is taken as, where only the order is asked for
SPOT_CHECK = Stakes(evaluate=False, longer=0.3, spot=True)  # thirty of the usual least runs; it needs about ten

Decide = Callable[[Sequence[Measurement]], Decision]


class Looks:
    """What was seen of one option against its class, look by look. Args: point: the one it was really run at."""

    def __init__(self, pool: Pooled, point: OperatingPoint) -> None:
        self._pool, self._point = pool, point
        self._seen: list[float] = []

    def add(self, own_s: float) -> None:
        """Take the median of one process in seconds."""
        self._seen.append(math.log(own_s / self._pool.value))

    @property
    def own_s(self) -> float:
        """The geometric mean of the looks in seconds."""
        return self.ratio * self._pool.value

    @property
    def count(self) -> int:
        """How many there were."""
        return len(self._seen)

    @property
    def ratio(self) -> float:
        """Own over class."""
        return math.exp(math.fsum(self._seen) / len(self._seen))

    @property
    def state(self) -> Literal["agrees", "disagrees", "undecided"]:
        """Where the test stands."""
        weighed = [math.fsum(log_likelihood_ratio(x, self._pool.spread, way) for x in self._seen) for way in _WAYS]
        if max(weighed) >= _DISAGREES:
            return "disagrees" if self.count > 1 else "undecided"
        return "agrees" if max(weighed) <= _AGREES else "undecided"

    @property
    def too_fast(self) -> bool:
        """Whether it is faster than its class says, if what was seen so far is to be believed."""
        seen = math.fsum(log_likelihood_ratio(x, self._pool.spread, _WAYS[1]) for x in self._seen)
        return seen >= _DISAGREES

    def check(self, run: PlannedRun) -> ClassCheck:
        """Return the document."""
        return ClassCheck(
            candidate=run.candidate.name,
            artifact_sha256=run.candidate.sha256,
            point=self._point,
            state=self.state,
            ratio=self.ratio,
            own_s=self.own_s,
            looks=self.count,
            boards=self._pool.boards,
        )


class Newcomer:
    """One task's options on one board, with what its class says of them.

    Args: runs: all that are planned here. decide: the selection over any measurements.
    """

    def __init__(
        self, view: ClassView, runs: Sequence[PlannedRun], decide: Decide, *, class_fingerprint: str, with_power: bool
    ) -> None:
        self._view, self._runs, self._decide = view, tuple(runs), decide
        self._class, self._with_power = class_fingerprint, with_power
        self._order = self._predicted()
        self._place = {number: place for place, number in enumerate(self._order)}
        self._firm = any(figure.firm for pool in view.options.values() for figure in pool.figures.values())
        self._wanted = self._winner_and_neighbour()
        self._unchecked: set[int] = set()  # gave nothing that can be held against the class
        self._looks: dict[int, Looks] = {}
        self._too_good: set[str] = set()  # metrics in which the class's figures bound nothing here

    @property
    def boards(self) -> int:
        """How many other boards told anything."""
        return self._view.boards

    def place(self, number: int) -> float:
        """Return the place of a planned run in the class's order; what the class does not know comes after it."""
        return self._place.get(number, float("inf")) if self.refuting is None else 0.0

    @property
    def refuting(self) -> int | None:
        """The planned run that is not what its class says, None where there is none."""
        for number, looks in self._looks.items():
            if looks.too_fast or (looks.state == "disagrees" and number in self._wanted):
                return number
        return None

    @property
    def confirmed(self) -> bool:
        """Whether the class's figures may bound what is possible here."""
        agree = all(number in self._looks and self._looks[number].state == "agrees" for number in self._wanted)
        return self._firm and bool(self._wanted) and agree and self.refuting is None

    def remember(self, number: int, stored: Measurement, checks: Sequence[ClassCheck]) -> None:
        """Take what was measured here before, with the looks that an earlier race took at it."""
        self.take(number, stored)
        key = (stored.artifact_sha256, stored.point)
        check = next((one for one in checks if (one.artifact_sha256, one.point) == key), None)
        if check is not None and number in self._looks and check.looks > 1 and check.own_s > 0:
            self._looks[number] = looks = Looks(self._view.options[key].figures["latency_p50"], stored.point)
            for _ in range(min(check.looks, LOOKS)):
                looks.add(check.own_s)

    def to_check(self, can_be_had: Callable[[int], bool]) -> int | None:
        """Return the planned run to measure for the class's sake, None once that is settled."""
        for number in self._wanted:
            looks = self._looks.get(number)
            if looks is not None and looks.state != "undecided":
                continue
            if number in self._unchecked or not can_be_had(number):
                return None
            if looks is None or (self._firm and looks.count < LOOKS):
                return number
        return None

    def only_timed(self, number: int) -> bool:
        """Tell whether to time a run that is to be checked is enough: the neighbour, and every look but the first."""
        return number != self._order[0] or number in self._looks

    def take(self, number: int, measurement: Measurement) -> None:
        """Take one look: what a planned run was measured as.

        XNNPACK may have taken no node of it: its point is another then.
        """
        pool = self._view.options.get((measurement.artifact_sha256, measurement.point))
        if pool is None or measurement.verdict != "ok" or measurement.latency is None:
            self._unchecked.add(number)
            return
        if "latency_p50" in pool.figures:
            looks = self._looks.setdefault(number, Looks(pool.figures["latency_p50"], measurement.point))
            looks.add(measurement.latency.p50_s.value)
        own = result_of(measurement)
        for metric in BOUNDING:
            value, theirs = own.figure(metric), pool.figures.get(metric)
            if metric != "latency_p50" and value is not None and theirs is not None and value < theirs.value / BOUND:
                self._too_good.add(metric)
        top1, of_class = own.figure("accuracy_top1"), pool.figures.get("accuracy_top1")
        if top1 is not None and of_class is not None and top1 > of_class.value + SLACK:
            self._too_good.add("accuracy_top1")

    def floors(self, candidate: Candidate, point: OperatingPoint) -> dict[str, float]:
        """Return what an option's figures are no better than here, by metric; empty until the class is confirmed."""
        pool = self._pool(candidate, point)
        if pool is None or not self.confirmed:
            return {}
        firm = {name: one.value for name, one in pool.figures.items() if one.firm and name not in self._too_good}
        floors = {name: value / BOUND for name, value in firm.items() if name in BOUNDING}
        if "accuracy_top1" in firm:
            floors["accuracy_top1"] = firm["accuracy_top1"] + SLACK
        return floors

    def account(self, left_out: int) -> FromClass:
        """Return what a decision owes to the class. Args: left_out: options not tried because of its figures."""
        checks = tuple(looks.check(self._runs[number]) for number, looks in self._looks.items())
        of = f"{self.boards} other board{'' if self.boards == 1 else 's'} of this class"
        use, refuting = "order", self.refuting
        if refuting is not None:
            run, ratio = self._runs[refuting], self._looks[refuting].ratio
            use = "none"
            why = (
                f"{run.candidate.name} ({run.point.label}) takes {ratio:.2f} times as long here as on {of}: measured "
                "as if there were none"
            )
        elif not self._order:
            use, why = "none", f"{of} told nothing of what is planned here"
        elif not self._firm:
            why = f"tried in the order of {of}, which are too few to leave anything out on their word"
        elif not self.confirmed:
            why = f"tried in the order of {of}; not shown to be like them, so nothing was left out on their word"
        else:
            use = "bounds"
            why = f"its latency agrees with {of}: {left_out} options were left out by their figures"
        return FromClass(boards=self.boards, use=use, reason=why, checks=checks, left_out=left_out)  # type: ignore[arg-type]

    def _winner_and_neighbour(self) -> tuple[int, ...]:
        """Return the run that the class would choose, and its neighbour where anything the class says is firm."""
        if not self._order:
            return ()
        first = self._order[0]
        sha256 = self._runs[first].candidate.sha256
        others = [number for number in self._order[1:] if self._runs[number].candidate.sha256 != sha256]
        dear = _DEAR * self._latency(first).value
        quick = [number for number in others if self._latency(number).value <= dear]
        near = (quick or others or list(self._order[1:]))[:_NEAR]
        return (first, *([min(near, key=lambda number: self._latency(number).spread)] if near and self._firm else []))

    def _latency(self, number: int) -> Pooled:
        pool = self._pool(self._runs[number].candidate, self._runs[number].point)
        assert pool is not None, "only what the class knows has a place in its order"
        return pool.figures["latency_p50"]

    def _pool(self, candidate: Candidate, point: OperatingPoint) -> OptionPool | None:
        """Return what the class says of an option, under the point it was planned or really run at."""
        names = (point, plain_point(point))
        pools = (self._view.options.get((candidate.sha256, name)) for name in names if name is not None)
        return next((pool for pool in pools if pool is not None), None)

    def _predicted(self) -> tuple[int, ...]:
        """Return the planned runs that the class has a latency of, in the order of the decision over its figures."""
        numbers: dict[str, int] = {}
        predicted = []
        for number, run in enumerate(self._runs):
            pool = self._pool(run.candidate, run.point)
            if run.refusal is not None or pool is None or "latency_p50" not in pool.figures:
                continue
            figures = {metric: pool.figures[metric].value for metric in _PREDICTING if metric in pool.figures}
            predicted.append(self._as_good_as(run, figures))
            numbers[predicted[-1].id] = number
        if not predicted:
            return ()
        return tuple(numbers[option.measurement_id] for option in self._decide(predicted).options)

    def _as_good_as(self, run: PlannedRun, figures: dict[str, float]) -> Measurement:
        found = at_best(
            run.candidate, run.point, (), class_fingerprint=self._class, with_power=self._with_power, at_least=figures
        )
        top1 = figures.get("accuracy_top1")
        if top1 is None or found.accuracy is None:
            return found
        exactly = Figure(value=top1, low=top1, high=top1)
        accuracy = AccuracyFigures(top1=exactly, correct=round(top1 * _AS_OF), n=_AS_OF, pack_sha256="")
        return msgspec.structs.replace(found, accuracy=accuracy)
