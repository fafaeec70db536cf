"""When a board is cool enough to measure, when a run was spoilt by heat, and when a running model has warmed through.

It decides; ``agent.measure.conditions`` says what changed, and who calls it (the pipeline) measures again. Pure: the
clock, the pause, the readings and the reference kernel are handed in.

Rules:
- Nothing waits a fixed time. Cool is: the zone is within 2 °C of the start; or the reference kernel is within 3 % of
  its start while there is room for the hottest run so far below the board's own limit, where that is known. A heat bit
  that is set is never cool.
- Without a zone the kernel decides alone; without both there is nothing to wait for, and that is said.
- A zone that has stopped falling is not waited for: the room has become warmer. The cap is the fixed wait it replaces.
- A run is void when a throttle bit or counter, the clock's limit or a zone past its limit was seen. It is taken again
  at most three times; after that, or where a board as cool as it gets throttled twice, its figures are the board's
  truth: kept, measured as throttled, and said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Literal, NamedTuple

import msgspec

from agent.core.measurement import Context, ContextReading
from agent.core.ports import Clock, Progress, ProgressEvent, StopRequested, never_stop, no_progress
from agent.core.statistics import normal_quantile
from agent.core.trend import mann_kendall_z, theil_sen

Kernel = Callable[[], float]
"""Runs a fixed piece of work and returns the CPU seconds it took."""

VOID_FLAGS = ("throttled", "clock_changed", "hot")
_MARK_READINGS = 3  # the start is compared with again and again, so one lucky reading must not be it
_COARSEST_CELSIUS = 1.0  # zones that count by whole degrees: ACPI, several SoCs
_LEAST = 10  # chosen: readings or blocks, below which no slope is taken
_NO_ROOM_CELSIUS = 1000.0  # a rise no limit has room for, so that the zone decides where the limit is known
_NOT_OF_HEAT = frozenset({"under_voltage"})  # a weak supply does not get better by waiting


class HeatPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Every constant of this module; temperatures in °C, times in seconds, ratios without unit."""

    retries: int = 3
    near_celsius: float = 2.0  # four steps of a zone that counts by 0.5 °C
    kernel_ratio: float = 1.03  # chosen: about its own spread; a reading too high only waits longer
    headroom_celsius: float = 5.0  # chosen: sensor steps, a hotter next candidate, and firmware that begins early
    first_rise_celsius: float = 15.0  # chosen: what a run may add while none was seen
    poll_s: float = 2.0  # a die's own time constant is seconds, a board's minutes
    cap_s: float = 300.0  # MLPerf Mobile's fixed wait between tests
    window_s: float = 60.0  # chosen: 30 readings; longer where a zone's steps are coarse, 5 min at 1 °C
    settled_celsius_per_s: float = 1.0 / 300.0  # 1 K in 5 min: IEC 62368-1, B.1.6
    steady_trend: float = 0.01  # chosen: of the latency, over the window; half of what fidelity is held to
    significance: float = 0.05


class HeatMark(NamedTuple):
    """What the board was like when it was cool; None is "it does not say"."""

    temperature_celsius: float | None
    kernel_s: float | None
    limit_celsius: float | None


Ended = Literal["zone", "kernel", "blind", "settled", "cap", "stopped"]


class CoolDown(NamedTuple):
    """How a wait ended. ``why`` is a sentence for people; ``cool`` is False where the wait ended for another reason."""

    cool: bool
    ended: Ended
    why: str
    waited_s: float
    reading: ContextReading
    kernel_ratio: float | None


def heat_mark(reading: ContextReading, kernel_s: float | None, limit_celsius: float | None) -> HeatMark:
    """Remember a cool board. Args: limit_celsius: where it slows down (``DeviceFacts.throttle_celsius``)."""
    return HeatMark(reading.temperature_celsius, kernel_s, limit_celsius)


def cool_down(
    read: Callable[[], ContextReading],
    start: HeatMark,
    *,
    kernel: Kernel | None,
    clock: Clock,
    pause: Callable[[float], None],
    rise_celsius: float | None = None,
    policy: HeatPolicy | None = None,
    stop: StopRequested = never_stop,
    progress: Progress = no_progress,
) -> CoolDown:
    """Wait until the board is as it was at the start, or the policy says that waiting is over.

    Args:
        kernel: the reference kernel, None where there is none; it runs at every poll.
        rise_celsius: by how much the hottest run so far heated the board, None while unknown.
    """
    policy = policy or HeatPolicy()
    rise = policy.first_rise_celsius if rise_celsius is None else rise_celsius
    begin = clock.monotonic_s()
    seen: list[tuple[float, float]] = []
    while True:
        reading = read()
        waited_s = clock.monotonic_s() - begin
        ratio = _kernel_ratio(kernel, start)
        if reading.temperature_celsius is not None:
            seen.append((waited_s, reading.temperature_celsius))
        ended: Ended | None = "stopped" if stop() else None
        ended = _ended(reading, ratio, start, rise, policy) or _given_up(seen, reading, waited_s, policy) or ended
        if ended is not None:
            cool = ended in ("zone", "kernel")
            return CoolDown(cool, ended, _sentence(ended, reading, ratio, start, waited_s), waited_s, reading, ratio)
        progress(
            ProgressEvent(
                stage="heat", text=f"cooling down{_where(reading, start)}", done=waited_s, total=policy.cap_s, unit="s"
            )
        )
        pause(min(policy.poll_s, max(0.0, policy.cap_s - waited_s)))


