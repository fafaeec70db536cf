"""Under which conditions a measurement was taken, and which of them make it doubtful. Pure.

Flags: ``throttled``, ``clock_changed`` (limit, governor or power mode), ``hot``, ``steal``, ``low_supply`` and
``contended`` (threads waited for a core).
A flag never changes a figure; who decides looks at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agent.core.facts import DeviceFacts
from agent.core.measurement import Context, ContextReading
from agent.core.ports import SchedulerCounters
from agent.measure.settings import MeasureSettings


class Contention(NamedTuple):
    """How the worker's threads fared while they were timed; None is unknown."""

    wait_ratio: float | None
    involuntary_switches: int | None
    elapsed_s: float
    contended_runs: int


def contention(
    before: SchedulerCounters | None,
    after: SchedulerCounters | None,
    elapsed_s: float,
    own_wait_ratio: float | None,
    contended_runs: int,
) -> Contention:
    """Join what the agent saw from outside with what the worker saw of itself; the outside view wins."""
    wait_ratio, switches = own_wait_ratio, None
    if before is not None and after is not None and elapsed_s > 0:
        wait_ratio = max(0.0, after.wait_s - before.wait_s) / elapsed_s
        switches = max(0, after.involuntary_switches - before.involuntary_switches)
    return Contention(wait_ratio, switches, elapsed_s, contended_runs)


def together(parts: Sequence[Contention]) -> Contention:
    """Join the contention of several processes of one measurement; what one of them does not tell is not known."""
    elapsed_s = sum(part.elapsed_s for part in parts)
    waits = [part.wait_ratio * part.elapsed_s for part in parts if part.wait_ratio is not None]
    switches = [part.involuntary_switches for part in parts if part.involuntary_switches is not None]
    return Contention(
        sum(waits) / elapsed_s if len(waits) == len(parts) and elapsed_s > 0 else None,
        sum(switches) if len(switches) == len(parts) else None,
        elapsed_s,
        sum(part.contended_runs for part in parts),
    )


def limit_celsius(facts: DeviceFacts, settings: MeasureSettings) -> float:
    """Return where this board slows itself down: its profile's figure, the setting where the profile has none."""
    return settings.hot_celsius if facts.throttle_celsius is None else facts.throttle_celsius


def context(
    readings: Sequence[ContextReading],
    timed: Contention | None,
    settings: MeasureSettings,
    limit_celsius: float | None = None,
) -> Context:
    """Join readings in time order (at least one) to a context with its flags.

    Args: limit_celsius: from here on the board is hot; None takes the setting.
    """
    limit = settings.hot_celsius if limit_celsius is None else limit_celsius
    found: dict[str, None] = {}
    for number, reading in enumerate(readings):
        previous = readings[number - 1] if number else None
        found.update(dict.fromkeys(_flags(previous, reading, settings, limit)))
    if timed is not None and is_contended(timed, settings):
        found["contended"] = None
    return Context(before=readings[0], after=readings[-1], flags=tuple(found))


def is_contended(timed: Contention, settings: MeasureSettings) -> bool:
    """Tell whether neighbours took cores away: from the run-queue wait, or from switches where there is no wait."""
    if timed.contended_runs > 0:
        return True
    if timed.wait_ratio is not None:
        return timed.wait_ratio > settings.contended_wait_ratio
    if timed.involuntary_switches is not None and timed.elapsed_s > 0:
        return timed.involuntary_switches / timed.elapsed_s > settings.contended_switches_per_s
    return False


def _flags(
    previous: ContextReading | None, reading: ContextReading, settings: MeasureSettings, limit_celsius: float
) -> list[str]:
    flags = []
    if reading.throttle_now:
        flags.append("throttled")
    if previous is not None:
        old, new = previous.throttle_counts, reading.throttle_counts
        if old is not None and new is not None and any(new[name] > old.get(name, new[name]) for name in new):
            flags.append("throttled")
        limits = ((previous.clock_max_hz, reading.clock_max_hz), (previous.governor, reading.governor))
        if any(a != b for a, b in (*limits, (previous.power_mode, reading.power_mode))):
            flags.append("clock_changed")
    if reading.temperature_celsius is not None and reading.temperature_celsius >= limit_celsius:
        flags.append("hot")
    if previous is not None and reading.steal_ratio is not None and reading.steal_ratio > settings.steal_ratio:
        flags.append("steal")
    if reading.supply_ok is False:
        flags.append("low_supply")
    return flags
