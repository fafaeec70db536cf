"""Is a model slower, or failing more, in the application than it was measured and allowed? What explains it? Pure.

Rules:
- Three charts for a task: calls over ``MARGIN`` times the measured p95 (``slower``), calls over the budget's
  (``over_budget``), and calls that failed (``failing``). Each is a CUSUM over reports: S = max(0, S + log-likelihood
  ratio of the report's calls, between a rate that is as it should be and one that is not), an alarm at ``THRESHOLD``.
- False alarms: while the rate is as it should be and calls do not depend on each other, the mean number of reports
  until a chart's false alarm is at least e^THRESHOLD = 10^7, 116 days at one a second (Lorden 1971, Procedures for
  reacting to a change in distribution, theorem 2). Where calls depend on each other that is not promised; a report adds
  at most a fifth of the threshold, so that a burst of less than five reports is never an alarm.
- A call is over a latency where its bucket begins above it, so up to 3.1 % more goes unseen. The margin is there
  because an application is never quite a bench; one whose calls are far apart, so that each finds cold caches and a
  slow clock, may well be called slower than measured, which it is.
- How soon a slowdown is seen, and how often noise is called one, `benchmarks/watch.py` shows on synthetic calls.
- Recovered is a chart that holds the opposite with odds of ``RECOVER_ODDS`` to one, over ``RECOVER_REPORTS`` reports at
  least; a task has recovered with the last of its charts. Until then it stays one and the same alarm.
- Causes are what differs on the board from the conditions of the measurement; several may be named, the likeliest
  first. Only where nothing differs it is the model, or what it is fed.

The steps down and up a ladder are ``agent.core.ladder``'s; nothing here does anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from agent.core.histogram import count_over
from agent.core.live import LiveReport
from agent.core.units import format_quantity

Chart = Literal["slower", "over_budget", "failing"]
CauseKind = Literal["outputs", "supply", "heat", "governor", "update", "memory", "neighbour", "model"]

THRESHOLD = math.log(1e7)
MARGIN = 1.08  # chosen: a slowdown of a fifth is still well above it
_MOST_ADDED = THRESHOLD / 5
RECOVER_ODDS = 1000.0
RECOVER_REPORTS = 10
#: Rates as they should be, and those that are to be seen.
RATES: dict[Chart, tuple[float, float]] = {
    "slower": (0.05, 0.12), "over_budget": (0.05, 0.12), "failing": (0.001, 0.02),
}  # fmt: skip
_WARMER_CELSIUS = 10.0  # chosen: than when measured, where no throttle bit says it
_SLOWER_CLOCK = 0.95  # of the clock when measured
_PRESSURE = 0.10  # chosen: of the last ten seconds somebody waited for memory
_WAITING = 0.25  # chosen: of the last ten seconds somebody waited for a core, where it is not known who uses them
_OTHERS = 0.25  # chosen: of the processors' time, used by neither the application nor idle


class _Cusum:
    """One chart. ``bad`` of ``n`` calls at a time."""

    def __init__(self, good: float, bad: float) -> None:
        self._hit, self._miss = math.log(bad / good), math.log((1 - bad) / (1 - good))
        self.alarmed = False
        self.score = self._back = 0.0
        self._reports_back = 0

    def add(self, bad: int, n: int) -> None:
        """Take one report."""
        ratio = bad * self._hit + (n - bad) * self._miss
        if not self.alarmed:
            self.score = max(0.0, self.score + min(ratio, _MOST_ADDED))
            self.alarmed = self.score >= THRESHOLD
            self._back, self._reports_back = 0.0, 0
            return
        self._back = max(0.0, self._back - ratio)
        self._reports_back = self._reports_back + 1 if self._back > 0.0 else 0
        if self._back >= math.log(RECOVER_ODDS) and self._reports_back >= RECOVER_REPORTS:
            self.alarmed = False
            self.score = 0.0


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A task became degraded, or recovered. ``charts``: what was seen; of a recovery, what had been."""

    degraded: bool
    charts: tuple[Chart, ...]


class Watch:
    """The charts of one release of one task. Limits in seconds, None where there is none."""

    def __init__(self, expected_p95_s: float | None, budget_p95_s: float | None) -> None:
        self._limits: dict[Chart, int] = {}
        if expected_p95_s:
            self._limits["slower"] = int(MARGIN * expected_p95_s * 1e9)
        if budget_p95_s:
            self._limits["over_budget"] = int(budget_p95_s * 1e9)
        self._charts: dict[Chart, _Cusum] = {name: _Cusum(*RATES[name]) for name in (*self._limits, "failing")}
        self.degraded: tuple[Chart, ...] = ()

    @property
    def alarmed(self) -> tuple[Chart, ...]:
        """The charts that stand at an alarm now; ``degraded`` has those that recovered meanwhile, too."""
        return tuple(name for name, chart in self._charts.items() if chart.alarmed)

    @property
    def suspects(self) -> bool:
        """Whether a chart has seen as much as one report may add: there may be an alarm in four more."""
        return any(chart.score >= _MOST_ADDED for chart in self._charts.values())

    def add(self, report: LiveReport) -> Change | None:
        """Take one report; return what it changes."""
        calls = report.requests + report.errors
        if calls == 0:
            return None
        for name, limit_ns in self._limits.items():
            self._charts[name].add(count_over(report.latency, limit_ns), report.requests)
        self._charts["failing"].add(report.errors, calls)
        now = self.alarmed
        before = self.degraded
        if now and not before:
            self.degraded = now
            return Change(degraded=True, charts=now)
        if before and not now:
            self.degraded = ()
            return Change(degraded=False, charts=before)
        if now:
            self.degraded = tuple(dict.fromkeys((*before, *now)))
        return None


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What of the board bears on a latency; None is "not known". Of a moment, or of a measurement."""

    temperature_celsius: float | None = None
    clock_hz: float | None = None
    governor: str | None = None
    power_mode: str | None = None
    throttle: tuple[str, ...] | None = None  # names of the states that are set
    supply_ok: bool | None = None
    engine_version: str | None = None
    kernel: str | None = None
    memory_pressure: float | None = None  # share of the last ten seconds in which somebody waited for memory, 0..1
    processor_pressure: float | None = None  # likewise for a core
    others_share: float | None = None  # of the processors' time, used by others than the application, 0..1
    agent_share: float | None = None  # of these, boardfit's own work
    outputs_changed: str | None = None  # since when, by golden replays, and what is suspected


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One explanation with its figures, as a phrase."""

    kind: CauseKind
    text: str


