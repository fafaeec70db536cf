"""Whether a model that is about to serve is as quick there as it was chosen for. Pure.

Rules:
- Judged is the median of the proof's timed runs. Where its threads waited for a core for more than ``OWN_CORES`` of the
  time, or nobody says, it is the quickest: the application may be at work on the same cores, and threads that wait for
  each other are slowed by far more than one of them waits. Who never had a core is not judged.
- With a latency budget, the limit is ``BUDGET_FACTOR`` times the tightest one; or times the median that was measured
  here where that is longer, since who deploys a slow model by name is obeyed. Within its budgets no model is refused.
- Without one, the limit is ``EXPECTED_FACTOR`` times the median measured here. With neither, nothing is judged.
- A median is no tail: this refuses what has become another thing (a fallback, a lost clock, a swapping board), and
  leaves whether a budget is met to the measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.core.budget import Budget
from agent.core.statistics import percentile
from agent.core.units import format_quantity

#: Chosen: an application that uses the same accelerator halves its speed, a board that throttles halves it again.
BUDGET_FACTOR = 4.0
#: Chosen: a processor at its lowest clock (a tenth of a laptop's, two fifths of a Raspberry Pi's) is no other model.
EXPECTED_FACTOR = 10.0
OWN_CORES = 0.1  # as measurements have it: quiet runs show 0.00 to 0.05, one busy neighbour 0.50


def too_slow(
    latencies_s: Sequence[float],
    wait_ratio: float | None,
    expected: Mapping[str, float | None],
    budgets: Sequence[Budget],
) -> str | None:
    """Return why a release is too slow to serve, None if it is not or nothing says how quick it should be.

    Args: latencies_s: of the timed runs, seconds. wait_ratio: time waited for a core / wall time, all threads together;
        None where the kernel does not say. expected: a deployment's figures (``latency_p50_s``, seconds).
        budgets: the task's; those on latency count.
    """
    if not latencies_s or (wait_ratio or 0.0) >= 1.0:
        return None
    quiet = wait_ratio is not None and wait_ratio <= OWN_CORES
    seen_s, which = (percentile(latencies_s, 0.5), "median") if quiet else (min(latencies_s), "quickest")
    limits = [one for one in budgets if one.metric.startswith("latency_")]
    tightest = min(limits, key=lambda one: one.limit, default=None)
    measured_s = expected.get("latency_p50_s")
    if tightest is not None and tightest.limit >= (measured_s or 0.0):
        factor, limit_s, what = BUDGET_FACTOR, tightest.limit, f"the budget {tightest.text}"
    elif measured_s is not None:
        factor = EXPECTED_FACTOR if tightest is None else BUDGET_FACTOR
        limit_s, what = measured_s, f"the median {format_quantity(measured_s, 'time')} that was measured here"
    else:
        return None
    if seen_s <= factor * limit_s:
        return None
    runs = f"the {which} of {len(latencies_s)} runs is {format_quantity(seen_s, 'time')}"
    return f"it is too slow where it would serve: {runs}, over {factor:g} times {what}"
