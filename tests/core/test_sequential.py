"""Sequential tests: what they need to accept, how soon they reject, and that neither side forgets its error."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from agent.core.sequential import ProportionTest, QuantileTest, persistence, seen_correlation


def test_nothing_is_accepted_before_fixed_size_theory_would() -> None:
    test = QuantileTest(0.95, 1.0)
    states = [test.add(0.5) for _ in range(100)]
    # 59 independent runs without an exceedance prove a p95 at 95 %; dependence and the later looks cost the rest.
    assert 59 < states.index("met") + 1 <= 80


def test_a_verdict_is_final() -> None:
    test = QuantileTest(0.95, 1.0)
    while test.add(2.0) == "open":
        pass
    assert test.n <= 5
    assert test.state == "missed"
    assert {test.add(0.1) for _ in range(500)} == {"missed"}


def test_one_stall_does_not_reject() -> None:
    test = QuantileTest(0.95, 1.0)
    assert [test.add(value) for value in (5.0, 0.5, 0.5, 0.5)] == ["open"] * 4


def test_a_copy_leaves_the_original_alone() -> None:
    test = QuantileTest(0.95, 1.0)
    test.add(2.0)
    copy = test.copy()
    for _ in range(10):
        copy.add(2.0)
    assert (copy.state, test.state, test.n) == ("missed", "open", 1)
    assert test.copy().add(0.5) == "open"


def test_strong_dependence_asks_for_more_runs() -> None:
    steady, drifting = QuantileTest(0.95, 1.0), QuantileTest(0.95, 1.0)
    rnd = random.Random(1)
    for i in range(2000):
        if steady.state == "open":
            steady.add(0.5 + 0.1 * rnd.random())
        if drifting.state == "open":
            drifting.add(0.5 + 0.1 * math.sin(i / 40.0))
    assert steady.state == "met"
    assert drifting.n > 2 * steady.n


@pytest.mark.parametrize("q", [0.5, 0.9, 0.95, 0.99])
def test_persistence_agrees_with_a_simulated_chain(q: float) -> None:
    rnd = random.Random(2)
    value, values = rnd.gauss(0, 1), []
    for _ in range(60_000):
        value = 0.5 * value + math.sqrt(0.75) * rnd.gauss(0, 1)
        values.append(value)
    limit = sorted(values)[int(q * len(values))]
    above = [value > limit for value in values]
    pairs = sum(1 for a, b in itertools.pairwise(above) if a and b)
    assert persistence(q, 0.5) == pytest.approx(pairs / sum(above), abs=0.04)
    assert persistence(q, 0.0) == pytest.approx(1.0 - q, abs=1e-6)


def test_seen_correlation_of_a_constant_is_zero_and_of_a_trend_high() -> None:
    assert seen_correlation([1.0] * 20) == 0.0
    assert seen_correlation([1.0, 2.0]) == 0.0
    assert seen_correlation([float(i) for i in range(200)]) > 0.9


@pytest.mark.parametrize(("truth", "limit", "verdict"), [(0.99, 0.9, "met"), (0.7, 0.9, "missed")])
def test_accuracy_is_decided_long_before_a_pack_ends(truth: float, limit: float, verdict: str) -> None:
    rnd = random.Random(3)
    test = ProportionTest(limit)
    for _ in range(1000):
        if test.add(rnd.random() < truth) != "open":
            break
    assert test.state == verdict
    assert test.n < 200


def test_accuracy_at_its_limit_is_seldom_accepted() -> None:
    rnd = random.Random(4)
    accepted = 0
    for _ in range(300):
        test = ProportionTest(0.9)
        for _ in range(400):
            if test.add(rnd.random() < 0.9) != "open":
                break
        accepted += test.state == "met"
    assert accepted <= 18  # 2.5 % are allowed, 7.5 expected; 18 is four standard deviations above
