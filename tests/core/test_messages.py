"""Topics, payloads, conversions and the schemas made from them."""

from __future__ import annotations

import contextlib
import itertools
import json

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.asyncapi import asyncapi_document, message_schema
from agent.core.budget import METRICS, Budget, BudgetCheck, Estimate, Objective
from agent.core.conversions import (
    field_name,
    message_for_decision,
    message_for_deployment,
    message_for_profile,
    message_for_reading,
    messages_for_measurements,
    summary_of_measurement,
)
from agent.core.decision import Choice, Decision, NearestMiss, Option
from agent.core.deployment import DeployedFile, Deployment, DeploymentStatus
from agent.core.facts import BoardIdentity, CpuFacts, DeviceFacts, MemoryFacts, OsFacts
from agent.core.measurement import (
    AccuracyFigures,
    Context,
    ContextReading,
    Figure,
    GoldenResult,
    LatencyFigures,
    Measurement,
    MemoryFigures,
    OperatingPoint,
    Placement,
    PowerFigures,
)
from agent.core.messages import MAX_PAYLOAD_BYTES, MESSAGES, decode, encode, schema_name
from agent.core.payloads import DecisionMessage, Envelope, Event, Measurements, MeasurementSummary, Origin, Status
from agent.core.topics import (
    PARAMETER,
    Topic,
    address,
    broadcast_topic,
    collector_topic,
    inbound_filters,
    parse_topic,
    receipt_filters,
    rollout_filter,
    rollout_topic,
    topic_for,
)
from agent.errors import ConfigError, ReportError

HERE = address("plant-7", "pi5-kitchen")
NOW = Origin(fleet="plant-7", device="pi5-kitchen", boot_id="boot-a", seq=9, time="2026-05-04T03:02:01.000Z")
POINT = OperatingPoint(engine="onnxruntime", engine_version="1.31.1", provider="CPUExecutionProvider", threads=2)
SHA = "ab" * 32


def figure(value: float) -> Figure:
    return Figure(value=value, low=value * 0.9, high=value * 1.1)


def measurement(**changes: object) -> Measurement:
    fields: dict[str, object] = {
        "id": "m-1", "task": "digits", "candidate": "tiny-int8", "artifact_sha256": SHA, "size_bytes": 4096,
        "point": POINT, "class_fingerprint": "f", "verdict": "ok", "started_at": "2026-05-04T03:00:00Z",
        "duration_s": 3.5, "boot_id": "boot-z",
        "latency": LatencyFigures(
            n=100, p50_s=figure(0.010), p90_s=figure(0.012), p95_s=figure(0.013), p99_s=figure(0.015),
            mean_s=figure(0.0105), min_s=0.009, max_s=0.02, warmup_runs=10, warmup_settled=True, throughput_per_s=95.0,
        ),
        "memory": MemoryFigures(
            admission_peak_bytes=90, model_peak_bytes=40, model_steady_bytes=30, runtime_baseline_bytes=50
        ),
        "power": PowerFigures(
            source="ina3221", scope="board", mean_w=figure(4.0), idle_w=2.5, energy_per_inference_j=figure(0.03),
            window_s=10, inferences=500, samples=100, sample_rate_hz=10,
        ),
        "accuracy": AccuracyFigures(
            top1=figure(0.9), correct=90, n=100, pack_sha256="0", correct_bits="ff"
        ),
        "golden": GoldenResult(checked=True, passed=True, max_abs_error=0.001),
        "placement": Placement(requested="CPU", actual=("CPU",)),
        "context": Context(
            before=ContextReading(monotonic_s=1, temperature_celsius=50.0),
            after=ContextReading(monotonic_s=2, temperature_celsius=61.0, governor="ondemand"),
            flags=("hot", "throttled"),
        ),
        "latencies_s": (0.01, 0.02),
    }  # fmt: skip
    return Measurement(**{**fields, **changes})  # type: ignore[arg-type]


def option(number: int, standing: str = "over_budget", reason: str = "too slow") -> Option:
    return Option(
        candidate=f"c{number}", artifact_sha256=f"{number:064x}", point=POINT, measurement_id=f"m{number}",
        verdict="ok", standing=standing, reason=reason, rank=1 if standing == "fits" else None, size_bytes=4096,  # type: ignore[arg-type]
        estimates={
            "latency_p95": Estimate(value=0.013, low=0.012, high=0.014),
            "accuracy_top1": Estimate(value=0.95, low=0.94, high=0.96),
            "energy_per_inference": Estimate.unknown("no power meter"),
        },
        checks=(
            BudgetCheck(metric="latency_p95", state="met", limit=0.02, value=0.013, low=0.012, high=0.014,
                        miss_ratio=-0.35, reason="13 ms <= 20 ms"),
        ),
    )  # fmt: skip


