"""Thousands of simulated boards in one process, a connection each, with as little of MQTT as they need.

    python -m benchmarks.simulated.many PORT BOARDS [--operators FILE] [--fleet plant]

Told what to do by lines on standard input, each answered by one line of JSON on standard output:

- ``real``: boards take commands as boards do (``benchmarks.simulated.board``); at first.
- ``answer``: boards answer each command with its job's document, unjudged: in a fleet each board verifies a signature
  on a processor of its own, here all share one.
- ``echo``: boards answer whatever they hear with ``ANSWER`` on ``job/echo``, unread: the floor under any protocol.
- ``status``: each tells a fresh status; answered when the broker has acknowledged all.
- ``count``: connections accepted so far, boards online now, answers sent.

A connection that breaks is dialled again as ``agent.mqtt.Connection`` does: after a random part of a doubling delay.
"""

from __future__ import annotations

import argparse
import errno
import heapq
import json
import os
import random
import resource
import select
import socket
import sys
import time
from pathlib import Path

from agent.core.operators import Operator, parse_operators
from agent.core.topics import topic_for
from agent.mqtt.connection import BACKOFF_BASE_S, BACKOFF_CAP_S
from benchmarks.simulated import codec
from benchmarks.simulated.board import SimulatedBoard, Ways
from benchmarks.simulated.documents import CLASSES

ANSWER = b'{"simulated": "%s"}' % (b"x" * 180)
PING_AFTER_S = 40.0
_BURST = 500  # connects begun at once: what the broker's queue of accepts holds with room


class Client:
    """One board and its socket."""

    def __init__(self, number: int, fleet: str, operators: tuple[Operator, ...]) -> None:
        self.name = f"simulated-{number:05}"
        self.board = SimulatedBoard(
            self.name, CLASSES[number % len(CLASSES)], Ways(), self._tell, fleet=fleet, operators=operators,
            groups=(f"line-{number % 10}",),
        )  # fmt: skip
        self.echo_topic = topic_for(self.board.at, "job", "echo").encode()
        self.hello = codec.connect(f"simulated-{fleet}-{self.name}", self.board.will)
        self.socket: socket.socket | None = None
        self.reader = codec.Reader()
        self.out = bytearray()
        self.online = self.greeted = False
        self.attempts, self.connects, self.unacknowledged, self.number = 0, 0, 0, 0
        self.last_out = 0.0

    def send(self, topic: bytes, payload: bytes, *, retain: bool) -> None:
        self.number = self.number % 65535 + 1
        self.unacknowledged += 1
        self.out += codec.publish(topic, payload, self.number, retain=retain)

    def _tell(self, topic: str, payload: bytes, retain: bool) -> None:
        self.send(topic.encode(), payload, retain=retain)


