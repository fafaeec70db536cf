from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.budget import (
    METRICS,
    Budget,
    Estimate,
    check_budget,
    parse_budgets,
    parse_expression,
    parse_limit,
    parse_objective,
)
from agent.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value", "limit", "text"),
    [
        ("latency_p95", "20 ms", 0.02, "latency_p95 <= 20 ms"),
        ("latency_p95", "<= 20ms", 0.02, "latency_p95 <= 20 ms"),
        ("accuracy_top1", ">= 0.95", 0.95, "accuracy_top1 >= 0.950"),
        ("accuracy_top1", "95 %", 0.95, "accuracy_top1 >= 0.950"),
        ("accuracy_drop", 0.02, 0.02, "accuracy_drop <= 0.020"),
        ("throughput", "50 /s", 50.0, "throughput >= 50 /s"),
        ("memory_peak", "64 MiB", 64.0 * 2**20, "memory_peak <= 64 MiB"),
        ("latency_p50", "0 ms", 0.0, "latency_p50 <= 0 s"),
    ],
)
def test_limits(name: str, value: object, limit: float, text: str) -> None:
    assert parse_limit(name, value, where="x") == Budget(metric=name, limit=pytest.approx(limit), text=text)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("latency_p95", ">= 20 ms", "x: '>= 20 ms' limits latency_p95 on the wrong side"),
        ("accuracy_top1", "<0.9", "x: '<0.9' limits accuracy_top1 on the wrong side"),
        ("accuracy_top1", "1.5", "x: '1.5' is out of range"),
        ("latency_p95", "-1 ms", "x: '-1 ms' is out of range"),
        ("latency_p95", 20, "x: 20 has no unit"),
        ("latencyp95", "20 ms", "x: 'latencyp95' is not a metric"),
    ],
)
def test_limits_refused(name: str, value: object, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_limit(name, value, where="x")
    assert caught.value.problem == problem
    assert caught.value.fix


def test_expressions() -> None:
    assert parse_expression("latency_p95<=20ms", where="x") == parse_limit("latency_p95", "20 ms", where="x")
    assert parse_expression("accuracy_top1 > 95 %", where="x") == parse_limit("accuracy_top1", "0.95", where="x")
    assert parse_expression("size = 4 MiB", where="x") == parse_limit("size", "4 MiB", where="x")
    for text in ("latency_p95", "latency_p95 == 3 ms", "<=20ms", ""):
        with pytest.raises(ConfigError):
            parse_expression(text, where="x")
    assert [budget.metric for budget in parse_budgets({"size": "1 MB", "load_time": "2 s"}, where="t")] == [
        "size",
        "load_time",
    ]


def test_objectives() -> None:
    found = parse_objective("minimize latency_p95", where="x")
    assert (found.direction, found.metric, found.text) == ("minimize", "latency_p95", "minimize latency_p95")
    for text in ("latency_p95", "fastest", "minimise size", "minimize speed", None, "minimize size now"):
        with pytest.raises(ConfigError):
            parse_objective(text, where="x")
    with pytest.raises(ConfigError) as caught:
        parse_objective("minimize accuracy_top1", where="x")
    assert str(caught.value) == (
        "x: 'minimize accuracy_top1' asks for the worst accuracy_top1. Write 'maximize accuracy_top1'."
    )  # fmt: skip


def interval(value: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(value=value, low=low, high=high)


@pytest.mark.parametrize(
    ("budget", "estimate", "state", "miss", "reason"),
    [
        ("latency_p95<=20ms", Estimate.exact(0.02), "met", 0.0, "20 ms <= 20 ms"),
        ("latency_p95<=20ms", interval(0.01, 0.009, 0.02), "met", -0.5, "10 ms (95 %: 9 ms .. 20 ms) <= 20 ms"),
        (
            "latency_p95<=20ms", interval(0.03, 0.021, 0.04), "missed", 0.5,
            "30 ms (95 %: 21 ms .. 40 ms) is not <= 20 ms",
        ),
        (
            "latency_p95<=20ms", interval(0.019, 0.018, 0.021), "unknown", -0.05,
            "19 ms (95 %: 18 ms .. 21 ms) spans the limit 20 ms",
        ),
        (
            "latency_p95<=20ms", interval(0.019, 0.018, None), "unknown", -0.05,
            "19 ms (95 %: 18 ms .. ?) spans the limit 20 ms",
        ),
        ("latency_p95<=20ms", interval(0.03, 0.021, None), "missed", 0.5, "30 ms (95 %: 21 ms .. ?) is not <= 20 ms"),
        ("latency_p95<=20ms", Estimate.unknown("no runs"), "unknown", None, "no runs"),
        ("latency_p95<=20ms", Estimate(value=None), "unknown", None, "not measured"),
        ("latency_p95<=20ms", Estimate.exact(math.nan), "unknown", None, None),
        ("accuracy_top1>=0.95", interval(0.97, 0.95, 0.98), "met", None, "0.970 (95 %: 0.950 .. 0.980) >= 0.950"),
        ("accuracy_top1>=0.95", Estimate.exact(0.9496), "missed", None, "0.9496 is not >= 0.9500"),
        ("accuracy_drop<=0", Estimate.exact(0.01), "missed", None, "0.010 is not <= 0.000"),
    ],
)  # fmt: skip
def test_check(budget: str, estimate: Estimate, state: str, miss: float | None, reason: str | None) -> None:
    found = check_budget(parse_expression(budget, where="x"), estimate)
    assert found.state == state
    if reason is not None:
        assert found.reason == reason
    if miss is not None or estimate.value is None:
        assert found.miss_ratio == (None if miss is None else pytest.approx(miss))


NUMBERS = st.one_of(st.none(), st.floats(allow_nan=True))


@given(st.sampled_from(sorted(METRICS)), st.floats(0, 1e12), NUMBERS, NUMBERS, NUMBERS)
def test_met_needs_the_whole_interval(
    name: str, limit: float, value: float | None, low: float | None, high: float | None
) -> None:
    found = check_budget(Budget(metric=name, limit=limit, text=""), Estimate(value=value, low=low, high=high))
    bound = low if METRICS[name].higher_is_better else high
    holds = bound is not None and (bound >= limit if METRICS[name].higher_is_better else bound <= limit)
    assert (found.state == "met") == (value is not None and holds)
    assert found.miss_ratio is None or math.isfinite(found.miss_ratio)
    assert found.reason
