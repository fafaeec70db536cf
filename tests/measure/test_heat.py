"""Cool-down, void runs and steady state, on simulated boards whose clock is the test's own: nothing here waits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from agent.core.measurement import Context, ContextReading
from agent.core.ports import ProgressEvent
from agent.measure.clock_kernel import ClockKernel
from agent.measure.conditions import context
from agent.measure.heat import (
    HeatMark,
    HeatPolicy,
    HeatWatch,
    cool_down,
    next_step,
    steady_state,
    void_reason,
)
from agent.measure.settings import MeasureSettings
from benchmarks.heat import judge, misses, run_round
from benchmarks.thermal_model import BUILDS, ONE_NODE, TWO_NODES, Build, Model, SimulatedBoard, mixed_models

SETTINGS = MeasureSettings()
HOT_MODEL = Model("simulated-hot", 7.0, 0.01, 60.0)


class Falling:
    """A clock, and a zone that cools to ``room`` from ``above`` over it."""

    def __init__(self, above: float, room: float = 40.0, time_constant_s: float = 80.0, **fields: Any) -> None:
        self.now_s = 0.0
        self.pauses = 0
        self._zone: Callable[[], float] = lambda: room + above * math.exp(-self.now_s / time_constant_s)
        self.fields: dict[str, Any] = fields

    def monotonic_s(self) -> float:
        return self.now_s

    def utc(self) -> Any:
        raise AssertionError("wall time decides nothing")

    def pause(self, length_s: float) -> None:
        self.pauses += 1
        self.now_s += length_s

    def read(self) -> ContextReading:
        fields = {"temperature_celsius": self._zone(), **self.fields}
        return ContextReading(monotonic_s=self.now_s, **fields)


def cooled(board: Falling, start: HeatMark, kernel: Callable[[], float] | None = None, **more: Any) -> Any:
    return cool_down(board.read, start, kernel=kernel, clock=board, pause=board.pause, **more)


START = HeatMark(40.0, 1.0, 80.0)


def test_a_cool_board_waits_for_nothing() -> None:
    board = Falling(1.9)
    done = cooled(board, START)
    assert (done.cool, done.ended, done.waited_s, board.pauses) == (True, "zone", 0.0, 0)


def test_a_warm_zone_alone_is_waited_for_until_it_is_within_two_degrees() -> None:
    board = Falling(20.0)
    done = cooled(board, START)
    assert (done.cool, done.ended) == (True, "zone")
    assert done.waited_s == pytest.approx(80.0 * math.log(20.0 / 2.0), abs=2.0)


def test_the_reference_kernel_ends_the_wait_where_there_is_room_below_the_limit() -> None:
    done = cooled(Falling(30.0), START, lambda: 1.02, rise_celsius=15.0)
    assert (done.cool, done.ended) == (True, "kernel")
    # 40 + 30 exp(-t / 80) + 15 <= 80 - 5
    assert done.waited_s == pytest.approx(80.0 * math.log(30.0 / 20.0), abs=2.0)
    slow = cooled(Falling(30.0), START, lambda: 1.2, rise_celsius=15.0)
    assert slow.ended == "zone" and slow.waited_s > done.waited_s


def test_a_heat_bit_is_never_cool_and_a_weak_supply_is_not_heat() -> None:
    capped = cooled(Falling(0.0, throttle_now=("soft_temperature_limit",)), START, lambda: 1.0)
    assert (capped.cool, capped.ended, capped.waited_s) == (False, "cap", 300.0)
    assert cooled(Falling(0.0, throttle_now=("under_voltage",)), START).ended == "zone"


def test_a_board_without_a_zone_goes_by_the_kernel_and_one_without_either_says_so() -> None:
    board = Falling(0.0, temperature_celsius=None)
    slow = iter([1.5, 1.4, 1.2, 1.01])
    done = cooled(board, HeatMark(None, 1.0, 80.0), lambda: next(slow), rise_celsius=math.inf)
    assert (done.ended, done.waited_s, done.kernel_ratio) == ("kernel", 6.0, 1.01)
    blind = cooled(Falling(0.0, temperature_celsius=None), HeatMark(None, None, 80.0))
    assert (blind.cool, blind.ended, blind.waited_s) == (False, "blind", 0.0)
    assert "neither temperature nor clock" in blind.why


def test_a_warmer_room_ends_the_wait_before_the_cap() -> None:
    done = cooled(Falling(10.0, room=46.0, time_constant_s=20.0), START)
    assert (done.cool, done.ended) == (False, "settled")
    assert 60.0 <= done.waited_s < 200.0
    coarse = cooled(Falling(0.0, temperature_celsius=46.0), START)
    assert (coarse.ended, coarse.waited_s) == (
        "cap",
        300.0,
    )  # one value tells no slope below one degree in five minutes
    assert "it was 40.0 °C" in done.why


def test_a_stop_ends_the_wait_and_progress_tells_of_it() -> None:
    seen: list[ProgressEvent] = []
    board = Falling(30.0)
    done = cooled(board, START, stop=lambda: board.now_s >= 10.0, progress=seen.append)
    assert (done.cool, done.ended, done.waited_s) == (False, "stopped", 10.0)
    assert [event.done for event in seen] == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert all(event.total == 300.0 and "40.0 °C at the start" in event.text for event in seen)


def taken(*flags: str, before: float = 40.0, after: float = 50.0) -> Context:
    return Context(
        before=ContextReading(monotonic_s=0.0, temperature_celsius=before),
        after=ContextReading(monotonic_s=1.0, temperature_celsius=after),
        flags=flags,
    )


@pytest.mark.parametrize(
    ("flags", "void"),
    [((), False), (("steal", "contended", "low_supply"), False), (("throttled",), True), (("clock_changed",), True),
     (("steal", "hot"), True)],
)  # fmt: skip
def test_what_makes_a_run_void(flags: tuple[str, ...], void: bool) -> None:
    assert (void_reason(taken(*flags)) is not None) is void


def test_a_general_limit_voids_no_run_and_keeps_no_room() -> None:
    assert void_reason(taken("hot"), limit_known=False) is None
    assert void_reason(taken("hot", "throttled"), limit_known=False) == "the board slowed itself down"
    laptop = Falling(0.0, room=88.0)
    watch = HeatWatch(laptop.read, None, kernel=lambda: 1.0, clock=laptop, pause=laptop.pause)
    watch.ready()
    assert watch.judge(taken("hot", before=88.0, after=93.0)) == ("keep", None)
    assert cooled(Falling(10.0, room=88.0), HeatMark(88.0, 1.0, None), lambda: 1.0).ended == "kernel"


def test_a_void_run_is_taken_again_three_times_and_then_kept_as_throttled() -> None:
    policy = HeatPolicy()
    assert next_step(None, 1, 0, policy) == "keep"
    assert [next_step("hot", tries, 0, policy) for tries in (1, 2, 3, 4)] == ["again"] * 3 + ["keep_as_throttled"]
    assert [next_step("hot", tries, tries, policy) for tries in (1, 2)] == ["again", "keep_as_throttled"]


def test_a_changed_governor_is_tried_again_up_to_the_limit_though_the_board_was_cool() -> None:
    board = Falling(0.0)
    watch = HeatWatch(board.read, 80.0, kernel=None, clock=board, pause=board.pause)
    steps = []
    for _ in range(4):
        watch.ready()
        steps.append(watch.judge(taken("clock_changed")))
    assert [step for step, _ in steps] == ["again"] * 3 + ["keep_as_throttled"]
    assert watch.judge(taken()) == ("keep", None)


def test_a_model_that_heats_a_cool_board_past_its_limit_is_measured_twice_not_four_times() -> None:
    board = SimulatedBoard(ONE_NODE, 1)
    watch = HeatWatch(board.read, ONE_NODE.limit_celsius, kernel=board.kernel, clock=board, pause=board.pause)
    steps = []
    while not steps or steps[-1][0] == "again":
        watch.ready()
        _, readings = board.run(HOT_MODEL._replace(length_s=180.0))
        steps.append(watch.judge(context(readings, None, SETTINGS, ONE_NODE.limit_celsius)))
    assert [step for step, _ in steps] == ["again", "keep_as_throttled"]
    assert steps[-1][1] is not None and "slowed itself down" in steps[-1][1]


def test_a_hotter_run_than_any_before_needs_more_room() -> None:
    board = Falling(25.0)
    watch = HeatWatch(board.read, 80.0, kernel=lambda: 1.0, clock=board, pause=board.pause)
    watch.start = START
    assert watch.ready().waited_s < 20.0
    watch.judge(taken(before=40.0, after=72.0))
    board.now_s = 0.0
    assert watch.ready().waited_s > 150.0  # only 43 °C leave room for 32 degrees and 5 in hand
    assert watch.rise_celsius == 32.0


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.name)
def test_on_simulated_boards_cooling_down_costs_a_third_of_a_fixed_wait_at_equal_error(build: Build) -> None:
    rows = judge(build, [run_round(build, mixed_models(seed, 15), seed) for seed in (100, 101, 102)])
    assert misses(rows) == []
    by_name = {row["protocol"]: row for row in rows}
    assert by_name["no wait"]["beyond_5_percent"] > 0, "the simulation shows nothing where no wait is needed"
    assert by_name["boardfit"]["error_worst"] <= 0.05


def test_the_benchmark_can_miss() -> None:
    rows = judge(ONE_NODE, [run_round(ONE_NODE, mixed_models(100, 8), 100)])
    for row in rows:
        if row["protocol"] == "boardfit":
            row.update(cost_ratio=0.31, beyond_5_percent=1)
        if row["protocol"] == "no wait":
            row.update(beyond_5_percent=0)
    assert [text.partition(": ")[2][:8] for text in misses(rows)] == ["withheld", "cost is ", "1 figure"]


def running(build: Build, extra_w: float, length_s: float) -> tuple[list[float], list[float | None], list[float]]:
    board = SimulatedBoard(build, 3)
    times: list[float] = []
    zones: list[float | None] = []
    latencies: list[float] = []
    while board.now_s < length_s:
        seen, readings = board.run(Model("simulated", extra_w, 0.01, 2.0))
        times.append(board.now_s)
        zones.append(readings[-1].temperature_celsius)
        latencies.append(sum(seen) / len(seen))
    return times, zones, latencies


@pytest.mark.parametrize(("build", "warms_s", "warm_s"), [(ONE_NODE, 170.0, 600.0), (TWO_NODES, 400.0, 2500.0)])
def test_steady_state_of_a_simulated_model_that_runs_on(build: Build, warms_s: float, warm_s: float) -> None:
    early = steady_state(*running(build, 3.0, warms_s))
    assert not early.steady and "°C a minute" in early.why
    late = steady_state(*running(build, 3.0, warm_s))
    assert late.steady, late.why
    assert late.celsius_per_min is not None and abs(late.celsius_per_min) <= 0.2


def test_steady_state_without_a_zone_goes_by_latency() -> None:
    times = [2.0 * i for i in range(60)]
    nothing: list[float | None] = [None] * 60
    flat = [0.01 * (1 + 0.004 * (-1) ** i) for i in range(60)]
    slowing = [0.01 * (1 + 0.001 * i) for i in range(60)]
    assert steady_state(times, nothing, flat).steady
    found = steady_state(times, nothing, slowing)
    assert not found.steady and found.celsius_per_min is None
    assert found.latency_trend == pytest.approx(0.03, rel=0.2)
    assert "latency moves" in found.why


def test_a_short_run_is_not_called_steady() -> None:
    assert not steady_state([], [], []).steady
    assert not steady_state([0.0, 30.0], [40.0, 40.0], [0.01, 0.01]).steady
    assert "10 are needed" in steady_state([0.0, 301.0], [40.0, 40.0], [0.01, 0.01]).why


def test_a_coarse_zone_is_watched_for_as_long_as_one_step_takes() -> None:
    times = [2.0 * i for i in range(120)]
    latencies = [0.01] * 120
    fine: list[float | None] = [60.0 + 0.05 * (i % 2) for i in range(120)]
    coarse: list[float | None] = [60.0] * 120
    assert steady_state(times, fine, latencies).steady
    assert "less than 300 s" in steady_state(times, coarse, latencies).why


def test_the_clock_kernel_repeats_the_same_work() -> None:
    kernel = ClockKernel()
    first, passes = kernel(), kernel._passes
    second = kernel()
    assert first > 0 and second > 0
    assert passes == kernel._passes >= 1
