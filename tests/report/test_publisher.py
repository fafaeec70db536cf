"""The publisher against a real mosquitto: nothing is lost, order is kept, and the device's presence is always true."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import jsonschema
import msgspec
import pytest

from agent.core.asyncapi import message_schema
from agent.core.conversions import (
    message_for_decision,
    message_for_deployment,
    message_for_reading,
    messages_for_measurements,
    summary_of_measurement,
)
from agent.core.facts import BoardIdentity, CpuFacts, DeviceFacts, MemoryFacts, OsFacts
from agent.core.messages import MESSAGES, decode, schema_name
from agent.core.payloads import DeploymentMessage, Event, Profile, Reported, Status
from agent.core.topics import address, topic_for
from agent.database import Database
from agent.demo_broker import free_port
from agent.mqtt import BrokerSettings, drive
from agent.report import presence
from agent.report.outbox import Outbox
from agent.report.pace import DrainLimits
from agent.report.publisher import Publisher
from tests.report.synthetic_report import synthetic_report

FACTS = DeviceFacts(
    board=BoardIdentity(model="Raspberry Pi 5", profile="raspberry-pi-5", matched_on="test"),
    cpu=CpuFacts(architecture="aarch64", present=(0, 1, 2, 3), usable=(0, 1, 2, 3)),
    memory=MemoryFacts(total_bytes=8 * 1024**3),
    os=OsFacts(name="test"),
    class_fingerprint="0123456789abcdef",
)


def put_events(outbox: Outbox, count: int, first: int = 0) -> list[str]:
    texts = [str(first + i) for i in range(count)]
    header = msgspec.structs.asdict(outbox.origin())
    topic = topic_for(outbox.address, "event")
    outbox.put_all([(topic, Event(**header, level="info", kind="count", text=text)) for text in texts])
    return texts


def event_texts(listener, *, last: int = 0) -> list[str]:
    return [decode(one.topic, one.payload).text for one in listener.topic("/event")[-last:]]  # type: ignore[attr-defined]


def first_occurrences(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


@pytest.fixture
def publish(outbox, system_clock):
    made: list[Publisher] = []

    def make(settings: BrokerSettings, **changes) -> Publisher:
        made.append(Publisher(outbox, settings, system_clock, jitter=lambda: 0.05, **changes))
        return made[-1]

    yield make
    for publisher in made:
        publisher.connection.close()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_drain_empties_the_outbox_in_order(broker, listen, outbox, publish, protocol) -> None:
    listener = listen(broker.settings(protocol=protocol))
    texts = put_events(outbox, 300)
    publisher = publish(broker.settings(protocol=protocol))
    result = publisher.drain(20)
    assert (result.sent, result.left, result.lost, result.complete, result.error) == (300, 0, 0, True, None)
    assert outbox.pending() == ()
    listener.wait(lambda: len(listener.topic("/event")) == 300)
    assert event_texts(listener) == texts


def test_birth_tells_status_and_profile_and_they_are_retained(broker, listen, outbox, publish) -> None:
    publisher = publish(broker.settings(), profile=FACTS, uptime_s=lambda: 12.5)
    assert publisher.drain(10).complete
    late = listen(broker.settings())
    late.wait(lambda: len(late.got) == 2)
    status = decode(late.topic("/status")[0].topic, late.topic("/status")[0].payload)
    assert isinstance(status, Status)
    assert (status.state, status.boot_id, status.uptime_s, status.outbox_messages) == ("online", "boot-a", 12.5, 0)
    assert status.clock_synced is True
    profile = decode(late.topic("/profile")[0].topic, late.topic("/profile")[0].payload)
    assert isinstance(profile, Profile)
    assert (profile.facts, profile.memory_total_bytes, profile.cores_usable) == (FACTS, 8 * 1024**3, 4)
    assert all(one.retain for one in late.got)


def test_boards_of_one_name_in_two_fleets_of_one_broker_do_not_throw_each_other_off(
    broker, outbox, publish, system_clock, tmp_path
) -> None:
    one = publish(broker.settings())
    assert one.drain(10).complete
    there = address("another-fleet", outbox.address.device)
    with Database(tmp_path / "other.db") as database:
        other = Publisher(
            Outbox(database, there, system_clock, boot_id="boot-b", clock_synced=lambda: True),
            broker.settings(),
            system_clock,
        )
        assert other.drain(10).complete
        assert drive(one.connection, lambda: one.connection.state != "online", 0.2) is False
        assert other.connection.settings.client_id == f"another-fleet/{outbox.address.device}"
        other.close()
    assert (one.connection.state, one.connection.connects) == ("online", 1)


def test_the_status_says_what_a_list_shows_and_the_last_will_too(broker, listen, outbox, publish) -> None:
    listener = listen(broker.settings())
    publisher = publish(broker.settings(), profile=FACTS, groups=("line-2",))
    assert publisher.drain(10).complete
    publisher.connection._drop_socket()
    listener.wait(lambda: len(listener.topic("/status")) == 2)
    told = [decode(one.topic, one.payload) for one in listener.topic("/status")]
    assert [one.state for one in told] == ["online", "offline"]
    for one in told:
        assert (one.class_fingerprint, one.memory_total_bytes, one.groups) == (
            FACTS.class_fingerprint, 8 * 1024**3, ("line-2",),
        )  # fmt: skip


def test_a_broker_that_is_down_leaves_everything_in_the_outbox(outbox, publish) -> None:
    put_events(outbox, 5)
    result = publish(BrokerSettings(host="127.0.0.1", port=free_port())).drain(0.5)
    assert (result.sent, result.left, result.complete) == (0, 5, False)
    assert result.error is not None
    assert "nothing listens at" in result.error


def test_when_the_broker_comes_back_the_outbox_is_drained_in_order(start_broker, listen, outbox, publish) -> None:
    broker = start_broker()
    broker.kill()
    texts = put_events(outbox, 30)
    publisher = publish(broker.settings())
    assert publisher.drain(0.3).sent == 0
    broker.start()
    listener = listen(broker.settings())
    assert publisher.drain(20).complete
    listener.wait(lambda: len(listener.topic("/event")) == 30)
    assert event_texts(listener) == texts


def test_a_broker_killed_in_the_middle_costs_repeats_and_no_order_and_what_it_alone_had(
    broker, listen, outbox, publish
) -> None:
    """What it acknowledged and had passed on to nobody dies with it: for that there are receipts (test_receipts)."""
    texts = put_events(outbox, 400)
    first = listen(broker.settings())
    publisher = publish(broker.settings())
    publisher.start()
    publisher.poke()
    assert drive(publisher, lambda: publisher.sent >= 60, 60)
    first.wait(lambda: len(first.topic("/event")) >= publisher.sent)
    heard = publisher.sent
    broker.kill()
    assert drive(publisher, lambda: not publisher.online, 60)
    acknowledged_last = texts[heard : publisher.sent]
    assert 0 < len(outbox.pending(limit=1000)) < 400
    broker.start()
    second = listen(broker.settings())
    assert publisher.drain(60).complete
    second.wait(lambda: event_texts(second, last=1) == texts[-1:])  # all of them each time takes a busy machine long
    together = first_occurrences(event_texts(first) + event_texts(second))
    assert set(texts) - set(together) <= set(acknowledged_last)
    assert together == [text for text in texts if text in together]
    assert outbox.pending() == ()


def test_a_new_message_goes_out_when_the_publisher_is_told(broker, listen, outbox, publish) -> None:
    listener = listen(broker.settings())
    publisher = publish(broker.settings())
    assert publisher.drain(10).complete
    put_events(outbox, 1)
    publisher.poke()
    assert drive(publisher, lambda: publisher.sent == 1, 10)
    listener.wait(lambda: event_texts(listener) == ["0"])


def test_only_the_newest_retained_message_is_sent(broker, listen, outbox, publish, here) -> None:
    header = msgspec.structs.asdict(outbox.origin())
    for version in (1, 2, 3):
        outbox.put(topic_for(here, "reported"), Reported(**header, version=version, agent_version="0"))
    assert publish(broker.settings()).drain(10).sent == 1
    late = listen(broker.settings())
    late.wait(lambda: bool(late.topic("/reported")))
    assert decode(late.topic("/reported")[0].topic, late.topic("/reported")[0].payload).version == 3  # type: ignore[attr-defined]


def test_after_a_connection_a_backlog_waits_its_random_share_and_goes_at_the_rate(
    broker, listen, outbox, clock, request
) -> None:
    fleet, limits = listen(broker.settings()), DrainLimits(rate_per_s=5.0, burst=20)
    put_events(outbox, 100)
    publisher = Publisher(outbox, broker.settings(), clock, limits=limits, jitter=lambda: 0.5)
    request.addfinalizer(publisher.connection.close)
    publisher.start()

    def heard_by(seconds: float) -> int:
        """Let time pass; what is said then, unpaced, comes after all that was sent before it."""
        clock.pass_time(seconds)
        publisher.on_timer()
        said = len(fleet.topic("/status"))
        publisher.set_status("busy")
        drive_both(publisher, fleet, lambda: len(fleet.topic("/status")) > said)
        return len(fleet.topic("/event"))

    drive_both(publisher, fleet, lambda: bool(fleet.topic("/status")))
    assert heard_by(0.0) == 0  # not the first one either
    assert heard_by(9.9) == 0
    assert publisher.on_timer() == pytest.approx(clock.now_s + 0.1)
    assert heard_by(0.2) == 1
    assert heard_by(1.0) in (2, 6)  # what the bucket gives is sent as soon as it is asked
    assert heard_by(0.0) <= 6


def drive_both(publisher: Publisher, fleet, until) -> None:
    end = time.monotonic() + 30
    while not until():
        assert time.monotonic() < end, [one.topic for one in fleet.got]
        drive(publisher, lambda: False, 0.02)
        drive(fleet.connection, lambda: False, 0.02)


def test_close_says_offline_itself_and_keeps_what_was_not_sent(broker, listen, outbox, publish) -> None:
    listener = listen(broker.settings())
    publisher = publish(broker.settings())
    assert publisher.drain(10).complete
    publisher.set_status("busy", "measuring digits")
    publisher.close()
    listener.wait(lambda: len(listener.topic("/status")) == 3)
    said = [decode(one.topic, one.payload) for one in listener.topic("/status")]
    assert [(one.state, one.reason) for one in said] == [  # type: ignore[attr-defined]
        ("online", None),
        ("busy", "measuring digits"),
        ("offline", "stopped"),
    ]
    publisher.close()


def test_a_killed_agent_is_told_offline_by_its_last_will(broker, listen, tmp_path) -> None:
    listener = listen(broker.settings())
    script = """
