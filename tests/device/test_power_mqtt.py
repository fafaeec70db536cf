"""Meters over a real broker; the meters themselves are simulated stand-ins that say what real ones say."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.core.ports import PowerSample
from agent.demo_broker import free_port
from agent.device.board import Board
from agent.device.outside import MeterKind, MeterSettings, Outside
from agent.device.power_mqtt import MqttMeter, MqttMeters
from agent.device.root import state_of
from agent.errors import ConfigError, SensorUnavailableError
from agent.measure.sampler import PowerSeries, power_figures, read_idle
from agent.mqtt import BrokerSettings, Connection, Incoming, drive
from tests.brokers import Mosquitto

Answer = Callable[[Incoming], list[tuple[str, bytes]]]
PATIENCE_S = 20.0


class SimulatedMeter:
    """A stand-in at the broker: it answers what it is asked as ``answer`` says, and can speak unasked."""

    def __init__(self, settings: BrokerSettings, asked_at: str, answer: Answer) -> None:
        self._settings, self._answer = settings, answer
        self.questions: list[Incoming] = []
        self._stop = False
        self._connection = Connection(settings)
        self._connection.connect(PATIENCE_S)
        self._connection.subscribe(asked_at, self._asked)
        assert drive(self._connection, lambda: self._connection.listening, PATIENCE_S)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _asked(self, message: Incoming) -> None:
        self.questions.append(message)
        for topic, payload in self._answer(message):
            self._connection.publish(topic, payload, qos=0)

    def _work(self) -> None:
        while not self._stop:
            drive(self._connection, lambda: self._stop, 0.05)

    def close(self) -> None:
        self._stop = True
        self._thread.join()
        self._connection.close()


class Tongue:
    """Publishes one message at a time and waits until the broker has it."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._connection = Connection(settings)
        self._connection.connect(PATIENCE_S)

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        sent = self._connection.publish(topic, payload, retain=retain)
        assert drive(self._connection, lambda: sent.state == "acked", PATIENCE_S)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def closing() -> Iterator[Callable[[Any], Any]]:
    opened: list[Any] = []

    def keep(one: Any) -> Any:
        opened.append(one)
        return one

    yield keep
    for one in reversed(opened):
        one.close()


def settings(broker: Mosquitto, kind: MeterKind, period_s: float = 0.05, **more: Any) -> MeterSettings:
    return MeterSettings(name="plug", kind=kind, topic="plug-1", broker=broker.settings(), period_s=period_s, **more)


def shelly(power_w: Callable[[], float], energy_wh: Callable[[], float]) -> Answer:
    def answer(message: Incoming) -> list[tuple[str, bytes]]:
        asked = json.loads(message.payload)
        result = f'{{"id":0,"output":true,"apower":{power_w():.1f},"aenergy":{{"total":{energy_wh():.3f}}}}}'
        reply = f'{{"id":{asked["id"]},"src":"plug-1","dst":"{asked["src"]}","result":{result}}}'
        return [(asked["src"] + "/rpc", reply.encode())]

    return answer


def next_value(meter: MqttMeter, after: PowerSample | None = None) -> PowerSample:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        sample = meter.first()
        if after is None or sample.monotonic_s > after.monotonic_s:
            return sample
        threading.Event().wait(0.01)
    raise AssertionError("no newer value came")


def test_shelly_is_asked_and_its_answers_are_stamped_when_they_arrive(broker: Mosquitto, closing: Any) -> None:
    plug = closing(SimulatedMeter(broker.settings(), "plug-1/rpc", shelly(lambda: 7.5, lambda: 100.0)))
    meter = closing(MqttMeter(settings(broker, "shelly", accuracy_ratio=0.01), SystemClock()))
    before = time.monotonic()
    first = next_value(meter)
    second = next_value(meter, first)
    assert before < first.monotonic_s < second.monotonic_s < time.monotonic()
    assert (first.power_w, first.energy_j) == (7.5, pytest.approx(360_000.0))
    assert (first.resolution_w, first.resolution_j) == (pytest.approx(0.1), pytest.approx(3.6))
    assert first.accuracy_ratio == 0.01
    assert (meter.name, meter.scope) == ("shelly:plug", "board")
    assert len(plug.questions) >= 2


