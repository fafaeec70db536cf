"""Budgets and objectives: what may be limited, and the three-valued check. Pure.

Rules:
- ``met``: the whole interval of the estimate lies on the allowed side. ``missed``: all of it lies on the other.
  ``unknown``: no figure, or the interval spans the limit. Unknown never passes a budget.
- Limits are inclusive: a latency equal to its limit is met.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from agent.core.units import Dimension, format_quantity, parse_quantity
from agent.errors import ConfigError

State = Literal["met", "missed", "unknown"]


class Metric(msgspec.Struct, frozen=True):
    """A quantity that budgets and objectives may name."""

    name: str
    dimension: Dimension
    higher_is_better: bool
    meaning: str


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("latency_p50", "time", False, "median latency of one inference"),
        Metric("latency_p90", "time", False, "90th percentile of latency"),
        Metric("latency_p95", "time", False, "95th percentile of latency"),
        Metric("latency_p99", "time", False, "99th percentile of latency"),
        Metric(
            "latency_p95_sustained", "time", False, "95th percentile once the board has reached thermal steady state"
        ),
        Metric("throughput", "rate", True, "inferences per second, one after the other"),
        Metric("memory_peak", "bytes", False, "peak memory of the process that runs the model"),
        Metric("power_mean", "power", False, "mean power while inferring, idle included"),
        Metric("energy_per_inference", "energy", False, "energy of one inference above idle"),
        Metric("size", "bytes", False, "length of the model file"),
        Metric("load_time", "time", False, "time to load the model"),
        Metric("first_inference", "time", False, "time of the first inference after loading"),
        Metric("accuracy_top1", "ratio", True, "top-1 accuracy on the evaluation pack"),
        Metric("accuracy_drop", "ratio", False, "top-1 accuracy below the best measured candidate"),
    )
}


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one metric: a value with an interval, or the reason why there is none.

    ``seen_high`` is the largest single value seen, which bounds nothing: where the upper bound is not known, options
    are told apart by it.

    ``exact`` marks a value without sampling error (a file's size), whose bounds equal the value.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    scope: str | None = None  # power only
    seen_high: float | None = None

    @staticmethod
    def exact(value: float) -> Estimate:
        """Return an estimate without sampling error."""
        return Estimate(value=value, low=value, high=value)

    @staticmethod
    def unknown(reason: str) -> Estimate:
        """Return an estimate that knows nothing, and why."""
        return Estimate(value=None, reason=reason)


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """One hard limit in SI units; ``text`` is as the user wrote it."""

    metric: str
    limit: float
    text: str


class BudgetCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict of one budget on one estimate.

    ``miss_ratio`` is how far past the limit the value lies, relative to the limit (0.25 = 25 % over; negative = slack);
    None without a value, and where the limit is 0.
    """

    metric: str
    state: State
    limit: float
    value: float | None
    low: float | None
    high: float | None
    miss_ratio: float | None
    reason: str


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """One term of the objective list; earlier terms decide first."""

    direction: Literal["maximize", "minimize"]
    metric: str

    @property
    def text(self) -> str:
        """As it is written in the configuration."""
        return f"{self.direction} {self.metric}"


def metric_named(name: str, *, where: str) -> Metric:
    """Return the metric, or raise ConfigError naming the nearest known one."""
    metric = METRICS.get(name)
    if metric is None:
        import difflib  # for this sentence only

        near = difflib.get_close_matches(name, METRICS, n=1)
        known = f"did you mean {near[0]}?" if near else "known metrics: " + ", ".join(METRICS)
        raise ConfigError(f"{where}: {name!r} is not a metric", fix=known.rstrip("?"))
    return metric


def parse_limit(name: str, value: object, *, where: str) -> Budget:
    """Read one budget as the configuration writes it: ``20 ms``, ``>= 0.95``, ``<= 64 MiB``.

    The comparison sign may be left out; where it is written it must fit the metric.
    Raises: ConfigError.
    """
    metric = metric_named(name, where=where)
    text = str(value).strip()
    body: object = value
    for sign, higher in ((">=", True), ("<=", False), (">", True), ("<", False)):
        if text.startswith(sign):
            if higher is not metric.higher_is_better:
                right = ">=" if metric.higher_is_better else "<="
                raise ConfigError(f"{where}: {text!r} limits {name} on the wrong side", fix=f"write {right}")
            body = text[len(sign) :]
            break
    limit = parse_quantity(body, metric.dimension, where=where)
    if limit < 0 or (metric.dimension == "ratio" and limit > 1):
        raise ConfigError(
            f"{where}: {text!r} is out of range", fix="ratios lie in 0..1 and quantities are not negative"
        )
    sign = ">=" if metric.higher_is_better else "<="
    return Budget(metric=name, limit=limit, text=f"{name} {sign} {format_quantity(limit, metric.dimension)}")


