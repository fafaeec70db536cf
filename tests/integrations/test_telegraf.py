"""The Telegraf sample, NOT run with Telegraf: its options by name, and its rules by what Telegraf says they do.

``recorded/telegraf.json`` names the options that Telegraf's own samples have. ``Consumer`` does what Telegraf's sources
and pages say of topics, JSON, tags, filters and times, as far as the sample uses it; documents are a real agent's.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.clock import read_iso
from agent.core.messages import MESSAGES, decode, encode
from agent.core.payloads import DecisionMessage, MeasurementSummary
from tests.integrations.stand_in import messages, recorded

if sys.version_info < (3, 11):
    pytest.skip("tomllib: this Python has none", allow_module_level=True)
import tomllib

SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "telegraf" / "boardfit.conf"
CONFIGURATION: dict[str, Any] = tomllib.loads(SAMPLE.read_text())
KNOWN: dict[str, Any] = json.loads((Path(__file__).parent / "recorded" / "telegraf.json").read_text())
INPUTS: list[dict[str, Any]] = CONFIGURATION["inputs"]["mqtt_consumer"]
GO_TIME = "2006-01-02T15:04:05.000Z07:00"


class Point(NamedTuple):
    """What Telegraf hands on. ``time``: of the document, None where that of arrival counts."""

    name: str
    tags: dict[str, str]
    fields: dict[str, Any]
    time: datetime | None


def matches(pattern: str, topic: str) -> bool:
    ours, theirs = pattern.split("/"), topic.split("/")
    return len(ours) == len(theirs) and all(one in ("+", other) for one, other in zip(ours, theirs, strict=True))


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what the flattener makes of a document: nested names joined by an underscore, null left out."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from flat(below, f"{name}_{key}" if name else key)
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from flat(below, f"{name}_{number}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, float(value)  # all numbers are floats
    elif value is not None:
        yield name, value


class Consumer:
    """One mqtt_consumer of the sample."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def take(self, topic: str, payload: Any) -> list[Point]:
        """Return the points of a message; none where it is not subscribed to. Raises: ValueError: Telegraf drops it."""
        if not any(matches(pattern, topic) for pattern in self.options["topics"]):
            return []
        asked = payload[self.options["json_query"]] if "json_query" in self.options else payload
        return [self.point(topic, one) for one in (asked if isinstance(asked, list) else [asked])]

    def point(self, topic: str, document: Any) -> Point:
        options = self.options
        fields = dict(flat(document))
        time = None
        if "json_time_key" in options:
            if not isinstance(fields.get(options["json_time_key"]), str):
                raise ValueError("JSON time key could not be found")
            time = read_iso(fields[options["json_time_key"]])
        tags = {name: text(fields.pop(name)) for name in options["tag_keys"] if name in fields}
        kept = options["json_string_fields"]
        fields = {name: value for name, value in fields.items() if name in kept or isinstance(value, float)}
        fields = {
            name: value
            for name, value in fields.items()
            if not any(fnmatchcase(name, pattern) for pattern in options["fieldexclude"])
        }
        measurement = "mqtt_consumer"
        for rule in options["topic_parsing"]:
            if matches(rule["topic"], topic):
                levels = topic.split("/")
                (measurement,) = [levels[at] for at, word in enumerate(rule["measurement"].split("/")) if word != "_"]
                tags |= {word: levels[at] for at, word in enumerate(rule["tags"].split("/")) if word != "_"}
        return Point(options["name_prefix"] + measurement, tags, fields, time)


def text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def points(topic: str, payload: Any) -> list[Point]:
    return [point for options in INPUTS for point in Consumer(options).take(topic, payload)]


def objects(payload: Any) -> list[Any]:
    """Return what points are made of: a list of measurements one by one, other documents as they are."""
    return payload.get("measurements", [payload])


def options_of(table: dict[str, Any], *names: str) -> None:
    known = {option for name in names for option in KNOWN[name]}
    assert set(table) <= known, set(table) - known


def test_every_option_is_one_of_telegrafs() -> None:
    for consumer in INPUTS:
        options_of(consumer, "inputs.mqtt_consumer", "parsers.json", "common")
        for rule in consumer["topic_parsing"]:
            options_of(rule, "inputs.mqtt_consumer.topic_parsing")
    commented = re.search(r"^#\[\[outputs.*", SAMPLE.read_text(), re.MULTILINE | re.DOTALL)
    assert commented is not None
    outputs = tomllib.loads(re.sub(r"^#", "", commented[0], flags=re.MULTILINE))["outputs"]
    assert set(outputs) == {"influxdb_v2", "postgresql"}
    for name, (table,) in outputs.items():
        options_of(table, f"outputs.{name}", "common")


def test_sessions_outlive_a_restart_and_nothing_is_sent_at_most_once() -> None:
    for consumer in INPUTS:
        assert (consumer["qos"], consumer["persistent_session"]) == (1, True)
    assert len({consumer["client_id"] for consumer in INPUTS}) == len(INPUTS)  # one session each


