"""``boardfit fleet rollout`` over a real broker: signed commands to simulated boards that judge as real ones do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

from tests.fleet.boards_at_broker import BoardsAtBroker
from tests.fleet.conftest import Desk
from tests.fleet.simulated_fleet import NEW, OLD, TASK
from tests.scenarios.conftest import ROOT

Start = Callable[..., BoardsAtBroker]


ROLLOUT = ("rollout", "start", "--task", TASK, "--candidate", NEW, "--waves", "1,100%", "--per-class")


def test_a_good_candidate_reaches_every_board(desk: Desk, boards: Start) -> None:
    fleet = boards()
    ended = desk(*ROLLOUT, "--soak", "0s")
    assert ended.code == 0, ended.err + ended.out
    assert set(fleet.serving().values()) == {NEW}
    assert "wave 1 of class aaaaaaaa is through" in ended.out
    assert "is completed: every wave is through: 8 succeeded." in ended.out
    shown = desk("rollout", "show", "--json").document
    assert shown["status"] == "completed"
    assert {row["verb"] for row in shown["history"]} == {"bench", "select", "deploy", None}
    assert desk("rollout", "status", "--json").document["rollouts"][0]["phases"] == {"succeeded": 8}


def test_a_bad_candidate_stops_at_its_first_wave_and_goes_back(desk: Desk, boards: Start) -> None:
    fleet = boards(bad="b")
    ended = desk(*ROLLOUT, "--soak", "10min", "--json")
    assert ended.code == 5, ended.err
    assert ended.document["status"] == "rolled_back"
    assert "rollback on 1 of 1 boards (100%)" in ended.document["reason"]
    assert set(fleet.serving().values()) == {OLD}
    assert sum(bool(member.did) for member in fleet.members.values()) == 2


def test_a_killed_console_leaves_a_rollout_to_go_on_with_and_no_second_one(desk: Desk, boards: Start) -> None:
    fleet = boards()
    words = desk.words(*ROLLOUT, "--soak", "10min")
    with subprocess.Popen(
        [sys.executable, "-m", "agent", *words],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "HOME": str(desk.folder)},
    ) as console:
        assert console.stdout is not None
        assert any("soaking" in line for line in console.stdout)
        console.send_signal(signal.SIGKILL)
    refused = desk(*ROLLOUT, "--soak", "0s")
    assert refused.code == 1
    assert "has not ended" in refused.err
    ended = desk("rollout", "abort", "--undo")
    assert ended.code == 5, ended.err
    assert "aborted by anna" in ended.out
    assert set(fleet.serving().values()) == {OLD}
    assert "there is nothing to pause" in desk("rollout", "pause").err


def test_what_is_wrong_is_said_before_anything_is_stored(desk: Desk, boards: Start) -> None:
    boards()
    wrong = desk("rollout", "start", "--task", TASK, "--candidate", NEW, "--waves", "1,many")
    assert wrong.code == 2
    assert "'many' is neither a number of boards nor a share" in wrong.err
    assert desk("rollout", "status").out.startswith("No rollout was started for plant from here.")
