"""Rollouts over a simulated fleet: waves, breaches, boards that are away, pause, abort, give back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import BusyError, ConfigError
from agent.fleet.rollout import Rollout, abort, pause, resume, start
from agent.fleet.rollout_drive import drive
from agent.fleet.rollout_spec import (
    DEFAULT_RULES,
    RolloutSpec,
    parse_deadline,
    parse_duration,
    parse_rules,
    parse_success,
    parse_waves,
)
from agent.fleet.rollout_store import RolloutStore
from tests.fleet.simulated_fleet import (
    FLEET,
    NEW,
    OLD,
    TASK,
    SimulatedClock,
    SimulatedFleet,
    SimulatedPort,
    Ways,
    of_classes,
)

ID = "r0badcafe"
Boards = dict[str, tuple[str, Ways]]


def spec(**more: Any) -> RolloutSpec:
    usual: dict[str, Any] = {
        "task": TASK, "candidate": NEW, "address": "all", "waves": parse_waves("1,5%,25%,100%"), "success": 0.99,
        "rules": parse_rules(DEFAULT_RULES), "soak_s": 60.0, "per_class": False, "wait_s": 3600.0,
    }  # fmt: skip
    return RolloutSpec(**{**usual, **more})


class Run:
    """A rollout over a simulated fleet, stored in a real file."""

    def __init__(self, folder: Path, boards: Boards, wanted: RolloutSpec) -> None:
        self.clock = SimulatedClock()
        self.fleet = SimulatedFleet(boards, self.clock)
        self.store = RolloutStore(folder)
        self.port = SimulatedPort(self.fleet, ID)
        self.state = start(ID, FLEET, wanted, self.port.boards().values(), self.clock.now_s)
        self.store.create(self.state)

    def drive(self, until: Callable[[Rollout], bool] = lambda _: False) -> Rollout:
        """Drive it to its end, or until something holds."""
        left = 20_000
        seen: list[Rollout] = []

        def stop() -> bool:
            nonlocal left
            left -= 1
            assert left > 0, f"it neither ends nor says why: {self.state.reason} {self.state.tracks}"
            return until(seen[-1])

        def told(state: Rollout) -> None:
            self.state = state
            seen.append(state)

        return drive(self.store, ID, self.port, self.clock, stop, told)

    def change(self, made: Callable[[Rollout], Rollout]) -> None:
        self.store.change(ID, lambda before: (made(before), ()), self.clock.now_s)

    def phases(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for board in self.state.boards.values():
            found.setdefault(board.phase, []).append(board.name)
        return found


def plain(count: int = 20, **ways: Any) -> Boards:
    return of_classes(("a",), count, lambda _kind, _number: Ways(**ways))


def test_waves_grow_as_they_prove_themselves(tmp_path: Path) -> None:
    run = Run(tmp_path, plain(40), spec())
    sizes: dict[int, int] = {}
    while not run.state.ended:
        run.drive(lambda state: True)
        sizes[run.state.tracks["all"].wave] = sum(board.wave is not None for board in run.state.boards.values())
        run.port.wait(2.0)
    assert sizes == {0: 1, 1: 2, 2: 10, 3: 40}
    assert run.state.status == "completed"
    assert set(run.fleet.serving().values()) == {NEW}
    verbs = [verb for verb, _ in run.fleet.members["a-0"].did]
    assert verbs == ["bench", "select", "deploy"], "it is measured there before it is switched there"


def test_two_hundred_boards_of_four_classes_and_a_bad_candidate_ends_at_the_first_wave(tmp_path: Path) -> None:
    boards = of_classes(
        ("a", "b", "c", "d"), 50, lambda kind, _: Ways(ends="rolled_back" if kind == "c" else "deployed")
    )
    run = Run(tmp_path, boards, spec(per_class=True, soak_s=1800.0))
    ended = run.drive()
    assert ended.status == "rolled_back"
    assert "wave 1 of 4 of class c: rollback on 1 of 1 boards (100%), more than 1%" in ended.reason
    worked = [member for member in run.fleet.members.values() if member.did]
    assert sorted(member.kind for member in worked) == ["a", "b", "c", "d"], "one first board of each class, no more"
    assert set(run.fleet.serving().values()) == {OLD}
    assert len(run.phases()["undone"]) == 3


@pytest.mark.parametrize(("standing", "p95_s", "kind"), [("over_budget", 0.03, "slower"), ("unknown", 0.004, "failed")])
def test_a_board_where_it_does_not_fit_is_not_touched(tmp_path: Path, standing: str, p95_s: float, kind: str) -> None:
    run = Run(tmp_path, plain(4, standing=standing, p95_s=p95_s), spec())
    ended = run.drive()
    assert ended.status == "rolled_back"
    assert [board.kind for board in ended.boards.values() if board.wave is not None] == [kind]
    assert not [order for order in run.fleet.orders if order.verb in ("deploy", "rollback")]


def test_the_first_board_is_a_healthy_one_that_is_there(tmp_path: Path) -> None:
    boards = of_classes(("a",), 6, lambda _, number: Ways(healthy=number in (3, 5)))
    run = Run(tmp_path, boards, spec())
    run.fleet.members["a-3"].leave()
    run.drive(lambda state: any(board.wave == 0 for board in state.boards.values()))
    assert [board.name for board in run.state.boards.values() if board.wave == 0] == ["a-5"]


def test_a_board_that_goes_back_while_others_soak_counts(tmp_path: Path) -> None:
    run = Run(tmp_path, plain(10), spec(waves=parse_waves("5,100%"), soak_s=600.0))
    run.drive(lambda state: sum(board.phase == "soaking" for board in state.boards.values()) == 5)
    first = run.phases()["soaking"][0]
    run.fleet.members[first].go_back()
    ended = run.drive()
    assert ended.status == "rolled_back"
    assert ended.boards[first].phase == "rolled_back"
    assert "rollback on 1 of 5 boards (20%)" in ended.reason
    assert set(run.fleet.serving().values()) == {OLD}


def test_what_was_there_before_the_rollout_is_never_taken_away(tmp_path: Path) -> None:
    def ways(_kind: str, number: int) -> Ways:
        return (
            Ways(serves=NEW, measured=True) if number < 3 else Ways(ends="rolled_back" if number == 9 else "deployed")
        )

    run = Run(tmp_path, of_classes(("a",), 10, ways), spec(waves=parse_waves("100%")))
    ended = run.drive()
    assert ended.status == "rolled_back"
    assert [name for name, serves in run.fleet.serving().items() if serves == NEW] == ["a-0", "a-1", "a-2"]
    assert not [
        order for order in run.fleet.orders if order.verb == "rollback" and order.board in ("a-0", "a-1", "a-2")
    ]


def test_boards_that_are_away_are_picked_up_or_reported(tmp_path: Path) -> None:
    run = Run(tmp_path, plain(10), spec())
    for name in ("a-1", "a-2"):
        run.fleet.members[name].leave()
    run.drive(lambda state: "away" in state.tracks["all"].reason)
    assert not run.state.ended
    run.fleet.members["a-1"].restart()
    ended = run.drive()
    assert ended.status == "completed"
    assert run.phases() == {"succeeded": [f"a-{n}" for n in range(10) if n != 2], "unreachable": ["a-2"]}
    assert ended.boards["a-2"].reason == "it was away all the time"


def test_a_board_that_goes_silent_in_the_middle_is_no_answer(tmp_path: Path) -> None:
    run = Run(tmp_path, plain(3, ends="silent"), spec(rules=parse_rules(["no_answer>0%"]), on_breach="pause"))
    run.drive(lambda state: state.status == "paused")
    assert "no_answer on 1 of 1 boards" in run.state.reason
    (silent,) = run.phases()["unreachable"]
    assert run.state.boards[silent].kind == "no_answer"


def test_a_breach_that_pauses_goes_on_when_it_is_resumed(tmp_path: Path) -> None:
    bad = {"a-0", "a-1"}
    boards = of_classes(("a",), 8, lambda kind, n: Ways(ends="rolled_back" if f"{kind}-{n}" in bad else "deployed"))
    run = Run(tmp_path, boards, spec(on_breach="pause", waves=parse_waves("100%")))
    run.drive(lambda state: state.status == "paused")
    sent = len(run.fleet.orders)
    for _ in range(5):
        run.drive(lambda state: True)
        run.port.wait(2.0)
    assert len(run.fleet.orders) == sent, "a paused rollout orders nothing"
    run.drive(lambda state: not any(board.phase in ("ordered", "proving") for board in state.boards.values()))
    run.change(lambda state: resume(state, "seen", run.clock.now_s))
    ended = run.drive()
    assert ended.status == "completed"
    assert set(run.phases()["rolled_back"]) == bad
    assert len(run.phases()["succeeded"]) == 6


@pytest.mark.parametrize("give_back", [True, False])
def test_an_operator_aborts(tmp_path: Path, give_back: bool) -> None:
    run = Run(tmp_path, plain(10), spec(waves=parse_waves("4,100%"), soak_s=600.0))
    run.drive(lambda state: sum(board.phase == "soaking" for board in state.boards.values()) == 4)
    run.change(lambda state: pause(state, "by anna"))
    run.change(lambda state: abort(state, "by anna", give_back=give_back))
    ended = run.drive()
    assert ended.status == ("rolled_back" if give_back else "aborted")
    served = [name for name, candidate in run.fleet.serving().items() if candidate == NEW]
    assert len(served) == (0 if give_back else 4)
    with pytest.raises(ConfigError, match="there is nothing to pause"):
        run.change(lambda state: pause(state, "late"))


def test_where_nothing_served_before_there_is_nothing_to_give_back(tmp_path: Path) -> None:
    run = Run(tmp_path, plain(4, bare=True), spec(waves=parse_waves("4"), soak_s=600.0))
    run.drive(lambda state: sum(board.phase == "soaking" for board in state.boards.values()) == 4)
    run.change(lambda state: abort(state, "by anna", give_back=True))
    ended = run.drive()
    assert ended.status == "rolled_back"
    assert {board.reason for board in ended.boards.values()} == {f"{NEW} stays there: nothing served there before"}
    assert not [order for order in run.fleet.orders if order.verb == "rollback"]


def test_each_board_gets_what_it_has_chosen_itself(tmp_path: Path) -> None:
    boards = of_classes(("a", "b"), 3, lambda kind, _: Ways(standing="fits" if kind == "a" else "over_budget"))
    run = Run(tmp_path, boards, spec(candidate=None))
    ended = run.drive()
    assert ended.status == "completed"
    assert {name: (NEW if name.startswith("a") else OLD) for name in boards} == run.fleet.serving()
    assert ended.boards["b-0"].reason == "it served there already"


def test_an_order_that_nobody_got_is_sent_again_with_the_epoch_of_then(tmp_path: Path) -> None:
    run = Run(tmp_path, plain(1, measured=True), spec())
    member = run.fleet.members["a-0"]
    take, lost = member.order, []
    member.order = lost.append  # type: ignore[method-assign,assignment]
    run.drive(lambda state: bool(lost))
    member.order = take  # type: ignore[method-assign]
    member.restart()
    assert run.drive().status == "completed"
    assert [verb for verb, _ in member.did] == ["deploy"]
    assert {order.job for order in run.fleet.orders if order.verb == "deploy"} == {lost[0].job}


def test_of_one_task_one_rollout_is_open(tmp_path: Path) -> None:
    run = Run(tmp_path, plain(3), spec())
    newer = start("r2", FLEET, spec(), run.port.boards().values(), run.clock.now_s)
    with pytest.raises(BusyError, match=f"{ID} of digits has not ended"):
        run.store.create(newer)
    run.store.create(newer, in_place=True)
    assert run.drive().status == "superseded"
    assert not run.fleet.orders
    other = start("r3", FLEET, spec(task="words"), run.port.boards().values(), run.clock.now_s)
    run.store.create(other)
    assert {one.id for one in run.store.newest(FLEET)} == {ID, "r2", "r3"}


def test_the_history_tells_every_step(tmp_path: Path) -> None:
    run = Run(tmp_path, plain(2), spec(waves=parse_waves("1,100%")))
    run.drive()
    rows = run.store.history(ID)
    first = next(board.name for board in run.state.boards.values() if board.wave == 0)
    steps = [(row.after, row.verb) for row in rows if row.subject == first]
    assert steps == [
        ("measuring", "bench"), ("measuring", "select"), ("ordered", "deploy"), ("soaking", None), ("succeeded", None),
    ]  # fmt: skip
    assert [row.after for row in rows if row.subject == "track all"] == ["wave 2", "done"]
    assert rows[-1].subject == "rollout"
    assert rows[-1].after == "completed"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: parse_waves("1,x"), "neither a number of boards nor a share"),
        (lambda: parse_waves("10%,5%"), "comes after 10% and is smaller"),
        (lambda: parse_rules(["boom>1%"]), "is not a rule"),
        (lambda: parse_rules(["rollback>1"]), "is not a share"),
        (lambda: parse_success("0%"), "would prove nothing"),
        (lambda: parse_duration("30", "--soak"), "has no unit"),
        (lambda: parse_deadline("2d", "--bench-deadline"), "at most 24 h"),
    ],
)
def test_what_cannot_be_read_is_said(call: Callable[[], object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        call()
    assert parse_duration("30min", "--soak") == 1800.0


def test_shares_are_rounded_up_and_never_shrink() -> None:
    assert spec().targets(200) == (1, 10, 50, 200)
    assert spec().targets(3) == (1, 1, 1, 3)
    assert spec(waves=parse_waves("10,5%")).targets(100) == (10, 10)


def test_a_rollback_that_a_board_has_begun_is_never_ordered_twice(tmp_path: Path) -> None:
    run = Run(tmp_path, plain(2, goes_back=False), spec(waves=parse_waves("2"), soak_s=600.0))
    run.drive(lambda state: sum(board.phase == "soaking" for board in state.boards.values()) == 2)
    run.change(lambda state: abort(state, "by anna", give_back=True))
    ended = run.drive()
    assert sorted(order.board for order in run.fleet.orders if order.verb == "rollback") == ["a-0", "a-1"]
    assert "still serves there" in (ended.boards["a-0"].reason or "")
    assert run.phases() == {"failed": ["a-0", "a-1"]}


def test_a_board_that_is_away_is_ordered_nothing_until_it_is_back(tmp_path: Path) -> None:
    run = Run(tmp_path, plain(1), spec())
    member = run.fleet.members["a-0"]
    run.drive(lambda state: True)
    run.port.wait(2.0)  # it measures, and is gone
    member.leave()
    for _ in range(20):
        run.drive(lambda state: True)
        run.port.wait(2.0)
    assert [order.verb for order in run.fleet.orders] == ["bench"]
    member.restart()
    assert run.drive().status == "completed"
