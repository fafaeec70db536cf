"""Is there a trend in a short series, and how steep is it? Pure, standard library only.

Both look at all pairs: for series of some hundred values, not thousands. Neither takes a distribution for granted, and
one outlier moves neither. Neighbours that depend on each other make the test see trends too often: hand in medians of
blocks.

Sources: Theil 1950; Sen 1968, JASA 63; Mann 1945, Econometrica 13; Kendall 1975, Rank Correlation Methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median


def theil_sen(times: Sequence[float], values: Sequence[float]) -> float:
    """Return the median slope over all pairs, in values per unit of time; 0 below two different times."""
    slopes = [
        (values[j] - values[i]) / (times[j] - times[i])
        for j in range(1, len(times))
        for i in range(j)
        if times[j] != times[i]
    ]
    return median(slopes) if slopes else 0.0


def mann_kendall_z(values: Sequence[float]) -> float:
    """Return the normal score of Mann and Kendall's test for a trend, ties corrected, 0 below four values."""
    n = len(values)
    if n < 4:
        return 0.0
    score = sum((values[j] > values[i]) - (values[j] < values[i]) for j in range(1, n) for i in range(j))
    groups = [values.count(value) for value in set(values)]
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in groups)) / 18.0
    if variance <= 0.0 or score == 0:
        return 0.0
    return (score - math.copysign(1.0, score)) / math.sqrt(variance)
