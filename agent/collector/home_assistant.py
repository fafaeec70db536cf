"""What Home Assistant is told of each board, so that it shows them by itself: one retained discovery document a board.

Rules:
- Off unless asked for. It shows and never controls: no entity has a command topic, since a board takes signed commands.
- Values come from the boards' own topics; a board's status is the availability of all its entities.
- Nothing that a board says enters a template; names of boards and tasks stand in topics and are checked as such.
- An entity for a sensor exists once the board has told a value of it; null afterwards is shown as unknown.
- Documents are sent when they change, all of them with each new connection and each time Home Assistant says that it is
  online, and an empty one takes a board away. What lies at the broker from before and belongs to no board is taken away
  too, after the store was asked for that board once more: another collector may know a board a moment earlier.
- Several collectors may do this with one store: they say the same.

Source: Home Assistant's page of the MQTT integration, sections on device discovery and on birth and last will; the
documents need Home Assistant 2024.12 or newer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from agent import __version__
from agent.collector.reading import Document, Reader
from agent.core.topics import address, topic_for
from agent.errors import ConfigError
from agent.fleet.view import BoardView

PREFIX = "homeassistant"
TASKS = 16  # of one board; a real one has a few
#: Fields of telemetry that not every board has.
OPTIONAL = ("temperature_celsius", "power_w", "throttle_now")
_PREFIX = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+){0,4}")
_OBJECT = re.compile(r"boardfit_([a-z0-9-]+)_([a-z0-9-]+)")
_OUTCOMES = ["chosen", "kept_incumbent", "nothing_fits", "nothing_measured"]
_AVAILABLE = "{{ 'online' if value_json.get('state') in ['online', 'busy'] else 'offline' }}"
_THROTTLED = (
    "{% set now = value_json.get('throttle_now') %}{{ None if now is none else ('OFF' if now == '' else 'ON') }}"
)
_ATTRIBUTES = ("phase", "outcome", "reason", "engine", "provider", "threads", "batch", "release", "changed_at")


def check_prefix(prefix: str) -> str:
    """Return the discovery prefix unchanged. Raises: ConfigError: it cannot begin a topic."""
    if not _PREFIX.fullmatch(prefix) or prefix.split("/", maxsplit=1)[0] == "boardfit":
        raise ConfigError(
            f"{prefix!r} cannot be Home Assistant's discovery prefix",
            fix=f"use what its MQTT integration is set to; it is {PREFIX} unless somebody changed it",
        )
    return prefix


def config_topic(prefix: str, fleet: str, board: str) -> str:
    """Return the topic of a board's discovery document. No name of ours has an underscore, so ids are unambiguous."""
    return f"{prefix}/device/boardfit_{fleet}_{board}/config"


def discovery(fleet: str, board: BoardView, told: Collection[str]) -> dict[str, Any]:
    """Return a board's discovery document. Args: told: fields of telemetry it has told a value of; see ``OPTIONAL``."""
    at = address(fleet, board.name)
    ours = f"boardfit_{fleet}_{board.name}"
    device = {
        "identifiers": [ours],
        "name": board.name,
        "model": board.model or board.profile,
        "hw_version": board.soc,
        "sw_version": board.agent_version,
    }
    entities = dict(_of_board(topic_for(at, "status"), topic_for(at, "telemetry", "board"), told))
    for task in sorted(board.tasks)[:TASKS]:
        topics = topic_for(at, "deployment", task), topic_for(at, "decision", task)
        entities.update(_of_task(task, *topics, energy=f"energy/{task}" in told))
    return {
        "device": {key: value for key, value in device.items() if value is not None},
        "origin": {"name": "boardfit", "sw_version": __version__},
        "availability": [{"topic": topic_for(at, "status"), "value_template": _AVAILABLE}],
        "qos": 1,
        "components": {key: {**entity, "unique_id": f"{ours}_{key}"} for key, entity in entities.items()},
    }


