"""Home Assistant's discovery: documents by its own schema, templates on real messages, and a real Home Assistant.

The last runs where BOARDFIT_HOME_ASSISTANT names a Python that has the packages homeassistant and paho-mqtt.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.collector.announcing import announce
from agent.collector.home_assistant import OPTIONAL, Discovery, check_prefix, config_topic, discovery
from agent.core.topics import parse_topic
from agent.errors import ConfigError
from agent.mqtt import BrokerSettings, drive
from tests.brokers import Listener, Mosquitto
from tests.integrations.stand_in import SimulatedStore, fleet, messages, recorded

KNOWN: dict[str, Any] = json.loads((Path(__file__).parent / "recorded" / "home_assistant.json").read_text())
PROBE = Path(__file__).with_name("home_assistant_probe.py")
WAIT_S = 60.0
HOME_WAIT_S = 180.0  # Home Assistant takes its time to start on a busy machine


def documents() -> list[dict[str, Any]]:
    """The recorded board's document, and one of a simulated board that has every sensor."""
    store = fleet(1)
    every = (*OPTIONAL, "energy/digits")
    return [
        discovery("plant-7", board, every if board.name == "sim-0" else ()) for board in store.boards("plant-7")
    ]  # fmt: skip


@pytest.mark.parametrize("document", documents(), ids=["recorded", "simulated"])
def test_home_assistants_schema_knows_every_option(document: dict[str, Any]) -> None:
    assert set(document) <= set(KNOWN["document"])
    assert set(document["device"]) <= set(KNOWN["device"])
    assert set(document["origin"]) <= set(KNOWN["origin"])
    for one in document["availability"]:
        assert set(one) <= set(KNOWN["availability"])
    for entity in document["components"].values():
        options = dict(entity)
        platform = options.pop("platform")
        assert set(options) <= set(KNOWN[platform]), entity
        kind = options.get("device_class")
        assert kind is None or kind in KNOWN[f"{platform}_device_classes"]
        if platform == "sensor" and kind is not None:
            assert options.get("unit_of_measurement") in (KNOWN["sensor_units"][kind] or [None])
            assert options.get("state_class") in (*KNOWN["sensor_state_classes"][kind], None)


@pytest.mark.parametrize("document", documents(), ids=["recorded", "simulated"])
def test_it_shows_and_never_controls(document: dict[str, Any]) -> None:
    assert "command" not in json.dumps(document)
    topics = {entity["state_topic"] for entity in document["components"].values()}
    assert {parse_topic(topic).kind for topic in topics} == {"status", "deployment", "decision"} | (
        {"telemetry"} if len(document["components"]) > 5 else set()
    )
    ids = [entity["unique_id"] for entity in document["components"].values()]
    assert len(set(ids)) == len(ids)


def shown(entity: dict[str, Any], payload: dict[str, Any], key: str = "value_template") -> str:
    """Evaluate a template as Home Assistant does: undefined names are errors here."""
    jinja = pytest.importorskip("jinja2", reason="jinja2: not installed")
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=jinja.StrictUndefined)
    return str(environment.from_string(entity[key]).render(value_json=payload, value=json.dumps(payload)))


def test_templates_give_what_a_real_agent_sent() -> None:
    entities = documents()[0]["components"]
    for one in recorded():
        payload = one["payload"]
        for key, entity in entities.items():
            if entity["state_topic"] != one["topic"]:
                continue
            value = shown(entity, payload)
            if key == "digits_serves":
                assert value == payload["candidate"]
                attributes = json.loads(shown(entity, payload, "json_attributes_template"))
                assert (attributes["phase"], attributes["engine"]) == ("done", "onnxruntime")
            elif key == "digits_latency_p95":
                assert float(value) == payload["expected_latency_p95_s"] > 0
            elif key == "outbox":
                assert value == str(payload["outbox_messages"])
            else:
                assert value in entity["options"]


@pytest.mark.parametrize(("told", "expected"), [(None, "None"), ("", "OFF"), ("under_voltage", "ON")])
def test_throttling_that_is_not_known_is_not_off(told: str | None, expected: str) -> None:
    entity = documents()[1]["components"]["throttled"]
    assert shown(entity, {"throttle_now": told}) == expected
    assert shown(entity, {}) == "None"


@pytest.mark.parametrize(
    ("state", "expected"), [("online", "online"), ("busy", "online"), ("offline", "offline"), (None, "offline")]
)
def test_a_board_is_available_while_it_is_there(state: str | None, expected: str) -> None:
    (one,) = documents()[0]["availability"]
    assert shown(one, {"state": state}) == expected


