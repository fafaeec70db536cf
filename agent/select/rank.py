"""In which order the fitting options are preferred. Pure.

Rules:
- Objectives decide one after the other. At each one the leader is the best value; every option whose interval overlaps
  the leader's stays in the tie and goes on to the next objective, the others are out. An upper bound that is not known
  reaches to the largest value seen, and any other without limit: what cannot be separated ties.
- Accuracy is compared sample by sample where both were: the intervals of their differences to the best measured
  candidate (``accuracy_drop``) are far narrower than those of the accuracies themselves, and decide instead.
- An option without the objective's figure is worse than any option that has it.
- Single observations carry no interval; they tie within the spread that repeated loads show (``_OBSERVED_ONCE``).
- Who is still tied after the last objective: what runs now stays (a switch must be earned); else the smaller file,
  then the name, then the operating point.
- The first rank is what this picks from all, the second what it picks from the rest, and so on: a total order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from agent.core.budget import METRICS, Estimate, Objective
from agent.core.decision import Choice, Option
from agent.core.units import format_quantity, format_sizes

# Relative half-width within which two single observations tie. Chosen, above the run-to-run spread of process start.
_OBSERVED_ONCE = {"load_time": 0.2, "first_inference": 0.2, "memory_peak": 0.02}


class Elimination(NamedTuple):
    """The objective that put an option out, and the leader it could not reach."""

    objective: Objective
    leader: Option


class Pick(NamedTuple):
    """One winner: who is tied with it after the last objective (itself included), and how each other went out."""

    winner: Option
    tied: tuple[Option, ...]
    out: dict[str, Elimination]  # by measurement id
    kept: bool  # the tie was broken in favour of what runs now


def is_incumbent(option: Option, incumbent: Choice | None) -> bool:
    """Return whether an option is what runs now; the engine's version may have moved on since."""
    if incumbent is None or option.artifact_sha256 != incumbent.artifact_sha256:
        return False
    return msgspec.structs.replace(option.point, engine_version=incumbent.point.engine_version) == incumbent.point


def pick(options: Sequence[Option], objectives: Sequence[Objective], incumbent: Choice | None) -> Pick:
    """Pick one of ``options`` (at least one) by the rules above. Raises: ValueError: there is none."""
    if not options:
        raise ValueError("no options")
    tied = list(options)
    out: dict[str, Elimination] = {}
    for objective in objectives:
        leader = min(tied, key=lambda option: (_merit(option, objective), _last_word(option)))
        stay = [option for option in tied if _overlaps(option, leader, objective)]
        out |= {option.measurement_id: Elimination(objective, leader) for option in tied if option not in stay}
        tied = stay
    tied.sort(key=_last_word)
    running = [option for option in tied if is_incumbent(option, incumbent)]
    exact = [option for option in running if incumbent is not None and option.point == incumbent.point]
    winner = (exact or running or tied)[0]
    return Pick(winner, tuple(tied), out, bool(running) and len(tied) > 1)


def rank(
    options: Sequence[Option], objectives: Sequence[Objective], incumbent: Choice | None = None
) -> tuple[Option, ...]:
    """Give every fitting option its rank from 1 and the sentence why it stands there.

    Returns: the fitting options by rank, then the others in the order over_budget, unknown, failed.
    """
    rest = [option for option in options if option.standing == "fits"]
    ranked: list[Option] = []
    first: Pick | None = None
    while rest:
        found = pick(rest, objectives, incumbent)
        first = first or found
        rest = [option for option in rest if option is not found.winner]
        ranked.append(_with_rank(found.winner, len(ranked) + 1, first))
    order = ("over_budget", "unknown", "failed")
    others = [option for option in options if option.standing != "fits"]
    others.sort(key=lambda option: (order.index(option.standing), option.candidate, *_last_word(option)))
    return (*ranked, *others)


def figure_text(option: Option, metric: str) -> str:
    """Say an option's figure with its interval: ``8.12 ms (8.01 ms .. 8.4 ms)``, or ``unknown``."""
    estimate, dimension = _figure(option, metric), METRICS[metric].dimension
    if estimate.value is None:
        return "unknown"
    if metric == "size":
        return format_sizes(estimate.value, option.size_unpacked_bytes)
    value = format_quantity(estimate.value, dimension)
    if estimate.low == estimate.high == estimate.value:
        return value
    low, high = ("?" if bound is None else format_quantity(bound, dimension) for bound in (estimate.low, estimate.high))
    return f"{value} ({low} .. {high})"


