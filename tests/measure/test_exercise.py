from __future__ import annotations

import msgspec
import pytest

from agent.measure import exercise
from agent.measure.protocol import TimingPlan

PLAN = TimingPlan(
    min_runs=10, min_time_s=0.01, max_runs=20, max_time_s=1.0, warmup_max_runs=5, warmup_max_s=1.0, block_runs=5,
    block_s=0.01, contended_wait_ratio=0.1, contended_patience_s=0.05,
)  # fmt: skip


class StolenProcessor:
    """Simulated clocks: a run lasts 2 ms in which its thread does not run, and the kernel counts no wait either."""

    def __init__(self) -> None:
        self.now_ns = 0

    def run(self) -> None:
        self.now_ns += 2_000_000

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def perf_counter(self) -> float:
        return self.now_ns / 1e9

    def thread_time_ns(self) -> int:
        return 0


@pytest.mark.parametrize("one_thread", [True, False])
def test_where_one_thread_works_all_time_it_did_not_run_counts(
    monkeypatch: pytest.MonkeyPatch, one_thread: bool
) -> None:
    simulated = StolenProcessor()
    monkeypatch.setattr(exercise, "time", simulated)
    monkeypatch.setattr(exercise, "own_wait_ns", lambda: 0)
    plan = msgspec.structs.replace(PLAN, one_thread=one_thread)
    timed = exercise.time_runs(simulated.run, plan)
    assert (timed.contended_runs > 0, bool(timed.latencies_ns)) == (one_thread, not one_thread)
    assert timed.wait_ratio is not None
    assert (timed.wait_ratio > 0.5) is one_thread
