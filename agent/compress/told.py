"""What boards told: decision documents, as kept or published, read into what was missed and what was measured.

Pure: text in, values out. Rules:
- Read are a decision (``select --json``, ``once --json``, also what either prints where nothing fits), the flat message
  a board publishes, lists of these, and files with one document on each line, as ``mosquitto_sub`` writes them.
- How much a figure must change is taken from its value; where that is inside the limit and its interval is not, from
  the far end, since a budget is met by the whole interval.
- Of a board's several decisions of a task the latest says what it misses; the figures of all of them count.
- Boards that miss the same metric with the same candidate are one miss, as hard as the hardest of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from agent.core.budget import METRICS
from agent.core.decision import Decision, NearestMiss
from agent.core.payloads import DecisionMessage
from agent.errors import ConfigError

_FIX = "save what `boardfit select --json` prints, or what a board publishes as its decision"
_EARLY = "ended early"  # how the race begins the reason of a measurement it cut short
_MOST_DOCUMENTS = 100_000  # chosen
_DEPTH = 4  # of lists and results within each other; chosen: what our own documents have, and one more


class Miss(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate nearest to fitting, and by which factor the metric must change: below 1 for an upper limit.

    ``floor``: what the accuracy must stay at or above, None where no budget says so. ``boards``: where it misses.
    """

    candidate: str
    metric: str
    factor: float
    boards: tuple[str, ...]
    floor: float | None = None


class Row(NamedTuple):
    """One candidate at one operating point: its figures by metric, in SI units."""

    candidate: str
    point: str
    values: dict[str, float]


class Told(NamedTuple):
    """One decision of one board. ``miss``, or ``why`` there is none; neither where something fits.

    ``early``: how many figures are of measurements that were cut short.
    """

    task: str
    board: str
    decided_at: str
    rows: tuple[Row, ...]
    miss: Miss | None
    why: str | None
    early: int


