"""What reads foreign bytes, each as one function of bytes, with sound documents to begin from.

A target returns, or raises one of its ``typed`` errors; anything else is a finding. The first byte of an input chooses
among the readers of a target.
"""

from __future__ import annotations

import json
import os
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent.errors import BoardfitError
from tests.faults.parsers import spoil

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
KEYID = "a" * 64


@dataclass(frozen=True)
class Target:
    """One parser or a family of them. Args: kinds: reader number to (seeds, how they are spoiled)."""

    name: str
    readers: tuple[Callable[[bytes], object], ...]
    seeds: Callable[[], tuple[tuple[int, bytes], ...]]
    spoilers: tuple[spoil.Spoiler, ...]
    typed: tuple[type[Exception], ...] = field(default=(BoardfitError,))

    def run(self, data: bytes) -> None:
        """Read an input. Raises: a finding."""
        if data:
            with suppress(*self.typed):
                self.readers[data[0] % len(self.readers)](data[1:])

    @lru_cache(maxsize=8)  # noqa: B019 - there are eight
    def corpus(self) -> tuple[bytes, ...]:
        """Return sound inputs."""
        return tuple(bytes([number]) + data for number, data in self.seeds())

    def spoiled(self, chance: Any) -> bytes:
        """Return a spoiled input."""
        return self.spoiled_from(chance, chance.choice(self.corpus()))

    def spoiled_from(self, chance: Any, data: bytes) -> bytes:
        """Return an input spoiled (further)."""
        return data[:1] + self.spoilers[data[0] % len(self.readers)](chance, data[1:])


def _encode(document: Any) -> bytes:
    return json.dumps(document).encode()


