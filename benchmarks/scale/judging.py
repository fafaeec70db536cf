"""Figures against their goals: medians over interleaved rounds, and how far they may be off."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from typing import NamedTuple


class Figure(NamedTuple):
    """One figure. ``values``: of each round. ``least``: the goal is a lower bound. ``floor``: baseline by baseline."""

    part: str
    name: str
    values: Sequence[float]
    goal: float | None = None
    unit: str = ""
    least: bool = False
    floor: Sequence[float] = ()
    note: str = ""

    @property
    def value(self) -> float:
        """The median."""
        return median(self.values)

    @property
    def noise(self) -> float | None:
        """How far it may be off: the median's standard error, or how far one baseline is from the other.

        The standard error of a median is 1.25 sigma / sqrt(n); a normal distribution's quartiles are 1.35 sigma apart.
        """
        if len(self.values) < 3:
            return None
        error = 0.93 * _quartiles_apart(self.values) / len(self.values) ** 0.5
        return max(error, abs(median(self.floor) - 1) if self.floor else 0.0)

    @property
    def verdict(self) -> str:
        """Met, missed, or withheld where the noise is above half the margin."""
        if self.goal is None:
            return "–"
        if self.noise is not None and self.noise > abs(self.goal - self.value) / 2:
            return "withheld: noise"
        return "met" if (self.value >= self.goal if self.least else self.value <= self.goal) else "missed"

    def row(self) -> list[str]:
        """Return the row of a table."""
        goal = "–" if self.goal is None else f"{'>=' if self.least else '<='} {self.goal:g}"
        spread = f"{_text(min(self.values))} to {_text(max(self.values))}" if len(self.values) > 1 else "–"
        noise = "–" if self.noise is None else _text(self.noise)
        return [f"{self.part}: {self.name}", _text(self.value), self.unit, spread, goal, noise, self.verdict]


def over(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(one, other, strict=True)]


def _quartiles_apart(values: Sequence[float]) -> float:
    low, _, high = quantiles(values, n=4, method="inclusive")
    return high - low


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
