from __future__ import annotations

import msgspec
import pytest

from agent.core.budget import Objective, parse_expression, parse_objective
from agent.core.decision import Choice, Option
from agent.core.measurement import Measurement
from agent.select.feasible import judge
from agent.select.rank import pick, rank
from tests.select.measured import accuracy, latency, measurement, point, power

FAST = parse_objective("minimize latency_p95", where="test")
SMALL = parse_objective("minimize size", where="test")
FRUGAL = parse_objective("minimize energy_per_inference", where="test")
LOAD = parse_objective("minimize load_time", where="test")
EXACT = parse_objective("minimize accuracy_drop", where="test")


def choice(case: Measurement) -> Choice:
    return Choice(candidate=case.candidate, artifact_sha256=case.artifact_sha256, point=case.point)


def ranked(cases: list[Measurement], *objectives: Objective, incumbent: Choice | None = None) -> tuple[Option, ...]:
    return rank(judge(cases, []), objectives, incumbent)


def names(options: tuple[Option, ...]) -> list[str]:
    return [option.candidate for option in options]


def test_separated_intervals_decide() -> None:
    found = ranked([measurement("slow", p95_s=0.02), measurement("fast", p95_s=0.01)], FAST)
    assert [(o.candidate, o.rank, o.tied_with_winner) for o in found] == [("fast", 1, True), ("slow", 2, False)]
    assert found[0].reason == (
        "no budget is set; decided by minimize latency_p95: 10 ms (9.8 ms .. 10.2 ms)"
    )  # fmt: skip
    assert found[1].reason == (
        "no budget is set; lost on minimize latency_p95: 20 ms (19.6 ms .. 20.4 ms) "
        "against 10 ms (9.8 ms .. 10.2 ms) of fast (onnxruntime/CPU x1)"
    )


def test_overlap_goes_on_to_the_next_objective() -> None:
    quick, small = measurement("quick", p95_s=0.0100), measurement("small", p95_s=0.0102, size_bytes=10)
    assert names(ranked([quick, small], FAST)) == ["small", "quick"]
    assert names(ranked([quick, small], FAST, SMALL)) == ["small", "quick"]
    assert names(ranked([quick, measurement("slow", p95_s=0.02, size_bytes=1)], FAST, SMALL)) == ["quick", "slow"]


def test_a_chain_of_overlaps_is_cut_at_the_leader() -> None:
    # a-b overlap and b-c overlap, a-c do not: c is out by the leader a, although b then wins on size.
    a, b, c = (
        measurement(n, p95_s=p, size_bytes=s) for n, p, s in (("a", 0.0100, 9), ("b", 0.0103, 5), ("c", 0.0106, 1))
    )
    found = ranked([c, b, a], FAST, SMALL)
    assert names(found) == ["b", "c", "a"] or names(found) == ["b", "a", "c"]
    assert found[0].candidate == "b"
    assert "against 10 ms (9.8 ms .. 10.2 ms) of a" in next(o for o in found if o.candidate == "c").reason


def test_the_incumbent_wins_ties_and_only_ties() -> None:
    big, small = measurement("big", p95_s=0.0102, size_bytes=99), measurement("small", p95_s=0.01, size_bytes=10)
    assert names(ranked([big, small], FAST, incumbent=choice(big)))[0] == "big"
    clear = measurement("clear", p95_s=0.008)
    assert names(ranked([big, small, clear], FAST, incumbent=choice(big)))[0] == "clear"


def test_the_incumbent_is_known_again_after_an_engine_update() -> None:
    case = measurement("big", p95_s=0.01, size_bytes=99)
    before = msgspec.structs.replace(choice(case), point=point(version="1.20.0"))
    assert names(ranked([case, measurement("small", p95_s=0.01, size_bytes=1)], FAST, incumbent=before))[0] == "big"