def _decoded(data: bytes) -> Any:
    """Return plain values, for what is handed values and not bytes."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BoardfitError("no JSON") from error


# -- manifest and the catalogue of a registry -------------------------------------------------------------------------


def _manifest(data: bytes) -> object:
    from agent.core.manifest import manifest_document, parse_manifest

    return manifest_document(parse_manifest(_decoded(data)))


def _catalogue(data: bytes) -> object:
    from tuf.api.metadata import TargetFile

    from agent.registry.catalogue import candidate_of, data_kind, read_catalogue

    custom = _decoded(data)
    if not isinstance(custom, dict):
        return None
    targets = {"a/b": TargetFile(10, {"sha256": "0" * 64}, "a/b", {"custom": custom})}
    read_catalogue(targets)
    return candidate_of(targets["a/b"]), data_kind(targets["a/b"])


def _manifest_seeds() -> tuple[tuple[int, bytes], ...]:
    from agent.registry import layout

    customs = list(_published_custom())
    manifests = [custom[layout.MANIFEST_FIELD].encode() for custom in customs if layout.MANIFEST_FIELD in custom]
    assert manifests
    return (*((0, one) for one in manifests), *((1, _encode(custom)) for custom in customs))


@lru_cache(maxsize=1)
def _registry() -> dict[str, bytes]:
    """Make a real registry with one candidate; return its files."""
    from agent.registry.author import add, init
    from tests.registry.samples import evaluation_pack, onnx_model

    with tempfile.TemporaryDirectory() as folder:
        place, keys = Path(folder) / "registry", Path(folder) / "keys"
        init(place, keys, now=NOW - timedelta(hours=2))
        model = onnx_model(Path(folder) / "m.onnx", features=4, ir_version=8)
        pack = evaluation_pack(Path(folder) / "eval.npz")
        add(place, model, task="digits", name="float", keys_dir=keys, now=NOW - timedelta(hours=1), evaluation=pack)
        return {str(one.relative_to(place)): one.read_bytes() for one in place.rglob("*.json")}


def _published_custom() -> Iterator[dict[str, Any]]:
    for name, data in _registry().items():
        if name.endswith(".targets.json"):
            for target in json.loads(data)["signed"]["targets"].values():
                yield target.get("custom", {})


# -- commands, envelopes, receipts ------------------------------------------------------------------------------------


def _envelope(data: bytes) -> object:
    from agent.core.envelope import COMMAND_TYPE, open_envelope

    return open_envelope(data, COMMAND_TYPE).signed_bytes


def _command(data: bytes) -> object:
    from agent.core.command import Recipient, arguments_of, command_bytes, deadline_of, judge, read_command
    from agent.core.operators import Operator
    from agent.orders.loose import loosely

    loosely(data)
    command = read_command(data)
    operator = Operator(name="otto", public_key="a" * 64, role="admin", valid_until="2030-01-01T00:00:00Z")
    at = Recipient(fleet="plant", device="pi", groups=("line-2",), epoch="e" * 32, now=NOW, clock_synced=True)
    deadline_of(command)
    arguments_of(command)
    judge(command, operator, at, 0)
    return command_bytes(command)


def _operators(data: bytes) -> object:
    from agent.core.operators import parse_operators

    return parse_operators(data).by_key()


def _receipt(data: bytes) -> object:
    """What a collector and its broker say to a board."""
    from agent.core.topics import collector_topic
    from agent.mqtt import Incoming

    receipts = _board_side()[0]
    receipts.on_message(Incoming(topic="boardfit/v1/plant/pi/receipt", payload=data, retain=False))
    receipts.on_message(Incoming(topic=collector_topic("plant", "c"), payload=data, retain=True))
    return None


def _own_status(data: bytes) -> object:
    from agent.mqtt import Incoming

    _board_side()[1]._seen(Incoming(topic="boardfit/v1/plant/pi/status", payload=data, retain=True))
    return None


@lru_cache(maxsize=1)
def _board_side() -> tuple[Any, Any]:
    from agent.clock import SystemClock
    from agent.core.topics import address
    from agent.database import Database
    from agent.mqtt import BrokerSettings, Connection
    from agent.report.outbox import Outbox
    from agent.report.presence import Rivalry
    from agent.report.receipts import ReceiptPolicy, Receipts

    clock = SystemClock()
    outbox = Outbox(Database(Path(tempfile.mkdtemp()) / "fuzz.db"), address("plant", "pi"), clock, boot_id="boot-a")
    connection = Connection(BrokerSettings(host="127.0.0.1", port=1))
    receipts = Receipts(outbox, ReceiptPolicy(mode="auto"), clock.monotonic_s, lambda: 0.5)
    return receipts, Rivalry(connection, outbox, clock.monotonic_s)


def _packet(data: bytes) -> object:
    from agent.core.topics import parse_topic
    from agent.mqtt.stream import StreamError, read_message

    try:
        incoming = read_message(memoryview(data[1:]), data[0] & 0x07, properties=bool(data[0] & 0x08)) if data else None
    except StreamError:
        return None
    return incoming and parse_topic(incoming.topic)


COMMAND = {
    "id": "job-000001", "verb": "bench", "issuer": "otto", "audience": {"fleet": "plant", "device": "pi"}, "counter": 1,
    "issued_at": "2026-11-22T11:59:00Z", "expires_at": "2026-11-22T12:30:00Z", "schema": "boardfit.command/1",
    "arguments": {"task": "digits", "candidates": ["a"], "again": True}, "deadline_s": 5.0,
}  # fmt: skip


def _command_seeds() -> tuple[tuple[int, bytes], ...]:
    commands = [
        COMMAND,
        {**COMMAND, "verb": "deploy", "epoch": "e" * 32, "arguments": {"task": "digits", "candidate": "a"}},
        {**COMMAND, "verb": "cancel", "arguments": {"job": "job-000000"}},
        {**COMMAND, "verb": "set-desired", "arguments": {"version": 3, "settings": DESIRED["settings"]}},
    ]
    envelopes = [
        {
            "payload": b64encode(_encode(one)).decode(),
            "payloadType": "application/vnd.boardfit.command+json",
            "signatures": [{"keyid": KEYID, "sig": b64encode(bytes(64)).decode()}],
        }
        for one in commands
    ]
    listed = {"name": "otto", "public_key": "b" * 64, "role": "admin", "valid_until": "2030-01-01T00:00:00Z"}
    receipt = {
        "schema": "boardfit.receipt/1",
        "fleet": "plant",
        "device": "pi",
        "collector": "c",
        "stored": [[1, "0" * 16]],
    }
    status = {"schema": "boardfit.collector/1", "fleet": "plant", "collector": "c", "state": "online"}
    own = {"schema": "boardfit.status/1", "fleet": "plant", "device": "pi", "boot_id": "boot-b", "state": "online"}
    topic = b"boardfit/v1/plant/pi/cmd/bench"
    head = len(topic).to_bytes(2, "big") + topic + b"\0\1"
    packets = [b"\2" + head + b"{}", b"\x0a" + head + b"\x0d\x02\0\0\0\x0a\x08\0\1a\x09\0\1b{}"]
    return (
        *((0, _encode(one)) for one in envelopes), *((1, _encode(one)) for one in commands),
        (2, _encode({"schema": "boardfit.operators/1", "operators": [listed]})), (3, _encode(receipt)),
        (3, _encode(status)), (4, _encode(own)), *((5, one) for one in packets),
    )  # fmt: skip


# -- configuration ----------------------------------------------------------------------------------------------------

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

    folder = Path(_folder())
    path = folder / "agent.yaml"
    path.write_bytes(data)
    return load_config(path)


@lru_cache(maxsize=1)
def _folder() -> str:
    return tempfile.mkdtemp()


def _desired(data: bytes) -> object:
    from agent.config import parse_config
    from agent.config_desired import with_desired
    from agent.core.desired import desired_bytes, read_desired

    desired = read_desired(data)
    written = parse_config({"tasks": {"digits": {"budgets": {"latency_p95": "9 ms"}}}}, path=None)
    with_desired(written, [(desired.audience.scope, desired.settings)])
    return desired_bytes(desired)


def _config_seeds() -> tuple[tuple[int, bytes], ...]:
    return ((0, CONFIG), (0, b"tasks: {}\n"), (1, _encode(DESIRED)))


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
        *((2, _encode(one)) for one in outcomes), (3, step),
    )  # fmt: skip


# -- sensors and captures ---------------------------------------------------------------------------------------------

BOARDS = ROOT / "tests" / "boards"
_CUT = b"\n@@"  # between the files of one input: number, then content


#: Only these boards, where all are too many.
SAMPLED: list[str] = []


@lru_cache(maxsize=64)
def _names(board: str) -> tuple[str, ...]:
    """Return the files that are read of a board, in the order they are asked for."""
    return tuple(_read(BOARDS / board, {}))


def _boards() -> tuple[str, ...]:
    return tuple(sorted(one.name for one in BOARDS.iterdir() if one.is_dir()))


def _read(folder: Path, instead: dict[str, bytes]) -> dict[str, bytes]:
    """Read a board with some of its files replaced. Returns: what was read."""
    from agent.device import board as board_module
    from agent.device import case, profiles
    from agent.device.host import Host

    asked: dict[str, bytes] = {}

    class Spoiled(case.CaseRoot):
        def read_bytes(self, rel: str) -> bytes:
            asked[rel] = instead[rel] if rel in instead else super().read_bytes(rel)
            return asked[rel]

    profiles.load_all = _profiles_once  # loading them anew for every input is most of the work
    board_module.parser_is_loaded = lambda: True  # in this process
    notes = case._read(folder / case.NOTES, case.Notes, case.Notes())
    host = case._read(folder / case.HOST, Host, Host())
    made = board_module.Board(
        Spoiled(folder, notes), None, affinity=host.affinity, clock=case.StillClock(), host=host,
        firmware=case._firmware(folder / case.FIRMWARE, notes),
    )  # fmt: skip
    case.observe(made)
    for ask in (
        made.clock_synced, made.on_mains, made.usable_cores, made.hardware, lambda: made.device_id,
        lambda: made.process_memory(1), lambda: made.scheduler_counters(1), lambda: made.processor_ticks(1),
        lambda: made.written_bytes(1),
    ):  # fmt: skip
        ask()
    return asked


@lru_cache(maxsize=4)
def _profiles_once(folder: Path) -> Any:
    return _LOAD_ALL(folder)


def _sensors(data: bytes) -> object:
    boards = _boards()
    board = boards[data[0] % len(boards)] if data else boards[0]
    names = _names(board)
    instead = {}
    for part in data[1:].split(_CUT)[:20]:
        if len(part) > 1:
            instead[names[int.from_bytes(part[:2], "big") % len(names)]] = part[2:]
    return _read(BOARDS / board, instead)


def _meter(data: bytes) -> object:
    from agent.device.power_meter_kinds import talk

    heard = []
    for kind, component in (("shelly", "switch:0"), ("shelly-gen1", "relay:0"), ("tasmota", None), ("tasmota", "1")):
        meter = talk(kind, "plug", component, "us")  # type: ignore[arg-type]
        for topic in meter.patterns:
            try:
                heard.append(meter.hear(topic, data))
            except ValueError as error:
                assert str(error).startswith("it answers")
    return heard


def _sensor_seeds() -> tuple[tuple[int, bytes], ...]:
    found: list[tuple[int, bytes]] = []
    for number, board in enumerate(_boards()):
        if board not in (SAMPLED or _boards()):
            continue
        read = _read(BOARDS / board, {})
        for place, name in enumerate(read):
            found.append((0, bytes([number]) + place.to_bytes(2, "big") + read[name][:20_000]))
    meters = (
        {"id": 1, "result": {"apower": 5.2, "aenergy": {"total": 46791.262}}}, {"apower": 5, "aenergy": {"total": 3}},
        {"StatusSNS": {"ENERGY": {"Power": [5, 7], "Total": [1.25, 2]}}}, {"error": {"code": 1, "message": "no"}},
    )  # fmt: skip
    return (*found, *((1, _encode(one)) for one in meters), (1, b"12.5"))


def _spoiled_sensors(chance: Any, data: bytes) -> bytes:
    """Spoil one to four of a board's files."""
    board, parts = data[:1], []
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = data[1:3] if not parts else chance.randrange(400).to_bytes(2, "big")
        content = data[3:] if not parts else chance.choice(spoil.WEIRD_TEXTS).encode("utf-8", "replace")[:2000]
        parts.append(place + spoil.spoiled_bytes(chance, content).replace(_CUT, b""))
    return board + _CUT.join(parts)


