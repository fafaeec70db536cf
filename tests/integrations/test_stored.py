"""Metrics and discovery from a real store: the same as from what boards told, and they follow what changes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

pytest.importorskip("sqlalchemy", reason="the extra fleet is not installed")

from agent.cli import main
from agent.collector.home_assistant import Discovery
from agent.collector.judging import take
from agent.collector.metrics import FleetMetrics
from agent.collector.store import Store
from agent.collector.store_reading import StoredReader
from agent.core.topics import rollout_topic
from agent.demo_broker import free_port
from agent.mqtt import BrokerSettings, drive
from tests.brokers import Listener, Mosquitto
from tests.integrations.prometheus import ask, program, samples, scraping
from tests.integrations.stand_in import SimulatedStore, messages, rollout, told_of_fleet

ROOT = Path(__file__).resolve().parents[2]
HEARD_S = 1795348900.0


class Filled:
    """A real database, and the simulated store beside it, told the same."""

    def __init__(self, url: str) -> None:
        self.writer, self.reader = Store(url), StoredReader(url)
        self.simulated = SimulatedStore()
        self.heard_s = HEARD_S
        self.writer.open()

    def tell(self, *told: tuple[str, bytes]) -> None:
        batch = []
        for topic, payload in told:
            self.simulated.take(topic, payload)
            self.heard_s += 0.001
            taken = take(topic, payload, self.heard_s)
            assert taken is not None
            batch.append(taken)
        assert self.writer.apply(batch).refused == ()


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    made = Filled(f"sqlite:///{tmp_path}/collector.sqlite")
    yield made
    made.reader.close()
    made.writer.close()


def test_a_store_gives_what_boards_told(filled: Filled) -> None:
    filled.tell(*told_of_fleet(6))
    told = take(rollout_topic("plant-7", "r-1"), json.dumps(rollout()).encode(), HEARD_S)
    assert told is not None
    filled.writer.apply([told])
    filled.simulated.running["plant-7"] = [rollout()]
    found, wanted = (samples(FleetMetrics(one).exposition()) for one in (filled.reader, filled.simulated))
    assert set(found) == set(wanted)
    for name in wanted:
        if name != "boardfit_board_last_seen_timestamp_seconds":  # a store does not believe every clock

            def ordered(series: list[tuple[dict[str, str], float]]) -> list[tuple[list[tuple[str, str]], float]]:
                return sorted((sorted(labels.items()), value) for labels, value in series)

            assert ordered(found[name]) == ordered(wanted[name]), name


def test_metrics_and_discovery_follow_a_store_that_was_empty_at_first(filled: Filled) -> None:
    metrics, home = FleetMetrics(filled.reader), Discovery(filled.reader, "plant-7")
    assert "boardfit_board_up" not in samples(metrics.exposition())
    assert list(home.due()) == []
    filled.tell(*messages("pi", power_w=4.0))
    assert samples(metrics.exposition())["boardfit_board_power_watts"] == [({"fleet": "plant-7", "board": "pi"}, 4.0)]
    ((topic, document),) = home.due()
    assert topic == "homeassistant/device/boardfit_plant-7_pi/config"
    assert b"digits serves" in document
    later = [(topic, payload.replace(b"12:00:00", b"12:05:00")) for topic, payload in messages("pi", power_w=5.0)]
    filled.tell(*later)
    assert samples(metrics.exposition())["boardfit_board_power_watts"][0][1] == 5.0
    assert list(home.due()) == []
    filled.tell(("boardfit/v1/plant-7/pi/status", b""))
    assert "boardfit_board_up" not in samples(metrics.exposition())
    assert list(home.due()) == [(topic, b"")]
    assert list(home.due()) == []


@pytest.fixture
def boards(broker: Mosquitto, listen: Callable[[BrokerSettings], Listener]) -> Listener:
    """A line to a broker at which one board has told of itself."""
    line = listen(broker.settings())
    sent = [
        line.connection.publish(topic, payload, retain=True)
        for topic, payload in messages("pi")
        if "/telemetry/" not in topic and "/job/" not in topic
    ]
    assert drive(line.connection, lambda: all(one.state == "acked" for one in sent), 30)
    return line


@contextmanager
def fleet_serve(folder: Path, broker: Mosquitto, *words: str) -> Iterator[None]:
    """Run the command line as a process; it must end well."""
    config = folder / "fleet.yaml"
    config.write_text(yaml.safe_dump({"mqtt": {"url": broker.settings().url, "fleet": "plant-7"}}))
    command = [sys.executable, "-m", "agent", "fleet", "serve", *words, "--config", str(config)]
    served = subprocess.Popen(
        [*command, "--state-dir", str(folder / "state")], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        yield
    finally:
        served.terminate()
        _, errors = served.communicate(timeout=60)
    assert (served.returncode, "Traceback" in errors) == (0, False), errors


def test_fleet_serve_tells_home_assistant(boards: Listener, broker: Mosquitto, tmp_path: Path) -> None:
    topic = "ha/device/boardfit_plant-7_pi/config"
    with fleet_serve(tmp_path, broker, "--no-web", "--home-assistant", "ha"):
        boards.wait(lambda: any(one.topic == topic and one.payload for one in boards.got))
        (document, *_) = [json.loads(one.payload) for one in boards.got if one.topic == topic]
        assert document["components"]["digits_serves"]["state_topic"] == "boardfit/v1/plant-7/pi/deployment/digits"
        boards.got.clear()
        boards.connection.publish("boardfit/v1/plant-7/pi/status", b"", retain=True)
        boards.wait(lambda: any(one.topic == topic and not one.payload for one in boards.got))


def test_a_real_prometheus_scrapes_fleet_serve(boards: Listener, broker: Mosquitto, tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="the extra fleet is not installed")
    listen = f"127.0.0.1:{free_port()}"
    until = time.monotonic() + 90
    with scraping(tmp_path, listen) as address, fleet_serve(tmp_path, broker, "--listen", listen):
        (p95,) = ask(address, 'boardfit_task_latency_p95_seconds{board="pi", task="digits"}', until)
        assert (p95["value"][1], p95["metric"]["fleet"]) == ("0.012", "plant-7")
        (stored,) = ask(address, "boardfit_collector_messages_stored_total > 0", until)
        assert float(stored["value"][1]) >= 4
        with urllib.request.urlopen(f"http://{listen}/metrics") as answer:
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            told = answer.read()
    checked = subprocess.run([program("promtool"), "check", "metrics"], input=told, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_a_prefix_that_cannot_be_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "fleet.yaml"
    config.write_text(yaml.safe_dump({"mqtt": {"url": "mqtt://127.0.0.1:9", "fleet": "plant-7"}}))
    words = ["fleet", "serve", "--no-web", "--config", str(config), "--state-dir", str(tmp_path / "state")]
    assert main([*words, "--home-assistant", "boardfit/v1"]) == 2
    assert "discovery prefix" in capsys.readouterr().err