def read_told(data: bytes, where: str) -> list[Told]:
    """Return the decisions in a file. Raises: ConfigError: it holds something else, and what."""
    try:
        documents = _documents(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{where} holds no decision: {error}", fix=_FIX) from error
    if not documents:
        raise ConfigError(f"{where} holds no decision: it is empty", fix=_FIX)
    if len(documents) > _MOST_DOCUMENTS:
        raise ConfigError(f"{where} holds more than {_MOST_DOCUMENTS} documents", fix="give fewer at a time")
    try:
        return [_told(document) for document in documents]
    except (msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(f"{where} holds no decision: {error}", fix=_FIX) from error


def _documents(data: bytes) -> list[object]:
    try:
        return _within(msgspec.json.decode(data), _DEPTH)
    except msgspec.DecodeError:
        if b"\n" not in data.strip():
            raise
        return [one for line in msgspec.json.Decoder().decode_lines(data) for one in _within(line, _DEPTH)]


def _within(document: object, depth: int) -> list[object]:
    """Return the decisions in what our verbs print: below ``decisions``, and below ``result`` where nothing fits."""
    if depth and isinstance(document, list):
        return [one for part in document for one in _within(part, depth - 1)]
    if depth and isinstance(document, dict):
        for key in ("decisions", "result"):
            if key in document:
                return _within(document[key], depth - 1)
    return [document]


def _told(document: object) -> Told:
    if isinstance(document, dict) and str(document.get("schema", "")).startswith("boardfit.decision-message/"):
        return _told_by_message(msgspec.convert(document, DecisionMessage))
    return told_by(msgspec.convert(document, Decision))


def told_by(decision: Decision) -> Told:
    """Return what a decision document says."""
    rows = [
        Row(
            option.candidate,
            option.point.label,
            _usable({"size": option.size_bytes, **{name: one.value for name, one in option.estimates.items()}}),
        )
        for option in decision.options
        if option.verdict == "ok"
    ]
    floor = next((budget.limit for budget in decision.budgets if budget.metric == "accuracy_top1"), None)
    board, nearest = decision.class_fingerprint[:12], decision.nearest_miss
    miss, why = None, None
    if decision.winner is None:
        ratio = None if nearest is None else _ratio(decision, nearest)
        given = None if nearest is None else (nearest.candidate, nearest.metric, nearest.reason)
        miss, why = _missed(given, ratio, board, floor, decision.reason)
    early = sum(1 for one in decision.untried if one.reason.startswith(_EARLY))
    return Told(decision.task, board, decision.decided_at, tuple(rows), miss, why, early)


def _ratio(decision: Decision, nearest: NearestMiss) -> float | None:
    """Return the figure over its limit: of its value, or of its interval's far end where the value is inside."""
    higher = nearest.metric in METRICS and METRICS[nearest.metric].higher_is_better
    for option in decision.options:
        if (option.candidate, option.point) == (nearest.candidate, nearest.point):
            for check in option.checks:
                if check.metric == nearest.metric and check.value is not None and check.limit > 0:
                    inside = check.value >= check.limit if higher else check.value <= check.limit
                    end = check.low if higher else check.high
                    return (end if inside and end is not None else check.value) / check.limit
    return _ratio_of(nearest.metric, nearest.miss_ratio)


def _ratio_of(metric: str, miss_ratio: float | None) -> float | None:
    """Return value over limit, from how far past the limit the value lies."""
    if miss_ratio is None or metric not in METRICS:
        return None
    return 1.0 - miss_ratio if METRICS[metric].higher_is_better else 1.0 + miss_ratio


def _told_by_message(message: DecisionMessage) -> Told:
    figures = {
        "latency_p95": "latency_p95_s", "accuracy_top1": "accuracy_top1",
        "energy_per_inference": "energy_per_inference_j", "size": "size_bytes",
    }  # fmt: skip
    rows = [
        Row(one.candidate, one.point, _usable({name: getattr(one, field) for name, field in figures.items()}))
        for one in message.options
        if one.verdict == "ok"
    ]
    floor = next((budget.limit for budget in message.budgets if budget.metric == "accuracy_top1"), None)
    miss, why = None, None
    if message.candidate is None:
        name, metric = message.nearest_miss_candidate, message.nearest_miss_metric
        given = None if name is None or metric is None else (name, metric, message.nearest_miss_reason or "no reason")
        ratio = None if metric is None else _ratio_of(metric, message.nearest_miss_ratio)
        miss, why = _missed(given, ratio, message.device, floor, message.reason)
    early = message.options_untried - message.options_untried_that_matter
    return Told(message.task, message.device, message.decided_at, tuple(rows), miss, why, min(early, len(rows)))


def _missed(
    nearest: tuple[str, str, str] | None, ratio: float | None, board: str, floor: float | None, reason: str
) -> tuple[Miss | None, str | None]:
    """Return the miss, or why there is none that another model could close."""
    if nearest is None:
        return None, reason
    candidate, metric, why = nearest
    if metric not in METRICS or ratio is None or not math.isfinite(ratio) or ratio <= 0:
        return None, f"{candidate} is kept out by {metric}, of which there is no figure: {why}"
    higher = METRICS[metric].higher_is_better
    if ratio >= 1.0 if higher else ratio <= 1.0:
        return None, f"{candidate} is kept out by {metric}, whose figure is inside its limit but not sure enough: {why}"
    return Miss(candidate=candidate, metric=metric, factor=1.0 / ratio, boards=(board,), floor=floor), None


def _usable(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures a logarithm can be taken of."""
    return {
        name: float(value) for name, value in values.items()
        if value is not None and math.isfinite(value) and value > 0
    }  # fmt: skip


def misses_of(told: Sequence[Told]) -> tuple[Miss, ...]:
    """Return what the boards miss by their latest decisions: most boards first, then the nearest.

    Raises: ConfigError: nothing is missed that another model could close.
    """
    latest: dict[tuple[str, str], Told] = {}
    for one in told:
        if (one.task, one.board) not in latest or latest[one.task, one.board].decided_at <= one.decided_at:
            latest[one.task, one.board] = one
    alike: dict[tuple[str, str], list[Miss]] = defaultdict(list)
    for one in latest.values():
        if one.miss is not None:
            alike[one.miss.candidate, one.miss.metric].append(one.miss)
    if not alike:
        reasons = [one.why for one in latest.values() if one.why is not None]
        if reasons:
            raise ConfigError(reasons[0], fix="no other model changes that; see `boardfit doctor`")
        raise ConfigError("something fits in every one of these decisions", fix="there is nothing to close")
    joined = [
        msgspec.structs.replace(
            max(same, key=lambda one: abs(math.log(one.factor))),
            boards=tuple(board for one in same for board in one.boards),
            floor=max((one.floor for one in same if one.floor is not None), default=None),
        )
        for same in alike.values()
    ]
    return tuple(sorted(joined, key=lambda one: (-len(one.boards), abs(math.log(one.factor)), one.candidate)))
