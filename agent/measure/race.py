"""Which option to measure next, how far, and when the decision is certain. Pure.

The race knows no rule of selection: it is handed the function that decides, and asks it. Rules:
- An option need not be measured, or measured further, when the decision would be the same even if it turned out as
  good as it possibly can (``prior``). Its reason is the decision's own sentence about that best case.
- Where a ladder is wanted its rungs are part of the decision, and what could be one of them is measured too.
- The most promising comes first: by what is known of the objectives, then by what tends to be fast. So the first option
  that fits usually is the answer, and most of the others are never run.
- A measurement ends early once a budget is missed at the stated error of ``core.sequential``. Where latency is an
  objective and being slower than the leader is all it takes to lose, it also ends once it is shown to be that.
- Where the winner is tied on a latency objective with an option whose figure differs by more than a twentieth, those
  two and their like are measured once more and longer: a wide interval is no reason to prefer the smaller file.
- The budgets' tests are followed until they are decided; a measurement that ends early is a measurement, and what it
  shows holds: after a change of budgets it is asked again what it could be at best.
- A contended option is tried again after all others, a stated number of times.
- Where nothing can fit, for want of a sensor say, one option is measured all the same: to say what is missing.
- What other boards of the class measured says what to try first, and may say what need not be tried: ``newcomer``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from agent.core.budget import Budget, Objective
from agent.core.class_results import ClassView
from agent.core.decision import Choice, ClassCheck, Decision, FromClass, Option, Untried
from agent.core.manifest import Candidate
from agent.core.measurement import Measurement, OperatingPoint
from agent.measure.newcomer import SPOT_CHECK, Newcomer
from agent.measure.plan import LASTING, PlannedRun
from agent.measure.prior import accuracy_at_best, at_best
from agent.measure.promise import promise_of
from agent.measure.protocol import AccuracyTest, LatencyTest
from agent.measure.settings import IN_FULL, NOTHING_AT_STAKE, Stakes
from agent.runtimes.table import plain_point

Decide = Callable[[Sequence[Measurement]], Decision]

QUANTILES = {"latency_p50": 0.50, "latency_p90": 0.90, "latency_p95": 0.95, "latency_p99": 0.99}
_OBSERVED = ("memory_peak", "load_time", "first_inference")
_BUSY = 5  # contended in a row: the machine is busy, and trying again is lost time
_MOST_STARTS = 3  # of one option in one race
_TOLD_APART = 1.05  # of a latency: what two figures may differ by and be left as equal
_LONGER = 8.0  # times the least runs and time: an interval is then about a third as wide
_SLOWER = 1.0 + 1e-6  # strictly past the leader's interval
_BY_CLASS = "by the figures of its class"


class Heat(NamedTuple):
    """The next measurement: what to run, and the limits that may end it early; ``number`` is its place in the plan."""

    number: int
    run: PlannedRun
    stakes: Stakes
    tries: int  # earlier ones that were contended


class Race:
    """One task's candidates on one board. ``next`` and ``add`` in turn, until ``next`` gives None.

    Args:
        runs: all of ``plan``; those with a stored measurement count as measured.
        budgets, objectives: what the decision is taken by.
        decide: the selection over any measurements.
        with_power: whether this board could measure power at all.
        retries: how often a contended option is tried again.
        exhaustive: measure everything in full; nothing is left out or ended early.
        view: what other boards of the class measured; None or of no board: the race is this board's alone.
        checks: what earlier races saw of stored options beside their class.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        budgets: Sequence[Budget],
        objectives: Sequence[Objective],
        decide: Decide,
        *,
        class_fingerprint: str,
        with_power: bool,
        retries: int = 0,
        exhaustive: bool = False,
        view: ClassView | None = None,
        checks: Sequence[ClassCheck] = (),
    ) -> None:
        self._budgets, self._objectives, self._decide = tuple(budgets), tuple(objectives), decide
        self._limits_drop = any(budget.metric == "accuracy_drop" for budget in self._budgets)
        self._class, self._with_power = class_fingerprint, with_power
        self._retries, self._exhaustive = retries, exhaustive
        self._runs = tuple(runs)
        self._measured: dict[object, Measurement] = {}
        self._real: dict[int, object] = {}  # by place in the plan: the key it was really measured under
        self._pending: set[int] = set()
        self._tries: dict[int, int] = {}
        self._starts: dict[int, int] = {}
        self._longer: set[int] = set()
        self._contended_in_a_row = 0
        self._gone: dict[str, str] = {}  # by artifact: why it cannot be had
        self._left_out: set[int] = set()  # under some leader; asked again under the last
        self._reasons: dict[int, str | None] = {}  # ``_pointless`` as things stand
        self._decision: Decision | None = None
        self._newcomer: Newcomer | None = None
        if view is not None and view.boards and not exhaustive:
            self._newcomer = Newcomer(
                view, self._runs, decide, class_fingerprint=class_fingerprint, with_power=with_power
            )
        for number, run in enumerate(self._runs):
            if run.stored is not None:
                self._measured[run.stored.key] = run.stored
                self._real[number] = run.stored.key
                if self._newcomer is not None:
                    self._newcomer.remember(number, run.stored, checks)
            if run.stored is None or run.stored.stopped is not None or (exhaustive and not _in_full(run.stored)):
                self._pending.add(number)
        self._latency = next((o.metric for o in self._objectives if o.metric in QUANTILES), None)

    @property
    def decision(self) -> Decision:
        """The decision over what is measured so far."""
        if self._decision is None:
            self._decision = self._decide(tuple(self._measured.values()))
        return self._decision

    @property
    def open_runs(self) -> int:
        """How many options are neither measured nor left out as far as known now."""
        return len(self._pending - self._left_out)

    def from_class(self) -> FromClass | None:
        """Return what the decision owes to other boards of the class, None where nothing is known of them."""
        if self._newcomer is None:
            return None
        return self._newcomer.account(sum((self._reason(n) or "").startswith(_BY_CLASS) for n in self._reachable()))

    def next(self) -> Heat | None:
        """Return the next measurement to take, or None when nothing that is left could change the decision."""
        if self._exhaustive:
            return next((self._heat(number, IN_FULL) for number in self._waiting()), None)
        if self._newcomer is not None and (check := self._newcomer.to_check(self._may_be_checked)) is not None:
            only_timed = self._newcomer.only_timed(check)
            return self._heat(check, SPOT_CHECK if only_timed else self._stakes(self._runs[check]))
        for asked_before in (False, True):  # what was left out under an earlier leader is asked again under the last
            for number in self._waiting():
                if asked_before or number not in self._left_out:
                    if self._reason(number) is None:
                        return self._heat(number, self._stakes(self._runs[number]))
                    self._left_out.add(number)
        return self._to_be_completed() or self._to_be_told_apart() or self._only_to_say_what_is_missing()

    def add(self, heat: Heat, measurement: Measurement) -> bool:
        """Take the measurement of a heat. Returns: whether it counts; a contended one that is tried again does not."""
        number = heat.number
        self._starts[number] = self._starts.get(number, 0) + 1
        contended = measurement.verdict == "contended"
        self._contended_in_a_row = self._contended_in_a_row + 1 if contended else 0
        if contended and heat.tries < self._retries and self._contended_in_a_row < _BUSY:
            self._tries[number] = heat.tries + 1
            return False
        before = self._measured.get(self._real.get(number))
        if self._newcomer is not None:
            self._newcomer.take(number, measurement)
            self._reasons.clear()
        if before is not None and before.verdict == "ok" and heat.stakes.spot:
            return False  # one more look at it; what was measured of it stands
        if before is not None and before.verdict in LASTING and measurement.verdict not in LASTING:
            self._tries[number] = self._retries + 1  # given up: a busy hour takes no good figure away
            return False
        self._measured[measurement.key] = measurement
        self._real[number] = measurement.key
        self._decision = None
        self._reasons.clear()
        self._pending.discard(number)
        if measurement.stopped is not None and self._starts[number] < _MOST_STARTS:
            self._pending.add(number)
            self._left_out.add(number)
        return True

    def leave_out(self, candidate: Candidate, reason: str) -> None:
        """Take out every point of a candidate that cannot be had."""
        self._gone[candidate.sha256] = reason

    def _heat(self, number: int, stakes: Stakes) -> Heat:
        return Heat(number, self._runs[number], stakes, self._tries.get(number, 0))

    def _to_be_completed(self) -> Heat | None:
        """Return the winner's run where it ended early or was judged on part of its pack: it is run whole then."""
        winner = self.decision.winner
        for number, key in self._real.items():
            measurement = self._measured[key]
            if winner is None or _identity(winner) != (measurement.artifact_sha256, measurement.point):
                continue
            partial = measurement.accuracy is not None and not measurement.accuracy.whole
            if (partial or measurement.stopped is not None) and self._may_start(number):
                return self._heat(number, self._stakes(self._runs[number], whole=True))
        return None

    def _may_start(self, number: int) -> bool:
        """Tell whether an option may be measured once more."""
        return self._starts.get(number, 0) < _MOST_STARTS and self._runs[number].candidate.sha256 not in self._gone

    def _to_be_told_apart(self) -> Heat | None:
        """Return the run of the best option tied with the winner that was not yet measured longer, if they differ."""
        metric = self._latency
        tied = [option for option in self.decision.options if option.tied_with_winner]
        if metric is None or len(tied) < 2:
            return None
        value = {o.measurement_id: v for o in tied if (v := o.estimates[metric].value) is not None}
        by_id = {measurement.id: measurement.key for measurement in self._measured.values()}
        best = min(value.values(), default=0.0)
        winner = next((value[o.measurement_id] for o in tied if o.rank == 1 and o.measurement_id in value), best)
        if winner <= best * _TOLD_APART:
            return None
        for option in sorted(tied, key=lambda o: value.get(o.measurement_id, float("inf"))):
            number = next((n for n, key in self._real.items() if key == by_id[option.measurement_id]), None)
            if number is not None and number not in self._longer and self._may_start(number):
                self._longer.add(number)
                stakes = self._stakes(self._runs[number], whole=True)
                return self._heat(number, msgspec.structs.replace(stakes, longer=_LONGER))
        return None

    def _may_be_checked(self, number: int) -> bool:
        """Tell whether an option of the class can be measured now; one that was contended waits its turn."""
        return not self._tries.get(number, 0) and self._runs[number].candidate.sha256 not in self._gone

    def _only_to_say_what_is_missing(self) -> Heat | None:
        if any(measurement.verdict == "ok" for measurement in self._measured.values()):
            return None
        may_run = (number for number in self._waiting() if self._runs[number].refusal is None)
        return next((self._heat(number, NOTHING_AT_STAKE) for number in may_run), None)

    def untried(self) -> tuple[Untried, ...]:
        """Return the options that have no full measurement, each with why it could or could not change the decision."""
        found = []
        for number in self._in_order():
            run, reason = self._runs[number], self._reason(number)
            partly = self._measured.get(self._real.get(number))
            if run.refusal is None:
                ended = f"ended early: {partly.stopped}" if partly is not None and partly.stopped else reason
                found.append(_untried(run, ended or "it could change the decision", could_matter=reason is None))
        gone = [self._runs[number] for number in sorted(self._pending) if number not in self._reachable()]
        return (*found, *(_untried(run, self._gone[run.candidate.sha256], could_matter=True) for run in gone))

    def _reachable(self) -> set[int]:
        return {number for number in self._pending if self._runs[number].candidate.sha256 not in self._gone}

    def _in_order(self) -> list[int]:
        return sorted(self._reachable(), key=self._turn)

    def _waiting(self) -> list[int]:
        return [number for number in self._in_order() if self._tries.get(number, 0) <= self._retries]

    def _turn(self, number: int) -> tuple[object, ...]:
        """Return the sort key of whose turn it is: as the class has it where it is believed, else by promise."""
        place = self._newcomer.place(number) if self._newcomer is not None else 0.0
        known = tuple(self._measured.values())
        return (self._tries.get(number, 0), place, *promise_of(self._runs[number], self._objectives, known))

    def _reason(self, number: int) -> str | None:
        """Return what ``_pointless`` says of a planned option, asked once for each state of the race."""
        if number not in self._reasons:
            self._reasons[number] = self._pointless(self._runs[number])
        return self._reasons[number]

    def _pointless(self, run: PlannedRun, at_least: dict[str, float] | None = None) -> str | None:
        """Return why measuring this option cannot change the decision, None if it could."""
        if run.refusal is not None:
            return None  # it costs nothing, and the record says why it was not run
        reason = self._lost_at_best(run, at_least or {})
        floors = self._newcomer.floors(run.candidate, self._real_point(run)) if self._newcomer is not None else {}
        if reason is not None or not floors:
            return reason
        known = {name: max(value, (at_least or {}).get(name, 0.0)) for name, value in floors.items()}
        reason = self._lost_at_best(run, {**(at_least or {}), **known})
        return None if reason is None else f"{_BY_CLASS}, {reason}"

    def _lost_at_best(self, run: PlannedRun, at_least: dict[str, float]) -> str | None:
        measured = tuple(self._measured.values())
        sentence = ""
        for errs_like_best in (False, True) if self._limits_drop else (False,):
            best = at_best(
                run.candidate,
                self._real_point(run),
                measured,
                class_fingerprint=self._class,
                with_power=self._with_power,
                at_least=at_least,
                errs_like_best=errs_like_best,
            )
            with_it = self._decide((*(m for m in measured if m.key != best.key), best))
            if _chosen(with_it) != _chosen(self.decision):
                return None
            sentence = _at_best_text(next(o for o in with_it.options if o.measurement_id == best.id))
        return sentence

    def _real_point(self, run: PlannedRun) -> OperatingPoint:
        """Return the point its measurements stand under: the built-in kernels', where XNNPACK took no node before."""
        plain = plain_point(run.point)
        seen = {m.point for m in self._measured.values() if m.artifact_sha256 == run.candidate.sha256}
        return plain if plain is not None and plain in seen and run.point not in seen else run.point

    def _stakes(self, run: PlannedRun, *, whole: bool = False) -> Stakes:
        if self._sets_the_bar(run):
            return NOTHING_AT_STAKE
        latency = [
            LatencyTest(metric=budget.metric, q=QUANTILES[budget.metric], limit_s=budget.limit)
            for budget in self._budgets
            if budget.metric in QUANTILES
        ]
        accuracy = max((budget.limit for budget in self._budgets if budget.metric == "accuracy_top1"), default=None)
        compared = {"accuracy_top1", "accuracy_drop"} & {
            *(objective.metric for objective in self._objectives),
            *(["accuracy_drop"] if self._limits_drop else []),
        }
        may_stop = not compared and not whole
        rival = None if whole else self._rival(run)
        return Stakes(
            bounded=tuple(QUANTILES[o.metric] for o in self._objectives if o.metric in QUANTILES),
            evaluate=bool(compared) or accuracy is not None,
            latency=(*latency, *([rival] if rival is not None else [])),
            observed={budget.metric: budget.limit for budget in self._budgets if budget.metric in _OBSERVED},
            accuracy=None if accuracy is None else AccuracyTest(limit=accuracy, may_stop_when_met=may_stop),
        )

    def _sets_the_bar(self, run: PlannedRun) -> bool:
        """Tell whether accuracy is limited relative to the best, and this option may be that best."""
        if not self._limits_drop:
            return False
        top1 = accuracy_at_best(run.candidate, run.point.engine, tuple(self._measured.values()))
        seen = [m.accuracy.top1.value for m in self._measured.values() if m.verdict == "ok" and m.accuracy is not None]
        return top1 is not None and top1 > max(seen, default=-1.0)

    def _rival(self, run: PlannedRun) -> LatencyTest | None:
        """Return the leader's figure as a limit, where being slower than it would lose whatever else is measured."""
        winner, metric = self.decision.winner, self._latency
        if winner is None or metric is None:
            return None
        leader = next(o for o in self.decision.options if (o.artifact_sha256, o.point) == _identity(winner))
        high = leader.estimates[metric].high
        if high is None or self._pointless(run, {metric: high * _SLOWER}) is None:
            return None
        return LatencyTest(metric=metric, q=QUANTILES[metric], limit_s=high * _SLOWER, decides=False)


def _untried(run: PlannedRun, reason: str, *, could_matter: bool) -> Untried:
    return Untried(
        candidate=run.candidate.name,
        artifact_sha256=run.candidate.sha256,
        point=run.point,
        reason=reason,
        could_matter=could_matter,
    )


def _in_full(measurement: Measurement) -> bool:
    """Tell whether there is nothing more to be had: it was timed in several processes, or cannot be timed."""
    return measurement.latency is None or bool(measurement.latency.process_n)


def _identity(choice: Choice) -> tuple[object, object]:
    return (choice.artifact_sha256, choice.point)


def _chosen(decision: Decision) -> list[tuple[object, object]]:
    """Return what a decision comes to: its winner, and the rungs below it."""
    rungs = (rung.choice for rung in decision.ladder[1:])
    return [] if decision.winner is None else [_identity(one) for one in (decision.winner, *rungs)]


def _at_best_text(option: Option) -> str:
    if option.standing == "fits":
        _, _, lost = option.reason.partition("; ")
        return f"at best it {lost or option.reason}"
    return f"even at best: {option.reason}"
