"""The metrics of a fleet: what Prometheus' own client reads, what promtool says, and what a real Prometheus scrapes."""

from __future__ import annotations

import math
import subprocess
import time
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the extra fleet is not installed")

from agent.collector.metrics import CLASSES, ROLLOUTS, FleetMetrics, exposition
from agent.errors import StorageError
from tests.integrations.prometheus import OWN, Samples, ask, program, samples
from tests.integrations.stand_in import SimulatedStore, fleet, messages, rollout


def of(found: Samples, name: str, **labels: str) -> list[float]:
    return [value for those, value in found.get(name, []) if labels.items() <= those.items()]


def test_what_boards_told_comes_out_as_it_was_told() -> None:
    found = samples(exposition(fleet(), OWN))
    one = {"fleet": "plant-7", "board": "sim-4"}
    assert of(found, "boardfit_board_up", **one) == [1]  # busy
    assert of(found, "boardfit_board_temperature_celsius", **one) == [54.0]
    assert of(found, "boardfit_board_outbox_messages", **one) == [3]
    assert of(found, "boardfit_board_outbox_dropped_total", **one) == [1]
    assert of(found, "boardfit_task_latency_p95_seconds", **one, task="digits") == [0.014]
    assert of(found, "boardfit_task_latency_p95_budget_seconds", **one, task="digits") == [0.02]
    assert of(found, "boardfit_task_energy_per_inference_joules", **one) == [0.03]
    assert of(found, "boardfit_board_last_seen_timestamp_seconds", **one) == [1795348800.0]
    assert of(found, "boardfit_boards", state="offline") == [3]  # two simulated ones, and the recorded one was killed
    assert of(found, "boardfit_collector_messages_received_total") == [120]
    assert of(found, "boardfit_rollout_boards", rollout="r-1", phase="waiting") == [5]
    (info,) = [labels for labels, _ in found["boardfit_board_info"] if labels["board"] == "recorded-board"]
    assert info["profile"] == "virtual-machine"
    assert of(found, "boardfit_task_latency_p95_seconds", board="recorded-board")[0] > 0


def test_what_was_never_told_is_absent() -> None:
    found = samples(exposition(fleet()))
    assert of(found, "boardfit_board_temperature_celsius", board="sim-1") == []
    assert of(found, "boardfit_task_energy_per_inference_joules", board="sim-2") == []
    for name in ("boardfit_board_temperature_celsius", "boardfit_board_power_watts", "boardfit_board_supply_ok"):
        assert of(found, name, board="recorded-board") == []
    assert not [name for name in found if name.startswith("boardfit_collector_m")]  # no collector here
    assert all(not math.isnan(value) for series in found.values() for _, value in series)


def test_a_figure_of_another_candidate_is_not_given_for_what_serves() -> None:
    store = SimulatedStore()
    for topic, payload in messages("pi"):
        store.take(topic, payload.replace(b'"small"', b'"large"') if "/decision/" in topic else payload)
    assert of(samples(exposition(store)), "boardfit_task_energy_per_inference_joules") == []


def test_many_boards_give_figures_of_classes_only_unless_asked() -> None:
    store = fleet(40)
    found = samples(FleetMetrics(store, boards_at_most=10).exposition())
    assert not [name for name in found if name.startswith(("boardfit_board_", "boardfit_task_"))]
    assert of(found, "boardfit_metrics_left_out", of="board") == [41]
    assert sum(of(found, "boardfit_class_boards")) == 41
    key = {"class": "c1" * 6, "task": "digits", "candidate": "small"}
    assert of(found, "boardfit_class_task_boards", **key) == [20]
    assert of(found, "boardfit_class_task_latency_p95_seconds", **key, statistic="most") == [0.049]
    assert of(found, "boardfit_class_task_latency_p95_seconds", **key, statistic="median") == [0.03]
    assert store.asked == []
    asked = samples(FleetMetrics(store, boards_at_most=10, per_board=True).exposition())
    assert len(asked["boardfit_board_up"]) == 41


def test_boards_that_all_claim_another_class_do_not_make_endless_series() -> None:
    store = SimulatedStore()
    for number in range(CLASSES + 30):
        for topic, payload in messages(f"b{number}", class_fingerprint=f"{number:064x}"[::-1], candidate=f"c{number}"):
            if "/profile" in topic or "/status" in topic or "/deployment/" in topic:
                store.take(topic, payload)
    found = samples(FleetMetrics(store, per_board=False).exposition())
    assert len({labels["class"] for labels, _ in found["boardfit_class_boards"]}) == CLASSES + 1
    assert of(found, "boardfit_metrics_left_out", of="class") == [30]
    assert sum(of(found, "boardfit_class_boards")) == CLASSES + 30


def test_documents_are_read_again_where_something_changed() -> None:
    store = fleet(3)
    metrics = FleetMetrics(store)
    metrics.exposition()
    assert sorted(store.asked) == ["recorded-board", "sim-0", "sim-1", "sim-2"]
    store.asked.clear()
    metrics.exposition()
    assert store.asked == []
    for topic, payload in messages("sim-1", power_w=9.5):
        store.take(topic, payload)
    found = samples(metrics.exposition())
    assert store.asked == ["sim-1"]
    assert of(found, "boardfit_board_power_watts", board="sim-1") == [9.5]
    store.take("boardfit/v1/plant-7/sim-1/status", b"")
    assert of(samples(metrics.exposition()), "boardfit_board_info", board="sim-1") == []


def test_a_store_that_cannot_be_read_says_so_and_gives_no_old_figures() -> None:
    class Gone(SimulatedStore):
        def boards(self, *_: Any) -> Any:
            raise StorageError("gone")

    store = Gone()
    store.views = fleet(1).views
    found = samples(exposition(store, OWN))
    assert of(found, "boardfit_store_up") == [0]
    assert of(found, "boardfit_collector_messages_stored_total") == [118]
    assert "boardfit_boards" not in found


def test_texts_of_boards_stay_inside_their_labels() -> None:
    store = SimulatedStore()
    for topic, payload in messages("pi", model='evil"} 1\nboardfit_board_up{board="other"} 1\\'):
        store.take(topic, payload)
    found = samples(exposition(store))
    assert [labels["board"] for labels, _ in found["boardfit_board_up"]] == ["pi"]
    assert found["boardfit_board_info"][0][0]["model"].startswith('evil"}')


def test_promtool_finds_nothing_to_say() -> None:
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=exposition(fleet(), OWN), capture_output=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_a_real_prometheus_scrapes_it(scraped: str) -> None:
    until = time.monotonic() + 60
    (up,) = ask(scraped, 'up{job="boardfit"} == 1', until)
    assert up["value"][1] == "1"
    (hot,) = ask(scraped, "max(boardfit_board_temperature_celsius)", until)
    assert hot["value"][1] == "55"
    over = ask(scraped, "boardfit_task_latency_p95_seconds < boardfit_task_latency_p95_budget_seconds", until)
    assert len(over) == 7


def test_rollouts_that_ended_are_told_too() -> None:
    store = fleet(1)
    store.running["plant-7"] = [{**rollout("completed"), "id": f"r-{number}"} for number in range(60)]
    found = samples(exposition(store))
    assert found["boardfit_rollout_info"][0][0]["status"] == "completed"
    assert len(found["boardfit_rollout_info"]) == ROLLOUTS
