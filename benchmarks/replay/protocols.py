"""The oracle, the baselines and the product, each deciding one case on recorded runs. All pay for all they do.

What is charged: process start and import, load, first run, warm-up, timed runs, power windows, evaluation, golden data,
the process's end, waiting before a retry, retries. Rules of the baselines, each in its favour where there was a choice:

- All warm up as the product does, and decide with the product's own ``decide`` on the values they took for the truth.
- ``exhaustive``: 60 s and 1,024 runs of every point, as MLPerf asks. Its figures are the dump whole, contended blocks
  left out, and it meets every point left alone: it is the oracle too. It pays for one attempt.
- ``fixed-50``: 50 runs of every point (``litert-benchmark``'s default), sample p95; knows nothing of contention.
- ``59 none above``: 59 runs of every point; a p95 budget is met if none is above it.
- ``halving``: four runs of every point, then the better half goes on with twice as many, three times, in the same
  process: first who is within budget by its sample median, then who is worth more. Then the product's sequential test
  in order of worth, among those left and then among the others, until one passes.
- ``litert default``: the tool's whole default: 50 runs and at least 1 s of them, after at least 0.5 s of warm-up.
- Evaluation is paid for only where a budget or the objective asks for it; a power window, as long as the product's with
  half of it idle before, only where energy counts. A process that is there already is charged no second start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from agent.clock import iso
from agent.core.class_results import ClassView
from agent.core.decision import Choice, Decision, FromClass, Option
from agent.core.measurement import ContextReading, Figure, LatencyFigures, Measurement, PowerFigures
from agent.core.ports import never_stop, no_progress
from agent.core.sequential import QuantileTest
from agent.core.statistics import percentile
from agent.measure import exercise
from agent.measure.bench import _timing
from agent.measure.plan import PlannedRun
from agent.measure.race import QUANTILES, Heat, Race
from agent.measure.session import Session
from agent.measure.settings import MeasureSettings
from agent.select.decision import decide
from benchmarks.replay.bank import Dump
from benchmarks.replay.cases import Case, Entry, clean_latencies
from benchmarks.replay.virtual import BEGIN, Meter, Runs, Subject, Time, facts_for, measure

EXHAUSTIVE_S, EXHAUSTIVE_RUNS = 60.0, 1024
FIXED_RUNS, NONE_ABOVE_RUNS = 50, 59
_HALVING_RUNS = (4, 8, 16)
_MOST_RUNS = 4000
SETTINGS = MeasureSettings()


class Outcome(NamedTuple):
    """What a protocol chose in a case, and what that cost on the device."""

    pick: str | None  # key of a point
    device_s: float
    measured: int  # points that were started
    decision: Decision | None = None
    measurements: tuple[Measurement, ...] = ()  # of the product: the last of each key
    from_class: FromClass | None = None


def _decide(case: Case, measurements: Sequence[Measurement]) -> Decision:
    return decide(
        case.entries[0].candidate.task, measurements, case.budgets, case.objectives, class_fingerprint="replay",
        decided_at=iso(BEGIN), decision_id="replay", what_if=True,
    )  # fmt: skip


def key_in(case: Case, chosen: Choice | Option | Measurement) -> str:
    """Return the key of the case's point that is named; where XNNPACK took no node it has another provider."""
    point = chosen.point
    return next(
        entry.point.key
        for entry in case.entries
        if (entry.candidate.sha256, entry.point.point.engine, entry.point.point.threads)
        == (chosen.artifact_sha256, point.engine, point.threads)
    )


def _picked(case: Case, decision: Decision) -> str | None:
    return None if decision.winner is None else key_in(case, decision.winner)


def _exactly(value: float) -> Figure:
    return Figure(value=value, low=value, high=value)


