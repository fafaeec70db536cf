"""How many independent runs a series of dependent ones is worth, for a quantile or for a mean. Pure.

It decides the effective number; ``agent.core.statistics`` makes intervals with it.

Rules:
- Values are in the order of time. Left-out runs (contended blocks) close up: that can hide correlation, not make it.
- The effective number is n over the inflation tau = 1 + 2 * sum of autocorrelations, never above n.
- Sums stop at Geyer's initial monotone sequence, which takes no model of the series.
- It sees what the series shows: a mode visited once or twice in the whole series cannot be told from a rare outlier.

Sources: effective sample size of a quantile as that of the indicator of exceeding it: Vehtari, Gelman, Simpson,
Carpenter, Buerkner 2021, Bayesian Analysis 16(2) (``ess_quantile`` of the R package posterior). Truncation: Geyer 1992,
Statistical Science 7(4). Each autocorrelation is raised by 1/n, what taking off the sample mean costs an uncorrelated
series (Priestley 1981, Spectral Analysis and Time Series, chapter 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from operator import mul

_CLOSEST_TO_ONE = 0.95  # chosen: above it a series of the length measured here says nothing about its mean

_DIGITS = bytes.maketrans(b"\x00\x01", b"01")


def effective_runs_at(values: Sequence[float], threshold: float) -> float:
    """Return how many independent runs the series is worth for the share of values up to ``threshold``.

    With many equal values "up to" and "below" differ; the smaller number counts.

    Returns: a number in 1..n; 0.0 for an empty series.
    """
    n = len(values)
    if n == 0:
        return 0.0
    inflation = _indicator_inflation(_mask([value <= threshold for value in values]), n)
    if threshold in values:
        inflation = max(inflation, _indicator_inflation(_mask([value < threshold for value in values]), n))
    return max(1.0, n / inflation)


def effective_runs_of_mean(values: Sequence[float]) -> float:
    """Return how many independent runs the series is worth for its mean.

    The larger inflation of two counts: Geyer's, and that of a first-order autoregression with its lag-1 correlation
    freed of its bias in short series (Marriott & Pope 1954, Biometrika 41: E r = rho - (1 + 3 rho) / n), as power
    windows have few samples.

    Returns: a number in 1..n; 0.0 for an empty series.
    """
    n = len(values)
    if n < 4:
        return float(n)
    centred = _centred(values)
    power = math.fsum(value * value for value in centred)
    if power <= 0.0:
        return float(n)

    def at(lag: int) -> float:
        return math.fsum(map(mul, centred, islice(centred, lag, None))) / power

    rho = min(max((n * at(1) + 1.0) / (n - 3.0), 0.0), _CLOSEST_TO_ONE)
    inflation = max(_initial_monotone(at, n), (1.0 + rho) / (1.0 - rho))
    return max(1.0, n / inflation)


def rank_autocorrelation(values: Sequence[float]) -> float | None:
    """Return the lag-1 autocorrelation of the values' ranks (ties share theirs), None below four or without spread.

    Of ranks, because one outlier decides that of latencies.
    """
    n = len(values)
    if n < 4:
        return None
    ranks = _ranks(values)
    centred = _centred(ranks)
    power = math.fsum(value * value for value in centred)
    if power <= 0.0:
        return None
    return math.fsum(map(mul, centred, islice(centred, 1, None))) / power


def _indicator_inflation(mask: int, n: int) -> float:
    """Return tau of a 0/1 series kept as the bits of an integer: a lag's products are one shift and one count."""
    ones = mask.bit_count()
    share = ones / n
    power = n * share * (1.0 - share)
    if power <= 0.0:
        return 1.0

    def at(lag: int) -> float:
        both = (mask & (mask >> lag)).bit_count()
        early = (mask & ((1 << (n - lag)) - 1)).bit_count()
        late = (mask >> lag).bit_count()
        return (both - share * (early + late) + (n - lag) * share * share) / power

    return _initial_monotone(at, n)


def _initial_monotone(correlation_at: Callable[[int], float], n: int) -> float:
    """Return 1 + 2 * sum of autocorrelations over Geyer's initial monotone sequence, at least 1 and at most n.

    Sums of two neighbours at a time are positive and falling for a reversible chain: they are taken while positive,
    each no larger than the one before it.
    """
    total, ceiling = 0.0, math.inf
    for lag in range(0, n // 2 - 1, 2):
        even = 1.0 if lag == 0 else correlation_at(lag) + 1.0 / n
        pair = min(even + correlation_at(lag + 1) + 1.0 / n, ceiling)
        if pair <= 0.0:
            break
        total += pair
        ceiling = pair
    return min(max(2.0 * total - 1.0, 1.0), float(n))


def _mask(bits: Sequence[bool]) -> int:
    return int(bytes(bits).translate(_DIGITS), 2)


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in range(start, end + 1):
            ranks[order[place]] = (start + end) / 2.0
        start = end + 1
    return ranks
