"""When the next scheduled action is due: cron expression, per-board jitter, window and conditions. Pure.

Rules:
- Jitter is a constant of the board and the entry (hash of both), so that a fleet spreads and a board stays predictable.
- An entry that was due while the board was off or busy is caught up once, and only within its window.
- A condition that cannot be judged (no sensor) does not hold; the reason says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal

import msgspec
from cronsim import CronSim, CronSimError

from agent.core.measurement import ContextReading
from agent.core.units import format_quantity, parse_quantity
from agent.errors import ConfigError

Action = Literal["pass", "bench", "sync"]


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """The board's state must be below (or above) a limit: load per usable core, or temperature in Celsius."""

    quantity: Literal["load", "temperature"]
    below: bool
    limit: float

    @property
    def text(self) -> str:
        """As a person reads it."""
        shown = format_quantity(self.limit, "temperature") if self.quantity == "temperature" else f"{self.limit:g}"
        return f"{self.quantity} {'<' if self.below else '>'} {shown}"


class ScheduleEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the schedule; durations in seconds."""

    name: str
    action: Action
    cron: str
    jitter_s: float = 0.0
    window_s: float = 3600.0
    when: tuple[Condition, ...] = ()


def check_cron(expression: str, *, where: str) -> None:
    """Raise ConfigError when the expression is not a five-field cron expression that ever fires."""
    try:
        next(_ticks(expression, datetime(2026, 1, 1)))  # noqa: DTZ001 - any moment proves it
    except (CronSimError, StopIteration) as error:
        message = f"{where}: {expression!r} is not a cron expression"
        raise ConfigError(message, fix='write five fields, like "0 3 * * *"') from error


def parse_condition(quantity: str, text: object, *, where: str) -> Condition:
    """Read ``load: "< 0.5"`` or ``temperature: "< 60 C"``. Raises: ConfigError."""
    body = str(text).strip()
    if quantity not in ("load", "temperature"):
        raise ConfigError(f"{where}: {quantity!r} is not a condition", fix="known conditions: load, temperature")
    if body[:1] not in ("<", ">"):
        raise ConfigError(f"{where}: {body!r} does not compare", fix='write it like "< 0.5" or "< 60 C"')
    limit = parse_quantity(body[1:].lstrip("="), "temperature" if quantity == "temperature" else "ratio", where=where)
    return Condition(quantity="load" if quantity == "load" else "temperature", below=body[0] == "<", limit=limit)


def jitter_s(entry: ScheduleEntry, device_id: str) -> float:
    """Return this board's constant delay for an entry: uniform in 0 .. jitter over the fleet."""
    digest = hashlib.sha256(f"{device_id}\0{entry.name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * entry.jitter_s


def next_due(entry: ScheduleEntry, now: datetime, device_id: str) -> datetime:
    """Return the first moment after ``now`` (aware) at which the entry is due, jitter included.

    Cron fields are read in the timezone of ``now``.
    """
    delay = timedelta(seconds=jitter_s(entry, device_id))
    return next(_ticks(entry.cron, now - delay)) + delay


def missed_due(entry: ScheduleEntry, last_run: datetime | None, now: datetime, device_id: str) -> datetime | None:
    """Return the latest due moment since ``last_run`` whose window is still open, or None.

    Without a ``last_run`` nothing counts as missed: a new board starts with the pass at start-up anyway.
    """
    if last_run is None:
        return None
    delay = timedelta(seconds=jitter_s(entry, device_id))
    earliest = max(last_run, now - timedelta(seconds=entry.window_s))
    latest = None
    for tick in _ticks(entry.cron, earliest - delay):
        if tick + delay > now:
            break
        latest = tick + delay
    return latest


def condition_failure(conditions: tuple[Condition, ...], context: ContextReading, cores: int) -> str | None:
    """Return why the board may not be disturbed now, or None when every condition holds."""
    for condition in conditions:
        value = context.temperature_celsius
        if condition.quantity == "load":
            value = None if context.load_1min is None else context.load_1min / max(1, cores)
        if value is None:
            return f"{condition.text} cannot be judged: this board does not report {condition.quantity}"
        if (value < condition.limit) is not condition.below:
            return f"{condition.text} does not hold: it is {value:.2f}"
    return None


def _ticks(expression: str, start: datetime) -> Iterator[datetime]:
    return iter(CronSim(expression, start))
