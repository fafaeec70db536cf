"""As little of MQTT 5 as thousands of simulated boards and a bare console need: QoS 1, no properties. Pure.

Source: MQTT 5.0, 3.1 (CONNECT), 3.3 (PUBLISH), 3.4 (PUBACK), 3.8 (SUBSCRIBE).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from agent.mqtt import Will
from agent.mqtt.stream import frames

CONNACK, PUBLISH, PUBACK, SUBACK = 0x20, 0x30, 0x40, 0x90
PING = b"\xc0\x00"
GOODBYE = b"\xe0\x00"


def connect(client_id: str, will: Will | None = None, keepalive_s: int = 60) -> bytes:
    """Return a CONNECT with a clean start, and a will of QoS 1 that is retained."""
    flags, body = 0x02, _text(client_id.encode())
    if will is not None:
        flags |= 0x04 | 0x08 | 0x20
        body += b"\x00" + _text(will.topic.encode()) + _text(will.payload)
    return _packet(0x10, _text(b"MQTT") + struct.pack("!BBH", 5, flags, keepalive_s) + b"\x00" + body)


def subscribe(number: int, filters: Iterable[str], qos: int = 1) -> bytes:
    """Return a SUBSCRIBE."""
    return _packet(
        0x82, struct.pack("!HB", number, 0) + b"".join(_text(one.encode()) + bytes((qos,)) for one in filters)
    )


def publish(topic: bytes, payload: bytes, number: int, *, retain: bool = False) -> bytes:
    """Return a PUBLISH of QoS 1; of QoS 0 where ``number`` is 0."""
    told = struct.pack("!HB", number, 0) if number else b"\x00"
    return _packet(PUBLISH | (0x02 if number else 0) | retain, _text(topic) + told + payload)


def puback(number: int) -> bytes:
    """Return a PUBACK."""
    return b"\x40\x02" + number.to_bytes(2, "big")


class Reader:
    """Takes a stream apart."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the whole packets so far: the first byte, and the body."""
        held, done = self._held, 0
        held += data
        for begin, body, end in frames(held):
            yield held[begin], bytes(held[body:end])
            done = end
        del held[:done]


def read_publish(head: int, body: bytes) -> tuple[bytes, bytes, int]:
    """Return topic, payload and number (0 at QoS 0). Properties are skipped, up to 127 bytes of them."""
    end = 2 + (body[0] << 8 | body[1])
    topic, number = body[2:end], 0
    if head & 0x06:
        number = body[end] << 8 | body[end + 1]
        end += 2
    return topic, body[end + 1 + body[end] :], number


def _packet(head: int, body: bytes) -> bytes:
    length, digits = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | (0x80 if length else 0))
        if not length:
            return bytes((head,)) + bytes(digits) + body


def _text(text: bytes) -> bytes:
    return len(text).to_bytes(2, "big") + text
