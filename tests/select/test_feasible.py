from __future__ import annotations

import pytest

from agent.core.budget import METRICS, Estimate, parse_expression
from agent.core.measurement import GoldenResult, Measurement, Placement
from agent.select.feasible import estimates, judge, newest
from tests.select.measured import accuracy, latency, measurement, power

GOOD = [True] * 950 + [False] * 50
WORSE = [True] * 930 + [False] * 20 + [True] * 5 + [False] * 45  # 20 lost, 5 won against GOOD


def reason_of(measurements: list[Measurement], *budgets: str, **options: bool) -> tuple[str, str]:
    found = judge(measurements, [parse_expression(text, where="test") for text in budgets], **options)[0]
    return found.standing, found.reason


def test_every_metric_has_an_estimate_and_every_unknown_a_reason() -> None:
    for case in (measurement(), measurement(verdict="crashed", reason="signal 11"), measurement(p95_s=None)):
        found = estimates(case, [case])
        assert list(found) == list(METRICS)
        assert [name for name, e in found.items() if e.value is None and not e.reason] == []


def test_figures_carry_their_intervals() -> None:
    case = measurement(p95_s=0.01, accuracy=accuracy(GOOD), power=power(3.0))
    found = estimates(case, [case])
    assert found["latency_p95"] == Estimate(value=0.01, low=0.0098, high=0.0102, seen_high=0.015)
    assert found["memory_peak"] == Estimate.exact(50_000_000)
    assert found["size"] == Estimate.exact(1_000_000)
    assert found["accuracy_drop"] == Estimate.exact(0.0)
    assert found["power_mean"].scope == "board"
    rate = found["throughput"]
    assert rate.value == pytest.approx(1 / 0.0092)
    assert (rate.low, rate.high) == (pytest.approx(1 / 0.0092 / 1.02), pytest.approx(1 / 0.0092 / 0.98))


def test_accuracy_drop_is_paired_sample_by_sample() -> None:
    best, worse = measurement("best", accuracy=accuracy(GOOD)), measurement("worse", accuracy=accuracy(WORSE))
    drop = estimates(worse, [worse, best])["accuracy_drop"]
    assert drop.value == pytest.approx(0.015)
    assert drop.low is not None and drop.high is not None
    assert 0.004 < drop.low < 0.006 and 0.024 < drop.high < 0.026


def test_same_artifact_with_the_same_answers_drops_nothing() -> None:
    first = measurement("best", accuracy=accuracy(GOOD))
    second = measurement("best", threads=2, accuracy=accuracy(GOOD))
    assert estimates(second, [first, second])["accuracy_drop"] == Estimate.exact(0.0)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (accuracy(WORSE, pack="f" * 64), "judged on another evaluation pack than the best candidate, best"),
        (accuracy(WORSE, keep=False), "the sample-by-sample results of this candidate were not kept"),
        (accuracy(WORSE[100:]), "judged on 900 samples and the best candidate, best, on 1000"),
        (None, "accuracy was not measured"),
    ],
)
def test_accuracy_drop_is_unknown_where_it_cannot_be_paired(other: object, reason: str) -> None:
    best, worse = measurement("best", accuracy=accuracy(GOOD)), measurement("worse", accuracy=other)
    third = measurement("third", accuracy=accuracy(GOOD))
    assert estimates(worse, [best, worse, third])["accuracy_drop"] == Estimate.unknown(reason)


def test_bits_that_do_not_agree_with_the_count_are_not_used() -> None:
    import msgspec

    best = measurement("best", accuracy=accuracy(GOOD))
    lying = measurement("lying", accuracy=msgspec.structs.replace(accuracy(WORSE), correct=900))
    assert estimates(lying, [best, lying])["accuracy_drop"].value is None


