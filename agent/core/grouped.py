"""Intervals of figures that were taken in several processes, each a series of its own. Pure.

A process keeps its memory layout, and mostly its core and the clock it met, for as long as it lives, so the runs of one
say nothing of how the next will differ; on a machine with neighbours that is most of the error. Rules:
- The interval is the hull of two. One is that of all runs together, worth as many independent ones as the processes'
  own series are. The other is Student's of the processes' own figures, on a logarithmic scale.
- With one process only the first can be had, and it speaks of that process alone.
- Where all runs together do not bound a figure, the processes do not either: a p99 of a hundred runs is biased.

Sources: figures of restarted processes as the independent samples, Kalibera & Jones 2013, ISMM '13 (rigorous
benchmarking in reasonable time); Georges, Buytaert & Eeckhout 2007, OOPSLA '07.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from agent.core.autocorrelation import effective_runs_at, effective_runs_of_mean
from agent.core.statistics import (
    CONFIDENCE,
    Interval,
    effective_mean_interval,
    effective_percentile_interval,
    mean_interval,
    percentile,
)


class GroupedFigure(NamedTuple):
    """A figure of all values, its interval, and how many independent values they were worth for it within groups."""

    value: float
    interval: Interval
    effective_n: int


def grouped_percentile(groups: Sequence[Sequence[float]], q: float, confidence: float = CONFIDENCE) -> GroupedFigure:
    """Return the q-quantile of positive values in groups, each in the order of time. Raises: ValueError: no values."""
    ordered = sorted(chain.from_iterable(groups))
    value = percentile(ordered, q)
    worth = math.fsum(effective_runs_at(group, value) for group in groups)
    effective_n = min(len(ordered), math.floor(worth + 1e-9))
    within = effective_percentile_interval(ordered, effective_n, q, confidence)
    own = [percentile(group, q) for group in groups if group]
    return GroupedFigure(value, _hull(within, own, confidence), effective_n)


def grouped_mean(groups: Sequence[Sequence[float]], confidence: float = CONFIDENCE) -> GroupedFigure:
    """Return the mean of positive values in groups, each in the order of time. Raises: ValueError: no values."""
    values = list(chain.from_iterable(groups))
    if not values:
        raise ValueError("no values")
    worth = math.fsum(effective_runs_of_mean(group) for group in groups)
    within = effective_mean_interval(values, worth, confidence)
    own = [math.fsum(group) / len(group) for group in groups if group]
    effective_n = min(len(values), math.floor(worth + 1e-9))
    return GroupedFigure(math.fsum(values) / len(values), _hull(within, own, confidence), effective_n)


def _hull(within: Interval, figures: Sequence[float], confidence: float) -> Interval:
    if len(figures) < 2:
        return within
    between = mean_interval([math.log(figure) for figure in figures], confidence)
    assert between.low is not None
    assert between.high is not None
    return Interval(
        None if within.low is None else min(within.low, math.exp(between.low)),
        None if within.high is None else max(within.high, math.exp(between.high)),
    )
