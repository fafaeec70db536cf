"""Is a model as quick where it would serve as it was chosen for? Rules in a table, and one that is slow only there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.core.budget import Budget, parse_expression
from agent.core.measurement import Measurement
from agent.core.ports import ProbeResult
from agent.deploy.document import expected_figures
from agent.measure.bench import prove_release
from agent.measure.latency_check import BUDGET_FACTOR, EXPECTED_FACTOR, too_slow
from tests.measure import models
from tests.measure.board import RealClock
from tests.measure.test_prove_release import deployed, deployment, golden

TIGHT = parse_expression("latency_p95<=20ms", where="test")
WIDE = parse_expression("latency_p99<=1s", where="test")
TWO_THREADS = msgspec.structs.replace(models.ONNX_POINT, threads=2)  # one would be known to wait by its own clock
SMALL = parse_expression("size<=1KiB", where="test")
#: On a kernel that does not say who waited: however busy the machine is that tests this, its quickest run is slow.
SLOWED = """
import time
from agent.measure import exercise
from agent.runtimes.onnx import OnnxRuntime
exercise.own_wait_ns = lambda: None
run = OnnxRuntime.run
def slowly(self):
    end = time.perf_counter() + {slow_s}
    while time.perf_counter() < end: pass
    run(self)
OnnxRuntime.run = slowly
"""


@pytest.mark.parametrize(
    ("median_s", "wait", "measured_s", "budgets", "slow"),
    [
        (0.020 * BUDGET_FACTOR, 0.05, 0.001, (TIGHT, WIDE), False),
        (0.021 * BUDGET_FACTOR, 0.05, 0.001, (TIGHT, WIDE), True),
        (0.021 * BUDGET_FACTOR, 0.5, 0.001, (TIGHT,), False),
        (0.060 * BUDGET_FACTOR, 0.5, 0.001, (TIGHT,), True),
        (100.0, 1.0, 0.001, (TIGHT,), False),
        (0.021 * BUDGET_FACTOR, None, 0.001, (TIGHT,), False),
        (0.060 * BUDGET_FACTOR, None, 0.001, (TIGHT,), True),
        (0.019, 0.05, 0.0001, (TIGHT,), False),
        (0.021 * BUDGET_FACTOR, 0.05, None, (TIGHT,), True),
        (0.100 * BUDGET_FACTOR, 0.05, 0.100, (TIGHT,), False),
        (0.101 * BUDGET_FACTOR, 0.05, 0.100, (TIGHT,), True),
        (0.010 * EXPECTED_FACTOR, 0.05, 0.010, (SMALL,), False),
        (0.011 * EXPECTED_FACTOR, 0.05, 0.010, (SMALL,), True),
        (100.0, 0.05, None, (SMALL,), False),
    ],
    ids=[
        "at the limit", "over the tightest", "half of it waited", "waited and slow all the same", "only waited",
        "nobody says who waited", "slow whoever waited",
        "ten times slower and within the budget", "never measured", "slow by the will of a person",
        "slower than that will", "no budget", "no budget and slow", "nothing to go by",
    ],
)  # fmt: skip
def test_the_median_is_held_against_the_budget_or_what_was_measured(
    median_s: float, wait: float | None, measured_s: float | None, budgets: tuple[Budget, ...], slow: bool
) -> None:
    latencies_s = [median_s / 2, median_s, 50.0 + median_s]
    assert (too_slow(latencies_s, wait, {"latency_p50_s": measured_s}, budgets) is not None) is slow


def test_a_release_that_is_slow_only_where_it_is_deployed_is_refused_in_one_sentence(
    measure: Callable[..., Measurement], fault: Callable[[str], None], tmp_path: Path
) -> None:
    path = models.two_inputs(tmp_path / "model.onnx")
    measured = measure(path)
    assert measured.latency is not None
    slow_s = 20 * EXPECTED_FACTOR * measured.latency.p50_s.value
    release = deployment(
        deployed(path), golden(tmp_path / "golden.npz", 0.0), expected=expected_figures(measured), point=TWO_THREADS
    )

    def prove(limit_s: float | None = None) -> ProbeResult:
        text = f"latency_p50<={limit_s}s"
        budgets = () if limit_s is None else (parse_expression(text, where="test"),)
        return prove_release(tmp_path, release, clock=RealClock(), budgets=budgets)

    assert prove().passed is True
    fault(SLOWED.format(slow_s=slow_s))
    result = prove()
    assert (result.passed, result.golden is not None and result.golden.passed) == (False, True)
    assert result.reason.startswith("it is too slow where it would serve: the quickest of ")
    assert f"over {EXPECTED_FACTOR:g} times the median " in result.reason
    refused = prove(slow_s / 100)
    assert refused.passed is False
    assert f"over {BUDGET_FACTOR:g} times the budget latency_p50 <= " in refused.reason
    assert prove(slow_s * 1000).passed is True
