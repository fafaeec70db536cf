"""What of the footprint does not depend on the machine's load: what is loaded, what wakes, what grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.demo_broker import EmbeddedBroker
from benchmarks import footprint
from benchmarks.footprint import CLIENT, CLIENT_AGAIN, DAEMON, MENDER, Verdict, configuration_for, watch
from benchmarks.footprint_growth import Growth, measure_growth, simulated_daemon

IDLE = {"rss": 1.0, "pss": 1.0, "uss": 1.0, "threads": 1.0, "wakeups_per_s": 0.0, "cpu_us_per_s": 0.0}


def test_the_daemon_does_not_grow_over_simulated_passes_and_cut_lines(tmp_path: Path) -> None:
    with EmbeddedBroker("mosquitto") as broker:
        grown = measure_growth(
            broker.settings, lambda url: configuration_for(url, broker.protocol, None), tmp_path, passes=60, cuts=20
        )
    assert [len(one.samples) for one in grown.values()] == [60, 20]
    assert all(one.ratio <= 0.02 for one in grown.values()), grown


def test_the_idle_daemon_comes_to_rest_and_loads_nothing_of_what_its_children_need(tmp_path: Path) -> None:
    with (
        EmbeddedBroker("mosquitto") as broker,
        simulated_daemon(
            broker.settings, lambda url: configuration_for(url, broker.protocol, None), tmp_path, passes=1
        ) as scene,
    ):
        scene.watcher.wait(
            lambda: scene.watcher.has("/event") and scene.watcher.has("/telemetry"), 60, "its first work"
        )
        # Something may still follow, such as taking the acknowledged off the disk; a tick would never end.
        windows = [watch({DAEMON: scene.daemon.pid}, 0.0, 3.0)[DAEMON]["wakeups_per_s"]]
        while windows[-1] > 0 and len(windows) < 5:
            windows.append(watch({DAEMON: scene.daemon.pid}, 0.0, 3.0)[DAEMON]["wakeups_per_s"])
        assert windows[-1] == 0, windows
        mapped = Path(f"/proc/{scene.daemon.pid}/maps").read_text()
        assert "sqlite" in mapped
        assert not [name for name in ("numpy", "onnxruntime", "tflite", "litert", "_yaml") if name in mapped]


def test_growth_is_the_rise_of_the_line_and_not_its_noise() -> None:
    flat = Growth([1000, 1010] * 50)
    leaking = Growth([1000 + n for n in range(100)])
    assert abs(flat.ratio) < 0.001
    assert flat.last_ratio == pytest.approx(0.01)
    assert leaking.ratio == pytest.approx(0.099)


@pytest.mark.parametrize(
    ("value", "noise", "says"),
    [(0.9, 0.01, "met"), (1.1, 0.01, "missed"), (0.99, 0.01, "withheld: noise"), (None, None, "not installed")],
)
def test_a_verdict_is_withheld_where_noise_could_decide_it(value: float | None, noise: float | None, says: str) -> None:
    assert Verdict("x", value, 1.0, noise, "not installed").text == says


def test_the_daemon_is_held_against_both_clients_and_mender() -> None:
    rows = {CLIENT: {**IDLE, "pss": 2.0}, CLIENT_AGAIN: {**IDLE, "pss": 2.0}, DAEMON: {**IDLE, "wakeups_per_s": 0.2}}
    starts = {CLIENT: [1.0, 1.0], DAEMON: [2.0, 2.0], CLIENT_AGAIN: [1.0, 1.0]}
    found = {one.name: one for one in footprint.verdicts(rows, starts, {})}
    assert found["PSS over the client's"].value == pytest.approx(0.5)
    assert found["PSS over mender-client's"].text == "not installed"
    assert found["wake-ups per second"].text == "missed"
    assert found["start to online over the client's"].text == "missed"
    with_mender = footprint.verdicts({**rows, MENDER: {**IDLE, "pss": 4.0}}, starts, {})
    assert {one.name: one.value for one in with_mender}["PSS over mender-client's"] == pytest.approx(0.25)
