"""What reads the board's own: its configuration, and what its workers and verbs say."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent.errors import BoardfitError
from tests.faults.parsers.target import JSON, YAML, Target, encode, own_folder

CONFIG = b"""
device: {id: pi}
registry: {url: "https://models.example", root: root.json, cache_quota: 1 GiB}
mqtt:
  url: mqtts://broker.example:8883
  fleet: plant
  group: [line-2]
  protocol: "5"
tasks:
  digits: {budgets: {latency_p95: 20 ms, accuracy_top1: ">= 0.9"}, objective: [minimize latency_p95]}
schedule:
  - {name: nightly, action: sync, cron: "0 3 * * *"}
  - {name: often, action: bench, every: 6 h}
measure: {min_runs: 100, max_time: 3 s, threads: [1, 4]}
caps: {download: 1 MiB, energy: 3 Wh}
outbox: {max_size: 16 MiB, max_age: 14 d}
"""
DESIRED: dict[str, Any] = {
    "version": 4, "issuer": "anna", "audience": {"fleet": "plant", "device": "pi"}, "issued_at": "2026-11-22T11:59:00Z",
    "schema": "boardfit.desired/1",
    "settings": {
        "tasks": {"digits": {"budgets": {"latency_p95": "20 ms"}, "objective": ["minimize size"], "pin": "a"}},
        "schedule": [{"name": "nightly", "action": "sync", "cron": "0 3 * * *"}], "caps": {"download": "1 MiB"},
    },
}  # fmt: skip


def _config(data: bytes) -> object:
    from agent.config import load_config

    folder = Path(own_folder())
    path = folder / "agent.yaml"
    path.write_bytes(data)
    return load_config(path)


def _desired(data: bytes) -> object:
    from agent.config import parse_config
    from agent.config_desired import with_desired
    from agent.core.desired import desired_bytes, read_desired

    desired = read_desired(data)
    written = parse_config({"tasks": {"digits": {"budgets": {"latency_p95": "9 ms"}}}}, path=None)
    with_desired(written, [(desired.audience.scope, desired.settings)])
    return desired_bytes(desired)


def _config_seeds() -> tuple[tuple[int, bytes], ...]:
    return ((0, CONFIG), (0, b"tasks: {}\n"), (1, encode(DESIRED)))


# -- what workers and verbs say ---------------------------------------------------------------------------------------


def _event(data: bytes) -> object:
    from agent.measure.protocol import Loaded, Started, Warm, decode_event

    found = None
    for before in (None, *(kind for kind in _sample_events() if isinstance(kind, (Started, Loaded, Warm)))):
        try:
            found = decode_event(data, before)
        except _protocol_error():
            continue
    return found


def _job(data: bytes) -> object:
    from agent.measure.protocol import decode_job

    return decode_job(data)


def _outcome(data: bytes) -> object:
    from agent.orders.outcome import read_outcome

    return [read_outcome(code, data) for code in (0, 1, 3, -9)]


def _progress(data: bytes) -> object:
    from agent.child import Child

    reading, writing = os.pipe2(os.O_NONBLOCK)
    child = Child.__new__(Child)
    child.progress = reading
    try:
        os.write(writing, data[:60_000] + b"\n")
        return child.told()
    finally:
        os.close(reading)
        os.close(writing)


@lru_cache(maxsize=1)
def _sample_events() -> tuple[Any, ...]:
    from agent.measure import protocol

    found = []
    for kind in protocol._ORDER:
        info = msgspec.json.schema(kind)["$defs"][kind.__name__]
        document = {
            "event": kind.__struct_config__.tag,
            **{n: _sample(p) for n, p in info["properties"].items() if n != "event"},
        }
        try:
            found.append(msgspec.convert(document, kind))
        except msgspec.ValidationError:
            continue
    return tuple(found)


def _sample(info: dict[str, Any]) -> Any:
    if "default" in info:
        return info["default"]
    if "anyOf" in info:
        return _sample(info["anyOf"][0])
    if "enum" in info:
        return info["enum"][0]
    made: dict[str, Any] = {"integer": 1, "number": 1.5, "string": "a", "boolean": True, "null": None, "object": {}}
    if info.get("type") == "array":
        if "prefixItems" in info:
            return [_sample(one) for one in info["prefixItems"]]
        return (
            [_sample(info["items"])] * 3 if isinstance(info.get("items"), dict) and "$ref" not in info["items"] else []
        )
    return made.get(info.get("type", ""))


def _protocol_error() -> type[Exception]:
    from agent.measure.protocol import ProtocolError

    return ProtocolError


def _worker_seeds() -> tuple[tuple[int, bytes], ...]:
    from agent.core.ports import ProgressEvent

    outcomes = (
        {"schema": "boardfit.bench/1", "measurements": [{}, {}], "untried": [{}]},
        {"schema": "boardfit.select/1", "decisions": [{"id": "d1", "task": "digits", "winner": {"candidate": "a"}}]},
        {"schema": "boardfit.sync/1", "status": {"candidates": 3, "reachable": True, "versions": {"targets": 7}}},
        {"error": "no candidate fits", "fix": "loosen a budget"},
    )  # fmt: skip
    step = msgspec.json.encode(ProgressEvent(stage="measure", text="a candidate", done=1, total=4))
    return (
        *((0, msgspec.json.encode(one)) for one in _sample_events()), (1, b'{"schema":"boardfit.job/1"}'),
        *((2, encode(one)) for one in outcomes), (3, step),
    )  # fmt: skip


MADE = (
    Target("config", (_config, _desired), _config_seeds, (YAML, JSON)),
    Target(
        "worker", (_event, _job, _outcome, _progress), _worker_seeds, (JSON, JSON, JSON, JSON),
        (BoardfitError, _protocol_error()),
    ),
)  # fmt: skip
assert yaml  # loaded here, so that a document is read in this process and not in a copy of it
