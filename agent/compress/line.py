"""A straight line through what pairs of candidates measured, and the chance that a new one lies beyond a limit. Pure.

Model: value of a candidate = level of its group + slope * its place + an error of its own, normal, of one variance.
Least squares with a level for each group (Draper & Smith 1998, Applied Regression Analysis, chapter 14).

- Candidates that pairs link, directly or through others, are one group: pairs that share a candidate share its error.
- Degrees of freedom are candidates - groups - 1: n pairs that share none give n - 1, three members of one group 1,
  however many pairs they make. With none left there is an expectation and no chance.
- A new value is judged against that of the start, which is given. With s the errors' standard deviation, xx the sum of
  squared distances from the groups' means, k members in a group: where the start is a member, what is new lies on the
  group's line, with standard error s * sqrt(1 + 1/k + d^2 / xx), d from the group's mean; elsewhere the start has an
  error of its own, s * sqrt(2 + x^2 / xx). Either over s is Student's t.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from agent.core.statistics import student_t_cdf

Members = dict[str, tuple[float, float]]  # place and value of each member of a group, against its first


class _Own(NamedTuple):
    """The start's group: its members, how far the start is from their mean, and its value above the line."""

    size: int
    distance: float
    above: float


class Line(NamedTuple):
    """A fit; ``spread`` is the errors' standard deviation, None without ``freedom``; ``seen``: independent pairs."""

    slope: float
    spread: float | None
    xx: float
    seen: int
    freedom: int
    own: _Own | None

    def expected(self, x: float) -> float:
        """Return the value expected at x from the start, less the start's own."""
        return self.slope * x - (0.0 if self.own is None else self.own.above)

    def chance(self, x: float, beyond: float, *, upward: bool) -> float | None:
        """Return the probability of a value beyond a limit at x from the start; ``upward``: beyond is above."""
        if self.spread is None:
            return None
        distance = self.expected(x) - beyond if upward else beyond - self.expected(x)
        if self.own is None:
            share = 2.0 + x * x / self.xx
        else:
            share = 1.0 + 1.0 / self.own.size + (self.own.distance + x) ** 2 / self.xx
        error = self.spread * math.sqrt(share)
        if error == 0.0:
            return 1.0 if distance >= 0.0 else 0.0
        return student_t_cdf(distance / error, self.freedom)


def fit(pairs: Mapping[tuple[str, str], tuple[float, float]], start: str | None) -> Line:
    """Return the line through pairs: how far the second is from the first, never 0, and its value less the first's."""
    groups = _groups(pairs, start)
    centred: list[tuple[float, float]] = []
    own = None
    for members in groups:
        x_mean, y_mean = (fmean(one[number] for one in members.values()) for number in (0, 1))
        centred += [(x - x_mean, y - y_mean) for x, y in members.values()]
        if start in members:
            own = _Own(len(members), members[start][0] - x_mean, members[start][1] - y_mean)
    xx, xy = sum(x * x for x, _ in centred), sum(x * y for x, y in centred)
    slope, seen = xy / xx, len(centred) - len(groups)
    rest = sum((y - slope * x) ** 2 for x, y in centred)
    if own is not None:
        own = own._replace(above=own.above - slope * own.distance)
    spread = math.sqrt(rest / (seen - 1)) if seen > 1 else None
    return Line(slope, spread, xx, seen, seen - 1, own)


def _groups(pairs: Mapping[tuple[str, str], tuple[float, float]], start: str | None) -> Sequence[Members]:
    """Return the groups; a member's place and value are those along the fewest pairs from its group's first."""
    beside: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    for (one, other), (x, y) in pairs.items():
        beside[one].append((other, x, y))
        beside[other].append((one, -x, -y))
    groups: list[Members] = []
    met: set[str] = set()
    for first in sorted(beside, key=lambda name: name != start):  # the start first, the others as they came
        if first in met:
            continue
        members, waiting = {first: (0.0, 0.0)}, [first]
        for at in waiting:
            for name, x, y in beside[at]:
                if name not in members:
                    members[name] = (members[at][0] + x, members[at][1] + y)
                    waiting.append(name)
        met |= members.keys()
        groups.append(members)
    return groups