def decision(options: tuple[Option, ...]) -> Decision:
    chosen = next((one for one in options if one.standing == "fits"), None)
    return Decision(
        id="d-1", task="digits", decided_at="2026-05-04T03:01:00Z", class_fingerprint="f",
        outcome="chosen" if chosen else "nothing_fits", reason="because",
        budgets=(Budget(metric="latency_p95", limit=0.02, text="latency_p95 <= 20 ms"),),
        objectives=(Objective(direction="maximize", metric="accuracy_top1"),),
        options=options,
        winner=chosen and Choice(candidate=chosen.candidate, artifact_sha256=chosen.artifact_sha256, point=POINT),
        nearest_miss=NearestMiss(candidate="c2", point=POINT, metric="latency_p95", state="missed", miss_ratio=0.1,
                                 reason="22 ms"),
    )  # fmt: skip


DEPLOYMENT = DeploymentStatus(
    task="digits", phase="CONFIRMED", changed_at="2026-05-04T03:05:00Z", outcome="deployed",
    current=Deployment(
        release="11" * 32, task="digits", candidate="tiny-int8", format="onnx",
        model=DeployedFile(path="model.onnx", sha256=SHA, length=4096), point=POINT, inputs=(), outputs=(),
        expected={"latency_p95_s": 0.013},
    ),
)  # fmt: skip
FACTS = DeviceFacts(
    board=BoardIdentity(model="Raspberry Pi 5", profile="raspberry-pi-5", matched_on="compatible"),
    cpu=CpuFacts(architecture="aarch64", present=(0, 1), usable=(0, 1)),
    memory=MemoryFacts(total_bytes=4 * 1024**3), os=OsFacts(name="test"), class_fingerprint="f",
)  # fmt: skip
READING = ContextReading(monotonic_s=1, temperature_celsius=50.0, throttle_now=("under_voltage", "capped"))


@pytest.mark.parametrize("kind", [kind for kind in MESSAGES if kind not in ("collector", "rollout")])
def test_a_topic_can_be_read_back(kind: str) -> None:
    parameter = "digits" if kind in PARAMETER else None
    text = topic_for(HERE, kind, parameter)  # type: ignore[arg-type]
    assert parse_topic(text) == Topic(fleet="plant-7", device="pi5-kitchen", kind=kind, parameter=parameter)  # type: ignore[arg-type]
    assert schema_name(text) == kind


def test_topics_are_as_the_design_says() -> None:
    assert topic_for(HERE, "status") == "boardfit/v1/plant-7/pi5-kitchen/status"
    assert topic_for(HERE, "decision", "digits") == "boardfit/v1/plant-7/pi5-kitchen/decision/digits"
    assert topic_for(HERE, "telemetry", "board") == "boardfit/v1/plant-7/pi5-kitchen/telemetry/board"
    assert broadcast_topic("plant-7", "bench") == "boardfit/v1/plant-7/_all/cmd/bench"
    assert broadcast_topic("plant-7", "bench", "line-2") == "boardfit/v1/plant-7/_group/line-2/cmd/bench"
    assert parse_topic("boardfit/v1/plant-7/_all/cmd/bench") == Topic(fleet="plant-7", kind="cmd", parameter="bench")
    assert parse_topic("boardfit/v1/plant-7/_group/line-2/cmd/bench").group == "line-2"
    assert inbound_filters(HERE, ("line-2",)) == (
        "boardfit/v1/plant-7/pi5-kitchen/cmd/+",
        "boardfit/v1/plant-7/pi5-kitchen/desired",
        "boardfit/v1/plant-7/_all/cmd/+",
        "boardfit/v1/plant-7/_all/desired",
        "boardfit/v1/plant-7/_group/line-2/cmd/+",
        "boardfit/v1/plant-7/_group/line-2/desired",
    )


def test_a_collector_speaks_on_a_topic_of_its_own() -> None:
    text = collector_topic("plant-7", "store-1")
    assert text == "boardfit/v1/plant-7/_collector/store-1/status"
    assert parse_topic(text) == Topic(fleet="plant-7", kind="collector", parameter="store-1")
    assert receipt_filters(HERE) == (
        "boardfit/v1/plant-7/pi5-kitchen/receipt",
        "boardfit/v1/plant-7/_collector/+/status",
    )


