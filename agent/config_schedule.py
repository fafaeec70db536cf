"""The ``schedule`` and ``caps`` parts of agent.yaml. What the entries do and when, others decide."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.config_values import positive
from agent.core.allowance import Caps
from agent.core.schedule import Action, ScheduleEntry, check_cron, parse_condition
from agent.core.units import parse_quantity
from agent.errors import ConfigError

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
