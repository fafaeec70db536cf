from __future__ import annotations

import time

import msgspec
import pytest

from agent.measure import exercise
from agent.measure.protocol import TimingPlan

PLAN = TimingPlan(
    min_runs=10, min_time_s=0.01, max_runs=20, max_time_s=1.0, warmup_max_runs=5, warmup_max_s=1.0, block_runs=5,
    block_s=0.01, contended_wait_ratio=0.1, contended_patience_s=0.05,
)  # fmt: skip


def sleeper() -> None:
    """A run that neither works nor waits in the run queue, as one whose processor is stolen or rationed."""
    time.sleep(0.002)


@pytest.mark.parametrize("one_thread", [True, False])
def test_where_one_thread_works_all_time_it_did_not_run_counts(
    monkeypatch: pytest.MonkeyPatch, one_thread: bool
) -> None:
    monkeypatch.setattr(exercise, "own_wait_ns", lambda: 0)
    plan = msgspec.structs.replace(PLAN, one_thread=one_thread)
    timed = exercise.time_runs(sleeper, plan)
    assert (timed.contended_runs > 0, bool(timed.latencies_ns)) == (one_thread, not one_thread)
    assert timed.wait_ratio is not None
    assert (timed.wait_ratio > 0.5) is one_thread
