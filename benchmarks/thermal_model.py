"""SIMULATED boards that get hot: a network of thermal resistors and capacitors, a sensor, and a governor.

Nothing here is measured. The constants are chosen so that the boards do what bare and cased single-board computers are
seen to do: idle at 40 °C, reach 80 °C after one to three minutes of full load, and cool with a time constant of 80 s
(bare) or of seconds first and then six minutes (a case that is the heat-sink).

A node obeys C dT/dt = P + sum over neighbours of (T_n - T) / R. Power while running is idle + extra * clock^3 (voltage
follows the clock). The governor lowers the clock by one step a tick at its limit and raises it again 2 °C below. Heat
changes a latency through the clock only, so a board that slows down by other means is not in here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from agent.core.measurement import Context, ContextReading

TICK_S = 0.25
FLOOR_CLOCK, CLOCK_STEP, HYSTERESIS_CELSIUS = 0.4, 0.04, 2.0
BLOCK_S = 1.0


class Build(NamedTuple):
    """What a simulated board is made of; ``sink_*`` is None for one node."""

    name: str
    ambient_celsius: float
    die_j_per_k: float
    die_k_per_w: float  # to the sink, or to the room where there is none
    sink_j_per_k: float | None
    sink_k_per_w: float | None
    idle_w: float
    limit_celsius: float
    sensor_step_celsius: float
    sensor_noise_celsius: float


ONE_NODE = Build("one node (bare board)", 25.0, 8.0, 10.0, None, None, 1.5, 80.0, 0.5, 0.3)
TWO_NODES = Build("two nodes (slow heat-sink)", 25.0, 1.5, 4.0, 60.0, 6.0, 1.5, 80.0, 1.0, 0.3)
BUILDS = (ONE_NODE, TWO_NODES)


class Model(NamedTuple):
    """What is run: watts above idle at full clock, seconds a run at full clock, and for how long it is measured."""

    name: str
    extra_w: float
    latency_s: float
    length_s: float


class SimulatedBoard:
    """Time goes on only in ``pause`` and ``run``; it is its own clock."""

    def __init__(self, build: Build, seed: int) -> None:
        self.build = build
        self.now_s = 0.0
        self.clock = 1.0
        self._draw = random.Random(seed)
        self._die = self._sink = build.ambient_celsius
        self.throttle_events = 0
        self.settle()

    def settle(self) -> None:
        """Put the board into the steady state of an idle one."""
        build = self.build
        to_room = build.die_k_per_w if build.sink_k_per_w is None else build.sink_k_per_w
        self._sink = build.ambient_celsius + build.idle_w * to_room
        self._die = self._sink if build.sink_k_per_w is None else self._sink + build.idle_w * build.die_k_per_w
        self.clock = 1.0

    def monotonic_s(self) -> float:
        return self.now_s

    def pause(self, length_s: float) -> None:
        self._advance(length_s, 0.0)

    def read(self) -> ContextReading:
        noisy = self._die + self._draw.gauss(0.0, self.build.sensor_noise_celsius)
        step = self.build.sensor_step_celsius
        return ContextReading(
            monotonic_s=self.now_s,
            temperature_celsius=round(noisy / step) * step,
            temperature_zone="simulated",
            throttle_now=("simulated_cap",) if self.clock < 1.0 else (),
            throttle_counts={"simulated_cap": self.throttle_events},
        )

    def kernel(self) -> float:
        """Return the reference kernel's CPU time: 2 ms at full clock, with the spread of the real one."""
        self._advance(0.04, 0.5)
        return 2e-3 / self.clock * (1.0 + abs(self._draw.gauss(0.0, 0.015)))

    def run(self, model: Model) -> tuple[list[float], list[ContextReading]]:
        """Run a model for its time. Returns: the median latency of every second, and readings at start, middle, end."""
        readings, latencies = [self.read()], []
        blocks = max(1, round(model.length_s / BLOCK_S))
        for number in range(blocks):
            self._advance(BLOCK_S, model.extra_w)
            latencies.append(model.latency_s / self.clock * (1.0 + self._draw.gauss(0.0, 0.01)))
            if number in {blocks // 2, blocks - 1}:
                readings.append(self.read())
        return latencies, readings

    def _advance(self, length_s: float, extra_w: float) -> None:
        left_s = length_s
        while left_s > 1e-9:
            step_s = min(TICK_S, left_s)
            self._tick(step_s, extra_w)
            left_s -= step_s
            self.now_s += step_s

    def _tick(self, step_s: float, extra_w: float) -> None:
        build = self.build
        power_w = build.idle_w + extra_w * self.clock**3
        room = build.ambient_celsius
        if build.sink_j_per_k is None or build.sink_k_per_w is None:
            self._die += step_s * (power_w - (self._die - room) / build.die_k_per_w) / build.die_j_per_k
        else:
            across_w = (self._die - self._sink) / build.die_k_per_w
            self._die += step_s * (power_w - across_w) / build.die_j_per_k
            self._sink += step_s * (across_w - (self._sink - room) / build.sink_k_per_w) / build.sink_j_per_k
        if self._die >= build.limit_celsius:
            self.throttle_events += self.clock == 1.0
            self.clock = max(FLOOR_CLOCK, self.clock - CLOCK_STEP)
        elif self._die < build.limit_celsius - HYSTERESIS_CELSIUS:
            self.clock = min(1.0, self.clock + CLOCK_STEP)


ContextOf = Callable[[list[ContextReading]], Context]


def mixed_models(seed: int, count: int) -> list[Model]:
    """Return simulated candidates: 2 to 7 W above idle, 1 to 40 ms, run for 10 to 60 s."""
    draw = random.Random(seed)
    return [
        Model(f"simulated-{i}", draw.uniform(2.0, 7.0), 10 ** draw.uniform(-3.0, -1.4), draw.uniform(10.0, 60.0))
        for i in range(count)
    ]