def names(due: list[tuple[str, bytes]]) -> dict[str, bool]:
    """Return which boards are told of, and whether as there."""
    return {topic.split("_")[-1].removesuffix("/config"): bool(payload) for topic, payload in due}


def test_documents_are_sent_when_they_change_and_at_each_birth() -> None:
    store = fleet(2)
    home = Discovery(store, "plant-7")
    assert names(list(home.due())) == {"recorded-board": True, "sim-0": True, "sim-1": True}
    assert list(home.due()) == []
    for topic, payload in messages("sim-0", celsius=70.0):
        store.take(topic, payload)
    assert list(home.due()) == []  # other figures are no other document
    for topic, payload in messages("sim-0", task="words"):
        store.take(topic, payload)
    assert names(list(home.due())) == {"sim-0": True}
    home.take("homeassistant/status", b"offline")
    assert list(home.due()) == []
    home.take("homeassistant/status", b"online")
    assert set(names(list(home.due()))) == {"recorded-board", "sim-0", "sim-1"}


def test_a_sensor_that_fell_silent_keeps_its_entity() -> None:
    store = fleet(1)
    home = Discovery(store, "plant-7")
    list(home.due())
    for topic, payload in messages("sim-0", celsius=None):
        store.take(topic, payload)
    assert list(home.due()) == []


def test_a_board_that_is_taken_out_is_taken_away() -> None:
    store = fleet(2)
    home = Discovery(store, "plant-7")
    list(home.due())
    store.take("boardfit/v1/plant-7/sim-1/status", b"")
    assert names(list(home.due())) == {"sim-1": False}
    assert list(home.due()) == []


def test_what_lies_at_the_broker_from_before_is_taken_away_unless_the_store_knows_it() -> None:
    store = fleet(1)
    home = Discovery(store, "plant-7")
    list(home.due())
    home.take(config_topic("homeassistant", "plant-7", "gone"), b"{}")
    home.take(config_topic("homeassistant", "plant-7", "late"), b"{}")  # another collector was faster
    home.take(config_topic("homeassistant", "other-fleet", "gone"), b"{}")
    home.take("homeassistant/device/somebody-elses/config", b"{}")
    for topic, payload in messages("late"):
        store.take(topic, payload)
    assert names(list(home.due())) == {"gone": False, "late": True}
    assert list(home.due()) == []


def test_tasks_whose_names_look_alike_in_an_id_stay_apart() -> None:
    store = SimulatedStore()
    for task in ("a.b", "a_b", "A-b"):
        for topic, payload in messages("pi", task=task):
            store.take(topic, payload)
    (board,) = store.boards("plant-7")
    ids = {entity["unique_id"] for entity in discovery("plant-7", board, ())["components"].values()}
    assert len(ids) == 2 + 3 * 3


@pytest.mark.parametrize("prefix", ["", "home/#", "+", "a//b", "boardfit/v1", "/home", "home assistant"])
def test_a_prefix_that_cannot_begin_a_topic_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="discovery prefix"):
        check_prefix(prefix)


