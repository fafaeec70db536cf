"""The stream of packets: taken apart wherever it is cut, flow of messages kept to what the broker takes, filters."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.mqtt import Connection, Incoming, drive
from agent.mqtt.stream import StreamClient, StreamError, frames, matcher, read_message
from benchmarks.simulated import codec
from tests.brokers import Mosquitto

CONNACK = b"\x20\x03\x00\x00\x00"


def answered() -> Properties:
    """Return the properties of a request."""
    made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    made.ResponseTopic, made.CorrelationData = "answer/here", b"\x00\x01"
    return made


class Wire:
    """A client of ours and the other end of its socket; ``heard`` and ``acknowledged`` are what came out."""

    def __init__(self, protocol: int = MQTTv5, credit: int = 100) -> None:
        ours, self.far = socket.socketpair()
        ours.setblocking(False)
        self.far.setblocking(False)
        self.client = StreamClient(CallbackAPIVersion.VERSION2, protocol=protocol, reconnect_on_failure=False)  # type: ignore[arg-type]
        self.client.on_socket_register_write = lambda *_: None
        self.heard: list[Incoming] = []
        self.acknowledged: list[tuple[int, int]] = []
        self.client.on_incoming = self.heard.append
        self.client.on_acknowledged = lambda number, reason: self.acknowledged.append((number, reason))
        self.client.ready = ours
        self.client.connect_async("nowhere")
        self.client.reconnect()
        self.write()
        self.client.credit = credit

    def write(self) -> bytes:
        """Have the client write, and return what arrives."""
        while self.client.want_write():
            self.client.loop_write()
        try:
            return self.far.recv(1 << 20)
        except BlockingIOError:
            return b""

    def say(self, data: bytes) -> None:
        self.far.sendall(data)
        self.client.loop_read()

    def close(self) -> None:
        self.far.close()
        connected = self.client.socket()
        if connected is not None:
            connected.close()


@pytest.fixture
def wire() -> Iterator[Callable[..., Wire]]:
    made: list[Wire] = []

    def make(*args: int, **more: int) -> Wire:
        made.append(Wire(*args, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 4096])
def test_wherever_the_stream_is_cut_each_message_is_heard_once_and_acknowledged(
    wire: Callable[..., Wire], step: int
) -> None:
    line = wire()
    messages = [(f"a/{number}".encode(), b"x" * length) for number, length in enumerate((0, 1, 125, 126, 300, 20_000))]
    stream = CONNACK + b"".join(codec.publish(*one, number + 1) for number, one in enumerate(messages))
    stream += codec.publish(b"a/unacknowledged", b"", 0, retain=True)
    for at in range(0, len(stream), step):
        line.say(stream[at : at + step])
    assert [(one.topic.encode(), one.payload) for one in line.heard[:-1]] == messages
    assert (line.heard[-1].topic, line.heard[-1].retain, line.heard[-1].mid) == ("a/unacknowledged", True, 0)
    assert line.write() == b"".join(codec.puback(number + 1) for number in range(len(messages)))


def test_response_topic_and_correlation_are_read_and_mqtt_3_has_none(wire: Callable[..., Wire]) -> None:
    packed = answered().pack()  # type: ignore[no-untyped-call]
    body = b"\x00\x01a\x00\x07" + packed + b"payload"
    line = wire()
    line.say(bytes((0x32, len(body))) + body)
    assert line.heard == [
        Incoming(
            topic="a", payload=b"payload", retain=False, response_topic="answer/here", correlation=b"\x00\x01", mid=7
        )
    ]
    older = wire(MQTTv311)
    older.say(b"\x32\x08\x00\x01a\x00\x09old")
    assert older.heard == [Incoming(topic="a", payload=b"old", retain=False, mid=9)]


def test_who_acknowledges_himself_is_waited_for(wire: Callable[..., Wire]) -> None:
    line = wire()
    line.client.acknowledges = False
    line.say(codec.publish(b"a", b"", 3) + codec.publish(b"a", b"", 4))
    assert line.write() == b""
    line.client.acknowledge([4, 3])
    assert line.write() == codec.puback(4) + codec.puback(3)


def test_no_more_is_sent_than_the_broker_takes_unacknowledged(wire: Callable[..., Wire]) -> None:
    line = wire(MQTTv5, 2)
    numbers = [line.client.send("t", b"%d" % one, retain=False, expiry_s=None) for one in range(4)]
    expected = [codec.publish(b"t", b"%d" % one, number) for one, number in enumerate(numbers)]
    assert line.write() == expected[0] + expected[1]
    line.say(codec.puback(numbers[1]))
    assert line.write() == expected[2]
    line.say(b"\x40\x04" + struct.pack("!HBB", numbers[0], 0x87, 0))  # not authorised
    assert line.write() == expected[3]
    assert line.acknowledged == [(numbers[1], 0), (numbers[0], 0x87)]


@pytest.mark.parametrize("protocol", [MQTTv5, MQTTv311])
def test_an_expiry_is_told_where_the_protocol_has_one(wire: Callable[..., Wire], protocol: int) -> None:
    line = wire(protocol)
    line.client.send("t", b"p", retain=True, expiry_s=600)
    told = b"\x05\x02" + struct.pack("!I", 600) if protocol == MQTTv5 else b""
    assert line.write() == bytes((0x33, 6 + len(told))) + b"\x00\x01t\x00\x01" + told + b"p"


TOO_LONG = b"\x30\xff\xff\xff\x7f"  # 256 MiB are announced, and none has come yet


@pytest.mark.parametrize(
    "said", [b"\x30\xff\xff\xff\xff\x01", TOO_LONG, b"\x30\x02\x00\x05", b"\x32\x03\x00\x01a", b""]
)
def test_what_is_no_mqtt_ends_the_connection(wire: Callable[..., Wire], said: bytes) -> None:
    line = wire()
    if said:
        line.say(CONNACK + said)
    else:
        line.far.close()
        line.client.loop_read()
    assert line.client.socket() is None


@given(st.binary(max_size=200))
def test_no_bytes_harm_the_reader(data: bytes) -> None:
    try:
        for _, body, end in frames(bytearray(data)):
            assert 0 < body <= end <= len(data)
            for flags in (0x00, 0x02):
                for properties in (False, True):
                    message_or_error(data[body:end], flags, properties=properties)
    except StreamError:
        pass


def message_or_error(body: bytes, flags: int, *, properties: bool) -> None:
    try:
        message = read_message(memoryview(body), flags, properties=properties)
    except StreamError:
        return
    assert len(message.topic) + len(message.payload) <= len(body)


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        ("a/b", ["a/b"], ["a/b/c", "a", "a/bc"]),
        ("a/+/c", ["a/b/c", "a//c"], ["a/b/d", "a/b/b/c"]),
        ("a/+", ["a/b"], ["a", "a/b/c"]),
        ("a/#", ["a", "a/b", "a/b/c"], ["ab", "b/a"]),
        ("#", ["a", "a/b"], ["$SYS/a"]),
        ("+/b", ["a/b"], ["$SYS/b"]),
        ("a.b/+", ["a.b/c"], ["axb/c"]),
    ],
)
def test_a_filter_matches_as_the_standard_says(pattern: str, fits: list[str], others: list[str]) -> None:
    assert all(matcher(pattern).fullmatch(topic) for topic in fits)
    assert not any(matcher(pattern).fullmatch(topic) for topic in others)


def test_a_broker_that_takes_few_at_once_gets_all(broker: Mosquitto) -> None:
    line = Connection(broker.settings())
    line.connect(10)
    assert line.receive_maximum < 200  # mosquitto's is 20
    sent = [line.publish(f"many/{number}", b"x" * 100) for number in range(500)]
    assert drive(line, lambda: all(one.state == "acked" for one in sent), 20)
    line.close()
