"""Which choices make a ladder."""

from __future__ import annotations

import pytest

from agent.core.budget import parse_expression, parse_objective
from agent.core.decision import LadderRung
from agent.core.measurement import Measurement
from agent.select.feasible import judge
from agent.select.ladder import ladder_of
from agent.select.rank import rank
from tests.select.measured import accuracy, measurement, point, power

BEST = [parse_objective(text, where="test") for text in ("maximize accuracy_top1", "minimize latency_p95")]


def ladder(*cases: Measurement, most: int = 3, budgets: tuple[str, ...] = ()) -> list[str]:
    return [rung.choice.candidate for rung in rungs(*cases, most=most, budgets=budgets)]


def rungs(*cases: Measurement, most: int = 3, budgets: tuple[str, ...] = ()) -> tuple[LadderRung, ...]:
    limits = [parse_expression(text, where="test") for text in budgets]
    return ladder_of(rank(judge(cases, limits), BEST), most)


def case(name: str, p95_s: float, hits: int, **more: object) -> Measurement:
    return measurement(name, p95_s=p95_s, accuracy=accuracy([number < hits for number in range(1000)]), **more)


BIG, MIDDLE, SMALL = (case("big", 0.016, 980), case("middle", 0.008, 960), case("small", 0.004, 930))


def test_each_rung_is_lighter_and_as_good_as_may_be() -> None:
    nearly = case("nearly", 0.015, 965)
    poor = case("poor", 0.007, 900)
    assert ladder(SMALL, poor, nearly, MIDDLE, BIG) == ["big", "middle", "small"]
    assert ladder(SMALL, poor, nearly, MIDDLE, BIG, most=2) == ["big", "middle"]
    assert ladder(BIG, nearly) == ["big"]
    assert ladder() == []
    reason = rungs(BIG, MIDDLE)[1].reason
    assert reason == "p95 8 ms instead of 16 ms of big"


def test_a_rung_is_within_all_budgets() -> None:
    assert ladder(BIG, MIDDLE, SMALL, budgets=("accuracy_top1>=0.94",)) == ["big", "middle"]
    assert ladder(BIG, MIDDLE, budgets=("latency_p95<=1ms",)) == []


def test_without_a_power_meter_more_threads_are_not_lighter() -> None:
    wide = case("wide", 0.005, 970, point=point(threads=4))
    assert ladder(BIG, wide, SMALL) == ["big", "small"]


@pytest.mark.parametrize(("scope", "names"), [("board", ["big"]), ("estimated", ["big", "quick"])])
def test_with_one_the_energy_of_an_inference_must_fall_too(scope: str, names: list[str]) -> None:
    thirsty = case("quick", 0.008, 960, power=power(4.0, 0.030, scope))
    assert ladder(case("big", 0.016, 980, power=power(4.0, 0.020, scope)), thirsty) == names
