"""Which boards of a class are not like the others, and what their conditions say of why. Pure.

Leaves the figures and how they are pooled to ``agent.core.class_results``. Rules:
- Each option that enough boards measured says by how much likelier its figure is of a board that is ``SHIFT`` times as
  slow (or as fast) than of one of the class; options are multiplied. Such a ratio exceeds 1/a with a chance of at most
  a on a board of the class (Ville 1939; Ramdas et al. 2023, Statistical Science 38(4)), however often one looks. A
  board is named where it exceeds the number of boards and of the ways to be odd over ``ALPHA``: so the chance that any
  good board of a class is named is at most ``ALPHA``, however many it has, as far as the spread is known.
- No single look names a board, however far off it is: one odd process is no odd board.
- Named is, too, only who is more than a bound away: what is merely certain and small helps nobody.
- Fewer than ``LEAST_BOARDS`` boards name nobody: of three that differ, nobody can say which is wrong.
- A cause is what the board itself told of its condition while it measured, held against what its class told. It is
  likely and no more, and where nothing was told that explains it, that is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Literal, NamedTuple

import msgspec

from agent.core.class_results import BOUND, BoardResults, ClassResult, Deviation, deviations, log_likelihood_ratio

ALPHA = 0.01
LEAST_BOARDS = 5
LOAD_BOUND = 2.0  # chosen: a load comes from the page cache or from the card, and differs by half between two starts
SHIFT = BOUND * BOUND  # what is between a board of the class and an odd one is BOUND in the middle
LOAD_SHIFT = LOAD_BOUND * LOAD_BOUND
_WAYS = 3  # to be odd: slower, faster, slower to load
_ALONE = 0.9  # of what is needed: the most that one look can say
_WARMER_CELSIUS = 10.0  # chosen: more than rooms differ by
_BUSIER = 1.0  # chosen: one more process that wants a core
_SLOWER_CLOCK = 0.95

Cause = Literal["supply", "heat", "governor", "other load", "clock", "card or storage", "unknown"]


class Outlier(msgspec.Struct, frozen=True, kw_only=True):
    """A board that is named. ``ratio`` is its figure over its class's: above 1 is slower."""

    board: str
    metric: Literal["latency_p50", "load_time"]
    ratio: float
    boards: int  # that were looked at, this one included
    cause: Cause
    reason: str  # a sentence for a person


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at a class found. ``deviation``: of each board's latency, a ratio; ``reason``: why nobody could be.

    ``alpha``: the chance that this look names any good board.
    """

    boards: int
    deviation: dict[str, float]
    outliers: tuple[Outlier, ...]
    alpha: float = ALPHA
    reason: str | None = None


def evidence(found: Sequence[Deviation], shift: float, needed: float) -> float:
    """Return ln of how much likelier a board's deviations are of one that is ``shift`` times off; each look capped."""
    way = math.log(shift)
    looks = ((one.looks, log_likelihood_ratio(one.value, one.spread, way)) for one in found)
    return math.fsum(count * min(_ALONE * needed, each) for count, each in looks)


def ratio_of(found: Sequence[Deviation]) -> float:
    """Return a board's figure over its class's: the mean over options (at least one), by what each is worth."""
    weights = [one.looks / (one.spread * one.spread) for one in found]
    total = math.fsum(weight * one.value for weight, one in zip(weights, found, strict=True))
    return math.exp(total / math.fsum(weights))


def look(told: Sequence[BoardResults]) -> Look:
    """Look at the boards of one class: their newest documents, of any tasks.

    By latency those are named, too, that are faster: a class measured wrong is as worth knowing. By load time only
    slower ones are, whose latency is their class's.
    """
    boards = len({one.board for one in told})
    found = deviations(told, "latency_p50", least_boards=LEAST_BOARDS)
    ratios = {board: ratio_of(some) for board, some in found.items()}
    if not found:
        reason = f"{boards} boards share no figure that {LEAST_BOARDS} have, which it takes to say who is odd"
        return Look(boards=boards, deviation={}, outliers=(), reason=reason)
    needed = math.log(_WAYS * len(found) / ALPHA)
    named = []
    for board, some in found.items():
        way = SHIFT if ratios[board] > 1.0 else 1.0 / SHIFT
        if max(ratios[board], 1.0 / ratios[board]) > BOUND and evidence(some, way, needed) >= needed:
            named.append(_latency_outlier(board, ratios[board], told, len(found)))
    odd = {one.board for one in named}
    for board, some in deviations(told, "load_time", least_boards=LEAST_BOARDS).items():
        ratio = ratio_of(some)
        if board not in odd and ratio > LOAD_BOUND and evidence(some, LOAD_SHIFT, needed) >= needed:
            named.append(_storage_outlier(board, ratio, len(found)))
    return Look(boards=boards, deviation=ratios, outliers=tuple(named))