import sys, time
from datetime import datetime, timezone
from pathlib import Path
from agent.core.topics import address
from agent.database import Database
from agent.mqtt import BrokerSettings, drive
from agent.report.outbox import Outbox
from agent.report.publisher import Publisher
class Now:
    def monotonic_s(self): return time.monotonic()
    def utc(self): return datetime.now(timezone.utc)
box = Outbox(Database(Path(sys.argv[1])), address("plant-7", "pi5-kitchen"), Now(), boot_id="boot-a")
publisher = Publisher(box, BrokerSettings(host="127.0.0.1", port=int(sys.argv[2])), Now())
print(publisher.drain(10).complete, flush=True)
drive(publisher, lambda: False, 60)
"""
    arguments = [sys.executable, "-c", script, str(tmp_path / "boardfit.db"), str(broker.port)]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "True\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    listener.wait(lambda: len(listener.topic("/status")) == 2)
    will = decode(listener.topic("/status")[1].topic, listener.topic("/status")[1].payload)
    assert isinstance(will, Status)
    assert (will.state, will.reason, will.boot_id, will.time) == ("offline", "connection lost", "boot-a", None)


@pytest.fixture
def picky(start_broker, tmp_path):
    rules = tmp_path / "rules"
    rules.write_text("topic write boardfit/v1/plant-7/pi5-kitchen/status\ntopic write boardfit/v1/+/+/reported\n")
    return start_broker(f"allow_anonymous true\nacl_file {rules}")


def test_a_refused_message_stays_and_holds_back_only_its_own_topic(picky, outbox, publish, here) -> None:
    put_events(outbox, 3)
    header = msgspec.structs.asdict(outbox.origin())
    outbox.put(topic_for(here, "reported"), Reported(**header, version=1, agent_version="0"))
    publisher = publish(picky.settings())
    result = publisher.drain(10)
    assert (result.sent, result.left, result.complete) == (1, 3, False)
    assert result.refused == ((topic_for(here, "event"), "Not authorized"),)
    assert [entry.topic for entry in outbox.pending()] == [topic_for(here, "event")] * 3


def test_a_message_too_large_for_the_broker_does_not_break_the_connection(
    start_broker, listen, outbox, publish, here
) -> None:
    broker = start_broker("allow_anonymous true\nmax_packet_size 2000")
    header = msgspec.structs.asdict(outbox.origin())
    outbox.put(topic_for(here, "event"), Event(**header, level="info", kind="big", text="x" * 5000))
    outbox.put(topic_for(here, "reported"), Reported(**header, version=1, agent_version="0"))
    publisher = publish(broker.settings())
    result = publisher.drain(10)
    assert (result.sent, result.left) == (1, 1)
    assert result.refused == ((topic_for(here, "event"), "larger than the 2000 bytes this broker takes"),)
    assert publisher.connection.connects == 1


def test_a_wrong_password_ends_a_drain_at_once(start_broker, outbox, publish) -> None:
    broker = start_broker("allow_anonymous false")
    put_events(outbox, 1)
    began = time.monotonic()
    result = publish(broker.settings(username="pi5", password="wrong")).drain(30)
    assert time.monotonic() - began < 10
    assert (result.sent, result.left) == (0, 1)
    assert result.error is not None
    assert re.search("user name or password|authorise", result.error)


def test_a_failing_disk_does_not_leave_the_loop_and_nothing_is_sent_twice(
    broker, listen, database, outbox, publish
) -> None:
    listener = listen(broker.settings())
    put_events(outbox, 3)
    publisher = publish(broker.settings())
    publisher.start()
    publisher.poke()
    database.rows("PRAGMA query_only = ON")
    assert drive(publisher, lambda: publisher.error is not None and publisher.sent == 3, 10)
    database.rows("PRAGMA query_only = OFF")
    assert len(outbox.pending()) == 3
    publisher.close()
    assert outbox.pending() == ()
    listener.wait(lambda: len(listener.topic("/status")) == 2)
    assert event_texts(listener) == ["0", "1", "2"]


def test_an_idle_publisher_asks_to_be_woken_for_the_keep_alive_only(broker, publish) -> None:
    publisher = publish(broker.settings(keepalive_s=60))
    assert publisher.drain(10).complete
    deadline = publisher.on_timer()
    assert deadline is not None
    assert deadline - time.monotonic() > 55


def test_importing_the_publisher_loads_nothing_heavy() -> None:
    script = "import sys, agent.mqtt, agent.report.publisher; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "rich", "asyncio", "yaml", "onnxruntime", "tuf", "cryptography"} & set(loaded)


def test_every_message_that_travels_follows_the_schema_of_its_topic(broker, listen, outbox, publish, here) -> None:
    task = synthetic_report(runs=40).tasks[0]
    listener = listen(broker.settings())
    origin = outbox.origin()
    reading = task.measurements[0].context.before  # type: ignore[union-attr]
    summaries = [summary_of_measurement(measurement, outbox.boot_id) for measurement in task.measurements]
    measured = messages_for_measurements(summaries, origin, 16 * 1024)
    assert len(measured) > 2
    stored = outbox.put_all(
        [
            *((topic_for(here, "measurement"), message) for message in measured),
            (topic_for(here, "decision", "digits"), message_for_decision(task.decision, origin)),
            (topic_for(here, "deployment", "digits"), message_for_deployment(task.deployment, origin)),
            (topic_for(here, "telemetry", "board"), message_for_reading(reading, origin)),
        ]
    )
    assert len(stored) == len(measured) + 3
    publisher = publish(broker.settings(), profile=FACTS)
    assert publisher.drain(20).complete
    publisher.close()
    listener.wait(lambda: len(listener.got) == len(stored) + 3)
    validators = {kind: jsonschema.Draft202012Validator(message_schema(kind)) for kind in MESSAGES}
    for one in listener.got:
        validators[schema_name(one.topic)].validate(json.loads(one.payload))
    assert {schema_name(one.topic) for one in listener.got} == {
        "status", "profile", "measurement", "decision", "deployment", "telemetry",
    }  # fmt: skip
    seqs = [json.loads(one.payload)["seq"] for one in listener.got]
    assert [seq for seq in seqs if seq] == list(stored)


def test_an_idle_connected_agent_sleeps(broker, tmp_path) -> None:
    script = """
