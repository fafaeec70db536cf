"""What boards of one class measured, and what their figures come to: a median, a count, a spread. Pure.

Decides which figures of other boards may be pooled and how far a pool is trusted; leaves who may speak, and whether a
signature holds, to whoever reads the documents, and what a newcomer does with a pool to ``agent.measure.newcomer``.

Rules:
- One board, one voice: of several documents of a board for a task the newest counts, and of an option its newest.
- The figure of a class is the median over boards. As long as more than half of them tell the truth it lies between two
  figures that are true, whatever the others say.
- By how much boards of a class differ in an option, the noise of one measurement included, is taken from those that
  measured it (median absolute deviation of the logarithm), and while they are few, mostly from what is usual.
- A pool is ``firm`` from ``FIRM_BOARDS`` boards on, if most of them, and at least that many, are within ``BOUND`` of
  its median. What is not firm gives an order of trying and nothing else.
- A quantile above the median comes from ``TAIL_RUNS`` runs at least; of fewer it is one or two runs and no quantile.
- Figures of another class, task or engine version are other figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Annotated, NamedTuple

import msgspec

from agent.core.decision import ClassCheck
from agent.core.measurement import Measurement, OperatingPoint, Verdict

BOUND = 1.15  # chosen: between what boards of one class differ by (a few percent) and a board that lost a quarter
FIRM_BOARDS = 3  # chosen: the least of which one may lie
USUAL_SPREAD = 0.08  # chosen: of medians of a quarter of a second on a busy machine; a calm board has a quarter of it
_USUAL_WEIGHT = 4  # boards that the usual spread counts as
LEAST_SPREAD = 0.03  # chosen: boards that agree to the digit do not make the next one odd
TAIL_RUNS = 72  # a p95 bounded from above at 95 % needs 72
MAX_RESULTS = 60  # of a task, the fastest first; some 20 kB

Positive = Annotated[float, msgspec.Meta(gt=0)]
Key = tuple[str, OperatingPoint]  # artifact and point


class ClassResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One option as one board measured it, and the board's condition at the time. SI units; None is not known."""

    artifact_sha256: str
    candidate: str
    engine: str
    engine_version: str
    provider: str
    threads: int
    verdict: Verdict
    measured_at: str  # UTC, ISO 8601 with Z
    batch: int = 1
    n: int | None = None  # timed runs
    looks: int = 1  # processes that latency_p50_s is the geometric mean of: more where it was held against its class
    stopped: bool = False  # it ended early, because a limit of that board was missed
    latency_p50_s: Positive | None = None
    latency_p90_s: Positive | None = None
    latency_p95_s: Positive | None = None
    latency_p99_s: Positive | None = None
    load_time_s: Positive | None = None
    memory_peak_bytes: Positive | None = None
    power_mean_w: Positive | None = None
    energy_per_inference_j: Positive | None = None
    power_scope: str | None = None
    accuracy_top1: float | None = None  # of whole packs
    temperature_celsius: float | None = None  # after the runs
    clock_hz: Positive | None = None  # after the runs, mean over cores
    governor: str | None = None
    load_1min: float | None = None  # before the runs
    supply_ok: bool | None = None
    flags: tuple[str, ...] = ()

    @property
    def point(self) -> OperatingPoint:
        """Where it was measured."""
        return OperatingPoint(
            engine=self.engine,
            engine_version=self.engine_version,
            provider=self.provider,
            threads=self.threads,
            batch=self.batch,
        )

    @property
    def key(self) -> Key:
        """What the same option has on another board."""
        return (self.artifact_sha256, self.point)

    def figure(self, metric: str) -> float | None:
        """Return a metric's figure where this result can speak for it."""
        if self.verdict != "ok" or metric not in FIELDS:
            return None
        if metric in _TAILS and (self.n or 0) < TAIL_RUNS:
            return None
        value: float | None = getattr(self, FIELDS[metric])
        return value if value is not None and math.isfinite(value) else None


#: Metrics that boards of a class share, and where they stand.
FIELDS: Mapping[str, str] = {
    "latency_p50": "latency_p50_s",
    "latency_p90": "latency_p90_s",
    "latency_p95": "latency_p95_s",
    "latency_p99": "latency_p99_s",
    "load_time": "load_time_s",
    "memory_peak": "memory_peak_bytes",
    "power_mean": "power_mean_w",
    "energy_per_inference": "energy_per_inference_j",
    "accuracy_top1": "accuracy_top1",
}
_TAILS = ("latency_p90", "latency_p95", "latency_p99")