def taken_as_true(entry: Entry, case: Case, latencies_s: Sequence[float], p95_s: float | None = None) -> Measurement:
    """Return the measurement of a protocol that takes what it saw for the truth: no interval."""
    point = entry.point
    figures = power = None
    if latencies_s:
        ordered = sorted(latencies_s)
        mean_s = sum(ordered) / len(ordered)
        quantiles = {f"p{round(100 * q)}_s": _exactly(percentile(ordered, q)) for q in (0.5, 0.9, 0.95, 0.99)}
        if p95_s is not None:
            quantiles["p95_s"] = _exactly(p95_s)
        figures = LatencyFigures(
            n=len(ordered), **quantiles, mean_s=_exactly(mean_s), min_s=ordered[0], max_s=ordered[-1],
            warmup_runs=0, warmup_settled=True, throughput_per_s=1.0 / mean_s,
        )  # fmt: skip
        declared = case.power.get(point.key)
        if declared is not None:
            energy_j = (declared.running_w - declared.idle_w) * mean_s
            power = PowerFigures(
                source="declared", scope="board", mean_w=_exactly(declared.running_w), idle_w=declared.idle_w,
                energy_per_inference_j=_exactly(energy_j), window_s=1.0, inferences=1, samples=1, sample_rate_hz=1.0,
            )  # fmt: skip
    return Measurement(
        id=point.key, task=point.candidate.task, candidate=point.candidate.name,
        artifact_sha256=point.candidate.sha256, size_bytes=point.candidate.size_bytes, point=point.point,
        class_fingerprint="replay", verdict=point.verdict, started_at=iso(BEGIN), duration_s=0.0, reason=point.reason,
        latency=figures, power=power, memory=point.memory, accuracy=point.accuracy, golden=point.golden,
    )  # fmt: skip


def truth(case: Case) -> Decision:
    """Return the decision over what every point does when it is left alone; who ``fits`` there is feasible."""
    return _decide(case, [taken_as_true(e, case, clean_latencies(e.alone) if e.alone else ()) for e in case.entries])


def contended_throughout(entry: Entry) -> bool:
    """Tell whether every attempt at this point meets neighbours: nobody can be asked to choose it."""
    return bool(entry.attempts) and entry.attempts[-1].head.condition == "contended"


def oracle(case: Case) -> str | None:
    """Return the best point that can be had: what an exhaustive protocol picks."""
    can = [entry for entry in case.entries if not contended_throughout(entry)]
    return _picked(
        case, _decide(case, [taken_as_true(e, case, clean_latencies(e.alone) if e.alone else ()) for e in can])
    )


class _Process:
    """One process of a baseline at one point: pays for its start, and then for what it is asked."""

    def __init__(self, case: Case, entry: Entry, number: int) -> None:
        self.entry = entry
        self._case = case
        self.time = Time()
        self.dump: Dump | None = entry.attempts[0] if entry.attempts else None
        self.latencies_s: list[float] = []
        if self.dump is None:
            self.time.pass_s(entry.point.died_s or 0.0)
            return
        head = self.dump.head
        self.time.pass_s(head.spawn_s + head.load_s + head.first_s)
        self._runs = Runs(self.time, self.dump, _seed(case, number, 0))
        _warm_up(self._runs, self.time)

    def run(self, count: int, least_s: float = 0.0) -> None:
        """Time so many runs, and more until they took ``least_s``."""
        if self.dump is None:
            return
        first, done = self.time.now_ns, 0
        while done < count or self.time.now_ns - first < least_s * 1e9:
            begin = self.time.now_ns
            self._runs()
            self.latencies_s.append((self.time.now_ns - begin) / 1e9)
            done += 1

    def end(self) -> float:
        """Evaluate where the case asks for it, and end. Returns: all that it cost, in seconds."""
        point = self.entry.point
        if self.dump is not None:
            if _asks_for(self._case, "accuracy_top1"):
                self.time.pass_s(point.evaluation_s or 0.0)
            if self._case.power:
                self.time.pass_s(1.5 * max(SETTINGS.power_window_min_s, SETTINGS.power_periods * Meter.period_s))
            self.time.pass_s((point.golden_s or 0.0) + point.ending_s)
        return self.time.now_ns / 1e9