class Many:
    """All boards, and the loop."""

    def __init__(self, port: int, boards: int, fleet: str, operators: tuple[Operator, ...]) -> None:
        self.where = ("127.0.0.1", port)
        self.clients = [Client(number, fleet, operators) for number in range(boards)]
        self.mode = "real"
        self.answers = 0
        self._poll = select.epoll()
        self._by_descriptor: dict[int, Client] = {}
        now = time.monotonic()
        self._due = [(now, number) for number in range(boards)]
        self._ping_at = now + 5.0
        self._waiting_for_status = False
        os.set_blocking(0, False)
        self._poll.register(0, select.EPOLLIN)
        self._lines = b""

    def run(self) -> None:
        """Serve until standard input ends."""
        said_online = False
        while True:
            now = time.monotonic()
            self._dial_due(now)
            if now >= self._ping_at:
                self._ping_at = now + 5.0
                self._keep_alive(now)
            wait = 1.0 if not self._due else min(1.0, max(0.0, self._due[0][0] - now))
            for descriptor, events in self._poll.poll(wait):
                if descriptor == 0:
                    if not self._orders():
                        return
                    continue
                client = self._by_descriptor.get(descriptor)
                if client is not None:
                    self._serve(client, events)
            if (
                not said_online
                and not self._due
                and all(one.greeted and not one.unacknowledged for one in self.clients)
            ):
                said_online = True
                self._say(online=len(self.clients))
            if self._waiting_for_status and not any(one.unacknowledged for one in self.clients):
                self._waiting_for_status = False
                self._say(status=len(self.clients))

    def _dial_due(self, now: float) -> None:
        for _ in range(_BURST):
            if not self._due or self._due[0][0] > now:
                return
            client = self.clients[heapq.heappop(self._due)[1]]
            made = socket.socket()
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            begun = made.connect_ex(self.where)
            if begun not in (0, errno.EINPROGRESS):
                made.close()
                self._again(client)
                continue
            client.socket, client.reader, client.out = made, codec.Reader(), bytearray(client.hello)
            self._by_descriptor[made.fileno()] = client
            self._poll.register(made.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _again(self, client: Client) -> None:
        delay = random.random() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(client.attempts, 20))
        client.attempts += 1
        heapq.heappush(self._due, (time.monotonic() + delay, int(client.name[-5:])))

    def _lost(self, client: Client) -> None:
        assert client.socket is not None
        descriptor = client.socket.fileno()
        self._poll.unregister(descriptor)
        del self._by_descriptor[descriptor]
        client.socket.close()
        client.socket, client.online, client.unacknowledged = None, False, 0
        self._again(client)

    def _serve(self, client: Client, events: int) -> None:
        assert client.socket is not None
        try:
            if events & ~select.EPOLLOUT:
                data = client.socket.recv(65536)
                if not data:
                    raise ConnectionError
                for head, body in client.reader.feed(data):
                    self._packet(client, head, body)
            self._flush(client, waited=bool(events & select.EPOLLOUT))
        except BlockingIOError:
            pass
        except OSError:
            self._lost(client)

    def _flush(self, client: Client, *, waited: bool = False) -> None:
        assert client.socket is not None
        if client.out:
            try:
                sent = client.socket.send(client.out)
            except BlockingIOError:
                sent = 0
            del client.out[:sent]
            client.last_out = time.monotonic()
        if client.out or waited:
            wants = select.EPOLLOUT if client.out else 0
            self._poll.modify(client.socket.fileno(), select.EPOLLIN | wants)

    def _packet(self, client: Client, head: int, body: bytes) -> None:
        kind = head & 0xF0
        if kind == codec.PUBACK:
            client.unacknowledged -= 1
        elif kind == codec.PUBLISH:
            topic, payload, number = codec.read_publish(head, body)
            if number:
                client.out += codec.puback(number)
            before = client.number
            if self.mode == "echo":
                client.send(client.echo_topic, ANSWER, retain=False)
            elif self.mode == "answer":
                client.board.answer_unjudged(payload)
            else:
                client.board.take(topic.decode(), payload)
            self.answers += client.number - before
        elif kind == codec.CONNACK:
            if body[1]:
                raise ConnectionError
            client.online, client.connects = True, client.connects + 1
            client.out += codec.subscribe(65535, client.board.filters)
            if client.connects == 1:
                client.board.hello()
            else:  # as the publisher has it: with each connection a status and the profile
                client.board.tell_status()
                client.board.tell_profile()
        elif kind == codec.SUBACK:
            client.greeted = True

    def _keep_alive(self, now: float) -> None:
        for client in self.clients:
            if client.online and now - client.last_out > PING_AFTER_S:
                client.out += codec.PING
                self._flush(client)

    def _orders(self) -> bool:
        """Do what standard input says. Returns: False when it has ended."""
        data = os.read(0, 4096)
        self._lines += data
        *lines, self._lines = self._lines.split(b"\n")
        for line in lines:
            self._order(line.decode())
        return bool(data)

    def _order(self, word: str) -> None:
        if word in ("real", "answer", "echo"):
            self.mode = word
            self._say(mode=word)
        elif word == "status":
            for client in self.clients:
                if client.online:
                    client.board.tell_status()
                    self._flush(client)
            self._waiting_for_status = True
        else:
            self._say(
                connects=sum(one.connects for one in self.clients), online=sum(one.online for one in self.clients),
                answers=self.answers, peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            )  # fmt: skip

    @staticmethod
    def _say(**told: object) -> None:
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def main() -> int:
    """Run until standard input ends."""
    parser = argparse.ArgumentParser(description="thousands of simulated boards")
    parser.add_argument("port", type=int)
    parser.add_argument("boards", type=int)
    parser.add_argument("--fleet", default="plant")
    parser.add_argument("--operators", type=Path)
    options = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    operators = () if options.operators is None else parse_operators(options.operators.read_bytes()).operators
    Many(options.port, options.boards, options.fleet, operators).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
