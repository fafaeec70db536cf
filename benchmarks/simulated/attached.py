"""Simulated boards at a broker, each over a connection of its own as real boards have it, all in one loop.

For some dozens; thousands are for ``many``. Work takes a while, so that a person can watch it.
"""

from __future__ import annotations

import random
import select
import time
from collections.abc import Callable
from typing import Any

import msgspec

from agent.errors import ReportError
from agent.mqtt import BrokerSettings, Connection, Incoming
from benchmarks.simulated.board import SimulatedBoard, Ways
from benchmarks.simulated.documents import BoardClass

_SLICE_S = 0.2


class _Line:
    """One board and its connection, and when it has something to do (monotonic seconds)."""

    def __init__(self, settings: BrokerSettings, client_id: str, make: Callable[[_Line], SimulatedBoard]) -> None:
        self.board = make(self)
        self.connection = Connection(
            msgspec.structs.replace(settings, client_id=client_id), will=self.board.will, on_online=self.board.hello
        )
        for pattern in self.board.filters:
            self.connection.subscribe(pattern, self._received)
        self.work_due: float | None = None
        self.telemetry_due = 0.0

    def tell(self, topic: str, payload: bytes, retain: bool) -> None:
        """Publish; what cannot be sent is lost, as nothing here outlives a connection."""
        if self.connection.state == "online":
            self.connection.publish(topic, payload, retain=retain)

    def _received(self, incoming: Incoming) -> None:
        self.board.take(incoming.topic, incoming.payload)


class AttachedBoards:
    """Simulated boards and the loop that drives them; a context manager that says goodbye for all.

    Args: work_s: how long a job takes, about. telemetry_s: how often each board tells its condition, about.
    """

    def __init__(self, settings: BrokerSettings, *, work_s: float = 2.0, telemetry_s: float = 20.0) -> None:
        self._settings = settings
        self._work_s, self._telemetry_s = work_s, telemetry_s
        self._lines: dict[str, _Line] = {}
        self._random = random.Random(1)

    def __enter__(self) -> AttachedBoards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def members(self) -> dict[str, SimulatedBoard]:
        """The boards by name."""
        return {name: line.board for name, line in self._lines.items()}

    def add(self, name: str, of: BoardClass, ways: Ways = Ways(), **more: Any) -> SimulatedBoard:  # noqa: B008
        """Add a board; ``more`` goes to ``SimulatedBoard`` (fleet, groups, operators, task, candidates)."""
        fleet = more.get("fleet", "plant")

        def make(line: _Line) -> SimulatedBoard:
            return SimulatedBoard(name, of, ways, line.tell, **more)

        self._lines[name] = _Line(self._settings, f"simulated-{fleet}-{name}", make)
        return self._lines[name].board

    def connect(self, timeout_s: float = 20.0) -> None:
        """Connect all, and have them tell what they are and know. Raises: ReportError: one does not get through."""
        for line in self._lines.values():
            line.connection.start()
        if not self.run(lambda: all(line.connection.listening for line in self._lines.values()), timeout_s):
            failed = next(line for line in self._lines.values() if not line.connection.listening)
            raise failed.connection.last_error or ReportError(f"{failed.board.name} does not get through")
        for line in self._lines.values():
            line.board.tell_measurements(line.board.candidates[name] for name in sorted(line.board.known))

    def run(self, until: Callable[[], bool], timeout_s: float = float("inf")) -> bool:
        """Drive all until something holds, or time is up. Returns: whether it holds."""
        end = time.monotonic() + timeout_s
        while not until():
            now = time.monotonic()
            if now >= end:
                return False
            self._tend(now)
            self._wait(min(_SLICE_S, end - now))
        return True

    def close(self) -> None:
        """Say goodbye: each leaves an offline status."""
        for line in self._lines.values():
            if line.connection.state == "online":
                line.board.leave()
            line.connection.close()
        self._lines.clear()

    def _tend(self, now: float) -> None:
        for line in self._lines.values():
            line.connection.on_timer()
            board = line.board
            if line.work_due is None and board.begin():
                board.tell_status()
                line.work_due = now + self._work_s * self._random.uniform(0.5, 1.5)
            elif line.work_due is not None and now >= line.work_due:
                line.work_due = None
                board.finish()
                board.tell_status()
            if now >= line.telemetry_due:
                line.telemetry_due = now + self._telemetry_s * self._random.uniform(0.8, 1.2)
                board.tell_telemetry(self._random.random())

    def _wait(self, timeout_s: float) -> None:
        poll, watched = select.poll(), {}
        for line in self._lines.values():
            descriptor = line.connection.fileno()
            if descriptor is not None:
                watched[descriptor] = line.connection
                wants = select.POLLOUT if line.connection.wants_write() else 0
                poll.register(descriptor, select.POLLIN | wants)
        for descriptor, events in poll.poll(timeout_s * 1000):
            connection = watched[descriptor]
            if events & select.POLLOUT:
                connection.on_writable()
            if events & ~select.POLLOUT:
                connection.on_readable()