@pytest.mark.parametrize("consumer", INPUTS, ids=lambda consumer: consumer["alias"])
def test_topic_rules_are_ones_that_telegraf_takes(consumer: dict[str, Any]) -> None:
    """``NewParser`` in topic_parser.go refuses rules of another length than their topic."""
    assert [rule["topic"] for rule in consumer["topic_parsing"]] == consumer["topics"]
    for rule in consumer["topic_parsing"]:
        length = len(rule["topic"].split("/"))
        assert len(rule["measurement"].split("/")) == len(rule["tags"].split("/")) == length
        assert len([word for word in rule["measurement"].split("/") if word != "_"]) == 1
        assert rule["topic"].split("/")[4] in MESSAGES


def test_what_a_real_agent_sent_becomes_points() -> None:
    seen: dict[str, Point] = {}
    for one in recorded():
        for point in points(one["topic"], one["payload"]):
            seen[point.name] = point
            assert point.fields
            assert {"fleet": "plant-7", "board": "recorded-board"}.items() <= point.tags.items()
    assert set(seen) == {
        "boardfit_status", "boardfit_telemetry", "boardfit_measurement", "boardfit_decision", "boardfit_deployment",
    }  # fmt: skip
    measured = seen["boardfit_measurement"]
    assert measured.tags["engine"] == "onnxruntime"
    assert (measured.tags["threads"], measured.tags["task"]) == ("1", "digits")
    assert 0 < measured.fields["latency_p50_s"] <= measured.fields["latency_p95_s"]
    assert measured.time is not None
    assert seen["boardfit_status"].tags["state"] == "offline"  # the last will, which has no time
    assert seen["boardfit_status"].time is None


@pytest.mark.parametrize("source", ["recorded", "simulated"])
def test_every_number_at_the_top_comes_out_under_its_own_name_and_nothing_else(source: str) -> None:
    told = [(one["topic"], one["payload"]) for one in recorded()]
    if source == "simulated":
        told = [(topic, json.loads(payload)) for topic, payload in messages("sim")]
    taken = 0
    for topic, payload in told:
        made = points(topic, payload)
        assert len(made) in (0, len(objects(payload)))  # events, jobs and profiles are not read
        for point, document in zip(made, objects(payload), strict=False):
            numbers = {
                name: value
                for name, value in document.items()
                if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "seq"
            }
            assert set(numbers) <= point.fields.keys() | point.tags.keys()
            assert {name: point.fields[name] for name in numbers.keys() & point.fields.keys()} == {
                name: value for name, value in numbers.items() if name in point.fields
            }
            assert set(point.fields) <= set(document)  # no column from inside a table
            taken += 1
    assert taken >= 4


def test_a_decision_with_many_options_makes_no_more_columns() -> None:
    (one,) = [one for one in recorded() if "/decision/" in one["topic"]]
    more = {**one["payload"], "options": one["payload"]["options"] * 40, "budgets": one["payload"]["budgets"] * 9}
    (few,), (many,) = points(one["topic"], one["payload"]), points(one["topic"], more)
    assert set(few.fields) == set(many.fields) >= {"options_total", "options_fitting"}


def test_no_kind_that_is_read_can_lack_what_the_time_is_read_from() -> None:
    """A document without the time would be dropped: the last will is the only one, and is read without."""
    for one in recorded():
        if one["payload"]["time"] is None:
            assert one["topic"].endswith("/status")
            assert points(one["topic"], one["payload"])[0].time is None
    for options in (options for options in INPUTS if "json_time_key" in options):
        assert not any(topic.endswith("/status") for topic in options["topics"])
        assert options["json_time_format"] == GO_TIME
        for one in recorded():
            if any(matches(pattern, one["topic"]) for pattern in options["topics"]):
                for document in objects(one["payload"]):
                    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document[options["json_time_key"]])


def test_the_comment_promises_fields_that_exist() -> None:
    for kind, words in re.findall(r"^#   boardfit_(\w+)((?:.|\n#    )*)", SAMPLE.read_text(), re.MULTILINE):
        payload = MeasurementSummary if kind == "measurement" else MESSAGES[kind].payload
        fields = set(payload.__struct_fields__) | {"board", "fleet"}
        assert set(re.findall(r"[a-z0-9_]{3,}", words)) <= fields, kind


def test_the_recorded_messages_are_of_todays_agent() -> None:
    """When this fails, messages have changed: run ``python -m tests.integrations.record``."""
    for one in recorded():
        message = decode(one["topic"], json.dumps(one["payload"]).encode())
        assert set(one["payload"]) == set(json.loads(encode(message))), one["topic"]
    assert DecisionMessage in {type(decode(one["topic"], json.dumps(one["payload"]).encode())) for one in recorded()}
