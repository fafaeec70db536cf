"""One MQTT connection that the caller's loop drives: no thread of its own while idle, and no tick.

Rules:
- The caller watches ``fileno()`` (and for writing while ``wants_write()``), calls ``on_readable``, ``on_writable`` when
  they are, and ``on_timer`` at ``deadline()``. An idle connection wakes for its keep-alive only. The descriptor changes
  with every attempt, so it is asked for before each wait. ``drive`` does all this for one-shot use.
- A lost connection is dialled again after a random part of a delay that doubles up to two minutes (full jitter), so
  that a fleet does not come back all at once. The delay starts over once a connection has held for half a minute.
- Nothing is queued here: what is unacknowledged when the connection breaks is ``lost``, and its owner sends it again.
- Callbacks run after paho has let go of its locks, so that they may publish and close.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Literal

from paho.mqtt.client import MQTT_LOG_ERR
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.errors import ReportError
from agent.mqtt.client import bare_filter, new_client
from agent.mqtt.dial import Dialer, tls_context
from agent.mqtt.loop import drive
from agent.mqtt.refusals import lost_error, reason_name, refused_error
from agent.mqtt.rivals import Rivals
from agent.mqtt.settings import BrokerSettings
from agent.mqtt.stream import StreamClient, matcher
from agent.mqtt.values import Incoming, Publication, Will

log = logging.getLogger(__name__)

BACKOFF_BASE_S = 1.0
BACKOFF_CAP_S = 120.0
STEADY_S = 30.0
_FAILURE = 0x80  # MQTT 5.0, 2.4: reason codes from here on

State = Literal["idle", "waiting", "dialing", "greeting", "online", "closed"]


def random_share() -> float:
    """Return a random number in 0..1, from the kernel: an idle agent needs nothing else of the module ``random``."""
    return int.from_bytes(os.urandom(4), "little") / 2**32


class Connection:
    """A connection to one broker.

    Args:
        settings: which broker, and how.
        will: published by the broker when the connection breaks.
        on_online: called each time the broker has accepted us, after subscriptions were renewed.
        clock: monotonic seconds.   jitter: random number in 0..1.
        most_held: acknowledge nothing before ``acknowledge`` is called; how many messages the broker may send ahead.
    Raises: ConfigError: a certificate, key or password file cannot be used.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        will: Will | None = None,
        on_online: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random_share,
        most_held: int | None = None,
    ) -> None:
        self.settings = settings
        self._most_held = most_held
        self.state: State = "idle"
        self.last_error: ReportError | None = None
        self.receive_maximum = 65535
        self.max_packet_bytes: int | None = None
        self.connects = 0
        self.rivals = Rivals()
        self.refused_filters: dict[str, str] = {}  # pattern -> the broker's reason
        self._will = will
        self._on_online = on_online
        self._clock = clock
        self._jitter = jitter
        self._context = tls_context(settings)
        self._dialer: Dialer | None = None
        self._attempts = 0
        self._due = 0.0  # when to dial, or to give up waiting for CONNACK
        self._online_since = 0.0
        self._last_in = self._last_out = 0.0
        self._refusal: ReportError | None = None
        self._transport_text = ""
        self._events: deque[tuple[Any, ...]] = deque()  # what to call, and with what
        self._publications: dict[int, Publication] = {}
        self._unanswered: dict[int, str] = {}  # SUBSCRIBE -> its pattern
        self._subscriptions: dict[str, int] = {}
        self._listeners: dict[str, tuple[re.Pattern[str], Callable[[Incoming], None]]] = {}
        self._goodbye: Properties | None = None
        self._paho = self._new_client()

    def start(self) -> None:
        """Begin to connect, and stay connected until ``close``."""
        if self.state == "idle":
            self._dial()

    def connect(self, timeout_s: float) -> None:
        """Connect once, waiting for the broker's answer. Raises: ReportError: it did not come about."""
        self.start()
        drive(self, lambda: self.state == "online" or self.last_error is not None, timeout_s, self._clock)
        if self.state != "online":
            raise self.last_error or ReportError(
                f"{self.settings.url} does not answer", fix="check the network and mqtt.url", cause="timeout"
            )

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int | None = None
    ) -> Publication:
        """Send one message.

        Args: expiry_s: how long the broker may keep it for subscribers that are away (MQTT 5 and QoS 1 only).
        Raises: ReportError: not connected.
        """
        if self.state != "online":
            raise self.last_error or ReportError(f"not connected to {self.settings.url}", cause="offline")
        publication = Publication(topic)
        if qos == 1:
            number = self._paho.send(topic, payload, retain=retain, expiry_s=expiry_s)
        else:
            number = self._paho.publish(topic, payload, qos, retain).mid
        self._publications[number] = publication
        return publication

    def subscribe(self, pattern: str, callback: Callable[[Incoming], None], *, qos: int = 1) -> None:
        """Receive what matches ``pattern``, now and after every reconnect."""
        self._subscriptions[pattern] = qos
        self._listeners[bare_filter(pattern)] = matcher(bare_filter(pattern)), callback
        if self.state == "online":
            self._subscribe(pattern, qos)

    def unsubscribe(self, pattern: str) -> None:
        """Receive no more by this pattern; another one of the same topics (``$share/...``) goes on."""
        del self._subscriptions[pattern]
        if bare_filter(pattern) not in map(bare_filter, self._subscriptions):
            del self._listeners[bare_filter(pattern)]
        if self.state == "online":
            self._paho.unsubscribe(pattern)

    def acknowledge(self, mids: Iterable[int]) -> None:
        """Tell the broker that messages of this very connection need not be kept (only with ``most_held``)."""
        if self.state == "online":
            self._paho.acknowledge(mids)

    @property
    def listening(self) -> bool:
        """Return whether the broker has answered every subscription, so that nothing later is missed."""
        return self.state == "online" and not self._unanswered

    def set_will(self, will: Will) -> None:
        """Replace the last will; it holds from the next connect on."""
        self._will = will

    def fileno(self) -> int | None:
        """Return the descriptor to watch for reading, None while there is none."""
        if self._dialer is not None:
            return self._dialer.fileno()
        connected = self._paho.socket()
        return None if connected is None else int(connected.fileno())

    def wants_write(self) -> bool:
        """Return whether something waits to be written."""
        return self._dialer is None and self._paho.socket() is not None and self._paho.want_write()

    def on_readable(self) -> None:
        """Take what has arrived, then run callbacks."""
        if self._dialer is not None:
            self._greet()
            return
        while True:
            self._paho.loop_read()
            self._last_in = self._clock()
            connected = self._paho.socket()
            # TLS may hold decrypted bytes that make no descriptor readable.
            if not isinstance(connected, ssl.SSLSocket) or not connected.pending():
                break
        self._settle()

    def on_writable(self) -> None:
        """Send what is waiting, then run callbacks."""
        if self._dialer is None:
            self._paho.loop_write()
            self._last_out = self._clock()
            self._settle()

    def deadline(self) -> float | None:
        """Return the monotonic time at which ``on_timer`` has work, None when only the descriptor matters."""
        if self.state in ("waiting", "greeting"):
            return self._due
        if self.state == "online" and self._paho.keepalive:
            return min(self._last_in, self._last_out) + self._paho.keepalive
        return None

    def on_timer(self) -> float | None:
        """Do what is due: dial again, give up waiting, send a ping. Returns: the next ``deadline()``."""
        deadline, now = self.deadline(), self._clock()
        if deadline is not None and now >= deadline:
            if self.state == "waiting":
                self._dial()
            elif self.state == "greeting":
                self._refusal = ReportError(
                    f"{self.settings.url} accepts connections and does not answer",
                    fix="check that the port speaks MQTT" + (" over TLS" if self._context else ""),
                    cause="timeout",
                )
                self._lost()
            else:
                self._paho.loop_misc()
                self._last_in = self._last_out = now
                self._settle()
        return self.deadline()

    def end_session(self) -> None:
        """Have the broker forget session and subscriptions at ``close``, however long it was asked to keep them."""
        if self.settings.protocol == "5":
            self._goodbye = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
            self._goodbye.SessionExpiryInterval = 0

    def close(self, timeout_s: float = 2.0) -> None:
        """Say goodbye and close, so that the last will is not published. May be called again."""
        was_online, self.state = self.state == "online", "closed"
        if was_online:
            self._paho.disconnect(properties=self._goodbye)
            drive(self, lambda: self._paho.socket() is None, timeout_s, self._clock)
        if self._dialer is not None:
            self._dialer.abandon()
            self._dialer = None
        self._drop_socket()
        self._events.clear()
        self._forget_publications()

    def _new_client(self) -> StreamClient:
        client = new_client(self.settings, self._most_held)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._published
        client.on_subscribe = self._subscribed
        client.on_incoming = self._received
        client.on_acknowledged = self._acknowledged
        client.on_log = self._logged
        # With this callback set, paho leaves all writing to our loop, and errors appear in one place only.
        client.on_socket_register_write = _leave_writing_to_us
        return client

    def _dial(self) -> None:
        self.state = "dialing"
        self._refusal, self._transport_text = None, ""
        self._dialer = Dialer(self.settings, self._context)

    def _greet(self) -> None:
        assert self._dialer is not None
        try:
            connected = self._dialer.result()
        except ReportError as error:
            self._dialer = None
            self._refusal = error
            self._lost()
            return
        if connected is None:
            return
        self._dialer = None
        self.state = "greeting"
        self._last_in = self._last_out = self._clock()
        self._due = self._last_out + self.settings.connect_timeout_s
        if self._will is not None:
            self._paho.will_set(self._will.topic, self._will.payload, self._will.qos, self._will.retain)
        self._paho.ready = connected
        self._paho.reconnect()
        self._settle()

    def _settle(self) -> None:
        while self._events:
            call, *arguments = self._events.popleft()
            call(*arguments)

    def _accepted(self, properties: Properties | None) -> None:
        self.state = "online"
        self.connects += 1
        self.last_error = None
        self._online_since = self._clock()
        self.receive_maximum = int(getattr(properties, "ReceiveMaximum", 65535))
        self._paho.credit = self.receive_maximum
        limit = getattr(properties, "MaximumPacketSize", None)
        self.max_packet_bytes = None if limit is None else int(limit)
        self._unanswered.clear()
        self.refused_filters.clear()
        for pattern, qos in self._subscriptions.items():
            self._subscribe(pattern, qos)
        if self._on_online is not None:
            self._on_online()

    def _lost(self) -> None:
        if self.state in ("waiting", "closed", "idle"):
            return
        if self.state == "online" and self._clock() - self._online_since >= STEADY_S:
            self._attempts = 0
        self.last_error = self._refusal or lost_error(self.settings, self.state == "online", self._transport_text)
        if self.state == "online":
            self.rivals.note(self._clock(), told=self.last_error.facts.get("cause") == "taken_over")
        delay = self._jitter() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(self._attempts, 20))
        log.info("%s; trying again in %.1f s", self.last_error.problem, delay)
        self._attempts += 1
        self.state = "waiting"
        self._due = self._clock() + delay
        self._drop_socket()
        self._forget_publications()

    def _drop_socket(self) -> None:
        connected = self._paho.socket()
        if isinstance(connected, socket.socket):
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
            while self._paho.socket() is not None:
                self._paho.loop_read()  # reads to the end that we have just made, and lets go of the socket
        self._events.clear()

    def _forget_publications(self) -> None:
        self._paho.drop_out_messages()
        for publication in self._publications.values():
            publication.state = "lost"
        self._publications.clear()

    def _connected(self, _client: Any, _data: Any, _flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            self._refusal = refused_error(self.settings, code.getName())
        else:
            self._events.append((self._accepted, properties))

    def _disconnected(self, _client: Any, _data: Any, flags: Any, code: Any, _properties: Any) -> None:
        if flags.is_disconnect_packet_from_server and self._refusal is None:
            self._refusal = refused_error(self.settings, code.getName())
        self._events.append((self._lost,))

    def _published(self, _client: Any, _data: Any, mid: int, code: Any, _properties: Any) -> None:
        publication = self._publications.pop(mid, None)
        if publication is not None:
            publication.state = "refused" if code.is_failure else "acked"
            publication.reason = code.getName() if code.is_failure else None

    def _acknowledged(self, number: int, reason: int) -> None:
        publication = self._publications.pop(number, None)
        if publication is None:
            return
        publication.state = "refused" if reason >= _FAILURE else "acked"
        publication.reason = reason_name(reason) if reason >= _FAILURE else None

    def _subscribe(self, pattern: str, qos: int) -> None:
        _, mid = self._paho.subscribe(pattern, qos)
        if mid is not None:
            self._unanswered[mid] = pattern

    def _subscribed(self, _client: Any, _data: Any, mid: int, codes: Any, _properties: Any) -> None:
        pattern = self._unanswered.pop(mid, "a subscription")
        for code in codes:
            if code.is_failure:
                self.refused_filters[pattern] = code.getName()
                log.warning("the broker refused %s: %s", pattern, code.getName())

    def _received(self, received: Incoming) -> None:
        for pattern, callback in self._listeners.values():
            if pattern.fullmatch(received.topic):
                self._events.append((callback, received))

    def _logged(self, _client: Any, _data: Any, level: int, text: str) -> None:
        if level == MQTT_LOG_ERR:
            self._transport_text = text


def _leave_writing_to_us(*_: Any) -> None:
    return None
