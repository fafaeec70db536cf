"""Bare consoles, to hold ours against: a raw socket, and plain paho. They sign, judge, keep and show nothing."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterable

import paho.mqtt.client as mqtt

from agent.core.topics import address, fleet_filter, topic_for
from benchmarks.scale.ground import FLEET
from benchmarks.simulated import codec

COMMAND = b'{"bare": "%s"}' % (b"x" * 189)  # 200 bytes
IN_FLIGHT = 100


class RawConsole:
    """A socket and as little of MQTT as there must be."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = codec.Reader()
        self.acknowledged = 0
        self._socket.sendall(codec.connect(f"bare-{os.urandom(4).hex()}"))
        self._subscribed = False
        self.until(lambda: self._subscribed, lambda _topic, _payload: None)

    def close(self) -> None:
        self._socket.sendall(codec.GOODBYE)
        self._socket.close()

    def subscribe(self, *filters: str) -> None:
        """Subscribe, not waiting for the answer."""
        self._socket.sendall(codec.subscribe(1, filters))

    def publish(self, messages: Iterable[tuple[bytes, bytes]], *, retain: bool = False) -> int:
        """Publish all, ``IN_FLIGHT`` at a time, and wait for the acknowledgements. Returns: how many."""
        sent, first = 0, self.acknowledged
        out = bytearray()
        for topic, payload in messages:
            sent += 1
            out += codec.publish(topic, payload, sent % 65535 + 1, retain=retain)
            if sent % IN_FLIGHT == 0:
                self._socket.sendall(out)
                out.clear()
                self.until(lambda: self.acknowledged - first > sent - 3 * IN_FLIGHT)  # noqa: B023
        self._socket.sendall(out)
        self.until(lambda: self.acknowledged - first >= sent)
        return sent

    def until(
        self,
        done: Callable[[], bool],
        take: Callable[[bytes, bytes], object] = lambda _topic, _payload: None,
        timeout_s: float = 120.0,
    ) -> None:
        """Read until something holds."""
        end = time.monotonic() + timeout_s
        while not done():
            ready, _, _ = select.select([self._socket], [], [], 1.0)
            if time.monotonic() > end:
                raise SystemExit("the bare console waited in vain")
            if not ready:
                continue
            data, acknowledge = self._socket.recv(262144), bytearray()
            if not data:
                raise SystemExit("the broker closed a bare console's connection")
            for head, body in self._reader.feed(data):
                kind = head & 0xF0
                if kind == codec.PUBLISH:
                    topic, payload, number = codec.read_publish(head, body)
                    if number:
                        acknowledge += codec.puback(number)
                    take(topic, payload)
                elif kind == codec.PUBACK:
                    self.acknowledged += 1
                elif kind in (codec.CONNACK, codec.SUBACK):
                    self._subscribed = True
            if acknowledge:
                self._socket.sendall(acknowledge)


def names(boards: int) -> list[str]:
    """Return the names of the simulated boards."""
    return [f"simulated-{number:05}" for number in range(boards)]


def raw_commands(port: int, boards: int) -> float:
    """Send a command to each board, and wait for the last answer. Returns: seconds."""
    topics = [topic_for(address(FLEET, name), "cmd", "echo").encode() for name in names(boards)]
    console, answered = RawConsole(port), 0

    def take(_topic: bytes, _payload: bytes) -> None:
        nonlocal answered
        answered += 1

    console.subscribe(fleet_filter(FLEET, "job", "echo"))
    console.until(lambda: True)
    time.sleep(0.05)
    begin = time.perf_counter()
    place, number = 0, 0
    while answered < boards:
        out = bytearray()
        while place < boards and place - answered < IN_FLIGHT:
            number = number % 65535 + 1
            out += codec.publish(topics[place], COMMAND, number)
            place += 1
        if out:
            console._socket.sendall(out)
        seen = answered
        console.until(lambda: answered > seen, take)  # noqa: B023
    took = time.perf_counter() - begin
    console.close()
    return took


def paho_commands(port: int, boards: int) -> float:
    """Do the same with paho as its manual has it, in one thread. Returns: seconds."""
    topics = [topic_for(address(FLEET, name), "cmd", "echo") for name in names(boards)]
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(0)
    answered, subscribed = 0, False

    def heard(*_: object) -> None:
        nonlocal answered
        answered += 1

    def agreed(*_: object) -> None:
        nonlocal subscribed
        subscribed = True

    client.on_message, client.on_subscribe = heard, agreed
    client.connect("127.0.0.1", port)
    connected = client.socket()
    assert isinstance(connected, socket.socket)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.on_connect = lambda *_: client.subscribe(fleet_filter(FLEET, "job", "echo"), 1)
    while not subscribed:
        client.loop(0.1)
    begin = time.perf_counter()
    place = 0
    while answered < boards:
        while place < boards and place - answered < IN_FLIGHT:
            client.publish(topics[place], COMMAND, 1)
            place += 1
        client.loop(0.5)
    took = time.perf_counter() - begin
    client.disconnect()
    return took


def raw_replay(port: int, filters: Iterable[str], expected: int) -> float:
    """Hear what is retained, unread. Returns: seconds from the subscription to the last message."""
    console, heard = RawConsole(port), 0

    def take(_topic: bytes, _payload: bytes) -> None:
        nonlocal heard
        heard += 1

    begin = time.perf_counter()
    console.subscribe(*filters)
    console.until(lambda: heard >= expected, take)
    took = time.perf_counter() - begin
    console.close()
    return took