def test_last_words_are_size_then_name_then_point() -> None:
    same = [measurement("b"), measurement("a"), measurement("c", size_bytes=5), measurement("a", threads=2)]
    found = ranked(same, FAST)
    assert [(o.candidate, o.point.threads) for o in found] == [("c", 1), ("a", 1), ("a", 2), ("b", 1)]
    assert all(option.tied_with_winner for option in found)


def test_an_option_without_the_figure_is_worse_and_says_so() -> None:
    metered = measurement("metered", power=power(3.0, energy_j=5.0))
    blind = measurement("blind", size_bytes=1, power_reason="no power meter")
    found = ranked([blind, metered], FRUGAL)
    assert names(found) == ["metered", "blind"]
    assert found[1].reason == (
        "no budget is set; lost on minimize energy_per_inference: no figure (no power meter), "
        "and metered (onnxruntime/CPU x1) has one"
    )
    assert names(ranked([blind, measurement("also", power_reason="none")], FRUGAL)) == ["blind", "also"]


def test_an_unbounded_interval_reaches_to_the_largest_value_seen() -> None:
    open_end = measurement("open", latency=latency(0.010, high=False), size_bytes=1)  # the largest: 15 ms
    assert ranked([open_end, measurement("near", p95_s=0.0145, size_bytes=0)], FAST)[0].candidate == "near"
    assert ranked([open_end, measurement("slow", p95_s=0.02, size_bytes=0)], FAST)[0].candidate == "open"


def test_single_observations_tie_within_their_spread() -> None:
    a, b = measurement("a", load_time_s=0.20, size_bytes=2), measurement("b", load_time_s=0.22, size_bytes=1)
    assert names(ranked([a, b], LOAD)) == ["b", "a"]
    assert names(ranked([a, measurement("c", load_time_s=0.30, size_bytes=1)], LOAD)) == ["a", "c"]


ACCURATE = parse_objective("maximize accuracy_top1", where="test")
GOOD = [True] * 950 + [False] * 50
WORSE = [True] * 930 + [False] * 70


def test_accuracy_is_compared_sample_by_sample() -> None:
    cases = [measurement("good", accuracy=accuracy(GOOD)), measurement("worse", accuracy=accuracy(WORSE), size_bytes=1)]
    for objective in (ACCURATE, EXACT):
        assert names(ranked(cases, objective)) == ["good", "worse"]
    assert ranked(cases, ACCURATE)[1].reason == (
        "no budget is set; lost on maximize accuracy_top1: 0.930 (0.912 .. 0.945) against 0.950 (0.935 .. 0.963) "
        "of good (onnxruntime/CPU x1); on the same samples 0.020 (0.011 .. 0.029) below the best measured, "
        "against 0.000"
    )
    even = [True] * 949 + [False] * 51
    close = [measurement("good", accuracy=accuracy(GOOD)), measurement("even", accuracy=accuracy(even), size_bytes=1)]
    assert names(ranked(close, ACCURATE)) == ["even", "good"]


def test_accuracy_is_paired_though_the_best_does_not_fit() -> None:
    best = measurement("best", p95_s=0.5, accuracy=accuracy(GOOD))
    close = measurement("close", accuracy=accuracy([True] * 949 + [False] * 51))
    worse = measurement("worse", accuracy=accuracy(WORSE), size_bytes=1)
    options = judge([best, close, worse], [parse_expression("latency_p95<=20ms", where="test")])
    assert names(rank(options, [ACCURATE]))[:2] == ["close", "worse"]


def test_accuracy_on_other_samples_is_compared_by_its_own_interval() -> None:
    third = measurement("third", accuracy=accuracy(GOOD))
    other = measurement("other", accuracy=accuracy(WORSE, pack="f" * 64), size_bytes=1)
    assert names(ranked([measurement("good", accuracy=accuracy(GOOD)), third, other], ACCURATE))[0] == "other"


def test_picking_from_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no options"):
        pick([], [], None)