def _of_board(status: str, telemetry: str, told: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "state", {
        "platform": "sensor", "name": "State", "state_topic": status, "device_class": "enum",
        "options": ["online", "busy", "offline"], "value_template": _field("state"), "entity_category": "diagnostic",
    }  # fmt: skip
    yield "outbox", {
        "platform": "sensor", "name": "Messages waiting", "state_topic": status, "state_class": "measurement",
        "value_template": _field("outbox_messages"), "unit_of_measurement": "messages", "entity_category": "diagnostic",
    }  # fmt: skip
    if "temperature_celsius" in told:
        yield "temperature", {
            "platform": "sensor", "name": "Temperature", "state_topic": telemetry, "device_class": "temperature",
            "state_class": "measurement", "unit_of_measurement": "°C", "suggested_display_precision": 1,
            "value_template": _field("temperature_celsius"),
        }  # fmt: skip
    if "power_w" in told:
        yield "power", {
            "platform": "sensor", "name": "Power", "state_topic": telemetry, "device_class": "power",
            "state_class": "measurement", "unit_of_measurement": "W", "suggested_display_precision": 2,
            "value_template": _field("power_w"),
        }  # fmt: skip
    if "throttle_now" in told:
        yield "throttled", {
            "platform": "binary_sensor", "name": "Throttled", "state_topic": telemetry, "device_class": "problem",
            "value_template": _THROTTLED,
        }  # fmt: skip


def _of_task(task: str, deployment: str, decision: str, *, energy: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    key = _key(task)
    chosen = ", ".join(f"'{name}': value_json.get('{name}')" for name in _ATTRIBUTES)
    yield f"{key}_serves", {
        "platform": "sensor", "name": f"{task} serves", "state_topic": deployment,
        "value_template": "{{ (value_json.get('candidate') or 'nothing')[:255] }}",
        "json_attributes_topic": deployment, "json_attributes_template": f"{{{{ {{{chosen}}} | tojson }}}}",
    }  # fmt: skip
    yield f"{key}_latency_p95", {
        "platform": "sensor", "name": f"{task} latency p95", "state_topic": deployment, "device_class": "duration",
        "state_class": "measurement", "unit_of_measurement": "s", "suggested_display_precision": 4,
        "value_template": _field("expected_latency_p95_s"),
    }  # fmt: skip
    yield f"{key}_decision", {
        "platform": "sensor", "name": f"{task} decision", "state_topic": decision, "device_class": "enum",
        "options": _OUTCOMES, "value_template": _field("outcome"), "entity_category": "diagnostic",
    }  # fmt: skip
    if energy:
        yield f"{key}_energy", {  # of the class energy Home Assistant takes meters that count up only
            "platform": "sensor", "name": f"{task} energy per inference, as decided", "state_topic": decision,
            "state_class": "measurement", "unit_of_measurement": "J", "suggested_display_precision": 4,
            "value_template": _field("energy_per_inference_j"),
        }  # fmt: skip


def _field(name: str) -> str:
    return f"{{{{ value_json.get('{name}') }}}}"


def _key(task: str) -> str:
    """Return a task's name as a part of an id: what had to be replaced is told apart by a digest."""
    made = re.sub(r"[^a-z0-9]", "_", task)
    return made if made == task else f"{made}_{hashlib.sha256(task.encode()).hexdigest()[:6]}"


class Discovery:
    """What is to be published for one fleet. Feed it what is heard on ``patterns``, and send what ``due`` yields.

    Raises: ConfigError: the prefix cannot begin a topic.
    """

    def __init__(self, reader: Reader, fleet: str, prefix: str = PREFIX) -> None:
        self._reader = reader
        self._fleet = fleet
        self._prefix = check_prefix(prefix)
        self._cursor = 0  # 0: nothing is known of what was read before
        self._documents: dict[str, bytes] = {}  # by board, as it should be
        self._sent: dict[str, bytes] = {}  # by board, a digest
        self._strange: set[str] = set()
        self._told: dict[str, set[str]] = {}  # by board; what once had a value keeps its entity

    @property
    def patterns(self) -> tuple[str, str]:
        """The subscriptions: Home Assistant's birth, and the documents that lie at the broker."""
        return f"{self._prefix}/status", f"{self._prefix}/device/+/config"

    def take(self, topic: str, payload: bytes) -> None:
        """Take one message of the subscriptions."""
        if topic == self.patterns[0]:
            if payload == b"online":
                self.again()
            return
        found = _OBJECT.fullmatch(topic.removeprefix(f"{self._prefix}/device/").removesuffix("/config"))
        if found and found[1] == self._fleet and payload and found[2] not in self._documents:
            self._strange.add(found[2])

    def again(self) -> None:
        """Send all once more: the connection is a new one, or Home Assistant has started."""
        self._sent.clear()

    def due(self) -> Iterator[tuple[str, bytes]]:
        """Yield what is to be published, retained, as topic and payload. Raises: StorageError."""
        for name in self._changed():
            yield config_topic(self._prefix, self._fleet, name), b""
        for name, document in self._documents.items():
            mark = hashlib.sha256(document).digest()[:8]
            if self._sent.get(name) != mark:
                yield config_topic(self._prefix, self._fleet, name), document
                self._sent[name] = mark

    def _changed(self) -> list[str]:
        """Read what has changed. Returns: the boards to be taken away."""
        whole = self._cursor == 0
        changes = self._reader.changes(self._fleet, self._cursor)
        names = None if whole or changes.whole else changes.boards | self._strange
        if names is not None and not names:
            self._cursor = changes.cursor
            return []
        boards = [board for board in self._reader.boards(self._fleet, names) if board.status is not None]
        made = {board.name: self._made(board) for board in boards}
        gone = ((self._documents.keys() if names is None else names) | self._strange) - made.keys()
        known = [name for name in gone if name in self._documents or name in self._strange]
        self._strange.clear()
        self._cursor = changes.cursor
        for name in known:
            self._documents.pop(name, None)
            self._sent.pop(name, None)
            self._told.pop(name, None)
        self._documents.update(made)
        return known

    def _made(self, board: BoardView) -> bytes:
        told = self._told.setdefault(board.name, set())
        condition: Document = self._reader.documents(self._fleet, board.name).get("telemetry/board", {})
        told |= {field for field in OPTIONAL if condition.get(field) is not None}
        told |= {f"energy/{task}" for task, view in board.tasks.items() if view.energy_j is not None}
        return msgspec.json.encode(discovery(self._fleet, board, told))
