"""Memory of real workers, held against another process that reads the kernel; nothing here depends on the load."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.ports import ProcessMemory, WorkerGroup, never_stop, no_progress
from agent.device.board import Board, this_board
from agent.device.worker_group import open_group
from agent.measure.figures import memory_figures
from agent.measure.observer import Observer
from agent.measure.protocol import Evaluated, FirstRun, Imported, Job, Started, WindowClosed
from agent.measure.supervisor import Child, ChildEndedError, is_last, needs_answer
from benchmarks import memory as benchmark
from tests.measure import models
from tests.measure.board import RealClock, TestBoard

MIB = 1 << 20


@pytest.fixture
def group() -> tuple[Board, WorkerGroup]:
    """This machine and a memory group made on it."""
    board = this_board()
    made = board.worker_group()
    if made is None:
        pytest.skip(f"memory cgroup: {open_group(board.root)}")
    return board, made


@pytest.mark.slow
def test_the_admission_peak_is_what_an_outside_observer_reads() -> None:
    found = benchmark.agreement(20)
    assert found["within"] == 20, found["ratios"]
    assert found["group_within"] == found["group_runs"], found["group_ratios"]


@pytest.mark.slow
def test_every_short_spike_is_caught(tmp_path: Path) -> None:
    found = benchmark.spikes(30, tmp_path)
    assert found["caught"] == 30


@pytest.mark.slow
def test_the_models_own_memory_is_the_same_in_every_run() -> None:
    found = benchmark.spread(10)
    assert found["measured"] == 10
    assert found["spread"] <= 1_000_000


def test_a_worker_over_its_limit_dies_alone(tmp_path: Path) -> None:
    found = benchmark.over_limit(tmp_path)
    assert found["verdict"] == "out_of_memory", found["reason"]
    assert found["agent_moved"] <= 1_000_000


def run_in(group: WorkerGroup, job: Job, board: Board) -> tuple[Observer, Child]:
    """Run a job in a group as the measuring stage does. Raises: ChildEndedError."""
    observer = Observer(board, "test", no_progress)
    with Child(job, clock=RealClock(), stop=never_stop, deadline_s=120.0, group=group) as child:
        while not is_last(event := child.next_event()):
            observer.take(event, child.pid, None)
            if isinstance(event, FirstRun):
                observer.memory_after = board.process_memory(child.pid)
            if needs_answer(event):
                child.go()
    return observer, child


def test_a_worker_stands_in_its_group_from_its_first_byte(group: tuple[Board, WorkerGroup], tmp_path: Path) -> None:
    board, made = group
    folder = made.entry.parent
    observer, _ = run_in(made, Job(model=str(models.two_inputs(tmp_path / "m.onnx")), point=models.ONNX_POINT), board)
    assert "memory_group" in observer.confinement
    figures = memory_figures(observer.memory_imported, observer.memory_after, observer.peak_was_reset)
    assert figures is not None and figures.cgroup_peak_bytes is not None
    assert observer.memory_after is not None and observer.memory_after.anonymous_bytes is not None
    # The group counts all anonymous pages of the process, the interpreter's own among them, and no engine is so small.
    assert figures.cgroup_peak_bytes >= observer.memory_after.anonymous_bytes - 2 * MIB
    assert "group of its own, since spawn" in figures.methods["cgroup_peak_bytes"]
    assert not folder.exists(), "the group is gone with its worker"


def test_a_group_over_its_limit_takes_only_the_worker(group: tuple[Board, WorkerGroup], tmp_path: Path) -> None:
    board, made = group
    job = Job(
        model=str(models.memory_bomb(tmp_path / "bomb.onnx")), point=models.ONNX_POINT, memory_growth_bytes=64 * MIB
    )
    for _ in range(2):  # the first time this process still imports
        before = benchmark.resident_bytes()
        with pytest.raises(ChildEndedError) as ended:
            run_in(made, job, board)
        found = board.worker_group()
        assert found is not None
        made = found
    made.close()
    assert ended.value.verdict == "out_of_memory"
    assert ended.value.reason == "the kernel killed it for memory while its first inference"
    assert abs(benchmark.resident_bytes() - before) <= 1_000_000


def test_a_group_that_takes_no_limit_leaves_the_limit_to_the_worker(tmp_path: Path) -> None:
    class Unlimited:
        """A group on a kernel that accounts and does not limit."""

        entry = tmp_path / "cgroup.procs"
        limits = False
        closed = False

        def holds(self, pid: int) -> bool:
            return False

        def limit(self, growth_bytes: int) -> bool:
            raise AssertionError("it takes none")

        def oom_kills(self) -> int | None:
            return None

        def close(self) -> None:
            self.closed = True

    made = Unlimited()
    job = Job(
        model=str(models.memory_bomb(tmp_path / "bomb.onnx")), point=models.ONNX_POINT, memory_growth_bytes=1 << 30
    )
    with pytest.raises(ChildEndedError, match="memory ran out") as ended:
        run_in(made, job, this_board())
    assert ended.value.verdict == "out_of_memory"
    assert made.closed
    assert (tmp_path / "cgroup.procs").read_text() == "0\n", "it was asked to enter"


class RisingBoard(TestBoard):
    """Simulated: each reading of a worker is 10 MiB above the one before."""

    def __init__(self) -> None:
        super().__init__()
        self._readings = 0

    def process_memory(self, pid: int) -> ProcessMemory | None:
        self._readings += 1
        return ProcessMemory(rss_bytes=self._readings * 10 * MIB, peak_bytes=self._readings * 10 * MIB)

    def reset_peak_memory(self, pid: int) -> bool:
        return True


def test_a_peak_after_the_timed_runs_counts_or_is_stated_apart() -> None:
    observer = Observer(RisingBoard(), "test", no_progress)
    for event in (Started(confinement=()), Imported()):
        observer.take(event, 1, None)
    observer.memory_after = RisingBoard().process_memory(1)
    observer.take(WindowClosed(inferences=1, elapsed_s=1.0), 1, None)
    observer.take(Evaluated(), 1, None)
    figures = memory_figures(
        observer.memory_imported, observer.memory_after, True,
        window=observer.memory_window, later=observer.memory_later,
    )  # fmt: skip
    assert figures is not None
    assert (figures.admission_peak_bytes, figures.later_peak_bytes) == (20 * MIB, 30 * MIB)
    assert figures.model_peak_bytes == 10 * MIB
