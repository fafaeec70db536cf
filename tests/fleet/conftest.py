"""A broker, simulated boards, and an operator with a real key."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.clock import iso
from agent.core.operators import Operator
from agent.fleet.settings import write_public
from agent.fleet.signing import OperatorKey
from tests.brokers import Mosquitto
from tests.fleet.boards_at_broker import BoardsAtBroker
from tests.fleet.simulated_board import SimulatedBoard
from tests.fleet.simulated_fleet import Ways
from tests.scenarios.conftest import Result, run


class Desk:
    """An operator's machine: configuration, key and state in one folder."""

    def __init__(self, folder: Path, broker: Mosquitto, name: str = "anna") -> None:
        self.folder, self.name = folder, name
        self.key = OperatorKey.make(folder / "operator.key")
        write_public(folder / "operator.key", name, self.key.public_key)
        self.config = folder / "fleet.yaml"
        self.config.write_text(
            yaml.safe_dump(
                {"mqtt": {"url": broker.settings().url, "fleet": "plant"}, "operator": {"key": "operator.key"}}
            )
        )

    def operator(self, role: str = "operator") -> Operator:
        """Return the operator as a board's list has her."""
        until = iso(datetime.now(timezone.utc) + timedelta(days=30))
        return Operator(name=self.name, public_key=self.key.public_key, role=role, valid_until=until)

    def words(self, *words: str | Path) -> list[str]:
        """Return a command line."""
        return ["fleet", *map(str, words), "--config", str(self.config), "--state-dir", str(self.folder / "state")]

    def __call__(self, *words: str | Path) -> Result:
        """Run ``boardfit fleet``."""
        return run(*self.words(*words), timeout=60, env={**os.environ, "HOME": str(self.folder)})


@pytest.fixture
def desk(tmp_path: Path, broker: Mosquitto) -> Desk:
    folder = tmp_path / "desk"
    folder.mkdir()
    return Desk(folder, broker)


@pytest.fixture
def simulate(broker: Mosquitto) -> Iterator[Callable[..., SimulatedBoard]]:
    boards: list[SimulatedBoard] = []

    def start(name: str, *operators: Operator, **more: Any) -> SimulatedBoard:
        boards.append(SimulatedBoard(broker.settings(), name, operators, **more))
        return boards[-1]

    yield start
    for board in boards:
        board.stop()


@pytest.fixture
def boards(broker: Mosquitto, desk: Desk) -> Iterator[Callable[..., BoardsAtBroker]]:
    started: list[BoardsAtBroker] = []

    def start(*others: Desk, bad: str | None = None, count: int = 4) -> BoardsAtBroker:
        named = {
            f"{kind}-{number}": (kind * 64, Ways(ends="rolled_back" if kind == bad else "deployed"))
            for kind in ("a", "b")
            for number in range(count)
        }
        operators = [one.operator() for one in (desk, *others)]
        started.append(BoardsAtBroker(broker.settings(), operators, named))
        return started[-1]

    yield start
    for one in started:
        one.stop()
