"""paho's client over a socket of ours: messages and their acknowledgements are coded here, all else by paho.

paho asks the kernel for each packet three times, and makes objects with properties, reason codes and log lines of each:
some 50 us for a message heard and 100 us for one sent and acknowledged, which a console of 50,000 boards pays 50,000
times. Whole pieces of the stream cost a tenth.

Rules:
- Read here are messages (PUBLISH, QoS 0 and 1) and acknowledgements (PUBACK); written here are both, at QoS 1. Every
  other packet is handed to paho, whole, as if the kernel had given it; so are the end of the stream and its errors.
- What is written goes out in the order in which it was asked for, paho's packets and ours. Messages beyond ``credit``,
  what the broker takes unacknowledged (its receive maximum), wait here for acknowledgements.
- Acknowledgements of one piece go out in one write, after its messages were handed on.
- Properties other than response topic and correlation data are skipped by paho's own reader of properties.

Source: MQTT 5.0, 2.1 (fixed header), 3.3 (PUBLISH), 3.4 (PUBACK); MQTT 3.1.1 has no properties.
"""

from __future__ import annotations

import re
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from paho.mqtt.client import MQTT_LOG_ERR, Client, MQTTv5
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.mqtt.values import Incoming

PIECE_BYTES = 64 * 1024
#: Of one packet, so that none fills the memory. Chosen: four times what brokers of MQTT 5 are told.
MOST_BYTES = 1024 * 1024
_PUBLISH, _PUBACK = 0x30, 0x40
_EXPIRY = 0x02  # Message Expiry Interval, seconds, four bytes


class StreamError(ValueError):
    """What came is not MQTT."""


def frames(buffer: bytearray) -> Iterator[tuple[int, int, int]]:
    """Yield the whole packets at the beginning of ``buffer``: where each begins, where its body begins, where it ends.

    Raises: StreamError: a length that MQTT does not know, or beyond ``MOST_BYTES``.
    """
    place, held = 0, len(buffer)
    while held - place >= 2:
        length, shift, body = 0, 0, place + 1
        while True:
            if body >= held:
                return
            digit = buffer[body]
            body += 1
            length |= (digit & 127) << shift
            if digit < 128:
                break
            shift += 7
            if shift > 21:
                raise StreamError("a packet's length has more than four digits")
        if length > MOST_BYTES:
            raise StreamError(f"a packet of {length} bytes is over the {MOST_BYTES} that are taken")
        if body + length > held:
            return
        yield place, body, body + length
        place = body + length


def read_message(packet: memoryview, flags: int, *, properties: bool) -> Incoming:
    """Read the body of a PUBLISH. Args: properties: whether it has them (MQTT 5).

    Raises: StreamError: it is not one.
    """
    try:
        end = 2 + (packet[0] << 8 | packet[1])
        if end > len(packet):
            raise ValueError("its topic is cut off")
        topic, number = str(packet[2:end], "utf-8"), 0
        if flags & 0x06:
            number = packet[end] << 8 | packet[end + 1]
            end += 2
        if not properties or not packet[end]:
            end += properties
            return Incoming(topic=topic, payload=bytes(packet[end:]), retain=bool(flags & 0x01), mid=number)
        told: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        end += told.unpack(bytes(packet[end:]))[1]
    except Exception as error:  # paho's reader of properties raises what it meets
        raise StreamError(f"not a message: {error}") from error
    return Incoming(
        topic=topic,
        payload=bytes(packet[end:]),
        retain=bool(flags & 0x01),
        mid=number,
        response_topic=getattr(told, "ResponseTopic", None),
        correlation=getattr(told, "CorrelationData", None),
    )


def _puback(number: int) -> bytes:
    return bytes((_PUBACK, 2, number >> 8, number & 0xFF))


def matcher(pattern: str) -> re.Pattern[str]:
    """Return what the topics of a subscription match.

    Source: MQTT 5.0, 4.7; no wildcard stands for a first level that begins with $.
    """
    *levels, last = pattern.split("/")
    made = "/".join("[^/]*" if level == "+" else re.escape(level) for level in levels)
    if last == "#":
        made += "(?:/.*)?" if levels else ".*"
    else:
        made += ("/" if levels else "") + ("[^/]*" if last == "+" else re.escape(last))
    return re.compile(("(?!\\$)" if pattern[0] in "+#" else "") + made, re.DOTALL)