def _with_rank(option: Option, number: int, first: Pick) -> Option:
    tied = any(option is other for other in first.tied)
    if option is first.winner:
        reason = f"{option.reason}; {_why_first(first)}"
    elif tied:
        how = "what runs now stays" if first.kept else "the tie went to the smaller file, then the name"
        reason = f"{option.reason}; cannot be told from {name_of(first.winner)} on any objective, and {how}"
    else:
        objective, leader = first.out[option.measurement_id]
        reason = f"{option.reason}; lost on {objective.text}: {_against(option, leader, objective.metric)}"
    return msgspec.structs.replace(option, rank=number, tied_with_winner=tied, reason=reason)


def _against(option: Option, leader: Option, metric: str) -> str:
    absent = _figure(option, metric)
    if absent.value is None:
        return f"no figure ({absent.reason or 'not measured'}), and {name_of(leader)} has one"
    text = f"{figure_text(option, metric)} against {figure_text(leader, metric)} of {name_of(leader)}"
    if _is_paired(option, leader, metric):
        own, theirs = figure_text(option, "accuracy_drop"), figure_text(leader, "accuracy_drop")
        text += f"; on the same samples {own} below the best measured, against {theirs}"
    return text


_NAMED = 3  # a sentence, not a list: every option has its own line


def _why_first(found: Pick) -> str:
    if len(found.tied) == 1 and not found.out:
        return "the only one that fits"
    if len(found.tied) == 1:
        deciding = list(found.out.values())[-1].objective
        return f"decided by {deciding.text}: {figure_text(found.winner, deciding.metric)}"
    tied = [name_of(option) for option in found.tied if option is not found.winner]
    others = ", ".join(tied[:_NAMED]) + (f" and {len(tied) - _NAMED} more" if len(tied) > _NAMED else "")
    if found.kept:
        return f"runs now, and no objective tells it from {others}"
    return f"no objective tells it from {others}; the smallest file, then the name, decides"


def name_of(option: Option) -> str:
    """Name an option for a person: candidate and operating point."""
    return f"{option.candidate} ({option.point.label})"


def _figure(option: Option, metric: str) -> Estimate:
    return option.estimates.get(metric) or Estimate.unknown("not measured")


def _last_word(option: Option) -> tuple[object, ...]:
    return (option.size_bytes, option.candidate, option.point, option.artifact_sha256, option.measurement_id)


def _merit(option: Option, objective: Objective) -> float:
    """Return the sort key of one objective: smaller is better, infinite without a figure."""
    value = _figure(option, objective.metric).value
    if value is None or math.isnan(value):
        return math.inf
    return -value if objective.direction == "maximize" else value


def _overlaps(option: Option, leader: Option, objective: Objective) -> bool:
    if option is leader:
        return True
    if math.isinf(_merit(option, objective)) or math.isinf(_merit(leader, objective)):
        return math.isinf(_merit(option, objective)) and math.isinf(_merit(leader, objective))
    metric = "accuracy_drop" if _is_paired(option, leader, objective.metric) else objective.metric
    (low, high), (leader_low, leader_high) = _bounds(option, metric), _bounds(leader, metric)
    return low <= leader_high and leader_low <= high


def _is_paired(option: Option, leader: Option, metric: str) -> bool:
    """Return whether accuracy is asked for and both were compared with the best candidate on the same samples."""
    drops = (_figure(option, "accuracy_drop").value, _figure(leader, "accuracy_drop").value)
    return metric == "accuracy_top1" and None not in drops


def _bounds(option: Option, metric: str) -> tuple[float, float]:
    estimate = _figure(option, metric)
    low = -math.inf if estimate.low is None else estimate.low
    high = estimate.high if estimate.high is not None else estimate.seen_high
    high = math.inf if high is None else high
    spread = _OBSERVED_ONCE.get(metric)
    if spread is not None and estimate.value is not None and low == high:
        return estimate.value * (1 - spread / 2), estimate.value * (1 + spread / 2)
    return low, high
