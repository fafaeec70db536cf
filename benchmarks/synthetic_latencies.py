"""SYNTHETIC latencies with memory: streams whose p95 is known exactly, to test sequential tests with.

A stream is uniform ranks with memory, put through a distribution's quantile function. Memory:
``none``; ``gaussian``, the rank of a first-order autoregression whose lag-1 correlation is ``rho``; ``max``, a
max-autoregression, which clumps the tail more than the middle; ``sticky``, the last value again with chance ``rho``,
which clumps the tail as strongly as the middle. The last two have a lag-1 correlation of the ranks of ``rho``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import NamedTuple

Q = 0.95
_NORMAL = NormalDist()
_TINY = 1e-12


class Shape(NamedTuple):
    """A distribution of latencies by its quantile function, in units of its own p95, and how it is told apart."""

    name: str
    quantile: Callable[[float], float]
    narrow: bool  # nearly all runs within 30 % of each other; only these have stated runs to a verdict


def _lognormal(sigma: float) -> Callable[[float], float]:
    at_p95 = _NORMAL.inv_cdf(Q)
    return lambda rank: math.exp(sigma * (_NORMAL.inv_cdf(rank) - at_p95))


def _stalls(rank: float) -> float:
    """97 % of runs within 5 %, and 3 % of stalls of 1.5 to 15 times (Pareto, index 1.3)."""
    base = 0.95 + 0.05 * rank / Q
    return base if rank <= 0.97 else min(1.5 * ((1.0 - 0.97) / (1.0 - rank + _TINY)) ** (1 / 1.3), 15.0)


def _two_speeds(rank: float) -> float:
    """70 % at 0.6 and 30 % at 1.0 (a clock that changes), each within 2 %."""
    return 0.6 * (0.98 + 0.04 * rank / 0.7) if rank < 0.7 else 0.98 + 0.02 * (rank - 0.7) / 0.25


def _uniform(rank: float) -> float:
    return 0.8 + 0.2 * rank / Q


SHAPES = (
    Shape("lognormal, sigma 0.03", _lognormal(0.03), True),
    Shape("lognormal, sigma 0.15", _lognormal(0.15), True),
    Shape("uniform, 0.8 to 1.01", _uniform, True),
    Shape("two speeds, 0.6 and 1", _two_speeds, False),
    Shape("3 % stalls of up to 15x", _stalls, False),
    Shape("lognormal, sigma 0.5", _lognormal(0.5), False),
)
MEMORIES = ("none", "gaussian", "max", "sticky")


def ranks(memory: str, rho: float, draw: random.Random) -> Iterator[float]:
    """Yield uniform ranks in (0, 1) for ever. Raises: ValueError: no such memory."""
    if memory == "none" or rho == 0.0:
        while True:
            yield draw.random() or _TINY
    elif memory == "gaussian":
        own = math.sqrt(1.0 - rho * rho)
        value = draw.gauss(0.0, 1.0)
        while True:
            yield min(max(_NORMAL.cdf(value), _TINY), 1.0 - _TINY)
            value = rho * value + own * draw.gauss(0.0, 1.0)
    elif memory == "sticky":
        rank = draw.random()
        while True:
            yield rank or _TINY
            if draw.random() >= rho:
                rank = draw.random()
    elif memory == "max":
        # X' = max(a X, (1 - a) Z) with Z unit Frechet has unit Frechet marginals (Davis & Resnick 1989).
        keep = max_keep(rho)
        value = -1.0 / math.log(draw.random() or _TINY)
        while True:
            yield min(max(math.exp(-1.0 / value), _TINY), 1.0 - _TINY)
            fresh = -1.0 / math.log(draw.random() or _TINY)
            value = max(keep * value, (1.0 - keep) * fresh)
    else:
        raise ValueError(f"no memory is called {memory}")


def max_keep(rho: float) -> float:
    """Return how much a max-autoregression keeps for a lag-1 rank correlation of ``rho``: rho = 3 a / (2 + a).

    Source: its copula is Marshall and Olkin's with parameters a and 1; Spearman's rho of it: Nelsen 2006, chapter 5.
    """
    return 2.0 * rho / (3.0 - rho)
