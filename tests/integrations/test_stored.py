"""Metrics and discovery from a real store: the same as from what boards told, and they follow what changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
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
from agent.mqtt import BrokerSettings, drive
from tests.brokers import Listener, Mosquitto
from tests.integrations.prometheus import samples
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


def test_fleet_serve_tells_home_assistant(
    broker: Mosquitto, listen: Callable[[BrokerSettings], Listener], tmp_path: Path
) -> None:
    """The command line, as a process: boards tell a broker, and Home Assistant's documents lie there retained."""
    home = listen(broker.settings())
    sent = [
        home.connection.publish(topic, payload, retain=True)
        for topic, payload in messages("pi")
        if "/telemetry/" not in topic and "/job/" not in topic
    ]
    assert drive(home.connection, lambda: all(one.state == "acked" for one in sent), 30)
    config = tmp_path / "fleet.yaml"
    config.write_text(yaml.safe_dump({"mqtt": {"url": broker.settings().url, "fleet": "plant-7"}}))
    served = subprocess.Popen(
        [sys.executable, "-m", "agent", "fleet", "serve", "--no-web", "--home-assistant", "ha", "--config", str(config),
         "--state-dir", str(tmp_path / "state")],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    topic = "ha/device/boardfit_plant-7_pi/config"
    home.wait(lambda: any(one.topic == topic and one.payload for one in home.got))
    (document, *_) = [json.loads(one.payload) for one in home.got if one.topic == topic]
    assert document["components"]["digits_serves"]["state_topic"] == "boardfit/v1/plant-7/pi/deployment/digits"
    home.got.clear()
    gone = home.connection.publish("boardfit/v1/plant-7/pi/status", b"", retain=True)
    home.wait(lambda: any(one.topic == topic and not one.payload for one in home.got))
    assert gone.state == "acked"
    served.terminate()
    _, errors = served.communicate(timeout=60)
    assert (served.returncode, "Traceback" in errors) == (0, False), errors


def test_a_prefix_that_cannot_be_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "fleet.yaml"
    config.write_text(yaml.safe_dump({"mqtt": {"url": "mqtt://127.0.0.1:9", "fleet": "plant-7"}}))
    words = ["fleet", "serve", "--no-web", "--config", str(config), "--state-dir", str(tmp_path / "state")]
    assert main([*words, "--home-assistant", "boardfit/v1"]) == 2
    assert "discovery prefix" in capsys.readouterr().err
