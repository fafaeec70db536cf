"""A tiny reference kernel between timed runs: whether the core is as fast as it can be. In the child only.

It tells what no counter of the scheduler does: another thread on the same physical core, a lower clock, a busy host.
Which slowdown makes a measurement doubtful is for ``conditions`` to say.

Rules:
- The kernel is two 64 x 64 float32 matrix products, timed on the thread's CPU clock, so that waiting for a core does
  not count twice. A call before the timed one brings it back into the cache: what the model left there counts for
  nothing, and the best time of one model holds for all.
- It takes about one percent of the time: a call comes due when its own cost is that share of the time since the last.
- Its figure is the median, as a p50 is one: what slows most runs slows most samples. Its baseline is the shortest time
  seen, in this process or in an earlier one of this boot.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.core.statistics import percentile

_SIZE = 64  # 25 us where it was chosen: ten runs of 5 ms hold ten samples
_SHARE = 0.01  # of the time between two samples that the later one may take
_LEAST_SAMPLES = 5  # fewer say nothing of the whole


class Reference:
    """Samples of the kernel. Times in nanoseconds.

    Args:
        kernel: what is timed, None for the two products.
        wall, cpu: the clock that says when a sample is due, and the one that times it.
    """

    def __init__(
        self,
        kernel: Callable[[], object] | None = None,
        wall: Callable[[], int] = time.perf_counter_ns,
        cpu: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self._kernel = kernel or products()
        self._wall = wall
        self._cpu = cpu
        self._samples: list[int] = []
        self._best: int | None = None
        self._due_ns = 0

    def settle(self, calls: int = 10) -> None:
        """Call it a few times where nothing is timed: its code is loaded, and a best time is known."""
        for _ in range(calls):
            self.sample()
        self._samples.clear()

    def sample(self) -> None:
        """Take a sample, and set the time at which the next one is due."""
        begin = self._cpu()
        self._kernel()
        before = self._cpu()
        self._kernel()
        after = self._cpu()
        taken = max(1, after - before)
        self._samples.append(taken)
        self._best = taken if self._best is None else min(self._best, taken)
        self._due_ns = self._wall() + int((after - begin) / _SHARE)

    def due(self, now_ns: int) -> bool:
        """Tell whether the next sample is due."""
        return now_ns >= self._due_ns

    @property
    def best_ns(self) -> int | None:
        """The shortest time of this process, None before the first sample."""
        return self._best

    @property
    def median_ns(self) -> int | None:
        """The median time since ``settle``, None of fewer than five samples."""
        return int(percentile(self._samples, 0.5)) if len(self._samples) >= _LEAST_SAMPLES else None


def products() -> Callable[[], object]:
    """Return the kernel. numpy is imported by every engine already; its BLAS has one thread in a worker."""
    import numpy as np

    a = np.linspace(-1.0, 1.0, _SIZE * _SIZE, dtype=np.float32).reshape(_SIZE, _SIZE)
    b = np.ascontiguousarray(a.T)
    c, d = np.empty_like(a), np.empty_like(a)
    product = np.matmul

    def run() -> None:
        product(a, b, out=c)
        product(c, b, out=d)

    return run
