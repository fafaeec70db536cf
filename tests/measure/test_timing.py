"""When timing ends, and what of it counts."""

from __future__ import annotations

from typing import Any

from agent.measure.bench import _timing
from agent.measure.protocol import LatencyTest, TimingPlan
from agent.measure.settings import MeasureSettings, Stakes
from agent.measure.timing import Timing

MS = 1_000_000
P95 = LatencyTest(metric="latency_p95", q=0.95, limit_s=0.010)


def plan(*tests: LatencyTest, **changes: Any) -> TimingPlan:
    return _timing(
        MeasureSettings(**{"min_runs": 20, "min_time_s": 0.1, "max_time_s": 5.0, **changes}), Stakes(latency=tests)
    )


def feed(timing: Timing, run_ns: int, blocks: int, *, waited: float = 0.0, runs: int = 10) -> int:
    """Feed blocks until it is over; return how many it took."""
    for number in range(blocks):
        if timing.over:
            return number
        wall = run_ns * runs
        timing.add([run_ns] * runs, int(waited * wall), wall, timing.elapsed_s + wall / 1e9)
    return blocks


def test_the_least_runs_and_the_least_time_both_hold() -> None:
    timing = Timing(plan())
    assert feed(timing, 5 * MS, 50) == 2  # 20 runs, 0.1 s
    fast = Timing(plan())
    feed(fast, MS, 50)
    assert 100 <= len(fast.kept_ns) <= 110  # 0.1 s


def test_a_missed_limit_ends_it_at_once_and_an_open_one_goes_on() -> None:
    slow = Timing(plan(P95))
    assert feed(slow, 15 * MS, 50) == 1
    assert slow.result().proofs[0].state == "missed"
    good = Timing(plan(P95))
    feed(good, 5 * MS, 50)
    assert good.result().proofs[0].state == "met"
    assert 59 < len(good.kept_ns) <= 80  # as many as prove a p95, and the block is finished


def test_a_rival_does_not_prolong_it() -> None:
    rival = LatencyTest(metric="latency_p95", q=0.95, limit_s=0.010, decides=False)
    timing = Timing(plan(rival))
    feed(timing, 5 * MS, 50)
    assert len(timing.kept_ns) == 20
    assert timing.result().proofs[0].state == "open"


def test_contended_blocks_count_for_nothing_and_prove_nothing() -> None:
    timing = Timing(plan(P95, contended_patience_s=1.0))
    feed(timing, 20 * MS, 50, waited=0.5)
    assert timing.kept_ns == []
    assert timing.elapsed_s >= 1.0
    result = timing.result()
    assert result.proofs[0].state == "open"
    assert result.contended_runs > 0


def test_a_watch_sees_a_missed_limit_within_the_block_and_changes_nothing() -> None:
    timing = Timing(plan(P95))
    watch = timing.watch()
    assert watch is not None
    assert [watch.missed(15 * MS) for _ in range(5)].index(True) < 5
    assert timing.result().proofs == (timing.result().proofs[0],)
    assert timing.result().proofs[0].n == 0
    assert Timing(plan()).watch() is None


def test_the_caps_end_what_cannot_be_decided() -> None:
    timing = Timing(plan(P95, max_time_s=1.0))
    for number in range(1000):
        if timing.over:
            break
        run = (9 if number % 2 else 12) * MS
        timing.add([9 * MS] * 9 + [run], 0, 100 * MS, timing.elapsed_s + 0.1)
    assert timing.over
    assert timing.elapsed_s <= 1.2
