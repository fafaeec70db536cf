"""What holds for every set of measurements, budgets and objectives."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.budget import METRICS, Budget, Estimate, Objective
from agent.core.decision import Choice, Decision
from agent.core.measurement import Measurement
from agent.select.decision import decide
from agent.select.explain import explain
from agent.select.feasible import judge
from tests.select.measured import CLASS, accuracy, latency, measurement, power

SCALE = {"time": 0.03, "bytes": 2e6, "power": 5.0, "energy": 0.02, "ratio": 1.0, "rate": 100.0}


@st.composite
def measured(draw: st.DrawFn) -> Measurement:
    name = draw(st.sampled_from("abcd"))
    n = 40
    right = draw(st.one_of(st.none(), st.integers(0, 2**n - 1)))
    watts = draw(st.one_of(st.none(), st.floats(0.5, 5.0)))
    return measurement(
        name,
        id=draw(st.uuids()).hex,
        threads=draw(st.integers(1, 3)),
        size_bytes=1000 * (ord(name) - 90),
        verdict=draw(st.sampled_from(["ok"] * 6 + ["crashed", "contended"])),
        load_time_s=draw(st.one_of(st.none(), st.floats(0.01, 0.05))),
        latency=latency(draw(st.floats(0.001, 0.05)), draw(st.floats(0.0, 0.3)), draw(st.booleans())),
        power=None if watts is None else power(watts, watts / 300, draw(st.sampled_from(["board", "estimated"]))),
        accuracy=None
        if right is None
        else accuracy([right >> i & 1 == 1 for i in range(n)], draw(st.sampled_from(["e" * 64, "f" * 64]))),
    )


@st.composite
def limits(draw: st.DrawFn) -> Budget:
    metric = METRICS[draw(st.sampled_from(sorted(METRICS)))]
    limit = draw(st.floats(0.0, 1.0)) * SCALE[metric.dimension]
    return Budget(metric=metric.name, limit=limit, text=f"{metric.name} {limit}")


def term(name: str) -> Objective:
    return Objective(direction="maximize" if METRICS[name].higher_is_better else "minimize", metric=name)


MEASUREMENTS = st.lists(measured(), max_size=8, unique_by=lambda m: m.id)
BUDGETS = st.lists(limits(), max_size=3)
OBJECTIVES = st.lists(st.sampled_from(sorted(METRICS)).map(term), max_size=3)


def decided(cases: list[Measurement], budgets: list[Budget], objectives: list[Objective], **more: Any) -> Decision:
    fields: dict[str, Any] = {"class_fingerprint": CLASS, "decided_at": "now", "decision_id": "d"}
    return decide("digits", cases, budgets, objectives, **(fields | more))


def choice_of(case: Measurement) -> Choice:
    return Choice(candidate=case.candidate, artifact_sha256=case.artifact_sha256, point=case.point)


@settings(max_examples=60, deadline=None)
@given(MEASUREMENTS, BUDGETS, OBJECTIVES)
def test_the_winner_is_feasible_and_unknown_never_passes(
    cases: list[Measurement], budgets: list[Budget], objectives: list[Objective]
) -> None:
    found = decided(cases, budgets, objectives)
    for option in found.options:
        states = [check.state for check in option.checks]
        if option.standing == "fits":
            assert states == ["met"] * len(budgets)
            for budget in budgets:
                estimate: Estimate = option.estimates[budget.metric]
                bound = estimate.low if METRICS[budget.metric].higher_is_better else estimate.high
                assert bound is not None
        assert option.reason
    winners = [option for option in found.options if option.rank == 1]
    assert (found.winner is None) == (not winners)
    assert [o.rank for o in found.options if o.standing == "fits"] == list(
        range(1, 1 + sum(o.standing == "fits" for o in found.options))
    )


@settings(max_examples=60, deadline=None)
@given(MEASUREMENTS, BUDGETS, st.data())
def test_tightening_a_budget_never_adds_a_fitting_option(
    cases: list[Measurement], budgets: list[Budget], data: st.DataObject
) -> None:
    def fitting(limits: list[Budget]) -> set[str]:
        return {option.measurement_id for option in judge(cases, limits) if option.standing == "fits"}

    tighter = []
    for budget in budgets:
        factor = data.draw(st.floats(0.0, 1.0))
        limit = budget.limit / factor if METRICS[budget.metric].higher_is_better and factor else budget.limit * factor
        limit = math.inf if METRICS[budget.metric].higher_is_better and not factor else limit
        tighter.append(msgspec.structs.replace(budget, limit=limit))
    assert fitting(tighter) <= fitting(budgets)
    extra = data.draw(limits())
    assert fitting([*budgets, extra]) <= fitting(budgets)


@settings(max_examples=60, deadline=None)
@given(MEASUREMENTS, BUDGETS, OBJECTIVES, st.data())
def test_input_order_does_not_matter_and_the_answer_repeats(
    cases: list[Measurement], budgets: list[Budget], objectives: list[Objective], data: st.DataObject
) -> None:
    incumbent = data.draw(st.one_of(st.none(), st.sampled_from(cases).map(choice_of))) if cases else None
    first = decided(cases, budgets, objectives, incumbent=incumbent)
    again = decided(data.draw(st.permutations(cases)), budgets, objectives, incumbent=incumbent)
    assert first == again
    assert explain(first) == explain(again)
    assert msgspec.json.decode(msgspec.json.encode(first), type=Decision) == first


@settings(max_examples=60, deadline=None)
@given(MEASUREMENTS, BUDGETS, OBJECTIVES)
def test_whoever_ties_with_the_winner_stays_when_it_runs_already(
    cases: list[Measurement], budgets: list[Budget], objectives: list[Objective]
) -> None:
    found = decided(cases, budgets, objectives)
    for option in found.options:
        if option.tied_with_winner:
            now = Choice(candidate=option.candidate, artifact_sha256=option.artifact_sha256, point=option.point)
            kept = decided(cases, budgets, objectives, incumbent=now)
            assert (kept.outcome, kept.winner) == ("kept_incumbent", now)


@settings(max_examples=60, deadline=None)
@given(MEASUREMENTS, BUDGETS, OBJECTIVES)
def test_whoever_is_out_does_not_win_by_running_already(
    cases: list[Measurement], budgets: list[Budget], objectives: list[Objective]
) -> None:
    found = decided(cases, budgets, objectives)
    for option in found.options:
        if not option.tied_with_winner:
            now = Choice(candidate=option.candidate, artifact_sha256=option.artifact_sha256, point=option.point)
            assert decided(cases, budgets, objectives, incumbent=now).winner == found.winner