def parse_expression(text: str, *, where: str) -> Budget:
    """Read a budget written as one expression: ``latency_p95<=20ms``."""
    for sign in ("<=", ">=", "<", ">", "="):
        name, found, value = text.partition(sign)
        if found:
            return parse_limit(name.strip(), (sign if sign != "=" else "") + value, where=where)
    raise ConfigError(f"{where}: {text!r} is not a budget", fix="write it like 'latency_p95<=20ms'")


def parse_budgets(raw: Mapping[str, object], *, where: str) -> tuple[Budget, ...]:
    """Read the ``budgets`` mapping of a task."""
    return tuple(parse_limit(name, value, where=f"{where}.{name}") for name, value in raw.items())


def parse_objective(text: object, *, where: str) -> Objective:
    """Read one objective term such as ``maximize accuracy_top1``. Raises: ConfigError."""
    words = text.split() if isinstance(text, str) else []
    if len(words) == 2 and words[0] in ("maximize", "minimize"):
        better = "maximize" if metric_named(words[1], where=where).higher_is_better else "minimize"
        if words[0] != better:
            raise ConfigError(f"{where}: {text!r} asks for the worst {words[1]}", fix=f"write '{better} {words[1]}'")
        return Objective(direction="maximize" if words[0] == "maximize" else "minimize", metric=words[1])
    raise ConfigError(f"{where}: {text!r} is not an objective", fix="write it like 'minimize latency_p95'")


def distinct_digits(value: float, limit: float, dimension: Dimension) -> int:
    """Return how many digits it takes, from three on, to see that a value is not its limit."""
    digits = 3
    while digits < 9 and value != limit and _same_text(value, limit, dimension, digits):
        digits += 1
    return digits


def _same_text(value: float, limit: float, dimension: Dimension, digits: int) -> bool:
    return format_quantity(value, dimension, digits=digits) == format_quantity(limit, dimension, digits=digits)


def check_budget(budget: Budget, estimate: Estimate) -> BudgetCheck:
    """Judge one budget by the rules above."""
    metric = METRICS[budget.metric]

    def answer(state: State, reason: str) -> BudgetCheck:
        miss = None
        if estimate.value is not None and budget.limit > 0:
            miss = estimate.value / budget.limit - 1.0
            miss = -miss if metric.higher_is_better else miss
            miss = miss if math.isfinite(miss) else None
        return BudgetCheck(
            metric=budget.metric, state=state, limit=budget.limit, value=estimate.value,
            low=estimate.low, high=estimate.high, miss_ratio=miss, reason=reason,
        )  # fmt: skip

    if estimate.value is None:
        return answer("unknown", estimate.reason or "not measured")
    digits = distinct_digits(estimate.value, budget.limit, metric.dimension)

    def show(value: float | None) -> str:
        return format_quantity(value, metric.dimension, digits=digits)

    spread = f"{show(estimate.low) if estimate.low is not None else '?'} .. "
    spread += show(estimate.high) if estimate.high is not None else "?"
    exact = estimate.low == estimate.high == estimate.value
    said = show(estimate.value) if exact else f"{show(estimate.value)} (95 %: {spread})"
    sign = ">=" if metric.higher_is_better else "<="
    good = estimate.low if metric.higher_is_better else estimate.high
    bad = estimate.high if metric.higher_is_better else estimate.low
    if metric.higher_is_better:
        met, missed = good is not None and good >= budget.limit, bad is not None and bad < budget.limit
    else:
        met, missed = good is not None and good <= budget.limit, bad is not None and bad > budget.limit
    if met:
        return answer("met", f"{said} {sign} {show(budget.limit)}")
    if missed:
        return answer("missed", f"{said} is not {sign} {show(budget.limit)}")
    return answer("unknown", f"{said} spans the limit {show(budget.limit)}")