def test_energy_per_inference_from_a_simulated_plug(broker: Mosquitto, closing: Any) -> None:
    state = {"power": 3.0}
    closing(SimulatedMeter(broker.settings(), "plug-1/rpc", shelly(lambda: state["power"], lambda: 100.0)))
    meter = closing(MqttMeter(settings(broker, "shelly", period_s=0.25), SystemClock()))
    meter.first()
    idle = read_idle(meter, 4.0, lambda: False)
    state["power"] = 8.0
    next_value(meter, next_value(meter, meter.first()))  # what was on its way still said idle
    window = read_idle(meter, 4.0, lambda: False)
    figures, reason = power_figures(idle, window, 50, 4.0)
    assert figures is not None and reason is None
    assert (figures.scope, figures.source, figures.method) == ("board", "shelly:plug", "trapezoid")
    assert figures.energy_per_inference_j is not None
    assert figures.energy_per_inference_j.value == pytest.approx((8.0 - 3.0) * 4.0 / 50, rel=0.02)
    assert figures.resolution_w == pytest.approx(0.1)


def test_tasmota_is_asked_and_what_it_tells_by_itself_counts_too(broker: Mosquitto, closing: Any) -> None:
    said = b'{"StatusSNS":{"Time":"2026-01-11T21:57:38","ENERGY":{"Total":3.705,"Power":5}}}'
    closing(SimulatedMeter(broker.settings(), "cmnd/plug-1/Status", lambda _: [("stat/plug-1/STATUS8", said)]))
    meter = closing(MqttMeter(settings(broker, "tasmota"), SystemClock()))
    sample = next_value(meter)
    assert (sample.power_w, sample.resolution_w, sample.resolution_j) == (5.0, 1.0, pytest.approx(3600.0))
    closing(Tongue(broker.settings())).say("tele/plug-1/SENSOR", b'{"ENERGY":{"Total":3.706,"Power":17}}')
    while sample.power_w != 17.0:
        sample = next_value(meter, sample)


def test_power_and_energy_of_the_first_generation_are_one_value(broker: Mosquitto, closing: Any) -> None:
    root = "shellies/plug-1/relay/0"
    closing(
        SimulatedMeter(
            broker.settings(),
            "shellies/plug-1/command",
            lambda _: [(f"{root}/power", b"4.27"), (f"{root}/energy", b"120")],
        )
    )
    meter = closing(MqttMeter(settings(broker, "shelly-gen1", ask=True), SystemClock()))
    sample = next_value(meter)
    while sample.energy_j is None or sample.power_w is None:
        sample = next_value(meter)
    assert (sample.power_w, sample.energy_j) == (4.27, 7200.0)


def test_a_retained_message_is_of_another_time(broker: Mosquitto, closing: Any) -> None:
    tongue = closing(Tongue(broker.settings()))
    tongue.say("tele/plug-1/SENSOR", b'{"ENERGY":{"Total":1.000,"Power":99}}', retain=True)
    meter = closing(MqttMeter(settings(broker, "tasmota", ask=False), SystemClock()))
    with pytest.raises(SensorUnavailableError) as caught:
        meter.read()
    assert caught.value.facts["errno"] == errno.EAGAIN
    value = None
    end = time.monotonic() + PATIENCE_S
    while value is None and time.monotonic() < end:
        tongue.say("tele/plug-1/SENSOR", b'{"ENERGY":{"Total":1.000,"Power":4}}')
        try:
            value = meter.read()
        except SensorUnavailableError as error:
            assert error.facts.get("errno") == errno.EAGAIN
    assert value is not None and value.power_w == 4.0


def test_a_silent_meter_is_a_reason_and_no_number(broker: Mosquitto, closing: Any, clock: Any) -> None:
    meter = closing(MqttMeter(settings(broker, "shelly"), clock))
    with pytest.raises(SensorUnavailableError) as caught:
        meter.read()
    assert caught.value.facts["errno"] == errno.EAGAIN
    for _ in range(4):
        clock.now_s += 2.0
        with pytest.raises(SensorUnavailableError) as caught:
            meter.read()
    assert "silent for 8 s" in str(caught.value)
    assert (state_of(caught.value), caught.value.facts.get("errno")) == ("broken", None)


def test_a_meter_that_falls_silent_ends_the_series(broker: Mosquitto, closing: Any, clock: Any) -> None:
    plug = closing(SimulatedMeter(broker.settings(), "plug-1/rpc", shelly(lambda: 7.5, lambda: 1.0)))
    meter = closing(MqttMeter(settings(broker, "shelly"), clock))
    series = PowerSeries(meter, clock.monotonic_s)
    meter.first()
    series.read()
    assert series.failure is None
    plug.close()
    for _ in range(4):
        clock.now_s += 2.0
        series.read()
    assert str(series.mean()).startswith("shelly:plug: silent for ")


