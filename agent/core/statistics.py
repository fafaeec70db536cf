"""Percentiles with intervals, proportions with intervals, warm-up cut, energy integral. Pure, standard library only.

Rules:
- Every interval is two-sided at the stated confidence. Percentiles: distribution-free. Proportions: exact. Means and
  paired differences: the named approximation. Where the sample is too small for a bound, that bound is None.
- ``percentile_interval`` and ``mean_interval`` take values as independent; what was timed or sampled one after the
  other goes through ``series_percentile_interval`` and ``series_mean_interval``, which are never narrower.
- Nothing here discards data silently: what a rule cuts, it returns as a count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from agent.core.autocorrelation import effective_runs_at, effective_runs_of_mean

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A two-sided confidence interval; a None bound could not be had from this sample."""

    low: float | None
    high: float | None


class SeriesInterval(NamedTuple):
    """The interval of a figure of dependent values, and how many independent ones they were worth for it (1..n)."""

    interval: Interval
    effective_n: int


def percentile(values: Sequence[float], q: float) -> float:
    """Return the q-quantile (0 < q < 1) by linear interpolation between order statistics.

    Source: Hyndman & Fan 1996, type 7 (numpy's and R's default).
    Raises: ValueError: ``values`` is empty.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    position = (len(ordered) - 1) * q
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return P(X <= k) for X ~ Binomial(n, p).

    Sums outwards from k, on the side of k that does not hold the mean, until terms no longer count: a few standard
    deviations of terms, whatever n. The first term is had in logarithms, so that large n does not underflow.
    """
    if k < 0:
        return 0.0
    if k >= n or p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    if k < n * p:
        return min(1.0, _binomial_tail(k, n, p, -1))
    return max(0.0, 1.0 - _binomial_tail(k + 1, n, p, 1))


def _binomial_tail(start: int, n: int, p: float, step: int) -> float:
    """Return the sum of P(X = i) for i = start, start + step ..., all on one side of the mean."""
    log_term = math.lgamma(n + 1) - math.lgamma(start + 1) - math.lgamma(n - start + 1)
    term = math.exp(log_term + start * math.log(p) + (n - start) * math.log1p(-p))
    odds = p / (1.0 - p)
    total, i = 0.0, start
    while 0 <= i <= n and term > total * 1e-18:
        total += term
        if step > 0:
            term *= (n - i) / (i + 1) * odds
        else:
            term *= i / ((n - i + 1) * odds)
        i += step
    return total


def percentile_interval(values: Sequence[float], q: float, confidence: float = CONFIDENCE) -> Interval:
    """Return the order-statistic interval of the q-quantile; no assumption about the distribution but independence.

    The number of values below the true quantile is Binomial(n, q); the bounds are the order statistics that leave at
    most (1 - confidence) / 2 outside on each side. A bound that no order statistic reaches is None: the upper bound of
    a p95 at 95 % needs n >= 72.

    Source: David & Nagaraja, Order Statistics, 3rd ed., section 7.1.
    """
    n = len(values)
    low_rank, high_rank = _quantile_ranks(n, q, confidence)
    return _between_ranks(sorted(values), low_rank, high_rank)


def series_percentile_interval(values: Sequence[float], q: float, confidence: float = CONFIDENCE) -> SeriesInterval:
    """Return the order-statistic interval of the q-quantile of values in the order of time, dependent or not.

    The ranks are those of the effective number of runs at this quantile, stretched to n and rounded outwards; never
    inside those of independent runs. Coverage of a 95 % interval by simulation (tests/core/test_series_intervals.py):
    at least 93 % for a lag-1 correlation up to 0.5 from 100 runs on, whatever the distribution. It falls short where
    the series holds few visits of a slow mode (below about twenty), of which nothing in the series can tell.

    Source: agent.core.autocorrelation; the stretched ranks are those of a weighted sample's effective size (Korn &
    Graubard 1998, Survey Methodology 24, for proportions).
    """
    n = len(values)
    if n == 0:
        return SeriesInterval(Interval(None, None), 0)
    ordered = sorted(values)
    effective_n = min(n, math.floor(effective_runs_at(values, percentile(ordered, q)) + 1e-9))
    return SeriesInterval(effective_percentile_interval(ordered, effective_n, q, confidence), effective_n)


