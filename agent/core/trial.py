"""Is a candidate as good as what serves, on the requests that it was given? Pure.

Rules:
- A request agrees where the candidate names the same class for every row of its first output (both models classify:
  they have labels, or an accuracy), else where no output differs by more than ``tolerance`` times the largest magnitude
  of the incumbent's. What the candidate does not take, or fails on, does not agree.
- Agreement is a sequential test (``ProportionTest``, two and a half percent of error on each side at whatever look):
  ``met`` passes, from ``requests`` on; ``missed`` refuses at once. When the time is over and it is still open, the
  exact 95 % interval of all that was seen decides, from ``requests`` on.
- Latency is held against the budget's p95 by ``QuantileTest``, on requests that had their cores: the worker yields to
  everybody, and what it waited for a core is not the model's (more than ``WAITED`` of the time: left out, as in a
  measurement). Without a budget it is recorded and judges nothing.
- Neither passed nor refused is ``not_enough``: the task's ``without_traffic`` says whether the switch waits or goes on.
- Requests are taken as independent. Frames of one scene are not: they are taken apart in time, and no more is promised.
- Agreement says how differently the two answer, and not which of them is right: a candidate that is better by five
  points disagrees on five requests of a hundred at least.
"""

from __future__ import annotations

from agent.core.sequential import ProportionTest, QuantileTest
from agent.core.shadow import Compared, ShadowPlan, Verdict
from agent.core.statistics import percentile, proportion_interval
from agent.core.units import format_quantity

WAITED = 0.1  # the share of ``MeasureSettings.contended_wait_ratio``


class Trial:
    """The rule. ``add`` what was compared, then ask ``verdict``; ``close`` when the time is over."""

    def __init__(self, plan: ShadowPlan, budget_p95_s: float | None) -> None:
        self.plan, self.budget_p95_s = plan, budget_p95_s
        self.requests = self.agreed = self.waited = self.problems = 0
        self.metric: str | None = None
        self.problem: str | None = None  # the last one
        self._agreement = ProportionTest(plan.agreement)
        self._latency = None if budget_p95_s is None else QuantileTest(0.95, budget_p95_s)
        self._latencies: list[float] = []
        self._errors: list[float] = []

    def add(self, one: Compared) -> None:
        """Take one request."""
        self.requests += 1
        self.agreed += one.agrees
        self.metric = one.metric
        self._agreement.add(one.agrees)
        if one.problem is not None:
            self.problems, self.problem = self.problems + 1, one.problem
        if one.rel_error is not None:
            self._errors.append(one.rel_error)
        if one.latency_s is None:
            return
        if one.waited_s is not None and one.waited_s > WAITED * one.latency_s:
            self.waited += 1
            return
        self._latencies.append(one.latency_s)
        if self._latency is not None:
            self._latency.add(one.latency_s)

    def verdict(self) -> Verdict | None:
        """Return what is certain by now; None: nothing is."""
        latency = "met" if self._latency is None else self._latency.state
        if "missed" in (self._agreement.state, latency):
            return "refused"
        if self._agreement.state == latency == "met" and self.requests >= self.plan.requests:
            return "passed"
        return None

    def close(self) -> Verdict:
        """Return the verdict when no more will come."""
        if (known := self.verdict()) is not None:
            return known
        latency = "met" if self._latency is None else self._latency.close()
        agreement = self._agreement.state
        if agreement == "open" and self.requests >= self.plan.requests:
            low, high = self._bounds()
            agreement = "met" if low >= self.plan.agreement else "missed" if high < self.plan.agreement else "open"
        if "missed" in (agreement, latency):
            return "refused"
        return "passed" if agreement == latency == "met" and self.requests >= self.plan.requests else "not_enough"

    def _bounds(self) -> tuple[float, float]:
        found = proportion_interval(self.agreed, self.requests)
        return (0.0 if found.low is None else found.low), (1.0 if found.high is None else found.high)

    def figures(self) -> dict[str, object]:
        """Return the fields of a result that are figures."""
        low, high = self._bounds() if self.requests else (None, None)
        times = self._latencies
        return {
            "metric": self.metric, "requests": self.requests, "agreed": self.agreed, "agreement_low": low,
            "agreement_high": high, "agreement_asked": self.plan.agreement,
            "rel_error_p95": percentile(self._errors, 0.95) if self._errors else None,
            "latency_n": len(times), "latency_p50_s": percentile(times, 0.5) if times else None,
            "latency_p95_s": percentile(times, 0.95) if times else None,
            "budget_latency_p95_s": self.budget_p95_s, "waited": self.waited, "problems": self.problems,
            "without_traffic": self.plan.without_traffic,
        }  # fmt: skip

    def text(self, verdict: Verdict) -> str:
        """Return what was seen as a sentence without its end."""
        if self.requests == 0:
            return f"no application gave it a request within {format_quantity(self.plan.time_s, 'time')}"
        share, asked = self.agreed / self.requests, self.plan.agreement
        parts = [f"it agrees on {self.agreed} of {self.requests} requests ({share:.1%}, {asked:.1%} is asked for)"]
        if self._latencies:
            p95 = format_quantity(percentile(self._latencies, 0.95), "time")
            budget = "" if self.budget_p95_s is None else f" against {format_quantity(self.budget_p95_s, 'time')}"
            parts.append(f"p95 {p95}{budget}")
        if self.waited:
            parts.append(f"{self.waited} waited for a core and have no latency")
        if self.problem is not None:
            parts.append(f"{self.problems} gave no answer, the last: {self.problem}")
        few = f", which is too few to be certain within {format_quantity(self.plan.time_s, 'time')}"
        return "; ".join(parts) + (few if verdict == "not_enough" else "")
