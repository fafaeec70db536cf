"""The closed loop's judging on made-up requests, its fixture board, its throttle and its models; no run, no figure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from agent.clock import SystemClock
from agent.device.board import Board
from agent.device.root import SysRoot
from benchmarks.closed_loop.__main__ import BOARDFIT, NO_AGENT, SMALLEST, Found, document, show
from benchmarks.closed_loop.board import COOL_CELSIUS, HOT_CELSIUS, RUN_SHARE, FixtureBoard
from benchmarks.closed_loop.judging import Oracle, count, noise, oracle, over_budget, reaction, spread, verdicts
from benchmarks.closed_loop.models import FIRST, FRAMES, SIZE, load_digits
from benchmarks.closed_loop.record import Run, Told
from benchmarks.closed_loop.schedule import FULL_S, PERIOD_S, QUICK_S, phase_at, schedule
from benchmarks.zoo.files import evaluation_pack

PHASES = schedule((2.0,) * 8)
ACCURACY = {"first": 0.9, "middle": 0.85, "small": 0.7, "smallest": 0.6, "better": 0.92, "worse": 0.5}
ROOT = Path(__file__).resolve().parents[2]


def run(mode: str, took_s: dict[str, float], served_by: str | dict[str, str], late_s: float = 0.0) -> Run:
    """Make up a run: what a call takes, by phase; who serves, by phase; how late each begins."""
    due = np.arange(int(PHASES[-1].end_s / PERIOD_S)) * PERIOD_S
    names = [phase_at(PHASES, since).name for since in due]
    taken = np.array([took_s.get(name, 0.001) for name in names])
    served = [served_by if isinstance(served_by, str) else served_by.get(name, "first") for name in names]
    return Run(
        mode=mode, phases=PHASES, due_s=due, begin_s=due + late_s, end_s=due + late_s + taken,
        correct=np.ones(len(due), bool), failed=np.zeros(len(due), bool), served_by=np.array(served), errors=(),
        told=(), orders={},
    )  # fmt: skip


def test_lateness_counts_from_when_a_request_was_due() -> None:
    assert not over_budget(run("on time", {}, "first")).any()
    assert over_budget(run("late", {}, "first", late_s=0.0145)).all()


def test_a_tighter_budget_holds_from_its_phase_on() -> None:
    found = count(run("fixed", dict.fromkeys([phase.name for phase in PHASES], 0.010), "first"), ACCURACY)
    assert found.by_phase == {**dict.fromkeys([phase.name for phase in PHASES], 0), "budget tighter": 100}
    assert (found.over, found.requests, found.failed) == (100, 800, 0)
    assert found.accuracy_expected == pytest.approx(0.9)


def test_a_failed_request_is_over_budget() -> None:
    one = run("failing", {}, "first")
    one.failed[3] = True
    assert (count(one, ACCURACY).over, count(one, ACCURACY).failed) == (1, 1)


def test_the_oracle_serves_the_best_that_keeps_the_budget_and_knows_only_what_is_published() -> None:
    slow = {"CPU hogs": 0.025, "hot": 0.025, "budget tighter": 0.025}
    fixed = {
        "first": run("first", slow, "first"),
        "middle": run("middle", {"hot": 0.016}, "middle", late_s=1.0),  # what waits from before does not count
        "small": run("small", {}, "small"),
        "smallest": run("smallest", {}, "smallest"),
        "better": run("better", {"budget tighter": 0.007}, "better"),
    }
    best = oracle(fixed, PHASES, ACCURACY)
    assert [best.serves[phase.name] for phase in PHASES] == [
        "first", "middle", "first", "small", "first", "first", "better", "middle",
    ]  # fmt: skip
    assert best.accuracy == pytest.approx((4 * 0.9 + 2 * 0.85 + 0.7 + 0.92) / 8)


def test_where_none_keeps_the_budget_the_oracle_serves_the_fastest() -> None:
    every = {phase.name: 0.030 for phase in PHASES}
    fixed = {name: run(name, every, name) for name in FIRST} | {"small": run("small", dict.fromkeys(every, 0.025), "x")}
    assert set(oracle(fixed, PHASES, ACCURACY).serves.values()) == {"small"}


def test_reactions_are_told_from_the_requests_served() -> None:
    names = {"CPU hogs": "middle", "worse one pushed": "first", "better one published": "better"}
    ours = run("boardfit", {}, names)
    hogs, hot = PHASES[1], PHASES[3]
    assert reaction(ours, hogs, ACCURACY) == (pytest.approx(0.0), "middle", pytest.approx(0.0))
    assert reaction(ours, hot, ACCURACY) == (None, None, None)
    assert reaction(ours, PHASES[5], ACCURACY) == (None, None, None)  # the worse one never served
    assert reaction(ours, PHASES[6], ACCURACY) == (pytest.approx(0.0), "better", None)
    late = ours._replace(served_by=np.where(ours.due_s < 3.0, "first", ours.served_by))
    assert reaction(late, hogs, ACCURACY).react_s == pytest.approx(1.0)
    never_back = late._replace(served_by=np.where(ours.due_s >= 4.0, "middle", late.served_by))
    assert reaction(never_back, hogs, ACCURACY) == (pytest.approx(1.0), "middle", None)


def test_a_verdict_can_be_met_missed_and_withheld() -> None:
    slow = {"CPU hogs": 0.025, "hot": 0.025, "budget tighter": 0.025}
    bad, good = count(run("no agent", slow, "first"), ACCURACY), count(run("boardfit", {}, "first"), ACCURACY)
    best = Oracle({}, 0.9)
    assert {one.verdict for one in verdicts([good], [bad], [], best, "")} == {"met"}
    worse = count(run("boardfit", slow, "worse"), ACCURACY)
    failing = worse._replace(failed=1)
    assert {one.verdict for one in verdicts([failing], [bad], [], best, "")} == {"missed"}
    noisy = noise("first", 0.03)
    assert [one.verdict for one in verdicts([good], [bad], [], best, noisy)] == ["met", noisy, noisy, "met"]
    assert verdicts([good], [good], [], best, "")[1].verdict.startswith("withheld: under")
    assert noise("first", 0.0) == ""
    assert "middle was chosen first" in noise("middle", 0.0)


@pytest.mark.parametrize("markdown", [True, False])
def test_the_tables_say_what_was_simulated_and_what_the_verdicts_are(markdown: bool) -> None:
    slow = {"CPU hogs": 0.025, "hot": 0.025, "budget tighter": 0.025}
    told = (Told(4.2, "ladder_stepped_down", "digits steps down"),)
    ours = run("boardfit", {}, {"CPU hogs": "middle"})._replace(
        told=told, orders={"worse one pushed": (("bench", 3.0, "SUCCEEDED"), ("deploy", None, "not ended"))}
    )
    two = {NO_AGENT: run(NO_AGENT, slow, "first"), BOARDFIT: ours}
    rounds = ({**two, SMALLEST: run(SMALLEST, {}, "smallest")}, two)
    best = Oracle({phase.name: "first" for phase in PHASES}, 0.9)
    found = Found("first", rounds, best, ACCURACY, dict.fromkeys(ACCURACY, 0.001), 0.1, 500.0)
    text = show(found, markdown)
    assert [one.verdict for one in found.verdicts()] == ["met"] * 4
    assert "SIMULATED: temperature and clock" in text
    assert "- 4.2 ladder_stepped_down: digits steps down" in text
    assert "ordered deploy: not ended" in text
    assert ("| boardfit | 0 (0 to 0) |" in text) == markdown
    json.dumps(document(found))


def test_a_spread_says_how_many_there_are_none_of() -> None:
    assert spread([1.0, None, 3.0], "{:.1f}") == "2.0 (1.0 to 3.0), 1 none"
    assert spread([None], "{:.1f}") == "none"
    assert spread([2.0], "{:.1f}") == "2.0"


def test_the_full_run_takes_ten_minutes_with_two_rounds() -> None:
    assert 5 * sum(FULL_S) <= 450  # and setting up, and the shortened runs
    assert len(FULL_S) == len(QUICK_S) == len(PHASES)


def test_a_fixture_board_is_this_machine_but_for_its_heat(tmp_path: Path) -> None:
    fixture = FixtureBoard(tmp_path / "root")
    board = Board(SysRoot(fixture.root), clock=SystemClock())
    cool = board.read_context()
    assert (cool.temperature_celsius, cool.clock_hz) == (COOL_CELSIUS, 1.8e9)
    assert board.kernel() == os.uname().release
    assert board.processor_ticks(os.getpid()) is not None
    fixture.head_for(HOT_CELSIUS, 10.0)
    fixture.tend(10.25)
    assert COOL_CELSIUS < (board.read_context().temperature_celsius or 0.0) < HOT_CELSIUS
    fixture.tend(11.0)
    hot = board.read_context()
    assert hot.temperature_celsius == HOT_CELSIUS
    assert hot.clock_hz == pytest.approx(1.8e9 * RUN_SHARE)


def test_the_throttle_stops_while_it_is_hot_and_leaves_nobody_stopped(tmp_path: Path) -> None:
    thermometer = tmp_path / "temp"
    thermometer.write_text("86000\n")
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    command = [sys.executable, "-m", "benchmarks.closed_loop.board", str(busy.pid), str(thermometer)]
    sidecar = subprocess.Popen(command, cwd=ROOT)
    try:
        end = time.monotonic() + 30
        while _state(busy.pid) != "T":
            assert time.monotonic() < end
        sidecar.send_signal(signal.SIGTERM)
        assert sidecar.wait(30) == 0
        assert _state(busy.pid) != "T"
    finally:
        busy.kill()
        busy.wait()
        sidecar.kill()
        sidecar.wait()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_what_is_learnt_from_is_never_fed() -> None:
    digits = load_digits(2026)
    assert digits.fed.shape == (270, FRAMES, SIZE, SIZE)
    assert (len(digits.learnt), len(digits.fed_labels)) == (270, 270)
    every = np.load(evaluation_pack(), allow_pickle=False)["labels"]
    parts = np.concatenate([digits.learnt_labels, digits.fed_labels])
    assert np.array_equal(np.bincount(parts), np.bincount(every))  # each of them once, in one of the two
    assert 0.0 <= digits.fed.min() <= digits.fed.max() <= 1.0
    again = load_digits(2026)
    assert np.array_equal(again.fed, digits.fed)
    assert np.array_equal(again.learnt, digits.learnt)
