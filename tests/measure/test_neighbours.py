"""Detection with neighbours made on purpose.

Nothing here depends on how busy the machine is otherwise: foreign load can only add to the waiting, and what is flagged
is held against the kernel's own count, read from outside of the worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.measurement import Measurement
from agent.core.ports import SchedulerCounters
from agent.measure.settings import MeasureSettings
from benchmarks.hogs import Hog, Hogs
from tests.measure import models
from tests.measure.board import TestBoard

Measure = Callable[..., Measurement]
DEFAULTS = MeasureSettings()
WHOLE_BLOCKS = {"block_s": DEFAULTS.block_s, "min_time_s": 0.3, "max_runs": 4000}

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="this kernel does not count how long threads wait"
)


class CountingBoard(TestBoard):
    """Keeps what the kernel counted before and after the timed runs."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[SchedulerCounters] = []

    def scheduler_counters(self, pid: int) -> SchedulerCounters | None:
        counters = super().scheduler_counters(pid)
        if counters is not None:
            self.counted.append(counters)
        return counters

    @property
    def waited_share(self) -> float:
        before, after = self.counted
        waited_s, ran_s = after.wait_s - before.wait_s, after.run_s - before.run_s
        return waited_s / (waited_s + ran_s)


@pytest.fixture
def core() -> Iterator[int]:
    """Keep this test, and the workers it starts, on one core."""
    usable = os.sched_getaffinity(0)
    chosen = min(usable)
    os.sched_setaffinity(0, {chosen})
    yield chosen
    os.sched_setaffinity(0, usable)


@pytest.mark.parametrize("neighbours", [1, 2])
def test_every_run_beside_a_busy_neighbour_is_flagged(
    measure: Measure, core: int, tmp_path: Path, neighbours: int
) -> None:
    path = models.identity_classifier(tmp_path / "m.onnx")
    with Hogs([Hog("spin", core)] * neighbours):
        for _ in range(3):
            board = CountingBoard()
            result = measure(path, board=board, settings=WHOLE_BLOCKS)
            assert result.context is not None
            assert board.waited_share > DEFAULTS.contended_wait_ratio, "the neighbour was there"
            assert "contended" in result.context.flags


def test_a_run_beside_a_busy_neighbour_gives_no_figure(measure: Measure, core: int, tmp_path: Path) -> None:
    path = models.identity_classifier(tmp_path / "m.onnx")
    settings = {**WHOLE_BLOCKS, "contended": "refuse", "contended_patience_s": 0.3}
    with Hogs([Hog("spin", core)]):
        result = measure(path, settings=settings)
    assert (result.verdict, result.latency) == ("contended", None)
    assert result.reason is not None and "waited for a core" in result.reason


def test_without_a_neighbour_the_flag_follows_what_the_kernel_counted(
    measure: Measure, core: int, tmp_path: Path
) -> None:
    path = models.identity_classifier(tmp_path / "m.onnx")
    for _ in range(4):
        board = CountingBoard()
        result = measure(path, board=board, settings=WHOLE_BLOCKS)
        assert result.context is not None
        flagged = "contended" in result.context.flags
        if board.waited_share < DEFAULTS.contended_wait_ratio / 2:
            assert not flagged, f"a false alarm: it waited {board.waited_share:.1%} of the time"
        if board.waited_share > DEFAULTS.contended_wait_ratio * 2:
            assert flagged, f"missed: it waited {board.waited_share:.1%} of the time"


def test_a_block_is_judged_within_ten_inferences_or_a_quarter_second() -> None:
    assert DEFAULTS.block_runs <= 10
    assert DEFAULTS.block_s <= 0.1, "a block of slow runs ends after two and a half times this"
