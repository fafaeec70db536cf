"""The process that drives a rollout is killed at random points, again and again; another one goes on."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.fleet.rollout_store import RolloutStore
from tests.fleet.driven_rollout import ID
from tests.fleet.simulated_fleet import SimulatedFleet


def driven(folder: Path, seed: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fleet.driven_rollout", str(folder), str(seed)],
        cwd=Path(__file__).parent.parent.parent, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def outcome(folder: Path) -> tuple[SimulatedFleet, dict[str, tuple[str, str | None, int | None]]]:
    fleet: SimulatedFleet = pickle.loads((folder / "fleet").read_bytes())
    with RolloutStore(folder) as store:
        boards = store.load(ID).boards
    return fleet, {name: (board.phase, board.kind, board.wave) for name, board in boards.items()}


@pytest.mark.parametrize("first", [1, 2])
def test_a_driver_killed_at_random_points_ends_where_an_unharmed_one_does(tmp_path: Path, first: int) -> None:
    (tmp_path / "whole").mkdir()
    unharmed = driven(tmp_path / "whole", 0)
    assert unharmed.stdout.startswith("completed: "), unharmed.stderr
    (tmp_path / "cut").mkdir()
    killed = 0
    for seed in range(100 * first, 100 * first + 40):
        ended = driven(tmp_path / "cut", seed)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        killed += 1
    assert ended.stdout == unharmed.stdout
    assert killed >= 3, "it was never really interrupted"
    fleet, boards = outcome(tmp_path / "cut")
    whole, undisturbed = outcome(tmp_path / "whole")
    assert boards == undisturbed
    assert fleet.serving() == whole.serving()
    for name, member in fleet.members.items():
        jobs = [job for _, job in member.did]
        assert len(jobs) == len(set(jobs)), "an order had two effects"
        assert len(member.switched) <= 1, f"{name} was switched twice: {member.switched}"
