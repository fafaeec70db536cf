"""How a measurement is taken: every number somebody may want to change, with its default and its reason. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from agent.errors import ConfigError
from agent.measure.protocol import AccuracyTest, LatencyTest

MOST_RUNS = 100_000  # what one event of the worker can carry


class Stakes(msgspec.Struct, frozen=True, kw_only=True):
    """What one measurement is taken for: the limits that end it early once they are missed. Empty: all is measured.

    ``evaluate``: whether anything asks for accuracy. ``bounded``: latency quantiles that candidates are compared by;
    they are timed until they are bounded from above. ``longer``: times the least runs and time. ``repeated``: timed in
    as many processes as the settings say. ``observed``: upper limits on what is seen once, by metric: ``memory_peak``
    in bytes, ``load_time`` and ``first_inference`` in seconds. ``spot``: its latency alone is wanted, and then no more.
    """

    evaluate: bool = True
    bounded: tuple[float, ...] = ()
    longer: float = 1.0
    repeated: bool = False
    latency: tuple[LatencyTest, ...] = ()
    observed: dict[str, float] = {}
    accuracy: AccuracyTest | None = None
    spot: bool = False


class MeasureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the measure stage. Times in seconds, sizes in bytes, ratios 0..1."""

    min_runs: int = 100  # a p95 bounded from above at 95 % needs 72
    min_time_s: float = 0.25
    max_runs: int = 4000
    max_time_s: float = 10.0
    processes: int = 5  # that a measurement in full is timed in; two bound nothing usefully (Student's t: 12.7)
    warmup_max_runs: int = 60  # the cap of the warm-up rule
    warmup_max_s: float = 10.0
    block_runs: int = 10
    block_s: float = 0.1
    contended_wait_ratio: float = 0.1  # run-queue wait / wall; quiet runs show 0.00 to 0.05, one busy neighbour 0.50
    contended_patience_s: float = 1.0  # ten blocks without one clean one
    contended: Literal["refuse", "flag"] = "refuse"  # flag keeps runs of contended blocks and says so
    contended_retries: int = 2
    contended_backoff_s: float = 2.0  # before the first retry if nothing else is left to do; three times as long later
    contended_switches_per_s: float = 50.0  # where the kernel gives no wait: quiet 3, one busy neighbour 130 and more
    kept_latencies: int = 4000
    threads: tuple[int, ...] | None = None  # CPU thread counts to try; None: every count up to four, then powers of two
    deadline_s: float = 180.0  # wall clock of one child
    build_deadline_s: float = 1800.0  # of one that builds an accelerator's engine: minutes on a Jetson Nano
    memory_growth_bytes: int | None = None  # cap of address space beyond the imported engine; CPU providers only
    accuracy_time_s: float = 60.0
    power_periods: int = 20  # sensor periods in a window; fewer than 10 hold no mean
    power_window_min_s: float = 1.0
    power_window_max_s: float = 30.0
    hot_celsius: float = 80.0  # where a Raspberry Pi begins to throttle; for boards whose profile names no limit
    steal_ratio: float = 0.05
    reuse_max_age_s: float = 30 * 86400.0
    sustained_max_s: float = 1800.0  # chosen: five time constants of a heat-sink of 360 s

    def __post_init__(self) -> None:
        if not 1 <= self.min_runs <= self.max_runs <= MOST_RUNS:
            raise ConfigError(
                f"min_runs is {self.min_runs} and max_runs {self.max_runs}",
                fix=f"keep 1 <= min_runs <= max_runs <= {MOST_RUNS}",
            )
        for name in ("min_time_s", "max_time_s", "deadline_s", "block_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", fix="give a time above 0 s")


PROOF = MeasureSettings(
    min_runs=20, min_time_s=0.2, max_runs=500, max_time_s=2.0, warmup_max_s=2.0, contended="flag", deadline_s=60.0
)
NOTHING_AT_STAKE = Stakes()
IN_FULL = Stakes(repeated=True)