def test_a_meter_that_answers_that_it_cannot_says_so(broker: Mosquitto, closing: Any, clock: Any) -> None:
    def refuse(message: Incoming) -> list[tuple[str, bytes]]:
        asked = json.loads(message.payload)
        return [(asked["src"] + "/rpc", b'{"id":1,"error":{"code":404,"message":"No handler for Switch.GetStatus"}}')]

    closing(SimulatedMeter(broker.settings(), "plug-1/rpc", refuse))
    meter = closing(MqttMeter(settings(broker, "shelly"), clock))
    assert "No handler" in trouble_of(meter, "No handler")
    for _ in range(4):
        clock.now_s += 2.0
        with pytest.raises(SensorUnavailableError, match="No handler"):
            meter.read()


def trouble_of(meter: MqttMeter, text: str) -> str:
    """Return why a meter cannot be read: the first reason with ``text`` in it, else the last within our patience."""
    end = time.monotonic() + PATIENCE_S
    while True:
        with pytest.raises(SensorUnavailableError) as caught:
            meter.read()
        if text in str(caught.value) or time.monotonic() >= end:
            return str(caught.value)
        threading.Event().wait(0.01)


def test_without_a_broker_the_reason_names_it(closing: Any, clock: Any) -> None:
    nobody = BrokerSettings(host="127.0.0.1", port=free_port())
    meter = closing(MqttMeter(MeterSettings(name="p", kind="shelly", topic="t", broker=nobody), clock))
    assert "nothing listens at mqtt://127.0.0.1" in trouble_of(meter, "nothing listens")


def test_a_certificate_that_is_not_there_is_said_at_once(closing: Any, clock: Any, tmp_path: Any) -> None:
    tls = BrokerSettings(host="127.0.0.1", port=8883, tls=True, ca=str(tmp_path / "none.pem"))
    meter = closing(MqttMeter(MeterSettings(name="p", kind="shelly", topic="t", broker=tls), clock))
    assert "there is no file" in trouble_of(meter, "no file")


def test_a_counter_that_goes_back_is_left_out(broker: Mosquitto, closing: Any) -> None:
    totals = iter([5.0, 5.1])
    closing(SimulatedMeter(broker.settings(), "plug-1/rpc", shelly(lambda: 7.5, lambda: next(totals, 0.0))))
    meter = closing(MqttMeter(settings(broker, "shelly"), SystemClock()))
    sample = next_value(meter)
    while sample.energy_j is not None:
        sample = next_value(meter, sample)
    assert sample.power_w == 7.5


def test_nobody_reads_and_nobody_asks(broker: Mosquitto, closing: Any, clock: Any) -> None:
    plug = closing(SimulatedMeter(broker.settings(), "plug-1/rpc", shelly(lambda: 7.5, lambda: 1.0)))
    meter = closing(MqttMeter(settings(broker, "shelly"), clock))
    meter.first()
    clock.now_s += 61.0  # the next turn of its thread finds that nobody has read for a minute
    asked = len(plug.questions)
    end = time.monotonic() + PATIENCE_S
    while any(thread.name == "shelly:plug" for thread in threading.enumerate()) and time.monotonic() < end:
        threading.Event().wait(0.01)
    assert len(plug.questions) <= asked + 1
    assert not any(thread.name == "shelly:plug" for thread in threading.enumerate())
    assert meter.first().power_w == 7.5


def test_configured_meters_come_first_and_a_silent_one_is_stated(
    broker: Mosquitto, closing: Any, tree: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing(SimulatedMeter(broker.settings(), "plug-1/rpc", shelly(lambda: 7.5, lambda: 1.0)))
    rails = {"sys/class/hwmon/hwmon0/name": "ina219", "sys/class/hwmon/hwmon0/power1_input": "5"}
    board = Board(tree(rails), clock=SystemClock(), outside=Outside(meters=(settings(broker, "shelly"),)))
    (meter,) = board.power_meters()
    closing(board.sensors.power.external)
    assert (meter.name, meter.scope) == ("shelly:plug", "board")
    facts = {fact.name: fact for fact in board.sensors.describe()}
    assert (facts["shelly:plug"].status, facts["shelly:plug"].scope) == ("ok", "board")
    assert "plug-1" in (facts["shelly:plug"].source or "")

    deaf = MqttMeters((settings(broker, "tasmota"),), clock)

    def later(_: float) -> None:
        clock.now_s += 1.0

    (silent,) = deaf.all
    closing(silent)
    monkeypatch.setattr(silent, "first", lambda: MqttMeter.first(silent, later))
    assert deaf.meters() == ()
    (fact,) = deaf.describe()
    assert fact.status == "broken" and "silent" in (fact.reason or "")


def test_a_part_that_the_meter_does_not_have_is_an_error_of_the_configuration(broker: Mosquitto, clock: Any) -> None:
    with pytest.raises(ConfigError, match=r"power\.meters\.plug\.component"):
        MqttMeter(settings(broker, "shelly", component="relay:0"), clock)
