"""When one scheduled action is due and under which conditions: cron, per-board jitter, window, board state. Pure.

Rules:
- Jitter is a constant of the board and the entry (hash of both), so that a fleet spreads and a board stays predictable.
- Cron fields are the board's local time. An hour that summer time skips is not lost (its moments come right after it);
  one that winter time repeats counts once.
- An entry that was due while the board was off or busy is caught up once, and only within its window.
- ``serving: none`` holds while no application has told of a request for a while (``agent.client`` does). No open or
  mapped file tells who serves, so an application that does not tell is not seen: with nobody telling it cannot be
  judged. Everybody's load can be seen: ``load``.
- A condition that cannot be judged (no sensor) does not hold; the reason says so. A board that does not say what feeds
  it is not known to be on mains.

Leaves the bookkeeping over time to ``agent.core.agenda``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Literal

import msgspec
from cronsim import CronSim, CronSimError

from agent.core.units import format_quantity, parse_quantity
from agent.errors import ConfigError

Action = Literal["pass", "bench", "sync", "sustained"]
Quantity = Literal["load", "temperature", "power", "serving"]
_CONDITIONS: tuple[Quantity, ...] = ("load", "temperature", "power", "serving")
SERVING_S = 30.0  # chosen: as long as an application that rests may say nothing


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """The board's state must be below (or above) a limit: load per usable core, or temperature in Celsius.

    ``power`` has no limit: it asks for mains. That of ``serving`` is for how many seconds no request was told.
    """

    quantity: Quantity
    below: bool = False
    limit: float = 0.0

    @property
    def text(self) -> str:
        """As a person reads it."""
        if self.quantity == "power":
            return "mains power"
        if self.quantity == "serving":
            return f"no request for {format_quantity(self.limit, 'time')}"
        shown = format_quantity(self.limit, "temperature") if self.quantity == "temperature" else f"{self.limit:g}"
        return f"{self.quantity} {'<' if self.below else '>'} {shown}"


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """What conditions are judged by; None is "this board does not say".

    ``load_per_core``: of everybody but our own work, per usable core.
    """

    load_per_core: float | None = None
    temperature_celsius: float | None = None
    on_mains: bool | None = None
    serving_idle_s: float | None = None  # since an application last told of a request


class ScheduleEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the schedule; durations in seconds. ``window_s`` is how late it may begin, or go on."""

    name: str
    action: Action
    cron: str
    jitter_s: float = 0.0
    window_s: float = 3600.0
    when: tuple[Condition, ...] = ()


def check_cron(expression: str, *, where: str) -> None:
    """Raise ConfigError when the expression is not a five-field cron expression that ever fires."""
    try:
        next(CronSim(expression, datetime(2026, 1, 1)))  # noqa: DTZ001 - any moment proves it
    except (CronSimError, StopIteration) as error:
        message = f"{where}: {expression!r} is not a cron expression"
        raise ConfigError(message, fix='write five fields, like "0 3 * * *"') from error


def parse_condition(quantity: str, text: object, *, where: str) -> Condition:
    """Read ``load: "< 0.5"``, ``temperature: "< 60 C"``, ``power: mains`` or ``serving: none for 5 min``.

    Raises: ConfigError.
    """
    body = str(text).strip()
    if quantity not in _CONDITIONS:
        fix = f"known conditions: {', '.join(_CONDITIONS)}"
        raise ConfigError(f"{where}: {quantity!r} is not a condition", fix=fix)
    if quantity == "power":
        if body != "mains":
            raise ConfigError(f"{where}: {body!r} is not a supply to wait for", fix="write `power: mains`")
        return Condition(quantity="power")
    if quantity == "serving":
        return Condition(quantity="serving", limit=_quiet_s(body, where))
    if body[:1] not in ("<", ">"):
        raise ConfigError(f"{where}: {body!r} does not compare", fix='write it like "< 0.5" or "< 60 C"')
    limit = parse_quantity(body[1:].lstrip("="), "temperature" if quantity == "temperature" else "ratio", where=where)
    return Condition(quantity="load" if quantity == "load" else "temperature", below=body[0] == "<", limit=limit)


def _quiet_s(body: str, where: str) -> float:
    """Read ``none`` or ``none for 5 min``: for how long no request may have come."""
    first, _, rest = body.partition(" ")
    word, _, quantity = rest.strip().partition(" ")
    if first != "none" or (rest and word != "for"):
        raise ConfigError(f"{where}: {body!r} is no serving load to wait for", fix="write `serving: none for 5 min`")
    quiet_s = parse_quantity(quantity, "time", where=where) if rest else SERVING_S
    if quiet_s < 2.0:
        raise ConfigError(f"{where}: {body!r} is too short", fix="write 2 s or more: applications tell once a second")
    return quiet_s


def jitter_s(entry: ScheduleEntry, device_id: str) -> float:
    """Return this board's constant delay for an entry: uniform in 0 .. jitter over the fleet."""
    digest = hashlib.sha256(f"{device_id}\0{entry.name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * entry.jitter_s


def next_due(entry: ScheduleEntry, now: datetime, device_id: str, zone: tzinfo = timezone.utc) -> datetime:
    """Return the first moment (UTC) after ``now`` (aware) at which the entry is due, jitter included.

    Args: zone: the one in which the cron fields are read.
    """
    return next(_dues(entry, now, device_id, zone))


def missed_due(
    entry: ScheduleEntry, since: datetime | None, now: datetime, device_id: str, zone: tzinfo = timezone.utc
) -> datetime | None:
    """Return the latest due moment (UTC) in ``since < moment <= now`` whose window is still open, or None.

    Without a ``since`` nothing counts as missed.
    """
    if since is None:
        return None
    latest = None
    for due in _dues(entry, max(since, now - timedelta(seconds=entry.window_s)), device_id, zone):
        if due > now:
            break
        latest = due
    return latest


def condition_failure(conditions: tuple[Condition, ...], readings: Readings) -> str | None:
    """Return why the board may not be disturbed now, or None when every condition holds."""
    for condition in conditions:
        if condition.quantity == "power":
            if readings.on_mains is None:
                return "mains power cannot be judged: this board does not say what feeds it"
            if not readings.on_mains:
                return "mains power does not hold: the board runs on its battery"
            continue
        if condition.quantity == "serving":
            if readings.serving_idle_s is None:
                return f"{condition.text} cannot be judged: no application tells of its requests (agent.client does)"
            if readings.serving_idle_s < condition.limit:
                return f"{condition.text} does not hold: there was one {readings.serving_idle_s:.0f} s ago"
            continue
        value = readings.load_per_core if condition.quantity == "load" else readings.temperature_celsius
        if value is None:
            return f"{condition.text} cannot be judged: this board does not report {condition.quantity}"
        if (value < condition.limit) is not condition.below:
            return f"{condition.text} does not hold: it is {value:.2f}"
    return None


def _dues(entry: ScheduleEntry, after: datetime, device_id: str, zone: tzinfo) -> Iterator[datetime]:
    """Yield the due moments after ``after``, in UTC; ticks are counted in local time without its offset."""
    delay = timedelta(seconds=jitter_s(entry, device_id))
    start = after.astimezone(timezone.utc) - delay
    last = start
    for tick in CronSim(entry.cron, start.astimezone(zone).replace(tzinfo=None)):
        moment = tick.replace(tzinfo=zone).astimezone(timezone.utc)
        if moment > last:
            last = moment
            yield moment + delay
