"""The ``schedule``, ``caps`` and ``replay`` parts of agent.yaml. What is done and when, others decide."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.config_values import positive
from agent.core.allowance import Caps
from agent.core.schedule import Action, Condition, ScheduleEntry, check_cron, parse_condition
from agent.core.units import parse_quantity
from agent.errors import ConfigError

LEAST_REPLAY_S = 600.0
_ACTIONS: dict[str, Action] = {"pass": "pass", "bench": "bench", "sync": "sync", "sustained": "sustained"}


class RawEntry(msgspec.Struct, kw_only=True):
    """One entry of ``schedule`` as written."""

    name: str
    cron: str
    action: str = "pass"
    jitter: Any = "0 s"
    window: Any = "1 h"
    when: dict[str, Any] = {}


class RawCaps(msgspec.Struct, kw_only=True):
    """``caps`` as written: limits of one day."""

    bench_time: Any = None
    download: Any = None
    written: Any = None


class RawReplay(msgspec.Struct, kw_only=True):
    """``replay`` as written. YAML reads a bare ``off`` as false."""

    every: Any = "24 h"
    when: dict[str, Any] = msgspec.field(default_factory=lambda: {"load": "< 0.5"})


class ReplayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How often the golden inputs of what serves are replayed, None for never, and under which conditions."""

    every_s: float | None = 86400.0  # chosen: a day; a few seconds of one core
    when: tuple[Condition, ...] = (Condition(quantity="load", below=True, limit=0.5),)


def replay_config(raw: RawReplay) -> ReplayConfig:
    """Return when golden inputs are replayed. Raises: ConfigError."""
    when = tuple(parse_condition(k, v, where=f"replay.when.{k}") for k, v in raw.when.items())
    if raw.every is False or raw.every == "off":
        return ReplayConfig(every_s=None, when=when)
    every_s = positive(raw.every, "time", "replay.every")
    if every_s < LEAST_REPLAY_S:
        raise ConfigError(f"replay.every: {raw.every!r} is too often", fix="write 10 min or more, or `off`")
    return ReplayConfig(every_s=every_s, when=when)


def schedule_config(raw: list[RawEntry]) -> tuple[ScheduleEntry, ...]:
    """Return the entries. Raises: ConfigError."""
    entries: list[ScheduleEntry] = []
    for number, item in enumerate(raw):
        where = f"schedule[{number}]"
        if any(entry.name == item.name for entry in entries):
            raise ConfigError(f"{where}.name: {item.name!r} is used twice", fix="give each entry its own name")
        check_cron(item.cron, where=f"{where}.cron")
        entries.append(
            ScheduleEntry(
                name=item.name,
                action=_action(item.action, where=f"{where}.action"),
                cron=item.cron,
                jitter_s=parse_quantity(item.jitter, "time", where=f"{where}.jitter"),
                window_s=positive(item.window, "time", f"{where}.window"),
                when=tuple(parse_condition(k, v, where=f"{where}.when.{k}") for k, v in item.when.items()),
            )
        )
    return tuple(entries)


def caps_config(raw: RawCaps) -> Caps:
    """Return the limits of a day. Raises: ConfigError."""
    return Caps(
        bench_s=None if raw.bench_time is None else positive(raw.bench_time, "time", "caps.bench_time"),
        download_bytes=None if raw.download is None else int(positive(raw.download, "bytes", "caps.download")),
        written_bytes=None if raw.written is None else int(positive(raw.written, "bytes", "caps.written")),
    )


def _action(text: str, *, where: str) -> Action:
    if text not in _ACTIONS:
        raise ConfigError(f"{where}: {text!r} is not an action", fix=f"use one of {', '.join(_ACTIONS)}")
    return _ACTIONS[text]
