"""Power meters in the board's supply that tell over MQTT: one connection a meter, in a thread that sleeps in poll.

Rules:
- A value is stamped with this board's monotonic clock when it arrives, so that reading late does not date it late. It
  may be up to one period old by then, which the figure's error allows for.
- The meter is asked once a period while somebody reads, and left alone otherwise; what it tells unasked counts too. A
  minute after the last read the connection is closed and the thread ends.
- Retained messages are of another time: they are passed over.
- A meter that says nothing for five periods, and five seconds at least, is silent: a reason, not a number. So is a
  counter that went back: it was set to zero, and its values after that are left out until reading starts anew.
- Power is that of whatever hangs behind the meter: the board, its supply, and what else is plugged in there.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from agent.core.facts import SensorFacts
from agent.core.ports import Clock, PowerMeter, PowerSample
from agent.device.outside import MeterSettings
from agent.device.power_meter_kinds import Heard, talk
from agent.device.root import unavailable
from agent.device.sensor_state import try_sensor
from agent.errors import BoardfitError, ConfigError, ReportError, SensorUnavailableError
from agent.mqtt import Connection, Incoming

_PATIENCE_PERIODS = 5.0
_PATIENCE_MIN_S = 5.0
_REST_S = 3.0  # without a read for this long (or three periods): nobody measures, so nobody asks
_LINGER_S = 60.0
_MERGE_S = 0.5  # power and energy of one report come as two messages
_RETRY_S = 60.0  # a meter that was silent is not waited for again before
_LOOK_S = 0.05
_KEPT = 16  # values that nobody has read yet


class MqttMeter:
    """One meter. Implements ``agent.core.ports.PowerMeter``.

    Raises: ConfigError: a component that this kind of meter does not have.
    """

    def __init__(self, settings: MeterSettings, clock: Clock) -> None:
        self.settings = settings
        self.name = f"{settings.kind}:{settings.name}"
        self.scope = "board"
        self._reply_to = f"boardfit-meter-{secrets.token_hex(6)}"
        try:
            self._talk = talk(settings.kind, settings.topic, settings.component, self._reply_to)
        except ValueError as error:
            raise ConfigError(
                f"power.meters.{settings.name}.component: {error}", fix="correct that value or leave it out"
            ) from error
        self.period_s = settings.period_s or self._talk.period_s
        self._patience_s = max(_PATIENCE_MIN_S, _PATIENCE_PERIODS * self.period_s)
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._wanted_s = float("-inf")
        self._since_s = 0.0
        self._newest: PowerSample | None = None
        self._unread: deque[PowerSample] = deque(maxlen=_KEPT)
        self._steps: tuple[float | None, float | None] = (None, None)
        self._last_energy_j: float | None = None
        self._counter_broken = False
        self._trouble: str | None = None  # why there may be no value, as far as it is known
        self._hopeless = False  # it will not pass by itself

    def read(self) -> PowerSample:
        """Return the oldest value not read yet, so that a reader a little out of step misses none, else the newest.

        Raises: SensorUnavailableError: silent; with EAGAIN while the first is on its way.
        """
        now = self._clock.monotonic_s()
        with self._lock:
            if now - self._wanted_s > max(_REST_S, 3.0 * self.period_s):
                self._since_s, self._newest, self._trouble = now, None, None
                self._last_energy_j, self._counter_broken, self._hopeless = None, False, False
                self._unread.clear()
            self._wanted_s = now
            if self._thread is not None:
                self._poke()
            elif not self._hopeless:
                self._start()
            newest, trouble = self._newest, self._trouble
            unread = self._unread.popleft() if self._unread else None
            hopeless = self._hopeless
            quiet_s = now - max(self._since_s, newest.monotonic_s if newest is not None else self._since_s)
        if hopeless or quiet_s > self._patience_s:
            raise unavailable(self.name, "broken", why=trouble or f"silent for {quiet_s:.0f} s")
        if newest is None:
            problem = f"{self.name}: {trouble or 'no value yet'}"
            raise SensorUnavailableError(problem, state="broken", errno=errno.EAGAIN)
        return unread or newest

    def first(self, pause: Callable[[float], None] = time.sleep) -> PowerSample:
        """Wait for the first value. Raises: SensorUnavailableError: the meter stays silent."""
        while True:
            try:
                return self.read()
            except SensorUnavailableError as error:
                if error.facts.get("errno") != errno.EAGAIN:
                    raise
            pause(_LOOK_S)

    def close(self) -> None:
        """End the connection and its thread now rather than a minute after the last read."""
        with self._lock:
            self._wanted_s = float("-inf")
            thread = self._thread
            self._poke()
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        readable, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._work, args=(readable,), name=self.name, daemon=True)
        self._thread.start()

    def _poke(self) -> None:
        if self._wake >= 0:
            try:
                os.write(self._wake, b"x")
            except BlockingIOError:
                return  # it has been poked often enough

    def _work(self, readable: int) -> None:
        connection: Connection | None = None
        try:
            connection = Connection(self.settings.broker)
            for pattern in self._talk.patterns:
                connection.subscribe(pattern, self._take, qos=0)
            connection.start()
            self._converse(connection, readable)
        except BoardfitError as error:
            with self._lock:
                self._trouble, self._hopeless = error.problem, True
        finally:
            if connection is not None:
                connection.close()
            with self._lock:
                os.close(readable)
                os.close(self._wake)
                self._thread, self._wake = None, -1

    def _converse(self, connection: Connection, readable: int) -> None:
        """Drive the connection and ask, until nobody has read for a minute."""
        run, due_s = 0, 0.0
        while True:
            deadline = connection.on_timer()
            now = time.monotonic()
            with self._lock:
                idle_s = self._clock.monotonic_s() - self._wanted_s
                if connection.last_error is not None:
                    self._trouble = connection.last_error.problem
            if idle_s > _LINGER_S:
                return
            waits = [_LINGER_S] if deadline is None else [_LINGER_S, deadline - now]
            if self.settings.ask and connection.listening and idle_s <= max(_REST_S, 3.0 * self.period_s):
                if now >= due_s:
                    run, due_s = run + 1, max(now, due_s + self.period_s)
                    topic, payload = self._talk.question(run)
                    try:
                        connection.publish(topic, payload, qos=0)
                    except ReportError:
                        continue  # the connection broke meanwhile, and says so at the next turn
                waits.append(due_s - now)
            poll = select.poll()
            poll.register(readable, select.POLLIN)
            descriptor = connection.fileno()
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN | (select.POLLOUT if connection.wants_write() else 0))
            for ready, events in poll.poll(max(0.0, min(waits)) * 1000.0 + 0.5):
                if ready == readable:
                    os.read(readable, 4096)
                    continue
                if events & select.POLLOUT:
                    connection.on_writable()
                if events & ~select.POLLOUT:
                    connection.on_readable()

    def _take(self, message: Incoming) -> None:
        arrived_s = self._clock.monotonic_s()
        if message.retain:
            return
        try:
            heard = self._talk.hear(message.topic, message.payload)
        except ValueError as error:
            with self._lock:
                self._trouble = str(error)
            return
        if heard is not None:
            with self._lock:
                self._keep(heard, arrived_s)

    def _keep(self, heard: Heard, arrived_s: float) -> None:
        finest = [
            min((one for one in pair if one is not None), default=None)
            for pair in zip(self._steps, (heard.step_w, heard.step_j), strict=True)
        ]
        self._steps = (finest[0], finest[1])
        energy_j = heard.energy_j
        if energy_j is not None:
            if self._last_energy_j is not None and energy_j < self._last_energy_j:
                self._counter_broken = True
            self._last_energy_j = energy_j
        power_w, before = heard.power_w, self._newest
        if before is not None and arrived_s - before.monotonic_s < min(_MERGE_S, self.period_s / 2.0):
            if power_w is None and before.energy_j is None:
                power_w, arrived_s = before.power_w, before.monotonic_s
            elif energy_j is None and before.power_w is None:
                energy_j, arrived_s = before.energy_j, before.monotonic_s
            if arrived_s == before.monotonic_s and self._unread:
                self._unread.pop()
        self._trouble = None
        self._newest = PowerSample(
            monotonic_s=arrived_s,
            power_w=power_w,
            energy_j=None if self._counter_broken else energy_j,
            resolution_w=self._steps[0],
            resolution_j=self._steps[1],
            accuracy_ratio=self.settings.accuracy_ratio,
        )
        self._unread.append(self._newest)


class MqttMeters:
    """The configured meters: waited for when they are first wanted, and not again for a minute when silent."""

    def __init__(self, settings: tuple[MeterSettings, ...], clock: Clock) -> None:
        self.all = tuple(MqttMeter(one, clock) for one in settings)
        self._clock = clock
        self._silent: dict[str, tuple[float, SensorUnavailableError]] = {}

    def first(self, meter: MqttMeter) -> PowerSample:
        """Return a meter's value. Raises: SensorUnavailableError: it is silent, or was less than a minute ago."""
        now = self._clock.monotonic_s()
        since_s, error = self._silent.get(meter.name, (float("-inf"), None))
        if error is not None and now - since_s < _RETRY_S:
            raise error
        try:
            sample = meter.first()
        except SensorUnavailableError as silent:
            self._silent[meter.name] = (self._clock.monotonic_s(), silent)
            raise
        self._silent.pop(meter.name, None)
        return sample

    def meters(self) -> tuple[PowerMeter, ...]:
        """Return the meters that speak now."""
        found: list[PowerMeter] = []
        for meter in self.all:
            try:
                self.first(meter)
            except SensorUnavailableError:
                continue
            found.append(meter)
        return tuple(found)

    def describe(self) -> tuple[SensorFacts, ...]:
        """State every meter and whether it speaks."""
        return tuple(
            try_sensor(
                meter.name,
                "power",
                partial(self.first, meter),
                source=f"{meter.settings.broker.url} {meter.settings.topic}",
                unit="W",
                scope="board",
            )
            for meter in self.all
        )

    def close(self) -> None:
        """End their connections."""
        for meter in self.all:
            meter.close()