import sys, time
from datetime import datetime, timezone
from pathlib import Path
from agent.core.topics import address
from agent.database import Database
from agent.mqtt import BrokerSettings, drive
from agent.report.outbox import Outbox
from agent.report.publisher import Publisher
class Now:
    def monotonic_s(self): return time.monotonic()
    def utc(self): return datetime.now(timezone.utc)
box = Outbox(Database(Path(sys.argv[1])), address("plant-7", "pi5-kitchen"), Now(), boot_id="boot-a")
publisher = Publisher(box, BrokerSettings(host="127.0.0.1", port=int(sys.argv[2])), Now())
publisher.drain(10)
def switches():
    lines = open("/proc/self/status").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if "voluntary_ctxt_switches" in line and "non" not in line)
drive(publisher, lambda: False, 0.5)
before = switches()
drive(publisher, lambda: False, 4.0)
print(switches() - before)
"""
    arguments = [sys.executable, "-c", script, str(tmp_path / "boardfit.db"), str(broker.port)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 2  # going to sleep once, and the end of the window; paho's own loop makes five


def test_a_status_that_told_of_a_backlog_is_followed_by_one_without(broker, listen, outbox, publish) -> None:
    put_events(outbox, presence.BACKLOG + 20)
    listener = listen(broker.settings())
    publisher = publish(broker.settings())
    assert publisher.drain(20).complete
    listener.wait(lambda: len(listener.topic("/status")) == 2)
    waiting = [json.loads(one.payload)["outbox_messages"] for one in listener.topic("/status")]
    assert waiting == [presence.BACKLOG + 20, 0]
    put_events(outbox, presence.BACKLOG + 20)
    assert publisher.drain(20).complete
    publisher.close()
    listener.wait(lambda: any(b'"offline"' in one.payload for one in listener.topic("/status")))
    assert len(listener.topic("/status")) == 3


def test_a_profile_that_differs_in_free_memory_alone_is_not_sent_again(broker, listen, publish) -> None:
    listener = listen(broker.settings())
    publisher = publish(broker.settings(), profile=FACTS)
    publisher.connection.connect(10)
    free = msgspec.structs.replace(FACTS.memory, available_bytes=12345)
    publisher.set_profile(msgspec.structs.replace(FACTS, memory=free))
    publisher.set_profile(msgspec.structs.replace(FACTS, power_mode="MAXN"))
    publisher.close()
    listener.wait(lambda: any(b'"offline"' in one.payload for one in listener.topic("/status")))
    assert [json.loads(one.payload)["power_mode"] for one in listener.topic("/profile")] == [FACTS.power_mode, "MAXN"]


def test_a_new_connection_makes_everything_news_to_the_broker(broker, outbox, publish, here) -> None:
    def told() -> int | None:
        header = msgspec.structs.asdict(outbox.origin())
        said = DeploymentMessage(**header, task="digits", phase="done", changed_at="x")
        return outbox.put_news(topic_for(here, "deployment", "digits"), said)

    publisher = publish(broker.settings())
    assert told() == 1
    assert publisher.drain(10).complete
    assert told() is None
    broker.kill()
    drive(publisher, lambda: not publisher.online, 10)
    broker.start()  # without persistence: what was retained is gone
    assert drive(publisher, lambda: publisher.online, 30)
    assert told() == 2
    assert publisher.drain(10).complete
    assert told() is None
    publisher.close()
    assert told() == 3


def test_a_disk_that_takes_nothing_is_kept_as_the_error_and_raised_nowhere(outbox, publish, database) -> None:
    header = msgspec.structs.asdict(outbox.origin())
    outbox.put(topic_for(outbox.address, "reported"), Reported(**header, version=1, agent_version="0"))
    publisher = publish(BrokerSettings(host="127.0.0.1", port=free_port()))
    database._connection().execute("PRAGMA query_only = 1")
    publisher.forget_told()
    assert publisher.error is not None
    database._connection().execute("PRAGMA query_only = 0")
