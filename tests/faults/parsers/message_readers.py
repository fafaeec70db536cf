"""What reads MQTT: commands, envelopes and receipts on the board, documents at the collector."""

from __future__ import annotations

import tempfile
from base64 import b64encode
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.faults.parsers import spoil
from tests.faults.parsers.own_readers import DESIRED
from tests.faults.parsers.target import BYTES, JSON, KEYID, NOW, Target, encode


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
            "payload": b64encode(encode(one)).decode(),
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
        *((0, encode(one)) for one in envelopes), *((1, encode(one)) for one in commands),
        (2, encode({"schema": "boardfit.operators/1", "operators": [listed]})), (3, encode(receipt)),
        (3, encode(status)), (4, encode(own)), *((5, one) for one in packets),
    )  # fmt: skip


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
    made.append(("boardfit/v1/plant-7/_rollout/r1", encode(rollout)))
    return tuple((0, topic.encode() + b"\n" + payload) for topic, payload in made)


def _spoiled_intake(chance: Any, data: bytes) -> bytes:
    topic, _, payload = data.partition(b"\n")
    if chance.random() < 0.05:
        topic = spoil.spoiled_bytes(chance, topic).replace(b"\n", b"")
    return topic + b"\n" + spoil.spoiled_json(chance, payload)


MADE = (
    Target(
        "command", (_envelope, _command, _operators, _receipt, _own_status, _packet), _command_seeds,
        (JSON, JSON, JSON, JSON, JSON, BYTES),
    ),
    Target("intake", (_intake,), _intake_seeds, (_spoiled_intake,)),
)  # fmt: skip
