from __future__ import annotations

from typing import Any

import pytest

from agent.core.budget import parse_expression, parse_objective
from agent.core.decision import Choice, Decision
from agent.core.measurement import Measurement
from agent.select.decision import decide
from agent.select.explain import explain
from tests.select.measured import CLASS, accuracy, latency, measurement

FAST = parse_objective("minimize latency_p95", where="test")


def decided(cases: list[Measurement], *budgets: str, **changes: Any) -> Decision:
    fields = {"class_fingerprint": CLASS, "decided_at": "2026-01-03T00:00:00Z", "decision_id": "d-1"} | changes
    return decide("digits", cases, [parse_expression(text, where="test") for text in budgets], [FAST], **fields)


def choice(case: Measurement) -> Choice:
    return Choice(candidate=case.candidate, artifact_sha256=case.artifact_sha256, point=case.point)


def test_chosen() -> None:
    fast, slow = measurement("fast", p95_s=0.01), measurement("slow", p95_s=0.03)
    found = decided([slow, fast], "latency_p95<=20ms")
    assert found.outcome == "chosen"
    assert found.winner == choice(fast)
    assert found.reason == (
        "fast (onnxruntime/CPU x1) is chosen: it meets its one budget; the only one that fits"
    )  # fmt: skip
    assert found.nearest_miss is not None
    assert (found.nearest_miss.candidate, found.nearest_miss.reason) == (
        "slow", "latency_p95 30 ms is over 20 ms by 50 %",
    )  # fmt: skip


def test_kept_incumbent_on_a_tie() -> None:
    now, new = measurement("now", p95_s=0.0101), measurement("new", p95_s=0.01, size_bytes=1)
    found = decided([now, new], incumbent=choice(now))
    assert (found.outcome, found.winner) == ("kept_incumbent", choice(now))
    assert "no objective tells it from new" in found.reason
    assert found.options[1].tied_with_winner


def test_an_incumbent_that_no_longer_fits_is_replaced() -> None:
    now, new = measurement("now", p95_s=0.03), measurement("new", p95_s=0.01)
    found = decided([now, new], "latency_p95<=20ms", incumbent=choice(now))
    assert (found.outcome, found.winner) == ("chosen", choice(new))
    assert "It replaces now (onnxruntime/CPU x1): latency_p95 30 ms is over 20 ms by 50 %." in explain(found)


def test_nothing_fits_names_the_nearest_miss() -> None:
    cases = [
        measurement("far", p95_s=0.05),
        measurement("near", p95_s=0.025),
        measurement("broken", verdict="crashed", reason="signal 11"),
        measurement("blind", latency=None),
    ]
    found = decided(cases, "latency_p95<=20ms", incumbent=choice(cases[0]))
    assert (found.outcome, found.winner) == ("nothing_fits", None)
    assert found.reason == (
        "none of 4 options fits: 2 over budget, 1 unknown, 1 failed; nearest is near (onnxruntime/CPU x1): "
        "latency_p95 25 ms is over 20 ms by 25 %"
    )
    text = explain(found)
    assert "far (onnxruntime/CPU x1) keeps running." in text
    assert "For it to fit: latency_p95 must fall from 25 ms to 20 ms, or its budget move to 25.5 ms." in text
    assert "broken (onnxruntime/CPU x1): crashed: signal 11." in text


@pytest.mark.parametrize(
    ("cases", "nearest", "metric", "state"),
    [
        # a proven small miss is nearer than a figure that nobody has
        ([measurement("blind", latency=None), measurement("slow", p95_s=0.9)], "slow", "latency_p95", "missed"),
        # a value inside its limit that is not yet proven is nearest of all
        (
            [measurement("open", latency=latency(0.01, high=False)), measurement("slow", p95_s=0.0206)],
            "open", "latency_p95", "unknown",
        ),
        ([measurement("blind", latency=None)], "blind", "latency_p95", "unknown"),
    ],
)  # fmt: skip
def test_nearest_miss(cases: list[Measurement], nearest: str, metric: str, state: str) -> None:
    miss = decided(cases, "latency_p95<=20ms", "size<=4MiB").nearest_miss
    assert miss is not None
    assert (miss.candidate, miss.metric, miss.state) == (nearest, metric, state)


