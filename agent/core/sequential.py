"""Tests to look at after every run: is a latency quantile, or an accuracy, on the right side of its limit? Pure.

Rules:
- A test is ``open`` until it is ``met`` or ``missed``; the first it reaches is final. Undecided is not a verdict.
- False acceptance of a quantile limit is at most ``ALPHA`` however often one looks, also where successive runs depend
  on each other, in the tail as strongly as in the middle: acceptance asks for as many runs as the lag-1 correlation
  that they themselves show makes necessary (67 clean ones without any, 120 to 150 at 0.5).
- False rejection is at most ``ALPHA_REJECT``: turning a good model away costs more than the few runs that show it.
- Values of one process under one condition only: whoever feeds a test leaves out what ran under contention.

Leaves what to test, and what a verdict is worth, to the measure and select stages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Literal

from agent.core.autocorrelation import rank_autocorrelation
from agent.core.statistics import normal_quantile, series_percentile_interval

TestState = Literal["open", "met", "missed"]

ALPHA = 0.05
ALPHA_REJECT = 0.02
LAST_LOOK = 0.995  # two-sided, so a quarter of a percent on the side that accepts
_PLANNED_CORRELATION = 0.55  # of the rejecting side: a Gaussian chain of 0.5 remembers more than its last step
_SURE_EXCESS = 0.12  # chosen by simulation: somewhat above the standard error of a rank correlation over a hundred runs
_TAIL = 0.9  # chosen: what is above one's own ninth decile, of which a hundred runs have ten
_LEVELS = 10  # of correlation, for which the runs needed are counted once; rounded up
_MOST_EXCEEDANCES = 60  # where a test that is still open stays so: some 1,700 runs of a p95
_SPENT_FIRST = 0.95  # of ALPHA on acceptance without any exceedance, so that a clean model is through soonest
_WEIGHTS = (0.1, 0.25, 0.5, 0.9)  # alternatives of the rejecting side: this far from the limit's rate towards certainty
_RECHECK = 8  # runs between two looks at the autocorrelation


@cache
def persistence(q: float, correlation: float = _PLANNED_CORRELATION) -> float:
    """Return P(next value > q-quantile | this one is), for a Gaussian copula of the given lag-1 correlation.

    Source: bivariate normal orthant probability, P(X > u, Y > u) = integral over x > u of
    phi(x) * (1 - Phi((u - r x) / sqrt(1 - r^2))) dx, by Simpson's rule.
    """
    u, root = normal_quantile(q), math.sqrt(1.0 - correlation * correlation)
    steps, end = 400, max(u, 0.0) + 8.0
    width = (end - u) / steps
    total = 0.0
    for i in range(steps + 1):
        x = u + i * width
        tail = 0.5 * math.erfc((u - correlation * x) / root / math.sqrt(2.0))
        weight = 1 if i in {0, steps} else 4 if i % 2 else 2
        total += weight * math.exp(-x * x / 2.0) / math.sqrt(2.0 * math.pi) * tail
    return min(1.0, total * width / 3.0 / (1.0 - q))


class _Acceptance:
    """The smallest number of runs at which k exceedances still prove the limit, for k = 0, 1, 2 ...; grown on demand.

    Exact for the two-state Markov chain that stands at the limit and in which a run is as the one before with chance
    ``correlation``, else drawn anew: ``alive`` holds the chance of having seen k exceedances and not having been
    accepted yet. Each k may spend its share of ``ALPHA``.
    """

    def __init__(self, q: float, correlation: float) -> None:
        self._needed: list[int] = []
        self._grow = self._grown(1.0 - q, (1.0 - q) + q * correlation)

    def needed(self, exceedances: int) -> int | None:
        """Return the runs needed with so many exceedances; None above the most that are looked at."""
        if exceedances > _MOST_EXCEEDANCES:
            return None
        while len(self._needed) <= exceedances:
            self._needed.append(next(self._grow))
        return self._needed[exceedances]

    @staticmethod
    def _grown(rate: float, stays: float) -> Iterator[int]:
        after_clean = rate * (1.0 - stays) / (1.0 - rate)
        clean, bad = [1.0 - rate], [0.0]  # by exceedances so far; the last run was clean, or was not
        clean.append(0.0)
        bad.append(rate)
        spent, runs, k = 0.0, 1, 0
        while True:
            budget = ALPHA * (1.0 - (1.0 - _SPENT_FIRST) * 0.6**k)
            reached = sum(clean[: k + 1]) + sum(bad[: k + 1])
            if spent + reached <= budget:
                spent += reached
                for i in range(k + 1):
                    clean[i] = bad[i] = 0.0
                yield runs
                k += 1
                continue
            most = min(len(clean), _MOST_EXCEEDANCES + 1)
            new_clean = [clean[i] * (1.0 - after_clean) + bad[i] * (1.0 - stays) for i in range(most)]
            new_bad = [0.0, *(clean[i - 1] * after_clean + bad[i - 1] * stays for i in range(1, most))]
            if len(clean) <= _MOST_EXCEEDANCES:
                new_clean.append(0.0)
                new_bad.append(clean[-1] * after_clean + bad[-1] * stays)
            clean, bad = new_clean, new_bad
            runs += 1


@cache
def _acceptance(q: float, level: int) -> _Acceptance:
    return _Acceptance(q, level / _LEVELS)


def seen_correlation(values: Sequence[float]) -> float:
    """Return how much successive values stay together near the top: 0 is independent, 1 the same for ever.

    The mean of two lag-1 autocorrelations, each at least 0: that of the ranks, which is certain soonest but counts a
    slow drift of the bulk, and that of being above one's own ninth decile, which is what a limit there asks.
    """
    n = len(values)
    cut = sorted(values)[int(_TAIL * n)]
    above = [value > cut for value in values]
    share = sum(above) / n
    tail = 0.0
    if 0.0 < share < 1.0:
        pairs = math.fsum((a - share) * (b - share) for a, b in pairwise(above))
        tail = pairs / ((n - 1) * share * (1.0 - share))
    return (max(0.0, rank_autocorrelation(values) or 0.0) + max(0.0, tail)) / 2.0


class QuantileTest:
    """Is the q-quantile of a stream of values at most ``limit``?

    Rejecting is a mixture of betting martingales against "no more than 1 - q exceed the limit", which is valid at every
    look (Ville 1939; Ramdas et al. 2023, Statistical Science 38(4)); accepting is a group-sequential binomial test with
    spent error (Lan & DeMets 1983) on a Markov chain of the correlation that was seen.
    """

    def __init__(self, q: float, limit: float) -> None:
        self.q = q
        self.limit = limit
        self.state: TestState = "open"
        self.n = 0
        self.exceedances = 0
        self._rate = 1.0 - q
        self._stays = persistence(q)
        self._last_exceeded = False
        self._wealth = [1.0] * len(_WEIGHTS)
        self._values: list[float] = []
        self._look_at = 0

    def copy(self) -> QuantileTest:
        """Return a test that goes on from here and leaves this one as it is."""
        other = QuantileTest(self.q, self.limit)
        other.__dict__.update(self.__dict__)
        other._wealth, other._values = list(self._wealth), list(self._values)
        return other

    def add(self, value: float) -> TestState:
        """Take the next value and return where the test stands."""
        if self.state != "open":
            return self.state
        exceeds = value > self.limit
        self.n += 1
        self.exceedances += exceeds
        self._values.append(value)
        self._bet(exceeds)
        if sum(self._wealth) / len(_WEIGHTS) >= 1.0 / ALPHA_REJECT:
            self.state = "missed"
        elif self._accepts():
            self.state = "met"
        self._last_exceeded = exceeds
        return self.state

    def close(self) -> TestState:
        """Take a last look when no more values will come: an open test is met where the interval of all of them is.

        The interval (``series_percentile_interval``) allows for dependence and costs a quarter of a percent of error.
        """
        if self.state == "open" and self._values:
            high = series_percentile_interval(self._values, self.q, LAST_LOOK).interval.high
            if high is not None and high <= self.limit:
                self.state = "met"
        return self.state

    def _bet(self, exceeds: bool) -> None:
        fair = self._stays if self._last_exceeded else self._rate
        for i, weight in enumerate(_WEIGHTS):
            claimed = fair + (1.0 - fair) * weight
            self._wealth[i] *= claimed / fair if exceeds else (1.0 - claimed) / (1.0 - fair)

    def _accepts(self) -> bool:
        if self.n < self._look_at:
            return False
        least = _acceptance(self.q, 0).needed(self.exceedances)
        if least is None or self.n < least:
            return False
        seen = min(seen_correlation(self._values) + _SURE_EXCESS, 0.99)
        level = min(math.ceil(seen * _LEVELS), _LEVELS - 1)
        needed = _acceptance(self.q, level).needed(self.exceedances)
        if needed is None:
            return False
        # Beyond the last level: effective runs of a first-order process, n (1 - r) / (1 + r).
        top = level / _LEVELS
        stretch = max(1.0, (1.0 + seen) / (1.0 - seen) * (1.0 - top) / (1.0 + top))
        if self.n >= needed * stretch:
            return True
        self._look_at = min(self.n + _RECHECK, math.ceil(needed * stretch))
        return False


class ProportionTest:
    """Is the chance of success at least ``limit``? For independent trials: samples of a pack in random order.

    Betting martingales both ways, mixed over alternatives; each side errs with at most ``ALPHA / 2`` at any look.
    """

    def __init__(self, limit: float) -> None:
        self.limit = min(max(limit, 1e-6), 1.0 - 1e-6)
        self.state: TestState = "open"
        self.n = 0
        self.successes = 0
        self._above = [1.0] * len(_WEIGHTS)
        self._below = [1.0] * len(_WEIGHTS)

    def add(self, success: bool) -> TestState:
        """Take the next trial and return where the test stands."""
        if self.state != "open":
            return self.state
        self.n += 1
        self.successes += success
        for i, weight in enumerate(_WEIGHTS):
            high = self.limit + (1.0 - self.limit) * weight
            low = self.limit * (1.0 - weight)
            self._above[i] *= high / self.limit if success else (1.0 - high) / (1.0 - self.limit)
            self._below[i] *= low / self.limit if success else (1.0 - low) / (1.0 - self.limit)
        enough = 2.0 / ALPHA * len(_WEIGHTS)
        if sum(self._above) >= enough:
            self.state = "met"
        elif sum(self._below) >= enough:
            self.state = "missed"
        return self.state
