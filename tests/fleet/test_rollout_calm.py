"""What is at rest is not looked at again, and nothing else follows from that."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.fleet import rollout, rollout_drive
from agent.fleet.rollout import Rollout, advance, pause, resume
from agent.fleet.rollout_board import Order, observe
from agent.fleet.rollout_calm import Calm
from agent.fleet.rollout_spec import parse_rules, parse_waves
from agent.fleet.rollout_view import BoardNow
from tests.fleet.simulated_fleet import SimulatedFleet, Ways, of_classes
from tests.fleet.test_rollout import Boards, Run, plain, spec

ENDS = ("deployed", "deployed", "deployed", "rolled_back", "failed", "silent")


@pytest.mark.parametrize("seed", range(8))
def test_every_step_is_what_it_would_be_without_a_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    steps: list[bool] = []

    def both(state: Rollout, views: Mapping[str, BoardNow], at: float, calm: Calm) -> Any:
        made: tuple[Rollout, tuple[Order, ...]] = advance(state, views, at, calm)
        assert made == advance(state, views, at)
        steps.append(made[0] is state)
        return made

    monkeypatch.setattr(rollout_drive, "advance", both)
    rng = random.Random(seed)
    boards: Boards = of_classes(
        ("a", "b"), 12,
        lambda *_: Ways(ends=rng.choice(ENDS), measured=rng.random() < 0.3, goes_back=rng.random() < 0.8),
    )  # fmt: skip
    breach = rng.choice(("pause", "rollback"))
    rules = parse_rules(["rollback>60%"] if seed % 2 else ["rollback>1%"])
    run = Run(
        tmp_path, boards,
        spec(waves=parse_waves("1,50%,100%"), success=0.3, rules=rules, per_class=seed % 3 == 0, on_breach=breach),
    )  # fmt: skip
    run.fleet.lost = lambda: rng.random() < 0.1
    come_and_go(run.fleet, rng)
    while not run.drive(lambda state: state.status == "paused" or rng.random() < 0.05).ended:
        if run.state.status == "paused":
            run.change(lambda state: resume(state, "go on", run.clock.now_s))
        elif run.state.status == "running" and rng.random() < 0.3:
            run.change(lambda state: pause(state, "wait"))
    assert steps


def come_and_go(fleet: SimulatedFleet, rng: random.Random) -> None:
    """Let boards leave and start again now and then."""
    for member in fleet.members.values():
        work = member.work

        def working(member: Any = member, work: Any = work) -> None:
            if rng.random() < 0.02:
                member.leave() if member.online else member.restart()
            work()

        member.work = working  # type: ignore[method-assign]


def test_while_a_wave_soaks_nothing_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, plain(8), spec(waves=parse_waves("100%"), soak_s=3600.0))
    run.drive(lambda state: state.tracks["all"].soak_until is not None)
    looked: list[float] = []

    def looking(state: Rollout, views: Mapping[str, BoardNow], at: float, calm: Calm) -> Any:
        looked.append(at)
        return advance(state, views, at, calm)

    monkeypatch.setattr(rollout_drive, "advance", looking)
    begun = run.clock.now_s
    assert run.drive().status == "completed"
    assert run.clock.now_s >= begun + 3600.0 - 60.0
    assert len(looked) <= 6, "one to see that nothing moves, and one at each time that might have moved something"


def test_the_work_of_a_rollout_follows_what_is_heard_and_not_boards_times_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0

    def looking(*given: Any) -> Any:
        nonlocal looked
        looked += 1
        return observe(*given)

    monkeypatch.setattr(rollout, "observe", looking)
    count = 80
    run = Run(tmp_path, plain(count), spec(waves=parse_waves("100%"), soak_s=600.0))
    waiting = iter(range(10**6))

    def one_board_at_a_time(timeout_s: float) -> None:
        run.clock.now_s += 0.1
        busy = [member for member in run.fleet.members.values() if member.waiting]
        if busy:
            busy[next(waiting) % len(busy)].work()
        else:
            run.clock.now_s += timeout_s

    monkeypatch.setattr(run.port, "wait", one_board_at_a_time)
    assert run.drive().status == "completed"
    steps = next(waiting)
    assert steps >= 3 * count
    assert looked <= 3 * run.port.heard + 2 * count < steps * count / 4