def causes(then: Conditions, now: Conditions) -> tuple[Cause, ...]:
    """Return what explains a degradation, likeliest first. Args: then: when it was measured; now: as it is."""
    of_the_board = (_supply(now), _heat(then, now), _governor(then, now), _update(then, now))
    looked = (_outputs(now), *of_the_board, _memory(now), _neighbour(now))
    found = tuple(one for one in looked if one is not None)
    nothing = "the model or what it is fed: nothing known of the board differs from when it was measured"
    return found or (Cause(kind="model", text=nothing),)


def _outputs(now: Conditions) -> Cause | None:
    if now.outputs_changed is None:
        return None
    return Cause(kind="outputs", text=f"outputs changed {now.outputs_changed}")


def _starved(state: str) -> bool:
    return state == "under_voltage" or state.endswith("_over_current")


def _supply(now: Conditions) -> Cause | None:
    states = [state for state in now.throttle or () if _starved(state)]
    if not states and now.supply_ok is not False:
        return None
    return Cause(kind="supply", text=f"supply: the board says {', '.join(states) or 'that its voltage is too low'}")


def _heat(then: Conditions, now: Conditions) -> Cause | None:
    warm = format_quantity(now.temperature_celsius, "temperature")
    states = [state for state in now.throttle or () if not _starved(state)]
    if _supply(now) is not None:  # then these two come with it
        states = [state for state in states if state not in ("throttled", "frequency_capped")]
    if states:
        return Cause(kind="heat", text=f"heat: the board slows itself down ({', '.join(states)}) at {warm}")
    if then.temperature_celsius is None or now.temperature_celsius is None or not then.clock_hz or now.clock_hz is None:
        return None
    warmer = now.temperature_celsius - then.temperature_celsius >= _WARMER_CELSIUS
    if not warmer or now.clock_hz >= _SLOWER_CLOCK * then.clock_hz:
        return None
    clocks = f"{format_quantity(now.clock_hz, 'frequency')} instead of {format_quantity(then.clock_hz, 'frequency')}"
    before = format_quantity(then.temperature_celsius, "temperature")
    return Cause(kind="heat", text=f"heat: {warm} instead of {before}, and the clock at {clocks}")


def _memory(now: Conditions) -> Cause | None:
    if now.memory_pressure is None or now.memory_pressure < _PRESSURE:
        return None
    return Cause(kind="memory", text=f"memory is short: {now.memory_pressure:.0%} of the time somebody waits for it")


def _neighbour(now: Conditions) -> Cause | None:
    if now.others_share is None and (now.processor_pressure or 0.0) >= _WAITING:
        waiting = f"{now.processor_pressure:.0%} of the time somebody waits for a core"
        return Cause(kind="neighbour", text=f"another process, likely: {waiting}")
    if now.others_share is None or now.others_share < _OTHERS:
        return None
    own = f", boardfit's own work {now.agent_share:.0%}" if (now.agent_share or 0.0) >= 0.05 else ""
    return Cause(kind="neighbour", text=f"another process: others use {now.others_share:.0%} of the processors{own}")


def _governor(then: Conditions, now: Conditions) -> Cause | None:
    for what, before, after in (
        ("governor", then.governor, now.governor),
        ("power mode", then.power_mode, now.power_mode),
    ):
        if before is not None and after is not None and before != after:
            return Cause(kind="governor", text=f"the {what} is {after}, and was {before}")
    return None


def _update(then: Conditions, now: Conditions) -> Cause | None:
    for what, before, after in (
        ("engine", then.engine_version, now.engine_version),
        ("kernel", then.kernel, now.kernel),
    ):
        if before and after and before != after:
            return Cause(kind="update", text=f"the {what} is {after}, and was {before}")
    return None


def said(charts: Sequence[Chart]) -> str:
    """Return what was seen as a phrase."""
    words: dict[Chart, str] = {
        "slower": "calls take longer than when it was measured",
        "over_budget": "too many calls are over the latency budget",
        "failing": "too many calls fail",
    }
    return " and ".join(words[name] for name in charts)
