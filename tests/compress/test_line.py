"""A line through pairs that share candidates: its chances are met as often as they say."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from agent.compress.line import fit


@pytest.mark.parametrize(
    ("groups", "start", "x"),
    [
        ([[0.0, 0.7, 1.4]], "0-0", -0.9),  # the narrowest of three widths, and a narrower one
        ([[0.0, 0.7, 1.4], [0.0, 1.0]], "1-1", 0.5),
        ([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], "elsewhere", 1.0),  # a technique on three networks, and on a fourth
        ([[0.0, 1.0, 2.0, 2.5], [0.0, 1.0]], "elsewhere", 3.0),
    ],
)
def test_a_chance_is_met_as_often_as_it_says(groups: list[list[float]], start: str, x: float) -> None:
    """Values drawn by the model, with the error of a shared candidate in each of its pairs: chances are even."""
    draw, chances = random.Random(3), []
    for _ in range(2000):
        pairs, of_start = {}, 0.0
        for number, places in enumerate(groups):
            values = [2.0 * place + draw.gauss(0.0, 0.3) for place in places]
            for one, other in itertools.combinations(range(len(places)), 2):
                difference = places[other] - places[one], values[other] - values[one]
                pairs[f"{number}-{one}", f"{number}-{other}"] = difference
                if f"{number}-{other}" == start:
                    of_start = values[other] - 2.0 * places[other]
            if start == f"{number}-0":
                of_start = values[0]
        of_start = draw.gauss(0.0, 0.3) if start == "elsewhere" else of_start
        came = 2.0 * x + draw.gauss(0.0, 0.3) - of_start
        line = fit(pairs, start)
        assert line.seen == sum(len(places) - 1 for places in groups)
        chance = line.chance(x, came, upward=False)
        assert chance is not None
        chances.append(chance)
    steps = [abs((number + 0.5) / len(chances) - chance) for number, chance in enumerate(sorted(chances))]
    assert max(steps) < 1.63 / math.sqrt(len(chances))  # Kolmogorov's limit at 1 %; the draws are always the same