def test_what_would_have_to_change_is_said_for_each_kind() -> None:
    def change(case: Measurement, budget: str) -> str:
        return explain(decided([case], budget)).splitlines()[-1].removeprefix("For it to fit: ")

    few = [True] * 95 + [False] * 5
    assert change(measurement(p95_s=0.0199), "latency_p95<=20ms") == (
        "latency_p95 must be proven at most 20 ms: its interval reaches 20.3 ms, more runs narrow it."
    )
    assert change(measurement(latency=latency(0.01, high=False)), "latency_p95<=20ms") == (
        "latency_p95 needs more runs to be bounded."
    )
    assert change(measurement(power_reason="no power meter"), "power_mean<=4W") == (
        "power_mean must become measurable and be at most 4 W (no power meter)."
    )
    assert change(measurement(accuracy=accuracy(few)), "accuracy_top1>=0.99") == (
        "accuracy_top1 must rise from 0.950 to 0.990, or its budget move to 0.887."
    )


def test_only_failures_have_no_nearest_miss() -> None:
    found = decided([measurement(verdict="timeout")], "size<=4MiB")
    assert (found.outcome, found.nearest_miss) == ("nothing_fits", None)


def test_nothing_measured_and_other_classes_left_out() -> None:
    found = decided([measurement(class_fingerprint="another"), measurement(task="other")])
    assert found.outcome == "nothing_measured"
    assert found.reason == "no measurement of task digits on this class of board (1 of other board classes left out)"
    assert explain(found).startswith("Task digits, decided 2026-01-03T00:00:00Z:\nno measurement of task digits")


def test_explain_tells_the_whole_story() -> None:
    cases = [
        measurement("int8", p95_s=0.0100, size_bytes=300_000),
        measurement("fp16", p95_s=0.0101, size_bytes=600_000),
        measurement("fp32", p95_s=0.0150),
        measurement("huge", p95_s=0.0312),
    ]
    text = explain(decided(cases, "latency_p95<=20ms", what_if=True))
    assert (
        text
        == """\
Task digits, asked as a what-if 2026-01-03T00:00:00Z:
int8 (onnxruntime/CPU x1) is chosen: it meets its one budget; no objective tells it from fp16 (onnxruntime/CPU x1); \
the smallest file, then the name, decides.

Budgets: latency_p95 <= 20 ms.
Objective: minimize latency_p95.

Fits, best first:
  1. int8 (onnxruntime/CPU x1): latency_p95 10 ms (9.8 ms .. 10.2 ms)
     Meets its one budget; no objective tells it from fp16 (onnxruntime/CPU x1); the smallest file, then the name, \
decides.
  2. fp16 (onnxruntime/CPU x1): latency_p95 10.1 ms (9.9 ms .. 10.3 ms)
     Meets its one budget; cannot be told from int8 (onnxruntime/CPU x1) on any objective, and the tie went to the \
smaller file, then the name.
  3. fp32 (onnxruntime/CPU x1): latency_p95 15 ms (14.7 ms .. 15.3 ms)
     Meets its one budget; lost on minimize latency_p95: 15 ms (14.7 ms .. 15.3 ms) against 10 ms (9.8 ms .. 10.2 ms) \
of int8 (onnxruntime/CPU x1).

Over budget:
  huge (onnxruntime/CPU x1): latency_p95 31.2 ms is over 20 ms by 56 %.

Nearest miss: huge (onnxruntime/CPU x1): latency_p95 31.2 ms is over 20 ms by 56 %.
For it to fit: latency_p95 must fall from 31.2 ms to 20 ms, or its budget move to 31.8 ms."""
    )