def _warm_up(runs: Runs, time: Time) -> None:
    from unittest import mock

    with mock.patch.object(exercise, "time", time):
        exercise.warm_up(runs, _timing(SETTINGS))


def _asks_for(case: Case, metric: str) -> bool:
    return any(term.metric == metric for term in (*case.budgets, *case.objectives))


def _seed(case: Case, number: int, attempt: int) -> int:
    return (case.seed * 1000 + number) * 10 + attempt


def exhaustive(case: Case) -> Outcome:
    """Run everything for 60 s and 1,024 runs; what that gives is the oracle's."""
    spent = 0.0
    for number, entry in enumerate(case.entries):
        process = _Process(case, entry, number)
        if process.dump is not None:
            mean_s = sum(piece.wall_ns for piece in process.dump.pieces) / 1e9 / process.dump.head.runs
            spent += max(EXHAUSTIVE_S, EXHAUSTIVE_RUNS * mean_s)
        spent += process.end()
    return Outcome(oracle(case), spent, len(case.entries))


def fixed(case: Case) -> Outcome:
    """Run everything 50 times; the sample's p95 is taken for the true one."""
    return _a_number_each(case, FIXED_RUNS, lambda latencies_s: percentile(latencies_s, 0.95))


def litert_default(case: Case) -> Outcome:
    """Run everything as ``benchmark_model`` does by default: num_runs 50, min_secs 1, warmup_min_secs 0.5."""
    return _a_number_each(case, FIXED_RUNS, lambda latencies_s: percentile(latencies_s, 0.95), least_s=(0.5, 1.0))


def none_above(case: Case) -> Outcome:
    """Run everything 59 times; the largest is what a budget is held against."""
    return _a_number_each(case, NONE_ABOVE_RUNS, max)


def _a_number_each(
    case: Case, runs: int, p95_of: Callable[[list[float]], float], least_s: tuple[float, float] = (0.0, 0.0)
) -> Outcome:
    spent, found = 0.0, []
    for number, entry in enumerate(case.entries):
        process = _Process(case, entry, number)
        for count, seconds in ((1 if least_s[0] else 0, least_s[0]), (runs, least_s[1])):
            process.latencies_s.clear()
            process.run(count, seconds)
        seen = process.latencies_s
        found.append(taken_as_true(entry, case, seen, p95_of(seen) if seen else None))
        spent += process.end()
    decision = _decide(case, found)
    return Outcome(_picked(case, decision), spent, len(case.entries), decision)


def halving(case: Case) -> Outcome:
    """Halve by what a few runs say, then test who is left in order of worth."""
    processes = [_Process(case, entry, number) for number, entry in enumerate(case.entries)]
    left = [process for process in processes if process.dump is not None]
    out: list[_Process] = []
    for runs in _HALVING_RUNS:
        for process in left:
            process.run(runs)
        left = _by_worth(case, left)
        keep = (len(left) + 1) // 2
        left, out = left[:keep], left[keep:] + out
    tested: list[Measurement] = []
    for process in _by_worth(case, left) + _by_worth(case, out):
        tested.append(_tested(case, process))
        if _decide(case, tested).winner is not None and not _objective_is_measured(case):
            break
    spent = sum(process.end() for process in processes)
    return Outcome(_picked(case, _decide(case, tested)), spent, len(processes))


def _objective_is_measured(case: Case) -> bool:
    return any(objective.metric not in ("size", "accuracy_top1") for objective in case.objectives)


