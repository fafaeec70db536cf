"""A daemon that is killed again and again serves what it has, obeys and reports; and how it goes back to work."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent import safe_mode
from agent.config import load_config
from agent.core.payloads import Event
from agent.core.safety import QUIET_S, STARTS, STEADY_S, is_unsafe
from agent.database import FILE_NAME, Database
from agent.safe_mode import REASON, SafeMode, forget_starts
from agent.site import Site
from tests.deploy.scene import FrozenClock
from tests.orders.conftest import Board, board
from tests.scenarios.conftest import run

__all__ = ["board"]
REALLY = "recover"  # the service's verb that is no stand-in


def test_only_starts_of_the_same_version_count() -> None:
    assert not is_unsafe(["1"] * (STARTS - 1) + ["0"] * 9, "1")
    assert is_unsafe(["0", *["1"] * STARTS], "1")


class Slow(FrozenClock):
    """Stands still until it is moved."""

    def monotonic_s(self) -> float:
        return self.seconds


@pytest.fixture
def site(tmp_path: Path) -> Site:
    config = tmp_path / "agent.yaml"
    config.write_text("tasks: {}\n")
    return Site(load_config(config), tmp_path / "state", clock=Slow())


def died(site: Site) -> bool:
    return SafeMode(site).begin(site)


def test_safe_mode_comes_after_so_many_deaths_and_goes_by_itself(site: Site) -> None:
    assert [died(site) for _ in range(STARTS)] == [False] * STARTS
    mode = SafeMode(site)
    assert mode.begin(site)
    assert mode.begin(site)  # once more by the process itself, where its copy died
    mode.enter(safe=True)
    assert not mode.tend()
    site.clock.seconds += STEADY_S + 1  # type: ignore[attr-defined]
    assert not mode.tend()  # that it lasts is what safe mode is for
    site.clock.seconds += QUIET_S  # type: ignore[attr-defined]
    assert mode.tend()
    assert (mode.active, mode.reason) == (False, None)
    assert not died(site)
    site.close()


def test_a_start_that_lasts_or_ends_well_does_not_count(site: Site) -> None:
    for _ in range(2 * STARTS):
        mode = SafeMode(site)
        assert not mode.begin(site)
        mode.end()
    for _ in range(STARTS - 1):
        assert not died(site)
    mode = SafeMode(site)
    assert not mode.begin(site)
    mode.tend()
    site.clock.seconds += STEADY_S  # type: ignore[attr-defined]
    assert not mode.tend()
    assert not died(site)
    site.close()


def test_another_version_is_let_work(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(STARTS):
        died(site)
    monkeypatch.setattr(safe_mode, "__version__", "99")
    assert not died(site)
    site.close()


def test_a_daemon_that_keeps_dying_serves_obeys_and_says_so(board: Board) -> None:
    with Site(load_config(board.config), board.state) as site:
        for _ in range(STARTS):
            died(site)
    board.start()
    assert board.statuses[-1].reason == REASON
    events = [msgspec.json.decode(one.payload, type=Event) for one in board.fleet.topic("/event")]
    assert [one.text for one in events if one.kind == "safe_mode"] == [REASON]
    refused = board.wait(board.order("bench"), "CANCELED", "REJECTED")
    assert refused.reason == f"bench is not done in {REASON}"
    board.wait(board.order("sync"), "SUCCEEDED")
    board.wait(board.order("rollback"), "SUCCEEDED")
    assert board.calls("once") == board.calls("bench") == []
    assert "Safe mode" in run("status", "--config", board.config, "--state-dir", board.state).out
    assert board.stop() == 0
    board.start()  # a restart that was asked for leaves it as it is
    assert board.statuses[-1].reason == REASON
    assert board.stop(signal.SIGTERM) == 0


def leave_by_hand(board: Board) -> None:
    with Database(board.state / FILE_NAME) as database:
        forget_starts(database)
    board.start()


def leave_by_order(board: Board) -> None:
    board.start(REALLY)
    assert board.wait(board.order("leave-safe-mode", "vera"), "REJECTED").reason == (
        "vera is viewer; leave-safe-mode needs operator"
    )
    assert board.statuses[-1].reason == REASON
    assert board.wait(board.order("leave-safe-mode"), "SUCCEEDED").result == {"settled": 0}


@pytest.mark.parametrize("leave", [leave_by_hand, leave_by_order])
def test_somebody_may_let_it_go_back_to_work(board: Board, leave: Callable[[Board], None]) -> None:
    with Site(load_config(board.config), board.state) as site:
        for _ in range(STARTS):
            died(site)
    hold = board.hold("once")
    leave(board)
    hold.release()  # the pass of a start is done again
    board.fleet.wait(lambda: board.statuses[-1].reason is None)
    assert board.stop() == 0