def _capture(data: bytes) -> object:
    """A folder that a stranger sends: its three JSON files and what its firmware said."""
    from agent.device import case, profiles

    profiles.load_all = _profiles_once
    folder = Path(_folder()) / "case"
    (folder / "proc").mkdir(parents=True, exist_ok=True)
    (folder / "sys").mkdir(exist_ok=True)
    (folder / case.FIRMWARE).mkdir(exist_ok=True)
    name = (case.HOST, case.NOTES, f"{case.FIRMWARE}/get_throttled", f"{case.FIRMWARE}/pmic_read_adc", "proc/cpuinfo")[
        data[0] % 5 if data else 0
    ]
    path = folder / name
    path.write_bytes(data[1:])
    try:
        return case.observe(case.open_case(folder))
    finally:
        path.unlink()


def _capture_seeds() -> tuple[tuple[int, bytes], ...]:
    found = []
    for board in _boards():
        for number, name in enumerate(
            ("host.json", "case.json", "vcgencmd/get_throttled", "vcgencmd/pmic_read_adc", "proc/cpuinfo")
        ):
            path = BOARDS / board / name
            if path.is_file():
                found.append((0, bytes([number]) + path.read_bytes()[:20_000]))
    notes = {
        "errors": {"proc/meminfo": "EIO"},
        "links": {"sys/class/a": "b"},
        "firmware": {"get_throttled": ["denied", "x"]},
    }
    return (*found, (0, b"\1" + _encode(notes)))


