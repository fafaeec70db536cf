"""When enough runs were timed, and which of them count. Pure: fed with blocks of runs, live or recorded.

Rules:
- Runs come in blocks. A block whose threads waited for a core longer than a share of its wall time says nothing about
  the model: it is left out and counted. A steady neighbour doubles a median at a spread of 2 %, so no rule on the
  spread can see it; the run-queue wait of one's own threads does.
- Limits are tested on clean blocks only. A limit that is missed ends the timing; the least number of runs and the least
  time hold otherwise, and a limit that decides is followed, within the caps, until it is met or missed. So is a
  quantile that candidates are compared by, until there are enough runs, dependent as they are, to bound it from above.
- A slow model is not run to the end of its block once a limit is missed: ``Watch`` looks at single runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.measurement import Proof
from agent.core.sequential import QuantileTest
from agent.core.statistics import series_percentile_interval
from agent.measure.protocol import Timed, TimingPlan

BLOCK_LONGEST = 2.5  # in block_s: a slow model's block ends here even with few runs


class Watch:
    """The tests as they would stand if the block now running counts."""

    def __init__(self, tests: Sequence[QuantileTest]) -> None:
        self._tests = [test.copy() for test in tests]

    def missed(self, run_ns: int) -> bool:
        """Take one run; tell whether a limit would be missed with it."""
        return "missed" in [test.add(run_ns / 1e9) for test in self._tests]


class Timing:
    """The runs of one worker so far. ``kept_ns`` are those that count, in order."""

    def __init__(self, plan: TimingPlan) -> None:
        self.plan = plan
        self.kept_ns: list[int] = []
        self.contended_runs = 0
        self.elapsed_s = 0.0
        self.over = False
        self._waited_ns: int | None = 0
        self._tests = [QuantileTest(test.q, test.limit_s) for test in plan.tests]

    @property
    def most_runs(self) -> int:
        """How many runs the next block may have at most."""
        return self.plan.max_runs - len(self.kept_ns)

    def watch(self) -> Watch | None:
        """Return a watch for the next block, None without tests."""
        return Watch(self._tests) if self._tests else None

    def add(self, block_ns: Sequence[int], waited_ns: int | None, wall_ns: int, elapsed_s: float) -> None:
        """Take a block.

        Args:
            waited_ns: how long its threads were runnable without a core, all together; None where nobody says.
            wall_ns: how long the block took. elapsed_s: since timing began, this block included.
        """
        self.elapsed_s = elapsed_s
        self._waited_ns = None if self._waited_ns is None or waited_ns is None else self._waited_ns + waited_ns
        if self._is_contended(waited_ns, wall_ns):
            self.contended_runs += len(block_ns)
        else:
            self.kept_ns += block_ns
            for run_ns in block_ns:
                for test in self._tests:
                    test.add(run_ns / 1e9)
        self.over = self._is_over()
        if self.over:
            for test in self._tests:
                test.close()

    def result(self) -> Timed:
        """Return what is told to the parent."""
        wait_ratio = None if self._waited_ns is None or self.elapsed_s <= 0 else self._waited_ns / 1e9 / self.elapsed_s
        proofs = tuple(
            Proof(metric=asked.metric, limit=asked.limit_s, state=test.state, n=test.n)
            for asked, test in zip(self.plan.tests, self._tests, strict=True)
        )
        return Timed(
            latencies_ns=tuple(self.kept_ns),
            elapsed_s=self.elapsed_s,
            contended_runs=self.contended_runs,
            wait_ratio=wait_ratio,
            proofs=proofs,
        )

    def _is_contended(self, waited_ns: int | None, wall_ns: int) -> bool:
        if self.plan.contended_wait_ratio is None or waited_ns is None:
            return False
        return waited_ns > self.plan.contended_wait_ratio * wall_ns

    def _is_over(self) -> bool:
        plan, kept = self.plan, len(self.kept_ns)
        if kept == 0 and self.contended_runs and self.elapsed_s >= plan.contended_patience_s:
            return True
        if any(test.state == "missed" for test in self._tests):
            return True
        if kept >= plan.max_runs or self.elapsed_s >= plan.max_time_s:
            return True
        if kept < plan.min_runs or self.elapsed_s < plan.min_time_s:
            return False
        asked = zip(plan.tests, self._tests, strict=True)
        if any(test.state == "open" for latency, test in asked if latency.decides):
            return False
        return all(series_percentile_interval(self.kept_ns, q).interval.high is not None for q in plan.bounded)
