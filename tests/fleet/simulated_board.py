"""A simulated board of ``benchmarks.simulated`` at a real broker, in a thread of its own. Results are made up.

It ends each job at once as ``ends`` says, unless ``holds`` keeps it at work; a ``silent`` one hears nothing, an
``older`` one says less in its status.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

import msgspec

from agent.clock import iso
from agent.core.command import Command
from agent.core.messages import encode
from agent.core.operators import Operator
from agent.core.payloads import DecisionMessage, DeploymentMessage
from agent.core.topics import topic_for
from agent.fleet.rollout_board import Order
from agent.mqtt import BrokerSettings, Connection, Incoming, drive
from benchmarks.simulated import board as simulated
from benchmarks.simulated.documents import BoardClass

EPOCH = "e" * 32


class _Board(simulated.SimulatedBoard):
    """Ends jobs as it is told to, whatever they are."""

    ends, holds = "SUCCEEDED", False

    @property
    def epoch(self) -> str:
        return EPOCH

    def hello(self) -> None:
        self.tell_status()
        self.tell_profile()
        self.tell_reported()

    def order(self, order: Order) -> None:
        self.known_jobs.add(order.job)
        self._job(order, "QUEUED", 1)
        self._job(order, "IN_PROGRESS", 2, stage="measure", done=1, total=4)
        if not self.holds:
            self.end(order)

    def end(self, order: Order) -> None:
        reason = None if self.ends == "SUCCEEDED" else "no candidate fits"
        self._job(order, self.ends, 3, reason=reason, exit_code=0 if reason is None else 3)


class SimulatedBoard:
    """One board in a thread of its own; ``commands`` are those it obeyed."""

    def __init__(
        self,
        settings: BrokerSettings,
        name: str,
        operators: Iterable[Operator] = (),
        *,
        groups: tuple[str, ...] = (),
        soc: str = "bcm2712",
        ends: str = "SUCCEEDED",
        holds: bool = False,
        silent: bool = False,
        older: bool = False,
    ) -> None:
        of = BoardClass(name=soc, class_fingerprint=f"{soc.encode().hex():0<64}", soc=soc)
        self._told: list[Any] = []
        self._board = _Board(name, of, simulated.Ways(), self._publish, groups=groups, operators=operators)
        self._board.ends, self._board.holds, self._board.older = ends, holds, older
        self.at, self.commands = self._board.at, self._board.commands
        self._silent = silent
        self._stopping = threading.Event()
        self._connection = Connection(msgspec.structs.replace(settings, client_id=name), will=self._board.will)
        self._connection.connect(10)
        for pattern in self._board.filters:
            self._connection.subscribe(pattern, self._received)
        assert drive(self._connection, lambda: self._connection.listening, 10)
        self._board.hello()
        assert drive(self._connection, lambda: all(one.state == "acked" for one in self._told), 10)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            drive(self._connection, self._stopping.is_set, 0.05)

    def stop(self, *, goodbye: bool = True) -> None:
        """Leave; without a goodbye the broker publishes the last will."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._thread.join()
        if not goodbye:
            self._connection._drop_socket()
        self._connection.close()

    def tell_task(self, task: str, candidate: str, p95_s: float) -> None:
        """Tell of a deployment and the decision before it; call it before anybody listens."""
        now, origin = iso(datetime.now(timezone.utc)), self._board.origin()
        deployment = DeploymentMessage(**origin, task=task, phase="ACTIVE", changed_at=now, candidate=candidate)
        self._publish(topic_for(self.at, "deployment", task), encode(deployment), True)
        decision = DecisionMessage(
            **origin, id="d1", task=task, decided_at=now, class_fingerprint="c", outcome="chosen", reason="made up",
            options_total=1, options_fitting=1, options=(), budgets=(), objectives=(), candidate=candidate,
            latency_p95_s=p95_s,
        )  # fmt: skip
        self._publish(topic_for(self.at, "decision", task), encode(decision), True)

    def end(self, command: Command) -> None:
        """End a job as ``ends`` says."""
        self._board.end(Order(board=self.at.device, verb=command.verb, job=command.id, arguments={}, deadline_s=1.0))

    def _publish(self, topic: str, payload: bytes, retain: bool) -> None:
        self._told.append(self._connection.publish(topic, payload, retain=retain))

    def _received(self, incoming: Incoming) -> None:
        if not self._silent:
            self._board.take(incoming.topic, incoming.payload)