def _by_worth(case: Case, processes: Sequence[_Process]) -> list[_Process]:
    """Order by: within budget by the sample's median, then rank without budgets."""
    measurements = [taken_as_true(process.entry, case, process.latencies_s) for process in processes]
    unlimited = _decide(case._replace(budgets=()), measurements)
    rank = {option.measurement_id: option.rank or 10**6 for option in unlimited.options}
    limits = [budget.limit for budget in case.budgets if budget.metric in QUANTILES]

    def order(process: _Process) -> tuple[bool, int]:
        over = bool(limits) and percentile(process.latencies_s, 0.5) > min(limits)
        return over, rank[process.entry.point.key]

    return sorted(processes, key=order)


def _tested(case: Case, process: _Process) -> Measurement:
    """Run on until every latency budget's test is decided; put the verdicts where ``decide`` looks for figures."""
    found = taken_as_true(process.entry, case, process.latencies_s)
    for budget in case.budgets:
        if budget.metric not in QUANTILES or found.latency is None:
            continue
        test = QuantileTest(QUANTILES[budget.metric], budget.limit)
        while test.state == "open" and test.n < _MOST_RUNS:
            process.run(1)
            test.add(process.latencies_s[-1])
        value = budget.limit * (1.0 if test.state == "met" else 1.1)
        name = budget.metric.removeprefix("latency_") + "_s"
        latency = msgspec.structs.replace(found.latency, **{name: _exactly(value)})
        found = msgspec.structs.replace(found, latency=latency)
    return found


def product(
    case: Case,
    settings: MeasureSettings = SETTINGS,
    *,
    everything: bool = False,
    view: ClassView | None = None,
    stored: Sequence[Measurement] = (),
) -> Outcome:
    """Let the product race: its plan's order, its tests, its worker's loop, its retries, on recorded time.

    Args: view: what other boards of the class told; None where there is none. stored: measured here before.
    """
    time = Time()
    numbers = {(e.candidate.sha256, e.point.point): number for number, e in enumerate(case.entries)}
    facts = facts_for(entry.point.point for entry in case.entries)
    before = {key_in(case, one): one for one in stored}
    race = Race(
        [
            PlannedRun(candidate=entry.candidate, point=entry.point.point, stored=before.get(entry.point.key))
            for entry in case.entries
        ],
        case.budgets, case.objectives, lambda measurements: _decide(case, measurements),
        class_fingerprint="replay", with_power=bool(case.power), retries=settings.contended_retries,
        exhaustive=everything, view=view,
    )  # fmt: skip
    session = Session(
        lambda: ContextReading(monotonic_s=time.monotonic()), None, settings,
        clock=time, stop=never_stop, progress=no_progress, pause=time.sleep,
    )  # fmt: skip
    starts: dict[int, int] = {}
    kept: dict[object, Measurement] = {one.key: one for one in stored}
    while (heat := race.next()) is not None:
        number = numbers[heat.run.candidate.sha256, heat.run.point]

        def attempt(heat: Heat = heat, number: int = number) -> Measurement:
            starts[number] = starts.get(number, -1) + 1
            subject = _subject(case, number, starts[number])
            return measure(
                subject, heat.run.candidate, heat.run.point, facts, time, settings=settings, stakes=heat.stakes
            )

        measurement = session.take(heat.tries, attempt)
        if race.add(heat, measurement):
            kept[measurement.key] = measurement
    return Outcome(
        _picked(case, race.decision), time.now_ns / 1e9, sum(starts.values()) + len(starts), race.decision,
        tuple(kept.values()), race.from_class(),
    )  # fmt: skip


def _subject(case: Case, number: int, attempt: int) -> Subject:
    entry = case.entries[number]
    dump = entry.attempts[min(attempt, len(entry.attempts) - 1)] if entry.attempts else None
    return Subject(entry.point, dump, _seed(case, number, attempt), case.power.get(entry.point.key))


PROTOCOLS: dict[str, Callable[[Case], Outcome]] = {
    "product": product,
    "exhaustive": exhaustive,
    "fixed-50": fixed,
    "litert default": litert_default,
    "59 none above": none_above,
    "halving": halving,
}