@pytest.fixture
def announcing() -> Iterator[Callable[..., list[str]]]:
    """Start announcing in a thread; returns the list that its complaints go to."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def start(settings: BrokerSettings, store: SimulatedStore) -> list[str]:
        complaints: list[str] = []
        arguments = (settings, Discovery(store, "plant-7"), stop.is_set, complaints.append)
        threads.append(threading.Thread(target=announce, args=arguments, daemon=True))
        threads[-1].start()
        return complaints

    yield start
    stop.set()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_documents_lie_retained_at_a_real_broker(
    broker: Mosquitto, listen: Callable[[BrokerSettings], Listener], announcing: Callable[..., list[str]]
) -> None:
    stale = config_topic("homeassistant", "plant-7", "long-gone")
    home = listen(broker.settings())
    home.connection.publish(stale, b"{}", retain=True)
    store = fleet(2)
    assert announcing(broker.settings(), store) == []
    ours = [config_topic("homeassistant", "plant-7", name) for name in ("recorded-board", "sim-0", "sim-1")]
    home.wait(lambda: {one.topic for one in home.got if one.payload} >= set(ours), WAIT_S)
    home.wait(lambda: any(one.topic == stale and not one.payload for one in home.got), WAIT_S)
    home.got.clear()
    home.connection.publish("homeassistant/status", b"online")
    home.wait(lambda: {one.topic for one in home.got if one.payload} >= set(ours), WAIT_S)
    store.take("boardfit/v1/plant-7/sim-1/status", b"")
    home.wait(lambda: any(one.topic == ours[2] and not one.payload for one in home.got), WAIT_S)
    later = listen(broker.settings())
    later.wait(lambda: {one.topic for one in later.got if one.retain} >= set(ours[:2]), WAIT_S)
    assert not [one for one in later.got if one.topic in (stale, ours[2])]


def test_a_broker_that_forbids_it_is_complained_of(
    tmp_path: Path, start_broker: Callable[..., Mosquitto], announcing: Callable[..., list[str]]
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read homeassistant/#\n")
    broker = start_broker(f"allow_anonymous true\nacl_file {rules}")
    complaints = announcing(broker.settings(), fleet(1))
    for _ in range(600):
        if complaints:
            break
        threading.Event().wait(0.1)
    assert "--home-assistant" in complaints[0]


class HomeAssistant:
    """A real one in a process of its own. ``states``: what it shows, by unique id."""

    def __init__(self, python: str, folder: Path, port: int) -> None:
        folder.mkdir()
        self._log = (folder / "log").open("wb")
        self.log = folder / "log"
        self._process = subprocess.Popen(
            [python, str(PROBE), str(folder), str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )  # fmt: skip
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.version = json.loads(self._lines.get(timeout=HOME_WAIT_S))["version"]
        self.states: dict[str, Any] = {}

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def wait(self, until: Callable[[dict[str, Any]], object]) -> None:
        while not until(self.states):
            try:
                self.states = json.loads(self._lines.get(timeout=HOME_WAIT_S))
            except queue.Empty:
                pytest.fail(f"Home Assistant shows {self.states}; {self.log.read_text()}")

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(WAIT_S) == 0
        self._log.close()


@pytest.fixture
def python() -> str:
    found = os.environ.get("BOARDFIT_HOME_ASSISTANT")
    if not found:
        pytest.skip("Home Assistant: BOARDFIT_HOME_ASSISTANT names no Python that has it")
    return found


def test_the_recorded_options_are_those_of_the_real_package(python: str) -> None:
    done = subprocess.run([python, str(PROBE), "--options"], capture_output=True, check=True)
    assert json.loads(done.stdout) == KNOWN


def test_a_real_home_assistant_shows_boards(
    python: str,
    broker: Mosquitto,
    listen: Callable[[BrokerSettings], Listener],
    announcing: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    boards = listen(broker.settings())
    retained = [(one["topic"], json.dumps(one["payload"]).encode()) for one in recorded()]
    retained += messages("sim-0")

    def publish(*those: tuple[str, bytes]) -> None:
        sent = [
            boards.connection.publish(topic, payload, retain=parse_topic(topic).kind not in ("telemetry", "job"))
            for topic, payload in those
        ]
        assert drive(boards.connection, lambda: all(one.state == "acked" for one in sent), WAIT_S)

    publish(*retained)
    store = fleet(1)
    announcing(broker.settings(), store)
    home = HomeAssistant(python, tmp_path / "home", broker.port)
    ours = "boardfit_plant-7_sim-0"
    home.wait(lambda states: states.get(f"{ours}_digits_latency_p95", {}).get("state") == "0.012")
    publish(*messages("sim-0"))  # telemetry is not retained
    home.wait(lambda states: states[f"{ours}_temperature"]["state"] == "51.5")
    state = {key.removeprefix(f"{ours}_"): one["state"] for key, one in home.states.items() if key.startswith(ours)}
    assert state == {
        "state": "online", "outbox": "3", "temperature": "51.5", "power": "4.2", "throttled": "off",
        "digits_serves": "small", "digits_latency_p95": "0.012", "digits_decision": "chosen", "digits_energy": "0.031",
    }  # fmt: skip
    serves = home.states[f"{ours}_digits_serves"]["attributes"]
    assert (serves["phase"], serves["friendly_name"]) == ("done", "sim-0 digits serves")
    assert home.states["boardfit_plant-7_recorded-board_state"]["state"] == "unavailable"  # it was killed

    (offline, *_) = messages("sim-0", state="offline")
    publish(offline)
    home.wait(lambda states: states[f"{ours}_temperature"]["state"] == "unavailable")
    store.take("boardfit/v1/plant-7/sim-0/status", b"")
    home.wait(lambda states: not [key for key in states if key.startswith(ours)])
    assert [key for key in home.states if key.startswith("boardfit_plant-7_recorded-board")]
    home.stop()
    assert "Error" not in home.log.read_text(), home.log.read_text()
