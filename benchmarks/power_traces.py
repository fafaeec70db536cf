"""Simulated loads: power over time as pieces of constant power, whose integral is known exactly."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence


class Trace:
    """Power in watts, constant from each time to the next; the last piece goes on for ever.

    Args: pieces: (seconds from the beginning, watts), in order of time, the first at 0.
    """

    def __init__(self, pieces: Sequence[tuple[float, float]]) -> None:
        self.times = [time_s for time_s, _ in pieces]
        self.powers = [power_w for _, power_w in pieces]
        self._energies = [0.0]
        for i in range(1, len(pieces)):
            self._energies.append(self._energies[-1] + self.powers[i - 1] * (self.times[i] - self.times[i - 1]))

    def power_w(self, time_s: float) -> float:
        """Return the power at a time; before the beginning it is the first piece's."""
        return self.powers[max(0, bisect_right(self.times, time_s) - 1)]

    def energy_j(self, until_s: float) -> float:
        """Return the integral from the beginning; before it, a negative one."""
        i = max(0, bisect_right(self.times, until_s) - 1)
        return self._energies[i] + self.powers[i] * (until_s - self.times[i])

    def mean_w(self, begin_s: float, end_s: float) -> float:
        """Return the mean power between two times."""
        return (self.energy_j(end_s) - self.energy_j(begin_s)) / (end_s - begin_s)


def constant(power_w: float) -> Trace:
    """Return a load that never changes."""
    return Trace([(0.0, power_w)])


def steps(seconds: float, low_w: float, high_w: float, hold_s: float, seed: int) -> Trace:
    """Return levels between two powers, each held for about ``hold_s``."""
    dice = random.Random(seed)
    pieces, time_s = [], 0.0
    while time_s < seconds:
        pieces.append((time_s, dice.uniform(low_w, high_w)))
        time_s += hold_s * dice.uniform(0.7, 1.3)
    return Trace(pieces)


def ramp(seconds: float, low_w: float, high_w: float, hold_s: float, seed: int) -> Trace:
    """Return a rise from one power to the other and back down, in small pieces; ``seed`` says which comes first."""
    count = max(2, round(seconds / hold_s))
    heights = [1.0 - abs(2.0 * i / (count - 1) - 1.0) for i in range(count)]
    if seed % 2:
        heights = [1.0 - height for height in heights]
    return Trace([(i * hold_s, low_w + (high_w - low_w) * height) for i, height in enumerate(heights)])


def bursts(seconds: float, low_w: float, high_w: float, hold_s: float, seed: int) -> Trace:
    """Return bursts of random length at the high power, with pauses of random length at the low one."""
    dice = random.Random(seed)
    pieces, time_s, high = [], 0.0, False
    while time_s < seconds:
        pieces.append((time_s, high_w if high else low_w))
        time_s += hold_s * dice.uniform(0.3, 1.7)
        high = not high
    return Trace(pieces)


def noise(seconds: float, low_w: float, high_w: float, hold_s: float, seed: int) -> Trace:
    """Return autocorrelated noise (AR(1), 0.7 from piece to piece) around the middle of two powers."""
    dice = random.Random(seed)
    middle, spread, level = (low_w + high_w) / 2.0, (high_w - low_w) / 6.0, 0.0
    pieces = []
    for i in range(max(2, round(seconds / hold_s))):
        level = 0.7 * level + (1.0 - 0.49) ** 0.5 * dice.gauss(0.0, 1.0)
        pieces.append((i * hold_s, max(0.1, middle + spread * level)))
    return Trace(pieces)


SHAPES: dict[str, Callable[[float, float, float, float, int], Trace]] = {
    "steps": steps,
    "ramp": ramp,
    "bursts": bursts,
    "noise": noise,
}
