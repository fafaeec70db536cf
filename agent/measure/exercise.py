"""Running a loaded model: until it is warm, against the clock, and through a power window. In the child only.

Rules:
- Between two clock readings stands the run alone; nothing is decoded, written or collected between timed runs. Limits
  are looked at between single runs of a slow model only, where that costs less than a thousandth of a run.
- A model of one thread never blocks: there all time that its thread did not run counts as waiting, so that a stolen or
  rationed processor is seen too, of which the kernel counts no wait.

Leaves to ``timing`` which runs count and when there are enough.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.core.statistics import warmup_cut
from agent.measure.protocol import Block, HeatPlan, Timed, TimingPlan, Warm, WindowClosed
from agent.measure.timing import BLOCK_LONGEST, Timing

_WARMUP_BLOCK = 5  # runs; the block of warmup_cut
_RUNS_AFTER_PAUSE = 3  # a pause cools caches and puts spinning threads to sleep
_PAUSE_S = 0.05
_WATCHED_NS = 2_000_000  # chosen: runs from here on are looked at singly, which takes some microseconds


Run = Callable[[], None]


def own_wait_ns() -> int | None:
    """Return how long this process's threads were runnable without a core, summed; None where the kernel is silent.

    Source: Documentation/scheduler/sched-stats.rst, /proc/<pid>/task/<tid>/schedstat, second field, nanoseconds.
    """
    total = 0
    try:
        for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - names only, in a measured process
            total += int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return total


def warm_up(run: Run, plan: TimingPlan) -> Warm:
    """Run until two successive blocks of five agree within 5 %, or the plan's caps."""
    clock = time.perf_counter
    seen: list[float] = []
    end = clock() + plan.warmup_max_s
    while len(seen) < plan.warmup_max_runs and clock() < end:
        start = clock()
        run()
        seen.append(clock() - start)
        if len(seen) % _WARMUP_BLOCK == 0 and warmup_cut(seen) is not None:
            return Warm(runs=len(seen), settled=True)
    return Warm(runs=len(seen), settled=False)


def time_runs(run: Run, plan: TimingPlan) -> Timed:
    """Time single runs until ``Timing`` has enough of them from blocks that had their cores.

    Returns: nanoseconds per run, in order; runs of contended blocks are counted and left out.
    """
    _after_pause(run)
    clock = time.perf_counter_ns
    timing = Timing(plan)
    gc.collect()
    gc.disable()
    begin = clock()
    try:
        while not timing.over:
            waited_before, ran_before, start = own_wait_ns(), time.thread_time_ns(), clock()
            block = _block(run, timing)
            now, ran = clock(), time.thread_time_ns() - ran_before
            waited = _difference(waited_before, own_wait_ns())
            if plan.one_thread:
                waited = max(waited or 0, now - start - ran)
            timing.add(block, waited, now - start, (now - begin) / 1e9)
    finally:
        gc.enable()
    return timing.result()


def run_on(run: Run, plan: HeatPlan) -> Iterator[Block]:
    """Run without pause in blocks of ``block_s`` until nobody asks for more, or ``max_s`` are over."""
    clock = time.perf_counter_ns
    begin = now = clock()
    while now - begin < plan.max_s * 1e9:
        waited_before, ran_before, start = own_wait_ns(), time.thread_time_ns(), clock()
        taken: list[int] = []
        while (now := clock()) - start < plan.block_s * 1e9 or not taken:
            run()
            taken.append(max(1, clock() - now))
        ran, waited = time.thread_time_ns() - ran_before, _difference(waited_before, own_wait_ns())
        if plan.one_thread:
            waited = max(waited or 0, now - start - ran)
        yield Block(
            latencies_ns=tuple(taken[:: math.ceil(len(taken) / plan.kept)]),
            runs=len(taken),
            at_s=(now - begin) / 1e9,
            wall_s=(now - start) / 1e9,
            waited_s=None if waited is None else waited / 1e9,
        )


def _block(run: Run, timing: Timing) -> list[int]:
    """Time one block: ``block_s`` and ``block_runs`` long, or two and a half times ``block_s`` if runs are slow."""
    clock, plan, most, watch = time.perf_counter_ns, timing.plan, timing.most_runs, timing.watch()
    taken: list[int] = []
    append = taken.append
    shortest = clock() + int(plan.block_s * 1e9)
    longest = clock() + int(BLOCK_LONGEST * plan.block_s * 1e9)
    while True:
        start = clock()
        run()
        stop = clock()
        append(stop - start)
        count = len(taken)
        if count >= most or stop >= longest or (stop >= shortest and count >= plan.block_runs):
            return taken
        if watch is not None and stop - start >= _WATCHED_NS and watch.missed(stop - start):
            return taken


def _difference(before: int | None, after: int | None) -> int | None:
    """Return the increase; a thread that ended takes its counter with it, which would make it negative."""
    return None if before is None or after is None else max(0, after - before)


def _after_pause(run: Run) -> None:
    end = time.perf_counter() + _PAUSE_S
    for _ in range(_RUNS_AFTER_PAUSE):
        run()
        if time.perf_counter() >= end:
            return


def run_window(run: Run, window_s: float) -> WindowClosed:
    """Run back to back for ``window_s`` seconds, at least once."""
    clock = time.perf_counter
    begin = now = clock()
    count = 0
    while count == 0 or now - begin < window_s:
        run()
        count += 1
        now = clock()
    return WindowClosed(inferences=count, elapsed_s=now - begin)