def _spoiled_capture(chance: Any, data: bytes) -> bytes:
    return data[:1] + (spoil.spoiled_json if data[:1] in b"\0\1" else spoil.spoiled_bytes)(chance, data[1:])


# -- registry metadata ------------------------------------------------------------------------------------------------

_ROLES = ("root.json", "timestamp.json", "snapshot.json", "targets.json")


def _metadata(data: bytes) -> object:
    """One of a registry's four documents is another one; as a root it comes after the one that was installed."""
    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient import FetcherInterface

    from agent.registry.client import _versioned
    from agent.registry.trust import read_issued, verify_stored

    role, content = _ROLES[data[0] % 4] if data else _ROLES[0], data[1:]
    files = dict(_registry())

    class Memory(FetcherInterface):
        def _fetch(self, url: str) -> Iterator[bytes]:
            name = url.removeprefix("metadata/")
            if name not in served:
                raise DownloadHTTPError("not found", 404)
            yield served[name]

    served = {name.rpartition("/")[2]: one for name, one in files.items()}
    root = served["1.root.json"]
    for name in list(served):
        if name == role or name.endswith(f".{role}"):
            served[name] = content
    if role == "root.json":
        read_issued(content)
        served["2.root.json"], served["1.root.json"] = content, root
    _versioned({"snapshot.json": content, "targets.json": content})
    return verify_stored(root, Memory(), NOW).issued()


