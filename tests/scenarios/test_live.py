"""A real agent and a real application: what the application's calls take is seen by `status` and told to the fleet."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from agent.client import open_model
from agent.mqtt import BrokerSettings
from tests.brokers import Listener, Mosquitto
from tests.scenarios.conftest import Installation
from tests.scenarios.test_daemon import WAIT_S, Service, start

__all__ = ["start"]  # the fixture


def test_what_an_application_tells_is_shown_by_status(
    start: Callable[..., Service],
    installation: Installation,
    broker: Mosquitto,
    listen: Callable[[BrokerSettings], Listener],
) -> None:
    fleet = listen(broker.settings())
    budget = {"digits": {"budgets": {"accuracy_top1": ">= 0.9", "latency_p95": "2 s"}}}
    service = start(tasks=budget)
    service.wait_for("READY=1")
    fleet.wait(lambda: bool(fleet.topic("/deployment/digits")), WAIT_S)
    quiet = installation("status", "--json").document
    assert quiet["live"]["tasks"] == []
    with open_model("digits", state_dir=installation.state, tell_s=0.2, check_s=0.1) as model:
        x = np.zeros([max(1, size) for size in model.deployment.inputs[0].shape], np.float32)
        for _ in range(40):
            model(x)
        before = model.telling.sent
        end = time.monotonic() + WAIT_S
        while model.telling.sent == before and model.telling.sent < 1:
            assert time.monotonic() < end, model.telling
            model(x)
    (told,) = installation("status", "--json").document["live"]["tasks"]
    assert told["task"] == "digits"
    assert told["requests"] >= 40
    assert told["errors"] == 0
    assert told["latency_p95_s"] > 0
    assert told["budget_latency_p95_s"] == 2.0
    assert told["expected_latency_p95_s"] > 0
    text = installation("status").out
    assert "Live: digits p95 " in text
    assert "against budget 2 s" in text
    errors = service.stop()
    assert service.process.returncode == 0, errors
    assert "Traceback" not in errors
    gone = installation("status", "--json").document
    assert (gone["live"], gone["live_reason"]) == (None, "the agent is not running")