class StreamClient(Client):
    """paho's client; ``ready`` is the connected socket that its next ``reconnect`` takes.

    ``on_incoming`` is called with each message, in place of ``on_message``; ``on_acknowledged`` with the number of each
    message of ``send`` and the broker's reason code, 0 for taken.
    """

    ready: socket.socket | None = None
    acknowledges = True  # what was handed on, by itself; else only what ``acknowledge`` names
    on_incoming: Callable[[Incoming], None]
    on_acknowledged: Callable[[int, int], None]

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.credit = 0
        self._held: deque[bytes] = deque()
        self._unsent = bytearray()  # whole packets of ours, to be queued as one
        self._stream = bytearray()
        self._packet = b""  # that paho reads now
        self._ending: bytes | OSError | None = None  # what the kernel said last, when the stream has ended

    def send(self, topic: str, payload: bytes, *, retain: bool, expiry_s: int | None) -> int:
        """Send one message at QoS 1. Args: expiry_s: MQTT 5 only. Returns: the number of its acknowledgement."""
        number: int = self._mid_generate()
        named = topic.encode()
        told = b""
        if self._protocol == MQTTv5:
            told = b"\x00" if expiry_s is None else struct.pack("!BBI", 5, _EXPIRY, expiry_s)
        packet = bytearray((_PUBLISH | 0x02 | retain,))
        self._pack_remaining_length(packet, 4 + len(named) + len(told) + len(payload))
        packet += struct.pack(f"!H{len(named)}sH", len(named), named, number)
        packet += told
        packet += payload
        if self.credit > 0:
            self.credit -= 1
            self._unsent += packet
        else:
            self._held.append(bytes(packet))
        return number

    def acknowledge(self, numbers: Iterable[int]) -> None:
        """Acknowledge messages by their numbers."""
        self._unsent += b"".join(map(_puback, numbers))

    def want_write(self) -> bool:
        """Return whether something waits to be written."""
        return bool(self._unsent) or super().want_write()

    def loop_write(self) -> MQTTErrorCode:
        """Write what waits."""
        self._queue_unsent()
        return super().loop_write()

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:  # noqa: ARG002 - as paho has it
        """Take what has arrived."""
        try:
            piece = super()._sock_recv(PIECE_BYTES)
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        except OSError as error:
            return self._ended(error)
        if not piece:
            return self._ended(piece)
        self._stream += piece
        try:
            return self._take()
        except StreamError as error:
            return self._ended(ConnectionError(str(error)))

    def _take(self) -> MQTTErrorCode:
        stream, acknowledge, done = self._stream, bytearray(), 0
        properties = self._protocol == MQTTv5
        with memoryview(bytes(stream)) as whole:
            for begin, body, end in frames(stream):
                done, head = end, whole[begin]
                if head & 0xF0 == _PUBLISH and head & 0x06 < 0x04:
                    message = read_message(whole[body:end], head & 0x0F, properties=properties)
                    self.on_incoming(message)
                    if message.mid and self.acknowledges:
                        acknowledge += _puback(message.mid)
                    continue
                if head == _PUBACK and end - body >= 2:
                    if self._held:
                        self._unsent += self._held.popleft()
                    else:
                        self.credit += 1
                    self.on_acknowledged(whole[body] << 8 | whole[body + 1], whole[body + 2] if end - body > 2 else 0)
                    continue
                self._packet = bytes(whole[begin:end])
                said = super().loop_read()
                if said != MQTTErrorCode.MQTT_ERR_SUCCESS or self._sock is None:
                    stream.clear()
                    return said
        del stream[:done]
        self._unsent += acknowledge
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _queue_unsent(self) -> None:
        if self._unsent:
            together, self._unsent = self._unsent, bytearray()
            super()._packet_queue(_PUBACK, together, 0, 1)  # to paho one packet, of a kind that ends with its writing

    def _packet_queue(self, *args: Any, **more: Any) -> MQTTErrorCode:
        self._queue_unsent()
        return super()._packet_queue(*args, **more)

    def _ended(self, how: bytes | OSError) -> MQTTErrorCode:
        self._stream.clear()
        self._packet, self._ending = b"", how
        try:
            return super().loop_read()
        finally:
            self._ending = None

    def _sock_recv(self, bufsize: int) -> bytes:
        """Give paho its packet, or the end of the stream."""
        if isinstance(self._ending, OSError):
            raise self._ending
        if self._ending is not None:
            return self._ending
        if not self._packet:
            raise BlockingIOError
        given, self._packet = self._packet[:bufsize], self._packet[bufsize:]
        return given

    def _create_socket(self) -> Any:
        if self.ready is None:
            raise ConnectionError("no socket was handed over")
        self._stream.clear()
        self._unsent.clear()
        self._held.clear()
        self.credit = 0
        taken, self.ready = self.ready, None
        return taken

    def _easy_log(self, level: Any, fmt: str, *args: Any) -> None:
        if level == MQTT_LOG_ERR:  # the others cost more to write than a message to send
            super()._easy_log(level, fmt, *args)
