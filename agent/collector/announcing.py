"""The connection on which Home Assistant is told of boards: when what is due is looked for, and sent.

Rules:
- It is a connection of its own: a collector's shared subscription gives it neither retained messages nor each birth.
- A broker that is away, or a store that cannot be read, is waited for; with each new connection all is sent again. A
  broker that refuses this collector for good ends it: the collector itself hears the same and says so.

Leaves what is said to ``agent.collector.home_assistant``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from agent.collector.home_assistant import Discovery
from agent.core.ports import StopRequested
from agent.errors import ReportError, StorageError
from agent.mqtt import BrokerSettings, Connection, Incoming, Publication, drive

_LOOK_S = 1.0  # chosen: a person who adds a board looks for it after a moment
_ANSWER_S = 10.0
_AT_A_TIME = 200  # documents of about 3 kB, so that a broker's queue for one client is not filled


@contextmanager
def announcing(settings: BrokerSettings, discovery: Discovery, complain: Callable[[str], None]) -> Iterator[None]:
    """Tell Home Assistant of boards in a thread while the block runs. See ``announce``."""
    ended = threading.Event()
    broker = msgspec.structs.replace(settings, client_id="", session_expiry_s=0)
    thread = threading.Thread(target=announce, args=(broker, discovery, ended.is_set, complain), name="home assistant")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def announce(
    settings: BrokerSettings,
    discovery: Discovery,
    stop: StopRequested,
    complain: Callable[[str], None] = lambda _: None,
) -> None:
    """Tell Home Assistant of boards until ``stop``. Args: complain: is told each new trouble, in a sentence."""
    connection = Connection(settings, on_online=discovery.again)

    def received(incoming: Incoming) -> None:
        discovery.take(incoming.topic, incoming.payload)

    for pattern in discovery.patterns:
        connection.subscribe(pattern, received)
    connection.start()
    trouble: str | None = None
    sent: list[Publication] = []
    try:
        while not stop():
            try:
                drive(connection, stop, _LOOK_S)
            except ReportError as error:
                complain(f"Home Assistant is not told of boards: {error}")
                return
            try:
                if connection.listening:
                    sent = _send(connection, discovery, sent, stop)
                now = _forbidden(connection, sent)
            except (ReportError, StorageError) as error:
                now = str(error)
            if now is not None and now != trouble:
                complain(now)
            trouble = now
    finally:
        connection.close()


def _send(
    connection: Connection, discovery: Discovery, before: list[Publication], stop: StopRequested
) -> list[Publication]:
    """Send what is due, a part at a time. Returns: what the broker has not answered or has refused."""
    sent = _open(before)

    def answered() -> bool:
        return stop() or not any(one.state == "sent" for one in sent)

    for topic, payload in discovery.due():
        sent.append(connection.publish(topic, payload, retain=True))
        if len(sent) >= _AT_A_TIME:
            drive(connection, answered, _ANSWER_S)
            sent[:] = _open(sent)
    return sent


def _open(sent: list[Publication]) -> list[Publication]:
    return [one for one in sent if one.state in ("sent", "refused")][-_AT_A_TIME + 1 :]


def _forbidden(connection: Connection, sent: list[Publication]) -> str | None:
    refused = dict(connection.refused_filters)
    refused.update({one.topic: str(one.reason) for one in sent if one.state == "refused"})
    for topic, reason in refused.items():
        return f"the broker keeps this collector from {topic}: {reason}. Make its access file with --home-assistant."
    return None