@pytest.mark.parametrize(
    ("case", "budgets", "standing", "reason"),
    [
        (measurement(), [], "fits", "no budget is set"),
        (measurement(), ["latency_p95<=20ms"], "fits", "meets its one budget"),
        (measurement(), ["latency_p95<=20ms", "size<=4MiB"], "fits", "meets all 2 budgets"),
        (measurement(p95_s=0.0312), ["latency_p95<=20ms"], "over_budget", "latency_p95 31.2 ms is over 20 ms by 56 %"),
        (measurement(), ["size<=999999B"], "over_budget", "size 976.5625 KiB is over 976.5615 KiB by 0.0001 %"),
        (
            measurement(p95_s=0.03), ["latency_p95<=20ms", "memory_peak<=10MB", "size<=4MiB"], "over_budget",
            "memory_peak 47.7 MiB is over 9.54 MiB by 400 %; latency_p95 30 ms is over 20 ms by 50 %",
        ),
        (
            measurement(p95_s=0.0199), ["latency_p95<=20ms"], "unknown",
            "latency_p95 is unknown: 19.9 ms (95 %: 19.5 ms .. 20.3 ms) spans the limit 20 ms",
        ),
        (
            measurement(latency=latency(0.01, high=False)), ["latency_p95<=20ms"], "unknown",
            "latency_p95 is unknown: 10 ms (95 %: 9.8 ms .. ?) spans the limit 20 ms",
        ),
        (
            measurement(power_reason="no power meter on this board"), ["power_mean<=4W"], "unknown",
            "power_mean is unknown: no power meter on this board",
        ),
        (
            measurement(), ["latency_p95_sustained<=20ms"], "unknown",
            "latency_p95_sustained is unknown: sustained latency was not measured",
        ),
        (
            measurement(accuracy=accuracy(WORSE)), ["accuracy_top1>=0.99"], "over_budget",
            "accuracy_top1 0.935 is under 0.990 by 5.6 %",
        ),
        (
            measurement(power=power(3.0, scope="estimated")), ["power_mean<=4W"], "unknown",
            "power_mean is unknown: 3 W is estimated, not measured",
        ),
        (measurement(power=power(3.0, energy_j=None)), ["energy_per_inference<=1J"], "unknown",
            "energy_per_inference is unknown: energy could not be computed"),
        (measurement(verdict="timeout", reason="no result in 30 s"), ["size<=4MiB"], "failed",
            "timeout: no result in 30 s"),
        (measurement(verdict="engine_missing"), [], "failed", "engine missing"),
        (
            measurement(golden=GoldenResult(checked=True, passed=False, reason="off by 0.3")), [], "failed",
            "golden outputs differ: off by 0.3",
        ),
        (  # a part of it on the CPU, under a point of its own that names both
            measurement(placement=Placement(requested="CUDA", actual=("CUDA", "CPU"), share=0.95)), [], "fits",
            "no budget is set",
        ),
        (
            measurement(placement=Placement(requested="CUDA", actual=("CPU",), fallback=True)), [], "failed",
            "asked for CUDA but ran on CPU",
        ),
    ],
)  # fmt: skip
def test_standing_and_reason(case: Measurement, budgets: list[str], standing: str, reason: str) -> None:
    assert reason_of([case], *budgets) == (standing, reason)


def test_estimated_power_passes_only_where_allowed() -> None:
    case = measurement(power=power(3.0, scope="estimated"))
    assert reason_of([case], "power_mean<=4W", allow_estimated_power=True)[0] == "fits"
    over = measurement(power=power(5.0, scope="estimated"))
    assert reason_of([over], "power_mean<=4W")[0] == "unknown"


def test_only_the_newest_measurement_of_a_key_counts() -> None:
    old = measurement(p95_s=0.030, id="z-old")
    new = measurement(p95_s=0.010, id="a-new", started_at="2026-01-02T00:00:00Z")
    assert newest([new, old]) == newest([old, new]) == (new,)
    assert reason_of([old, new], "latency_p95<=20ms")[0] == "fits"