def _kernel_ratio(kernel: Kernel | None, start: HeatMark) -> float | None:
    if kernel is None or not start.kernel_s:
        return None
    return kernel() / start.kernel_s


def _ended(
    reading: ContextReading, ratio: float | None, start: HeatMark, rise_celsius: float, policy: HeatPolicy
) -> Literal["zone", "kernel", "blind"] | None:
    """Return by what the board is cool (or that nothing could tell), None while it is not."""
    if set(reading.throttle_now or ()) - _NOT_OF_HEAT:
        return None
    now, before = reading.temperature_celsius, start.temperature_celsius
    if now is not None and before is not None and now <= before + policy.near_celsius:
        return "zone"
    if ratio is None:
        return "blind" if now is None or before is None else None
    limit = math.inf if start.limit_celsius is None else start.limit_celsius
    room = now is None or now + rise_celsius <= limit - policy.headroom_celsius
    return "kernel" if ratio <= policy.kernel_ratio and room else None


def _given_up(
    seen: Sequence[tuple[float, float]], reading: ContextReading, waited_s: float, policy: HeatPolicy
) -> Literal["settled", "cap"] | None:
    if waited_s >= policy.cap_s:
        return "cap"
    window_s = slope_window_s([celsius for _, celsius in seen], policy)
    recent = [point for point in seen if point[0] >= waited_s - window_s]
    if waited_s < window_s or len(recent) < _LEAST or set(reading.throttle_now or ()) - _NOT_OF_HEAT:
        return None
    falling = theil_sen([at for at, _ in recent], [celsius for _, celsius in recent])
    return "settled" if falling > -policy.settled_celsius_per_s else None


def slope_window_s(celsius: Sequence[float], policy: HeatPolicy) -> float:
    """Return over how long a zone must be watched to see the slope that counts as none: until it moves by one step."""
    values = sorted(set(celsius))
    steps = [b - a for a, b in pairwise(values)]
    step = min(steps) if steps else _COARSEST_CELSIUS
    return max(policy.window_s, min(step, _COARSEST_CELSIUS) / policy.settled_celsius_per_s)


def _where(reading: ContextReading, start: HeatMark) -> str:
    if reading.temperature_celsius is None or start.temperature_celsius is None:
        return ""
    return f": {reading.temperature_celsius:.1f} °C, it was {start.temperature_celsius:.1f} °C at the start"


def _sentence(ended: Ended, reading: ContextReading, ratio: float | None, start: HeatMark, waited_s: float) -> str:
    kernel = "" if ratio is None else f"; the reference kernel takes {ratio:.2f} of its first time"
    texts = {
        "zone": "the board is as cool as at the start",
        "kernel": "the reference kernel is as fast as at the start",
        "blind": "this board tells neither temperature nor clock, so nothing was waited for",
        "settled": "it no longer cools",
        "cap": "not cool in time",
        "stopped": "stopped on request",
    }
    return f"{texts[ended]} after {waited_s:.0f} s{_where(reading, start)}{kernel}"


def void_reason(context: Context, *, limit_known: bool = True) -> str | None:
    """Return why heat or a changed clock spoilt a run, None where it holds.

    Args: limit_known: whether "hot" is the board's own limit; a general one says nothing of a part made for 100 °C.

    Steal, supply and neighbours are other matters: their flags stay, and waiting for the board to cool mends none.
    """
    found = [flag for flag in context.flags if flag in VOID_FLAGS and (limit_known or flag != "hot")]
    if not found:
        return None
    texts = {
        "throttled": "the board slowed itself down",
        "clock_changed": "the clock's limit, governor or power mode changed",
        "hot": "a zone reached its limit",
    }
    return ", ".join(texts[flag] for flag in found)


Step = Literal["keep", "again", "keep_as_throttled"]


def next_step(void: str | None, tries: int, cool_and_void: int, policy: HeatPolicy) -> Step:
    """Say what to do with a run.

    Args:
        void: what ``void_reason`` said. tries: runs taken of this candidate at this point, this one included.
        cool_and_void: how many of them were void though they began on a cool board: a second one shows that the model
            itself heats the board past its limit, which no wait changes.
    """
    if void is None:
        return "keep"
    return "again" if tries <= policy.retries and cool_and_void < 2 else "keep_as_throttled"