def _metadata_seeds() -> tuple[tuple[int, bytes], ...]:
    found = []
    for name, data in _registry().items():
        for number, role in enumerate(_ROLES):
            if name.endswith(role):
                found.append((0, bytes([number]) + data))
    return tuple(found)


def _spoiled_metadata(chance: Any, data: bytes) -> bytes:
    return data[:1] + spoil.spoiled_json(chance, data[1:])


# -- the collector's intake -------------------------------------------------------------------------------------------


def _intake(data: bytes) -> object:
    from agent.collector.judging import take
    from agent.core.messages import decode

    topic, _, payload = data.partition(b"\n")
    name = topic.decode("utf-8", "replace")
    taken = take(name, payload, NOW.timestamp())
    decode(name, payload)
    return taken


def _intake_seeds() -> tuple[tuple[int, bytes], ...]:
    from tests.collector.documents import Board

    board = Board()
    made = [
        board.status(), board.will(), board.profile(), board.reported(), board.decision(), board.deployment(),
        board.measurement(), board.measurements({"candidate": "a"}, {"candidate": "b"}),
    ]  # fmt: skip
    made += [getattr(board, name)() for name in ("event", "telemetry", "job") if hasattr(board, name)]
    rollout = {
        "schema": "boardfit.rollout-message/1", "fleet": "plant-7", "id": "r1", "task": "digits", "operator": "otto",
        "status": "running", "reason": "", "started_at": "2026-11-22T11:00:00Z", "updated_at": "2026-11-22T11:00:00Z",
        "order": {"address": "all", "waves": ["1"], "success_ratio": 1.0, "abort_on": [], "soak_s": 1.0,
                  "per_class": False, "on_breach": "pause", "wait_s": 1.0},
    }  # fmt: skip
    made.append(("boardfit/v1/plant-7/_rollout/r1", _encode(rollout)))
    return tuple((0, topic.encode() + b"\n" + payload) for topic, payload in made)


def _spoiled_intake(chance: Any, data: bytes) -> bytes:
    topic, _, payload = data.partition(b"\n")
    if chance.random() < 0.05:
        topic = spoil.spoiled_bytes(chance, topic).replace(b"\n", b"")
    return topic + b"\n" + spoil.spoiled_json(chance, payload)


def _load_all_of_profiles() -> Any:
    from agent.device import profiles

    return profiles.load_all


_LOAD_ALL = _load_all_of_profiles()


JSON, YAML, BYTES = spoil.spoiled_json, spoil.spoiled_yaml, spoil.spoiled_bytes
TARGETS = {
    one.name: one
    for one in (
        Target("manifest", (_manifest, _catalogue), _manifest_seeds, (JSON, JSON)),
        Target(
            "command", (_envelope, _command, _operators, _receipt, _own_status, _packet), _command_seeds,
            (JSON, JSON, JSON, JSON, JSON, BYTES),
        ),
        Target("config", (_config, _desired), _config_seeds, (YAML, JSON)),
        Target(
            "worker", (_event, _job, _outcome, _progress), _worker_seeds, (JSON, JSON, JSON, JSON),
            (BoardfitError, _protocol_error()),
        ),
        Target("sensors", (_sensors, _meter), _sensor_seeds, (_spoiled_sensors, JSON)),
        Target("capture", (_capture,), _capture_seeds, (_spoiled_capture,)),
        Target("registry", (_metadata,), _metadata_seeds, (_spoiled_metadata,)),
        Target("intake", (_intake,), _intake_seeds, (_spoiled_intake,)),
    )
}  # fmt: skip
assert yaml  # loaded here, so that a document is read in this process and not in a copy of it
