"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.mqtt import BrokerSettings
from tests.brokers import Listener, Mosquitto

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def real_models() -> Path:
    """The folder of real third-party models beside the repository; skipped by name without it."""
    path = Path(os.environ.get("BOARDFIT_REAL", ROOT.parent / "shared" / "real"))
    if not path.is_dir():
        pytest.skip("real models: no folder ../shared/real beside the repository (or BOARDFIT_REAL)")
    return path


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    started: list[Mosquitto] = []

    def start(lines: str = "allow_anonymous true") -> Mosquitto:
        started.append(Mosquitto(tmp_path, lines).start())
        return started[-1]

    yield start
    for broker in started:
        if broker.process is not None:
            broker.kill()


@pytest.fixture
def broker(start_broker: Callable[..., Mosquitto]) -> Mosquitto:
    return start_broker()


@pytest.fixture
def listen() -> Iterator[Callable[[BrokerSettings], Listener]]:
    listeners: list[Listener] = []

    def start(settings: BrokerSettings) -> Listener:
        listeners.append(Listener(settings))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.connection.close()
