"""The line to the broker, as an operator's console uses it: the retained replay, waiting, and keeping at it.

Rules:
- When the retained messages have come is known by a fence: a message to ourselves on a topic of our own, sent right
  after the subscription in one write. The broker answers in order, so what was retained lies before it.
- A broker whose queue for us overflows drops the rest, and the fence with it: mosquitto keeps 1000 messages per client
  (``max_queued_messages``). So fences are repeated; when a later one comes and the first does not, the replay is not
  whole, and that is an error, never a shorter list.
- Kinds are replayed one after the other, so that each has the queue to itself.
- Waiting looks at the request to stop several times a second: a signal does not end the wait for the network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import msgspec

from agent.core.ports import StopRequested
from agent.core.topics import Kind, console_topic, fleet_filter
from agent.errors import Interrupted, ReportError
from agent.mqtt import BrokerSettings, Connection, Incoming, Publication, drive, turn

CONNECT_TIMEOUT_S = 15.0
QUIET_S = 6.0  # chosen: a broker that has acknowledged the fences and sends nothing for so long will not
_FENCE_AGAIN_S = 2.0
_SLICE_S = 0.2


class Link:
    """One connection to one fleet's broker. Close it, or use it as a context manager.

    Args: session: a client id whose session outlives the connection, and for how long, seconds; None: nothing is kept.
    Raises: ConfigError: a certificate, key or password file cannot be used.
    """

    def __init__(
        self, settings: BrokerSettings, fleet: str, stop: StopRequested, session: tuple[str, float] | None = None
    ) -> None:
        name, keep_s = session or ("", 0.0)
        settings = msgspec.structs.replace(settings, client_id=name, session_expiry_s=round(keep_s))
        self.fleet = fleet
        self.connection = Connection(settings)
        self._stop = stop
        self._fences: set[int] = set()
        self._fences_sent = 0
        self._heard = 0
        self._fence_topic = console_topic(fleet, os.urandom(8).hex())

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye."""
        self.connection.close()

    def forget(self) -> None:
        """Let the broker drop the session with the goodbye: nothing more is to be kept for us."""
        self.connection.end_session()

    def connect(self) -> None:
        """Connect. Raises: ReportError: it did not come about."""
        self.connection.connect(CONNECT_TIMEOUT_S)

    def replay(self, kinds: Iterable[Kind], take: Callable[[str, bytes], object], device: str | None = None) -> None:
        """Subscribe to kinds of messages of one device or of all, and wait until what is retained has come.

        Raises: ReportError: the broker went away, forbids it, or gave a part only.
        """
        for kind in kinds:
            self.hear(fleet_filter(self.fleet, kind, device=device), take)
            self.settle()

    def hear(self, pattern: str, take: Callable[[str, bytes], object]) -> None:
        """Hand every message of a subscription to ``take`` (topic, payload) from now on."""

        def received(incoming: Incoming) -> None:
            self._heard += 1
            take(incoming.topic, incoming.payload)

        self.connection.subscribe(pattern, received)

    def settle(self) -> None:
        """Wait until what was asked for before has come. Raises: ReportError. Interrupted: a stop was asked for."""
        self._fences.clear()  # one of before may come yet: each has its own number
        first, quiet_s, heard = self._fences_sent, 0.0, self._heard
        self.connection.subscribe(self._fence_topic, self._fenced)
        connects, sent = self.connection.connects, [self._send_fence()]
        while not any(number >= first for number in self._fences):
            if self.wait(
                lambda: max(self._fences, default=-1) >= first or sent[-1].state in ("refused", "lost"), _FENCE_AGAIN_S
            ):
                if sent[-1].state == "refused":
                    raise ReportError(
                        f"the broker does not let this operator write to {self._fence_topic}: {sent[-1].reason}",
                        fix=f"allow operators to read and write boardfit/v1/{self.fleet}/#",
                    )
                if self.connection.connects != connects or sent[-1].state == "lost":
                    raise self.connection.last_error or ReportError("the connection broke", fix="try again")
                continue
            if self._stop():
                raise Interrupted("stopped before all was heard", fix="nothing was sent; run it again")
            quiet_s = quiet_s + _FENCE_AGAIN_S if heard == self._heard else 0.0
            heard = self._heard
            if quiet_s >= QUIET_S:
                raise ReportError(
                    f"the broker did not send back what was written to {self._fence_topic}",
                    fix=f"allow operators to read and write boardfit/v1/{self.fleet}/#",
                )
            if sent[-1].state == "acked":
                sent.append(self._send_fence())
        if first not in self._fences:
            raise ReportError(
                "the broker kept back a part of the retained messages, since its queue for one client is too short",
                fix="set `max_queued_messages 0` in mosquitto.conf, or what your broker calls it",
            )

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None) -> Publication:
        """Send one message. Raises: ReportError: not connected."""
        return self.connection.publish(topic, payload, retain=retain, expiry_s=expiry_s)

    def turn(self) -> None:
        """Write what waits and take what has arrived, without waiting for either."""
        turn(self.connection)

    def wait(self, until: Callable[[], bool], timeout_s: float, tick: Callable[[], object] | None = None) -> bool:
        """Drive the connection until ``until`` holds, a stop is asked for, or time is up; ``tick`` now and then.

        Returns: whether ``until`` holds.
        """
        left_s = timeout_s
        while not until():
            if self._stop() or left_s <= 0:
                return False
            step_s = min(_SLICE_S, left_s)
            drive(self.connection, until, step_s)
            left_s -= step_s
            if tick is not None:
                tick()
        return True

    def _send_fence(self) -> Publication:
        number, self._fences_sent = self._fences_sent, self._fences_sent + 1
        return self.publish(self._fence_topic, str(number).encode())

    def _fenced(self, incoming: Incoming) -> None:
        if incoming.payload.isdigit() and len(incoming.payload) < 6:
            self._fences.add(int(incoming.payload))
