"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest

from agent.mqtt import BrokerSettings
from tests.brokers import Listener, Mosquitto
from tests.faults.extent import Part, seed_of_today

with suppress(ImportError):  # what runs tests/compress with torch goes without
    from hypothesis import HealthCheck, settings

    # How long an example takes says how busy the machine is, and nothing else that is tested here.
    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 1 << 30  # chosen: containers may give 64 MiB, which is not enough for several tests at a time


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much of tests/faults is run, and from which seed."""
    parts = get_args(Part)
    parser.addoption("--faults", choices=parts, default=parts[0], help="how much of tests/faults: seconds to hours")
    parser.addoption("--faults-seed", type=int, default=seed_of_today(), help="repeat what a suite tried from a seed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables that tests recorded, those of tests in other processes too."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, text in getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ():
                if name == "table":
                    terminalreporter.write_line(f"\n{text}")


@pytest.fixture
def real_models() -> Path:
    """The folder of real third-party models beside the repository; skipped by name without it."""
    path = Path(os.environ.get("BOARDFIT_REAL", ROOT.parent / "shared" / "real"))
    if not path.is_dir():
        pytest.skip("real models: no folder ../shared/real beside the repository (or BOARDFIT_REAL)")
    return path


@pytest.fixture
def folder_in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder that waits for no disk; on the disk where memory gives too little room for files."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < MEMORY_BYTES:
        yield tmp_path_factory.mktemp("on-disk")
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="boardfit-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


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
