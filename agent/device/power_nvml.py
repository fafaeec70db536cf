"""Power of NVIDIA graphics cards, asked through the driver's library (``nvml``): the cards, not the board around them.

Rules:
- The energy counter is used where the card has one: it misses nothing. Power alone is a mean over a second on newer
  cards, so it is read once a second.
- Several cards are added: nothing says which of them a model runs on, and idle is taken off the sum anyway.

Sources: NVIDIA NVML API reference, nvmlDeviceGetTotalEnergyConsumption (mJ, since the driver was loaded, Volta and
later), nvmlDeviceGetPowerUsage (mW; mean over 1 s on Ampere other than GA100 and later; within 5 % on Fermi and
Kepler).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from agent.core.facts import SensorFacts
from agent.core.ports import Clock, PowerMeter, PowerSample
from agent.device.nvml import FUNCTION_NOT_FOUND, LIBRARY, NOT_SUPPORTED, Driver, NvmlAbsentError, NvmlError
from agent.device.root import unavailable
from agent.device.sensor_state import try_sensor
from agent.errors import SensorUnavailableError

_COUNTER_PERIOD_S = 0.1  # chosen: cards renew the counter about that often
_POWER_PERIOD_S = 1.0
_UNSUPPORTED = (NOT_SUPPORTED, FUNCTION_NOT_FOUND)


class Cards(Protocol):
    """What is asked of the driver; card numbers start at 0. Every method raises SensorUnavailableError."""

    def count(self) -> int:
        """Return how many cards there are."""

    def name(self, card: int) -> str:
        """Return a card's product name."""

    def energy_mj(self, card: int) -> int | None:
        """Return a card's energy counter in mJ, None where it has none."""

    def power_mw(self, card: int) -> int:
        """Return a card's power in mW."""


class Nvml:
    """The library itself. Implements ``Cards``. Raises: SensorUnavailableError: it does not load or start."""

    def __init__(self, library: str = LIBRARY) -> None:
        with _as_unavailable():
            self._driver = Driver(library)

    def count(self) -> int:
        """Return how many cards there are."""
        with _as_unavailable():
            return self._driver.count()

    def name(self, card: int) -> str:
        """Return a card's product name."""
        text = ctypes.create_string_buffer(96)
        self._ask("nvmlDeviceGetName", card, text, ctypes.c_uint(len(text)))
        return text.value.decode("utf-8", "replace")

    def energy_mj(self, card: int) -> int | None:
        """Return a card's energy counter in mJ, None where it has none."""
        energy = ctypes.c_ulonglong()
        supported = self._ask("nvmlDeviceGetTotalEnergyConsumption", card, ctypes.byref(energy))
        return energy.value if supported else None

    def power_mw(self, card: int) -> int:
        """Return a card's power in mW."""
        power = ctypes.c_uint()
        if not self._ask("nvmlDeviceGetPowerUsage", card, ctypes.byref(power)):
            raise unavailable(f"nvml:{card}", "absent", why="this card does not tell its power")
        return power.value

    def _ask(self, function: str, card: int, *arguments: Any) -> bool:
        """Call one function about a card; False says that the card, or a driver older than it, does not support it."""
        with _as_unavailable():
            code = self._driver.call(function, self._driver.handle(card), *arguments, accept=_UNSUPPORTED)
        return code == 0


@contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except NvmlError as error:
        state: Literal["absent", "broken"] = "absent" if isinstance(error, NvmlAbsentError) else "broken"
        raise unavailable("nvml", state, why=str(error)) from error


class CardsMeter:
    """All cards together: their energy counters where every card has one, else their power."""

    def __init__(self, clock: Clock, cards: Cards) -> None:
        self._clock, self._cards = clock, cards
        self._count = cards.count()
        if self._count == 0:
            raise unavailable("nvml", "absent", why="the driver knows no card")
        names = [cards.name(card) for card in range(self._count)]
        self.name = "nvml:" + "+".join(names)
        self.scope = "gpu"
        self._counts = all(cards.energy_mj(card) is not None for card in range(self._count))
        self.period_s = _COUNTER_PERIOD_S if self._counts else _POWER_PERIOD_S
        self._last: tuple[float, int] | None = None

    def read(self) -> PowerSample:
        """Read once. Raises: SensorUnavailableError: also when the counter went back, as after a driver's reload."""
        if not self._counts:
            power_mw = sum(self._cards.power_mw(card) for card in range(self._count))
            return PowerSample(monotonic_s=self._clock.monotonic_s(), power_w=power_mw / 1e3, resolution_w=1e-3)
        energies = [self._cards.energy_mj(card) for card in range(self._count)]
        now_s, total_mj = self._clock.monotonic_s(), sum(one for one in energies if one is not None)
        if None in energies or (self._last is not None and total_mj < self._last[1]):
            raise unavailable(self.name, "broken", why="its energy counter went back or is gone")
        # A value may be as old as the counter is renewed seldom, so an edge is off by up to a period's energy.
        step_j = 1e-3
        if self._last is not None and now_s > self._last[0]:
            step_j += (total_mj - self._last[1]) / 1e3 / (now_s - self._last[0]) * _COUNTER_PERIOD_S
        self._last = (now_s, total_mj)
        return PowerSample(monotonic_s=now_s, energy_j=total_mj / 1e3, resolution_j=step_j)


def meters(clock: Clock, cards: Cards) -> tuple[PowerMeter, ...]:
    """Return the meter if it reads now."""
    try:
        meter = CardsMeter(clock, cards)
        meter.read()
    except SensorUnavailableError:
        return ()
    return (meter,)


def describe(clock: Clock, cards: Cards) -> tuple[SensorFacts, ...]:
    """State whether the cards tell their power."""
    return (
        try_sensor("nvml", "power", lambda: CardsMeter(clock, cards).read(), source=LIBRARY, unit="W", scope="gpu"),
    )