class HeatWatch:
    """Keeps one benchmark's start mark and the hottest rise; ``ready`` before each run, ``judge`` after it."""

    def __init__(
        self,
        read: Callable[[], ContextReading],
        limit_celsius: float | None,
        *,
        kernel: Kernel | None,
        clock: Clock,
        pause: Callable[[float], None],
        policy: HeatPolicy | None = None,
        stop: StopRequested = never_stop,
        progress: Progress = no_progress,
    ) -> None:
        self.policy = policy or HeatPolicy()
        self._read, self._kernel, self._clock, self._pause = read, kernel, clock, pause
        self._stop, self._progress = stop, progress
        kernel_s = None if kernel is None else median(kernel() for _ in range(_MARK_READINGS))
        self.start = heat_mark(read(), kernel_s, limit_celsius)
        self.rise_celsius: float | None = None
        self.waited_s = 0.0
        self._last: CoolDown | None = None
        self._tries = self._cool_and_void = 0

    def ready(self) -> CoolDown:
        """Wait until the board is cool; after a void run the zone itself must be back, if there is one."""
        rise = _NO_ROOM_CELSIUS if self._tries else self.rise_celsius
        done = cool_down(
            self._read, self.start, kernel=self._kernel, clock=self._clock, pause=self._pause, rise_celsius=rise,
            policy=self.policy, stop=self._stop, progress=self._progress,
        )  # fmt: skip
        self.waited_s += done.waited_s
        self._last = done
        return done

    def judge(self, context: Context) -> tuple[Step, str | None]:
        """Return what to do with the run just taken, and why it is void."""
        before, after = context.before.temperature_celsius, context.after.temperature_celsius
        if before is not None and after is not None:
            self.rise_celsius = max(self.rise_celsius or 0.0, after - before)
        void = void_reason(context, limit_known=self.start.limit_celsius is not None)
        self._tries += 1
        from_cool = self._last is not None and self._last.ended in ("zone", "settled")
        self._cool_and_void += from_cool and void is not None and not {"throttled", "hot"}.isdisjoint(context.flags)
        step = next_step(void, self._tries, self._cool_and_void, self.policy)
        if step != "again":
            self._tries = self._cool_and_void = 0
        return step, void


class Steady(NamedTuple):
    """Whether a running model is in thermal steady state, and the sentence that says why (not)."""

    steady: bool
    why: str
    celsius_per_min: float | None
    latency_trend: float | None  # relative change over the window


def steady_state(
    times_s: Sequence[float],
    temperatures_celsius: Sequence[float | None],
    latencies_s: Sequence[float],
    policy: HeatPolicy | None = None,
) -> Steady:
    """Judge the last window of a model that runs without pause.

    Steady is: the zone's slope is below 1 K in 5 min (IEC 62368-1, B.1.6), by Theil-Sen, which a coarse sensor does
    not upset; and latency (or a reference kernel) shows no trend: Mann-Kendall does not see one, or it is below 1 %
    over the window. A heat-sink with a time constant of 360 s may still go on to warm by 1.2 °C.

    The window is a minute, or as long as a zone that counts in coarse steps needs to show that slope (5 min at 1 °C).

    Args: times_s, latencies_s: one entry a block of runs (its median), in the order of time.
    Sources: Theil 1950, Sen 1968, JASA 63; Mann 1945, Econometrica 13, Kendall 1975.
    """
    policy = policy or HeatPolicy()
    known = [celsius for celsius in temperatures_celsius if celsius is not None]
    window_s = slope_window_s(known, policy) if known else policy.window_s
    if not times_s or times_s[-1] - times_s[0] < window_s:
        return Steady(False, f"it ran for less than {window_s:g} s", None, None)
    first = next(i for i, at in enumerate(times_s) if at >= times_s[-1] - window_s)
    times, latencies = times_s[first:], latencies_s[first:]
    if len(times) < _LEAST:
        return Steady(False, f"{len(times)} blocks in the window, {_LEAST} are needed", None, None)
    zone = zip(times, temperatures_celsius[first:], strict=True)
    read = [(at, celsius) for at, celsius in zone if celsius is not None]
    warming = theil_sen([at for at, _ in read], [celsius for _, celsius in read]) if len(read) >= _LEAST else None
    trend = theil_sen(times, latencies) * (times[-1] - times[0]) / median(latencies)
    seen = abs(mann_kendall_z(latencies)) > normal_quantile(1.0 - policy.significance / 2.0)
    per_min = None if warming is None else warming * 60.0
    if warming is not None and abs(warming) > policy.settled_celsius_per_s:
        return Steady(False, f"the zone moves by {per_min:+.1f} °C a minute", per_min, trend)
    if seen and abs(trend) > policy.steady_trend:
        return Steady(False, f"latency moves by {trend:+.1%} in {window_s:.0f} s", per_min, trend)
    return Steady(True, "no trend in latency" + ("" if warming is None else " or temperature"), per_min, trend)