def test_a_rollout_is_told_on_a_topic_that_no_board_hears() -> None:
    text = rollout_topic("plant-7", "r1234")
    assert text == "boardfit/v1/plant-7/_rollout/r1234"
    assert parse_topic(text) == Topic(fleet="plant-7", kind="rollout", parameter="r1234")
    assert rollout_filter("plant-7") == "boardfit/v1/plant-7/_rollout/+"
    assert not any("_rollout" in pattern or pattern.endswith("#") for pattern in inbound_filters(HERE, ("line-2",)))
    channel = asyncapi_document("0")["channels"]["rollout"]
    assert channel["address"] == "boardfit/v1/{fleet}/_rollout/{rollout}"
    assert "#/channels/rollout" not in str(asyncapi_document("0")["operations"])


@pytest.mark.parametrize(
    "name", ["", "Pi5", "pi_5", "pi/5", "+", "#", "_all", "-pi", "pi-", "p" * 65, "pi 5", "pí", "a\n"]
)
def test_a_name_that_cannot_stand_in_a_topic_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        address("plant-7", name)
    with pytest.raises(ConfigError):
        address(name, "pi5")


@pytest.mark.parametrize(
    ("kind", "parameter"),
    [("decision", None), ("decision", ""), ("decision", "a/b"), ("decision", "+"), ("decision", "#"), ("status", "x")],
)
def test_a_parameter_that_cannot_stand_in_a_topic_is_refused(kind, parameter) -> None:
    with pytest.raises(ConfigError):
        topic_for(HERE, kind, parameter)


@pytest.mark.parametrize(
    "text",
    [
        "", "boardfit/v1", "boardfit/v1/plant-7/pi5", "boardfit/v2/plant-7/pi5/status", "other/v1/plant-7/pi5/status",
        "boardfit/v1/plant-7/pi5/unknown", "boardfit/v1/plant-7/pi5/status/x", "boardfit/v1/plant-7/pi5/decision",
        "boardfit/v1/plant-7/pi5/decision/a/b", "boardfit/v1/plant-7/_all/status",
        "boardfit/v1/plant-7/_group/cmd/bench", "boardfit/v1/plant-7/_group/g",
        "boardfit/v1/plant-7/_collector/status", "boardfit/v1/plant-7/_collector/A/status",
        "boardfit/v1/plant-7/_collector/a/event", "boardfit/v1/plant-7/_collector/a/status/x",
        "boardfit/v1/plant-7/_rollout", "boardfit/v1/plant-7/_rollout/A", "boardfit/v1/plant-7/_rollout/a/b",
        "boardfit/v1/PLANT/pi5/status", "/boardfit/v1/plant-7/pi5/status",
    ],
)  # fmt: skip
def test_a_foreign_topic_is_refused(text: str) -> None:
    with pytest.raises(ReportError, match="is not a topic"):
        parse_topic(text)


@given(st.text(max_size=80))
def test_reading_any_text_as_a_topic_gives_a_topic_or_our_error(text: str) -> None:
    for candidate in (text, f"boardfit/v1/{text}", f"boardfit/v1/plant-7/{text}"):
        with contextlib.suppress(ReportError):
            assert candidate.startswith(f"boardfit/v1/{parse_topic(candidate).fleet}/")


CRASHED = measurement(
    verdict="crashed", reason="signal 11", latency=None, memory=None, power=None, power_reason="no power meter",
    accuracy=None, golden=None, placement=None, context=None,
)  # fmt: skip


def only_message(*measured: Measurement) -> Measurements:
    summaries = [summary_of_measurement(one, NOW.boot_id) for one in measured]
    messages = messages_for_measurements(summaries, NOW, MAX_PAYLOAD_BYTES)
    return messages[0] if messages else Measurements(**msgspec.structs.asdict(NOW), measurements=())