def _latency_outlier(board: str, ratio: float, told: Iterable[BoardResults], boards: int) -> Outlier:
    own = [result for one in told if one.board == board for result in one.results]
    others = [result for one in told if one.board != board for result in one.results]
    causes = likely_causes(own, others) if ratio > 1.0 else []
    cause, evidence = causes[0] if causes else ("unknown", "nothing that it told of its condition explains it")
    also = "; also: " + "; ".join(text for _, text in causes[1:]) if len(causes) > 1 else ""
    how = f"{ratio:.2f} times its class's latency over {boards} boards"
    return Outlier(
        board=board, metric="latency_p50", ratio=ratio, boards=boards, cause=cause, reason=f"{how}: {evidence}{also}"
    )


def _storage_outlier(board: str, ratio: float, boards: int) -> Outlier:
    text = f"{ratio:.1f} times its class's load time over {boards} boards, at its class's latency: a slow card or disk"
    return Outlier(board=board, metric="load_time", ratio=ratio, boards=boards, cause="card or storage", reason=text)


class _Seen(NamedTuple):
    """What results tell of the condition they were measured in, in the middle."""

    temperature_celsius: float | None
    clock_hz: float | None
    load_1min: float | None
    governor: str | None

    @classmethod
    def of(cls, results: Sequence[ClassResult]) -> _Seen:
        names = [one.governor for one in results if one.governor is not None]
        return cls(
            _middle(results, lambda one: one.temperature_celsius),
            _middle(results, lambda one: one.clock_hz),
            _middle(results, lambda one: one.load_1min),
            max(sorted(set(names)), key=names.count, default=None),
        )


def _middle(results: Sequence[ClassResult], of: Callable[[ClassResult], float | None]) -> float | None:
    values = [value for one in results if (value := of(one)) is not None]
    return median(values) if values else None


def likely_causes(own: Sequence[ClassResult], others: Sequence[ClassResult]) -> list[tuple[Cause, str]]:
    """Return what may have made a board slower than its class, most telling first, each with what was seen.

    What most of its class tells of itself, too, explains nothing. A low supply comes first, since it throttles; heat
    before a governor and a load, which heat too.
    """
    mine, theirs = _Seen.of(own), _Seen.of(others)
    found: list[tuple[Cause, str]] = []
    if _apart(own, others, lambda one: one.supply_ok is False or "low_supply" in one.flags):
        found.append(("supply", "its supply was too low while it measured: check the supply and its cable"))
    warmer, busier = (
        _more(mine.temperature_celsius, theirs.temperature_celsius),
        _more(mine.load_1min, theirs.load_1min),
    )
    loaded = busier is not None and busier >= _BUSIER
    busy = loaded or _apart(own, others, lambda one: bool({"contended", "steal"} & set(one.flags)))
    throttled = _apart(own, others, lambda one: bool({"throttled", "hot"} & set(one.flags)))
    if throttled or (warmer is not None and warmer >= _WARMER_CELSIUS and not busy):
        how = "it throttled or was at its limit" if throttled else f"it was {warmer:.0f} °C warmer"
        found.append(("heat", f"{how}: check the fan, the heat-sink and the air"))
    if mine.governor is not None and theirs.governor is not None and mine.governor != theirs.governor:
        found.append(("governor", f"its governor is {mine.governor}, its class's {theirs.governor}"))
    if busy:
        text = f"its load was {mine.load_1min:.1f} before it measured" if loaded else "its threads waited for a core"
        found.append(("other load", f"{text}: something else runs there"))
    if mine.clock_hz is not None and theirs.clock_hz is not None and mine.clock_hz < _SLOWER_CLOCK * theirs.clock_hz:
        found.append(("clock", f"its clock was {mine.clock_hz / theirs.clock_hz:.0%} of its class's"))
    return found


def _apart(own: Sequence[ClassResult], others: Sequence[ClassResult], shows: Callable[[ClassResult], bool]) -> bool:
    """Tell whether a board shows something in a third of its results, and its class in not half as many of its own."""
    mine = sum(map(shows, own)) / max(1, len(own))
    return mine >= 1.0 / 3.0 and sum(map(shows, others)) / max(1, len(others)) < mine / 2.0


def _more(own: float | None, others: float | None) -> float | None:
    return None if own is None or others is None else own - others
