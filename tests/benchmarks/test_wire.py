"""The tap that counts what a board sends: over a real broker, and on packets cut at every place."""

from __future__ import annotations

import pytest

from agent.demo_broker import EmbeddedBroker
from agent.mqtt import BrokerSettings, Connection, Incoming, drive
from benchmarks.message_sizes import rows_of
from benchmarks.wire import Packet, Tap, _Mqtt

TOPIC = "boardfit/v1/plant/pi/measurement"


@pytest.mark.parametrize("size", [0, 100, 127, 128, 20_000])
def test_each_packet_is_counted_whole_whatever_its_length(size: int) -> None:
    payload = bytes(size)
    got: list[Incoming] = []
    with EmbeddedBroker("mosquitto") as broker, Tap(broker.port) as tap:
        connection = Connection(BrokerSettings(host="127.0.0.1", port=tap.port))
        connection.connect(10)
        connection.subscribe(TOPIC, got.append)
        assert drive(connection, lambda: connection.listening, 10)
        sent = connection.publish(TOPIC, payload)
        assert drive(connection, lambda: bool(got) and sent.state == "acked", 10)
        connection.close()
        packets = tap.take()
    (up,) = [one for one in packets if one.up and one.kind == "PUBLISH"]
    assert (up.topic, up.payload) == (TOPIC, payload)
    width = 1 if up.bytes - 2 < 128 else 2 if up.bytes - 3 < 16384 else 3  # of the remaining length: MQTT 5, 1.5.5
    assert up.overhead == 1 + width + 2 + 2 + 1  # type, length, topic's length, packet id, no properties
    assert next(one.kind for one in packets if one.up) == "CONNECT"
    assert {one.kind for one in packets if not one.up} >= {"CONNACK", "SUBACK", "PUBACK", "PUBLISH"}
    row = next(row for row in rows_of("phase", packets) if row.up and row.kind == "measurement")
    assert (row.count, row.payload, row.total) == (1, size, up.bytes)


def test_packets_cut_anywhere_are_put_together() -> None:
    body = b"\x00\x03a/b" + b"\x00\x07" + b"\x05\x02\x00\x00\x00\x09" + b"x" * 200
    packet = b"\x33" + bytes([len(body) % 128 | 128, len(body) // 128]) + body
    whole = packet + b"\xc0\x00" + packet
    for step in (1, 2, 3, 7, 100, len(whole)):
        found: list[Packet] = []
        cut = _Mqtt(True, found.append)
        for start in range(0, len(whole), step):
            cut.feed(whole[start : start + step])
        assert [one.kind for one in found] == ["PUBLISH", "PINGREQ", "PUBLISH"]
        assert (found[0].topic, found[0].payload, found[0].retain) == ("a/b", b"x" * 200, True)
        assert sum(one.bytes for one in found) == len(whole)


def test_a_cut_line_is_relayed_again() -> None:
    with EmbeddedBroker("mosquitto") as broker, Tap(broker.port) as tap:
        connection = Connection(BrokerSettings(host="127.0.0.1", port=tap.port), jitter=lambda: 0.0)
        connection.connect(10)
        tap.cut()
        assert drive(connection, lambda: connection.connects == 2, 10)
        connection.close()
