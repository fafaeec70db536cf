"""A tap in a TCP connection: relays bytes both ways and counts what kind of packet they belong to.

Rules:
- What is counted is what was really sent on the line, in bytes, above TCP: MQTT packets with their headers, or HTTP
  requests and answers. The relay changes nothing.
- An MQTT PUBLISH is taken apart into topic, payload and the rest (header, packet id, properties), so that what a
  message costs beyond itself is known; all other packets are counted whole, by their type.
- One thread for each direction of each connection; the counts are taken under a lock, so a reader sees whole packets.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

from agent.demo_broker import free_port

_PUBLISH = 3
_NAMES = (
    "", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK", "UNSUBSCRIBE",
    "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
)  # fmt: skip


class Packet(NamedTuple):
    """One packet or answer as it went over the line. ``up``: from the client to the server. Sizes in bytes."""

    up: bool
    kind: str  # PUBLISH, PUBACK, ...; of HTTP the path asked for
    bytes: int
    topic: str = ""
    payload: bytes = b""
    retain: bool = False

    @property
    def overhead(self) -> int:
        """What is neither topic nor payload."""
        return self.bytes - len(self.topic.encode()) - len(self.payload)


class _Mqtt:
    """Cuts one direction into packets: MQTT 5 or 3.1.1, section 2.1 (fixed header) and 3.3 (PUBLISH)."""

    def __init__(self, up: bool, take: Callable[[Packet], None]) -> None:
        self._up, self._take = up, take
        self._held = b""

    def feed(self, data: bytes) -> None:
        self._held += data
        while (whole := _length(self._held)) is not None and len(self._held) >= sum(whole):
            header, body = whole
            self._packet(self._held[:1], self._held[header : header + body], header + body)
            self._held = self._held[header + body :]

    def _packet(self, first: bytes, body: bytes, size: int) -> None:
        kind, flags = first[0] >> 4, first[0] & 15
        if kind != _PUBLISH:
            self._take(Packet(self._up, _NAMES[kind], size))
            return
        end = 2 + int.from_bytes(body[:2], "big")
        topic = body[2:end].decode()
        rest = body[end + (2 if flags >> 1 & 3 else 0) :]
        properties, width = _varint(rest, 0)  # MQTT 5
        payload = rest[width + properties :]
        self._take(Packet(self._up, "PUBLISH", size, topic, payload, bool(flags & 1)))


class _Http:
    """Counts requests and answers of HTTP/1.1 by the path asked for; an answer belongs to the request before it."""

    def __init__(self, up: bool, take: Callable[[Packet], None], asked: list[str]) -> None:
        self._up, self._take, self._asked = up, take, asked

    def feed(self, data: bytes) -> None:
        words = data.split(b" ", 2)
        if self._up and words[0] in (b"GET", b"HEAD") and len(words) == 3:
            self._asked[:] = [words[1].decode()]
        self._take(Packet(self._up, self._asked[0] if self._asked else "", len(data)))


class Tap:
    """A context manager: a port that leads to another one, with all that passes counted.

    Args: port: of the server, on loopback. http: count HTTP rather than MQTT 5.
    """

    def __init__(self, port: int, *, http: bool = False) -> None:
        self.port = free_port()
        self._to, self._http = port, http
        self._packets: list[Packet] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._open: list[socket.socket] = []

    def __enter__(self) -> Tap:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection that is open now; new ones are relayed again."""
        broken, self._open = self._open, []
        for one in broken:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def take(self) -> list[Packet]:
        """Return what has passed since the last call."""
        with self._lock:
            taken, self._packets = self._packets, []
        return taken

    def seen(self) -> list[Packet]:
        """Return what has passed since the last ``take``, and keep it."""
        with self._lock:
            return list(self._packets)

    def _keep(self, packet: Packet) -> None:
        with self._lock:
            self._packets.append(packet)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the tap is over
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            self._open += [client, server]
            asked: list[str] = []
            for up, source, sink in ((True, client, server), (False, server, client)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                cut = _Http(up, self._keep, asked) if self._http else _Mqtt(up, self._keep)
                threading.Thread(target=_relay, args=(source, sink, cut), daemon=True).start()


def _relay(source: socket.socket, sink: socket.socket, cut: _Http | _Mqtt) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            cut.feed(data)  # first: what has been answered has been counted
            sink.sendall(data)
    for one in (source, sink):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def _length(data: bytes) -> tuple[int, int] | None:
    """Return the lengths of header and body, None where the header is not whole yet."""
    for end in range(1, 5):
        if len(data) > end and data[end] < 128:
            value, width = _varint(data, 1)
            return 1 + width, value
    return None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a variable byte integer and how many bytes it has (MQTT 5, section 1.5.5)."""
    value = 0
    for width in range(4):
        value |= (data[at + width] & 127) << 7 * width
        if data[at + width] < 128:
            return value, width + 1
    raise ValueError("not a variable byte integer")