def messages() -> list[tuple[str, msgspec.Struct]]:
    many = (option(1, "fits", "fits"), *(option(number) for number in range(2, 40)))
    return [
        (topic_for(HERE, "measurement"), only_message(measurement(), CRASHED)),
        (topic_for(HERE, "measurement"), only_message()),
        (topic_for(HERE, "decision", "digits"), message_for_decision(decision(many), NOW)),
        (topic_for(HERE, "decision", "digits"), message_for_decision(decision(()), NOW)),
        (topic_for(HERE, "deployment", "digits"), message_for_deployment(DEPLOYMENT, NOW)),
        (
            topic_for(HERE, "deployment", "digits"),
            message_for_deployment(DeploymentStatus(task="digits", phase="IDLE", changed_at="x"), NOW),
        ),
        (topic_for(HERE, "profile"), message_for_profile(FACTS, NOW, "0.1")),
        (topic_for(HERE, "telemetry", "board"), message_for_reading(READING, NOW)),
        (topic_for(HERE, "status"), Status(**msgspec.structs.asdict(NOW), state="offline")),
        (
            topic_for(HERE, "event"),
            Event(**msgspec.structs.asdict(NOW), level="info", kind="x", text="y", facts={"n": 1, "s": "t", "u": None}),
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(("topic", "message"), messages())
def test_a_message_survives_the_wire_and_follows_its_schema(topic: str, message: msgspec.Struct) -> None:
    payload = encode(message)
    assert decode(topic, payload) == message
    jsonschema.Draft202012Validator(message_schema(schema_name(topic))).validate(json.loads(payload))


def test_a_measurement_is_flat_and_complete() -> None:
    (document,) = json.loads(encode(only_message(measurement())))["measurements"]
    assert not [name for name, value in document.items() if isinstance(value, (dict, list))]
    assert document["latency_p95_s"] == 0.013
    assert document["latency_p95_high_s"] == pytest.approx(0.0143)
    assert document["memory_peak_bytes"] == 90
    assert document["energy_per_inference_j"] == 0.03
    assert document["accuracy_top1"] == 0.9
    assert document["flags"] == "hot,throttled"
    assert document["boot_id"] == "boot-z"  # the boot that measured, not the one that sends
    assert document["temperature_before_celsius"] == 50.0


def test_models_kept_out_are_told_with_their_reasons_as_many_as_a_message_bears() -> None:
    why = "quarantined after 3 failures, the last: " + "x" * 900
    status = msgspec.structs.replace(DEPLOYMENT, withheld={f"bad-{number:03}": why for number in reversed(range(500))})
    told = message_for_deployment(status, NOW)
    assert (list(told.withheld)[:2], len(told.withheld), told.withheld_count) == (["bad-000", "bad-001"], 20, 500)
    assert len(encode(told)) < 16 * 1024
    nobody = message_for_deployment(DEPLOYMENT, NOW)
    assert (nobody.withheld, nobody.withheld_count) == ({}, 0)


def test_what_was_not_seen_is_left_out() -> None:
    (document,) = json.loads(encode(only_message(CRASHED)))["measurements"]
    assert document["verdict"] == "crashed"
    assert not {"latency_p95_s", "energy_per_inference_j", "memory_peak_bytes", "flags"} & set(document)
    assert document["power_reason"] == "no power meter"


def test_a_measurement_of_the_sender_s_own_boot_does_not_repeat_it() -> None:
    own = summary_of_measurement(measurement(), "boot-z")
    assert (own.boot_id, summary_of_measurement(measurement(), None).boot_id) == (None, "boot-z")


def test_a_figure_travels_with_seven_digits() -> None:
    long = summary_of_measurement(measurement(duration_s=0.027910556329896603, size_bytes=2**53 - 1), None)
    assert (long.duration_s, long.size_bytes) == (0.02791056, 2**53 - 1)


@given(st.lists(st.integers(min_value=0, max_value=3000), max_size=40), st.integers(min_value=0, max_value=20_000))
def test_measurements_are_split_into_few_messages_in_order(lengths: list[int], limit_bytes: int) -> None:
    plain = summary_of_measurement(measurement(), None)
    summaries = [msgspec.structs.replace(plain, id=f"m-{n}", reason="x" * length) for n, length in enumerate(lengths)]
    made = messages_for_measurements(summaries, NOW, limit_bytes)
    assert [one for message in made for one in message.measurements] == summaries
    for message in made:
        assert len(message.measurements) == 1 or len(encode(message)) <= limit_bytes
    for first, second in itertools.pairwise(made):  # none could have held the next one's first
        more = msgspec.structs.replace(first, measurements=(*first.measurements, second.measurements[0]))
        assert len(encode(more)) > limit_bytes - 1024


def test_a_decision_carries_the_winner_on_top_and_every_reason_below() -> None:
    message = message_for_decision(decision((option(2), option(1, "fits", "best"), option(3))), NOW)
    assert (message.candidate, message.engine, message.threads) == ("c1", "onnxruntime", 2)
    assert (message.latency_p95_s, message.latency_p95_low_s, message.energy_per_inference_j) == (0.013, 0.012, None)
    assert message.size_bytes == 4096
    assert [(one.candidate, one.reason) for one in message.options] == [
        ("c1", "best"), ("c2", "too slow"), ("c3", "too slow"),
    ]  # fmt: skip
    assert (message.options_total, message.options_fitting, message.options_left_out) == (3, 1, 0)
    assert message.budgets[0].state == "met"
    assert (message.nearest_miss_candidate, message.nearest_miss_ratio) == ("c2", 0.1)


def test_a_decision_over_very_many_options_still_fits_one_message() -> None:
    options = (option(0, "fits"), *(option(number, reason="é" * 5000) for number in range(1, 500)))
    message = message_for_decision(decision(options), NOW)
    assert len(encode(message)) <= MAX_PAYLOAD_BYTES
    assert message.options[0].candidate == "c0"
    assert len(message.options) + message.options_left_out == 500
    assert len(message.options) > 100


def test_every_metric_has_a_column_with_its_unit_in_the_decision() -> None:
    assert {field_name(name) for name in METRICS} <= set(DecisionMessage.__struct_fields__)
    assert field_name("latency_p95") == "latency_p95_s"
    assert {field_name(name) for name in METRICS} - set(MeasurementSummary.__struct_fields__) == {"accuracy_drop"}


@pytest.mark.parametrize(
    ("payload", "word"),
    [
        (b"", "not a Status"),
        (b"\xff\xfe", "not a Status"),
        (b"[]", "not a Status"),
        (b'{"fleet":"f","device":"d"}', "state"),
        (b'{"fleet":"f","device":"d","state":"asleep"}', "state"),
        (b'{"fleet":"f","device":"d","state":"online","schema":"boardfit.status/2"}', "schema"),
        (b" " * (MAX_PAYLOAD_BYTES + 1), "more than"),
    ],
)
def test_a_bad_payload_is_refused_and_the_field_named(payload: bytes, word: str) -> None:
    with pytest.raises(ReportError, match=word):
        decode(topic_for(HERE, "status"), payload)


def test_a_newer_sender_may_add_fields() -> None:
    payload = b'{"fleet":"f","device":"d","state":"online","new":{"a":1}}'
    assert decode(topic_for(HERE, "status"), payload) == Status(fleet="f", device="d", state="online")


def test_an_envelope_keeps_the_names_of_its_format() -> None:
    payload = b'{"payload":"e30=","payloadType":"application/json","signatures":[{"keyid":"k","sig":"s"}]}'
    envelope = decode(topic_for(HERE, "cmd", "bench"), payload)
    assert isinstance(envelope, Envelope)
    assert envelope.payload_type == "application/json"
    assert encode(envelope) == payload


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_schema_is_a_schema(kind: str) -> None:
    schema = message_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    if not (MESSAGES[kind].inbound or MESSAGES[kind].aside):
        assert {"schema", "fleet", "device", "seq", "time", "clock_synced"} <= set(schema["required"])


def test_a_schema_refuses_a_payload_without_its_header() -> None:
    validator = jsonschema.Draft202012Validator(message_schema("status"))
    good = json.loads(encode(Status(fleet="f", device="d", state="online")))
    assert validator.is_valid(good)
    for name in ("schema", "seq", "state", "clock_synced"):
        assert not validator.is_valid({key: value for key, value in good.items() if key != name})


def test_the_asyncapi_document_covers_every_message_and_refers_only_to_what_is_there() -> None:
    document = asyncapi_document("1.2.3")
    assert set(document["components"]["messages"]) == set(MESSAGES)
    assert {operation["action"] for operation in document["operations"].values()} == {"send", "receive"}
    assert document["operations"]["sendStatus"]["bindings"]["mqtt"] == {"qos": 1, "retain": True}
    assert document["operations"]["sendTelemetry"]["bindings"]["mqtt"] == {"qos": 1, "retain": False}

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if "$ref" in node else []
            return own + [found for value in node.values() for found in references(value)]
        return [found for value in node for found in references(value)] if isinstance(node, list) else []

    for reference in references(document):
        if reference.startswith("#/"):
            node = document
            for step in reference[2:].split("/"):
                node = node[step]
        else:
            assert reference.removesuffix(".schema.json") in MESSAGES
    for channel in document["channels"].values():
        named = {level[1:-1] for level in channel["address"].split("/") if level.startswith("{")}
        assert named == set(channel["parameters"])
