"""The rule of a shadow run: when agreement and latency are certain, and what the header of a sample may be."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from agent.core.shadow import MAX_SAMPLE_BYTES, Compared, Sample, ShadowPlan, Tensor, read_sample
from agent.core.trial import Trial

PLAN = ShadowPlan(requests=100, agreement=0.9)


def given(agrees: int, differs: int, budget_s: float | None = None, plan: ShadowPlan = PLAN, **more: Any) -> Trial:
    """Return a trial of requests that differ evenly among those that agree."""
    trial = Trial(plan, budget_s)
    n = agrees + differs
    for number in range(n):
        bad = differs * (number + 1) // n > differs * number // n
        trial.add(Compared(agrees=not bad, metric="top1", **more))
    return trial


def test_nothing_is_certain_of_a_few_requests() -> None:
    trial = given(20, 0)
    assert (trial.verdict(), trial.close()) == (None, "not_enough")


def test_agreement_passes_from_the_least_number_on() -> None:
    assert given(99, 0).verdict() is None
    assert given(100, 0).verdict() == "passed"
    assert given(296, 4).verdict() == "passed"


def test_a_candidate_that_disagrees_is_refused_at_once() -> None:
    assert given(0, 3).verdict() == "refused"
    assert given(5, 15).verdict() == "refused"


def test_when_the_time_is_over_the_interval_decides() -> None:
    assert given(100, 10).verdict() is None
    assert given(100, 10).close() == "not_enough"  # 0.838 .. 0.956
    near = given(180, 4, plan=ShadowPlan(requests=100, agreement=0.935))
    assert (near.verdict(), near.close()) == (None, "passed")
    far = given(170, 30)
    assert far.close() == "refused"


@pytest.mark.parametrize(("latency_s", "verdict"), [(0.001, "passed"), (0.004, "refused")])
def test_latency_is_held_against_the_budget(latency_s: float, verdict: str) -> None:
    assert given(150, 0, 0.002, latency_s=latency_s, waited_s=0.0).close() == verdict
    assert given(150, 0, None, latency_s=latency_s, waited_s=0.0).verdict() == "passed"


def test_requests_that_waited_for_a_core_have_no_latency() -> None:
    trial = given(150, 0, 0.002, latency_s=0.004, waited_s=0.002)
    assert (trial.verdict(), trial.close(), trial.waited) == (None, "not_enough", 150)
    assert "150 waited for a core and have no latency" in trial.text("not_enough")
    assert trial.figures()["latency_p95_s"] is None


def test_the_sentence_has_the_figures() -> None:
    trial = given(196, 4, 0.002, latency_s=0.001)
    assert trial.text("passed") == (
        "it agrees on 196 of 200 requests (98.0%, 90.0% is asked for); p95 1 ms against 2 ms"
    )
    failed = given(0, 3, problem="it does not take what the application feeds")
    assert failed.text("refused").endswith("3 gave no answer, the last: it does not take what the application feeds")
    assert Trial(PLAN, None).text("not_enough") == "no application gave it a request within 10 min"


@pytest.mark.parametrize(("chance", "wrong"), [(0.9, "passed"), (0.9, "refused"), (0.8, "passed"), (0.97, "refused")])
def test_a_wrong_verdict_is_rare(chance: float, wrong: str) -> None:
    """At the limit itself both are wrong: each at most in 2.5 % by the sequential test, and 2.5 % by the last look."""
    seeded, found = random.Random(1), []
    for _ in range(200):
        trial = Trial(PLAN, None)
        while trial.verdict() is None and trial.requests < 400:
            trial.add(Compared(agrees=seeded.random() < chance))
        found.append(trial.close())
    assert found.count(wrong) <= 0.05 * len(found) + 6  # two and a half standard deviations


def header(**more: Any) -> bytes:
    fields = {"kind": "tensors", "inputs": (Tensor(dtype="float32", shape=(2, 3)),), "outputs": ()}
    fields["outputs"] = (Tensor(dtype="int8", shape=(4,)),)
    return msgspec.json.encode(Sample(**{**fields, **more}))


def test_a_sample_is_as_long_as_its_arrays() -> None:
    sample = read_sample(header())
    assert isinstance(sample, Sample) and sample.length == 28


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{}", "not a sample"),
        (b"\xff", "not a sample"),
        (b"[" * 10000, "not a sample"),
        (header(kind="words"), "not a sample"),
        (header(inputs=(Tensor(dtype="float32", shape=(-1,)),)), "not a sample"),
        (header(inputs=(Tensor(dtype="object", shape=(1,)),)), "a type that no model has"),
        (header(inputs=(Tensor(dtype="int8", shape=(MAX_SAMPLE_BYTES,)),)), "a sample that is too long"),
        (header(inputs=()), "a sample of nothing"),
    ],
)
def test_what_is_no_sample_is_refused(data: bytes, says: str) -> None:
    assert read_sample(data) == says


def test_a_problem_stands_in_the_place_of_arrays() -> None:
    sample = read_sample(header(inputs=(), outputs=(), problem="too large"))
    assert isinstance(sample, Sample) and (sample.problem, sample.length) == ("too large", 0)