def effective_percentile_interval(
    ordered: Sequence[float], effective_n: int, q: float, confidence: float = CONFIDENCE
) -> Interval:
    """Return the order-statistic interval of the q-quantile of sorted values worth ``effective_n`` (1..n) of them."""
    n = len(ordered)
    low_rank, high_rank = _quantile_ranks(n, q, confidence)
    low_few, high_few = _quantile_ranks(effective_n, q, confidence)
    low_rank = min(low_rank, (low_few - 1) * n // effective_n + 1) if low_few >= 1 else 0
    if high_rank is not None:
        high_rank = None if high_few is None else max(high_rank, -(-high_few * n // effective_n))
    return _between_ranks(ordered, low_rank, high_rank)


@lru_cache(maxsize=256)
def _quantile_ranks(n: int, q: float, confidence: float) -> tuple[int, int | None]:
    """Return the 1-based ranks of the interval's order statistics; 0 and None where there is none.

    Sums from nine standard deviations below the mean: what lies lower is less than 1e-15.
    """
    if n == 0:
        return 0, None
    tail = (1.0 - confidence) / 2.0
    # P(X(l) > quantile) = P(Bin <= l-1) <= tail ; P(X(u) < quantile) = 1 - P(Bin <= u-1) <= tail.
    log_n, log_p, log_q = math.lgamma(n + 1), math.log(q), math.log1p(-q)
    start = max(0, math.floor(n * q - 9.0 * math.sqrt(n * q * (1.0 - q)) - 9.0))
    cumulative, low_rank = 0.0, start
    for k in range(start, n):
        cumulative += math.exp(log_n - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_q)
        if cumulative <= tail:
            low_rank = k + 1
        if cumulative >= 1.0 - tail:
            return low_rank, k + 1
    return low_rank, None


def _between_ranks(ordered: Sequence[float], low_rank: int, high_rank: int | None) -> Interval:
    return Interval(
        ordered[low_rank - 1] if low_rank >= 1 else None,
        ordered[high_rank - 1] if high_rank is not None and high_rank <= len(ordered) else None,
    )


@lru_cache(maxsize=256)
def proportion_interval(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the exact (Clopper-Pearson) interval of a proportion.

    Source: Clopper & Pearson 1934, Biometrika 26; found here by bisection of the binomial distribution function.
    """
    if n <= 0:
        return Interval(None, None)
    tail = (1.0 - confidence) / 2.0

    def solve(k: int, target: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2.0
            if binomial_cdf(k, n, middle) > target:
                low = middle
            else:
                high = middle
        return (low + high) / 2.0

    lower = 0.0 if successes == 0 else solve(successes - 1, 1.0 - tail)
    upper = 1.0 if successes == n else solve(successes, tail)
    return Interval(lower, upper)


def paired_difference_interval(
    only_first: int, only_second: int, n: int, confidence: float = CONFIDENCE
) -> tuple[float, Interval]:
    """Return p1 - p2 and its interval for two classifiers judged on the same n samples.

    Args: only_first, only_second: samples that only the first, only the second got right.
    Source: Bonett & Price 2012, adjusted Wald interval for paired proportions.
    """
    if n <= 0:
        return 0.0, Interval(None, None)
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    z = normal_quantile(0.5 + confidence / 2.0)
    half = z * math.sqrt(max(0.0, first + second - (first - second) ** 2) / (n + 2))
    centre = first - second
    return (only_first - only_second) / n, Interval(max(-1.0, centre - half), min(1.0, centre + half))


def normal_quantile(p: float) -> float:
    """Return the standard normal quantile of p in (0, 1), by bisection of erf (absolute error below 1e-12)."""
    low, high = -40.0, 40.0
    for _ in range(120):
        middle = (low + high) / 2.0
        if 0.5 * (1.0 + math.erf(middle / math.sqrt(2.0))) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


@lru_cache(maxsize=256)
def student_t_quantile(p: float, freedom: int) -> float:
    """Return the p-quantile (0 < p < 1) of Student's t with ``freedom`` >= 1 degrees of freedom.

    Above 200 degrees the normal quantile with its first correction term is used (relative error below 1e-4).

    Source: Abramowitz & Stegun, 26.7.3, 26.7.4 and 26.7.5.
    """
    if p < 0.5:
        return -student_t_quantile(1.0 - p, freedom)
    if freedom > 200:
        z = normal_quantile(p)
        return z + (z**3 + z) / (4.0 * freedom)
    low, high = 0.0, math.pi / 2.0  # the angle whose tangent is t / sqrt(freedom)
    for _ in range(60):
        middle = (low + high) / 2.0
        if _student_below(middle, freedom) < p:
            low = middle
        else:
            high = middle
    return math.tan((low + high) / 2.0) * math.sqrt(freedom)


def student_t_cdf(t: float, freedom: int) -> float:
    """Return the probability that Student's t with ``freedom`` >= 1 degrees of freedom is below ``t``.

    Source: Abramowitz & Stegun, 26.7.3 and 26.7.4.
    """
    above = _student_below(math.atan(abs(t) / math.sqrt(freedom)), freedom)
    return above if t >= 0.0 else 1.0 - above


def _student_below(angle: float, freedom: int) -> float:
    """Return P(T <= tan(angle) * sqrt(freedom)) for an angle of 0 or more."""
    return 0.5 + _student_half_mass(angle, freedom) / 2.0


def _student_half_mass(angle: float, freedom: int) -> float:
    """Return P(|T| <= tan(angle) * sqrt(freedom))."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    series = 0.0
    for i in range(1 + odd, freedom, 2):
        series += term
        term *= cosine * cosine * i / (i + 1)
    return 2.0 / math.pi * (angle + sine * series) if odd else sine * series


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return Student's interval of a mean of near-normal values; None bounds below two values."""
    return effective_mean_interval(values, float(len(values)), confidence)


def series_mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> SeriesInterval:
    """Return Student's interval of the mean of values in the order of time: latencies or samples of power.

    Degrees of freedom and standard error are those of the effective number of values. By simulation (normal values, 10
    to 300 of them) a 95 % interval holds the mean in 93 % or more up to a lag-1 correlation of 0.5, and in 88 % of ten
    and 93 % of forty values at 0.7. A heavy tail (lognormal, sigma 1) costs up to 5 points below 100 values.
    """
    effective = effective_runs_of_mean(values)
    return SeriesInterval(effective_mean_interval(values, effective, confidence), math.floor(effective + 1e-9))


def effective_mean_interval(values: Sequence[float], effective_n: float, confidence: float = CONFIDENCE) -> Interval:
    """Return Student's interval of the mean of values worth ``effective_n`` independent ones; below two, no bounds."""
    n = len(values)
    if n < 2 or effective_n < 2.0:
        return Interval(None, None)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / n
    if variance == 0.0:
        return Interval(mean, mean)
    freedom = max(1, math.floor(effective_n + 1e-9) - 1)
    half = student_t_quantile(0.5 + confidence / 2.0, freedom) * math.sqrt(variance / (effective_n - 1.0))
    return Interval(mean - half, mean + half)


def warmup_cut(values: Sequence[float], block: int = 5, tolerance: float = 0.05, cap: int = 60) -> int | None:
    """Return how many leading runs are warm-up: up to where two successive block medians agree within ``tolerance``.

    Returns: the number of runs to cut (a multiple of ``block``), or None when no two blocks agree within ``cap`` runs.
    Source: rule and constants from repeated traces of two MobileNetV2 sizes on three runtimes; see README, Measuring.
    """
    limit = min(len(values), cap)
    previous: float | None = None
    for start in range(0, limit - block + 1, block):
        current = percentile(values[start : start + block], 0.5)
        if previous is not None and previous > 0 and abs(current - previous) <= tolerance * previous:
            return start
        previous = current
    return None


def trapezoid_j(power_w: Sequence[float], time_s: Sequence[float]) -> float:
    """Integrate sampled power: sum of (p[i] + p[i+1]) / 2 * (t[i+1] - t[i]), in joules.

    Raises: ValueError: lengths differ, fewer than two samples, or time does not strictly increase.
    """
    if len(power_w) != len(time_s) or len(time_s) < 2:
        raise ValueError("need two or more samples with their times")
    total = 0.0
    for i in range(len(time_s) - 1):
        step = time_s[i + 1] - time_s[i]
        if step <= 0:
            raise ValueError("sample times must strictly increase")
        total += (power_w[i] + power_w[i + 1]) / 2.0 * step
    return total


def counter_delta(before: int, after: int, wrap: int | None) -> int:
    """Return the increase of a counter that wraps at ``wrap`` (its largest value), at most one wrap assumed.

    Raises: ValueError: it went down and no wrap is known.
    """
    if after >= before:
        return after - before
    if wrap is None:
        raise ValueError("counter went backwards")
    return after - before + wrap + 1