class BoardResults(msgspec.Struct, frozen=True, kw_only=True):
    """What one board tells its class of one task."""

    board: str  # fleet/device
    task: str
    class_fingerprint: str
    told_at: str  # UTC, ISO 8601 with Z
    results: tuple[ClassResult, ...]


class Pooled(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of a class: the median over boards, the lowest and highest of them, and how many are near it."""

    value: float
    low: float
    high: float
    boards: int
    near: int  # within BOUND of the median
    spread: float  # one sigma of the natural logarithm, over boards

    @property
    def firm(self) -> bool:
        """Whether one board's word, true or not, could not have made it."""
        return self.near >= FIRM_BOARDS and 2 * self.near > self.boards


class OptionPool(msgspec.Struct, frozen=True, kw_only=True):
    """One option over a class. ``failed``: boards on which it gave no figure, by their verdict."""

    candidate: str
    boards: int
    figures: dict[str, Pooled]
    failed: int = 0


class ClassView(msgspec.Struct, frozen=True, kw_only=True):
    """What a class knows of a task. ``boards`` told anything at all."""

    class_fingerprint: str
    task: str
    boards: int
    options: dict[Key, OptionPool]


def result_of(measurement: Measurement) -> ClassResult:
    """Return a measurement as other boards of the class are told it."""
    latency, power, accuracy = measurement.latency, measurement.power, measurement.accuracy
    energy = power.energy_per_inference_j if power is not None else None
    after = measurement.context.after if measurement.context is not None else None
    return ClassResult(
        artifact_sha256=measurement.artifact_sha256,
        candidate=measurement.candidate,
        **msgspec.structs.asdict(measurement.point),
        verdict=measurement.verdict,
        measured_at=measurement.started_at,
        n=latency.n if latency is not None else None,
        stopped=measurement.stopped is not None,
        latency_p50_s=_positive(latency.p50_s.value) if latency is not None else None,
        latency_p90_s=_positive(latency.p90_s.value) if latency is not None else None,
        latency_p95_s=_positive(latency.p95_s.value) if latency is not None else None,
        latency_p99_s=_positive(latency.p99_s.value) if latency is not None else None,
        load_time_s=_positive(measurement.load_time_s),
        memory_peak_bytes=_positive(measurement.memory.admission_peak_bytes if measurement.memory else None),
        power_mean_w=_positive(power.mean_w.value) if power is not None else None,
        energy_per_inference_j=_positive(energy.value) if energy is not None else None,
        power_scope=power.scope if power is not None else None,
        accuracy_top1=accuracy.top1.value if accuracy is not None and accuracy.whole else None,
        temperature_celsius=after.temperature_celsius if after is not None else None,
        clock_hz=_positive(after.clock_hz) if after is not None else None,
        governor=after.governor if after is not None else None,
        load_1min=measurement.context.before.load_1min if measurement.context is not None else None,
        supply_ok=after.supply_ok if after is not None else None,
        flags=measurement.context.flags if measurement.context is not None else (),
    )


def results_to_tell(
    measurements: Iterable[Measurement], lasting: Iterable[Verdict], checks: Iterable[ClassCheck] = ()
) -> tuple[ClassResult, ...]:
    """Return what a board tells of a task: one result for each option, those with figures first, fastest first.

    Args: checks: options that were held against the class; what further looks at them showed is told with the rest.
    """
    looked = {(check.artifact_sha256, check.point): check for check in checks if check.looks > 1}
    counts = set(lasting)
    told = [_looked_at(result_of(one), looked) for one in measurements if one.verdict in counts]
    told.sort(key=lambda one: (one.latency_p50_s is None, one.latency_p50_s or 0.0, one.candidate, one.point))
    return tuple(told[:MAX_RESULTS])


def _looked_at(result: ClassResult, looked: Mapping[Key, ClassCheck]) -> ClassResult:
    check = looked.get(result.key)
    if check is None or result.latency_p50_s is None:
        return result
    return msgspec.structs.replace(result, latency_p50_s=_positive(check.own_s), looks=check.looks)


def pool(told: Iterable[BoardResults], *, class_fingerprint: str, task: str, but: str | None = None) -> ClassView:
    """Return what a class knows of a task.

    Args: but: a board whose word is left out: whoever asks has its own measurements.
    """
    of_board: dict[str, BoardResults] = {}
    for one in told:
        if (one.class_fingerprint, one.task) != (class_fingerprint, task) or one.board == but:
            continue
        if one.board not in of_board or of_board[one.board].told_at <= one.told_at:
            of_board[one.board] = one
    of_option: dict[Key, dict[str, ClassResult]] = {}
    for board, document in sorted(of_board.items()):
        for result in document.results:
            newest = of_option.setdefault(result.key, {})
            if board not in newest or newest[board].measured_at <= result.measured_at:
                newest[board] = result
    options = {key: _option(list(results.values())) for key, results in of_option.items()}
    return ClassView(class_fingerprint=class_fingerprint, task=task, boards=len(of_board), options=options)


def _option(results: Sequence[ClassResult]) -> OptionPool:
    scope = _most([one.power_scope for one in results if one.power_scope is not None])
    same_scope = [one for one in results if one.power_scope == scope]
    figures = {}
    for metric in FIELDS:
        speak = same_scope if metric in ("power_mean", "energy_per_inference") else results
        values = [value for one in speak if (value := one.figure(metric)) is not None]
        if values:
            figures[metric] = pooled(values)
    return OptionPool(
        candidate=results[0].candidate,
        boards=len(results),
        figures=figures,
        failed=sum(one.verdict != "ok" for one in results),
    )


def pooled(values: Sequence[float]) -> Pooled:
    """Return the figure of a class from one figure of each board (at least one)."""
    middle = median(values)
    near = sum(middle / BOUND <= value <= middle * BOUND for value in values)
    return Pooled(value=middle, low=min(values), high=max(values), boards=len(values), near=near, spread=spread(values))


def spread(values: Sequence[float]) -> float:
    """Return by how much one board's figure differs from its class's: one sigma of the natural logarithm.

    1.4826 times the median absolute deviation (of a normal law), mixed by squares with ``USUAL_SPREAD``, which counts
    as much as four boards; ``LEAST_SPREAD`` at least.
    """
    middle = median(values)
    seen = 1.4826 * median(abs(math.log(value / middle)) for value in values)
    n = len(values) if len(values) > 2 else 0  # of two the median absolute deviation says little
    mixed = (n * seen**2 + _USUAL_WEIGHT * USUAL_SPREAD**2) / (n + _USUAL_WEIGHT)
    return max(LEAST_SPREAD, math.sqrt(mixed))


def _most(names: Sequence[str]) -> str | None:
    return max(sorted(set(names)), key=names.count, default=None)


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


class Deviation(NamedTuple):
    """By how much one board is off its class in one option: ln(own / class), and one sigma of a single look."""

    value: float
    spread: float
    looks: int = 1


def deviations(told: Iterable[BoardResults], metric: str, *, least_boards: int) -> dict[str, tuple[Deviation, ...]]:
    """Return each board's deviations in a metric, of the options that ``least_boards`` boards or more have figures of.

    Boards without any are left out.
    """
    of_option: dict[tuple[str, Key], dict[str, tuple[str, float, int]]] = {}
    for document in told:
        for result in document.results:
            value = result.figure(metric)
            if value is not None and value > 0:
                seen = of_option.setdefault((document.task, result.key), {})
                if document.board not in seen or seen[document.board][0] <= result.measured_at:
                    seen[document.board] = (result.measured_at, value, result.looks)
    found: dict[str, list[Deviation]] = {}
    for seen in of_option.values():
        values = [value for _, value, _ in seen.values()]
        if len(values) < least_boards:
            continue
        middle, sigma = median(values), spread(values)
        for board, (_, value, looks) in seen.items():
            found.setdefault(board, []).append(Deviation(math.log(value / middle), sigma, looks))
    return {board: tuple(some) for board, some in sorted(found.items())}


def log_likelihood_ratio(deviation: float, sigma: float, shift: float) -> float:
    """Return ln of how much likelier a deviation is of a board shifted by ``shift`` than of one of the class.

    Both normal with the same sigma; all of the natural logarithm. It is 0 half way.
    """
    return (deviation * shift - shift * shift / 2.0) / (sigma * sigma)
