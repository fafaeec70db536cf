"""What a rollout never does, whatever is lost, repeated, restarted or away: generated runs over a simulated fleet."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
from hypothesis import HealthCheck, given, settings

from agent.fleet.rollout import Rollout, abort, advance, pause, resume, start
from agent.fleet.rollout_board import AT_WORK, SERVES, Order
from agent.fleet.rollout_spec import RolloutSpec, parse_rules, parse_waves
from tests.fleet.simulated_fleet import FLEET, NEW, TASK, SimulatedClock, SimulatedFleet, Ways

ID = "r0badcafe"
CALM_STEPS = 400  # of a minute each

ways = st.builds(
    Ways,
    standing=st.sampled_from(["fits", "fits", "fits", "fits", "over_budget", "unknown"]),
    ends=st.sampled_from(["deployed", "deployed", "deployed", "deployed", "rolled_back", "failed", "silent"]),
    measured=st.booleans(),
    bare=st.sampled_from([False, False, True]),
    goes_back=st.sampled_from([True, True, False]),
)
specs = st.builds(
    RolloutSpec,
    task=st.just(TASK),
    candidate=st.sampled_from([NEW, NEW, None]),
    address=st.just("all"),
    waves=st.sampled_from([parse_waves(text) for text in ("1,50%,100%", "100%", "1,2,3", "30%,100%")]),
    success=st.sampled_from([0.99, 0.5, 0.2]),
    rules=st.sampled_from([parse_rules(["rollback>1%"]), parse_rules(["failed>30%,no_answer>50%"]), ()]),
    soak_s=st.sampled_from([0.0, 30.0]),
    per_class=st.booleans(),
    on_breach=st.sampled_from(["pause", "rollback"]),
    wait_s=st.just(1200.0),
    bench_s=st.just(900.0),
    deploy_s=st.just(600.0),
)
actions = st.lists(
    st.tuples(
        st.sampled_from(["go", "go", "go", "leave", "return", "restart", "pause", "resume", "abort", "undo", "repeat"]),
        st.integers(0, 6),
        st.booleans(),
        st.booleans(),
    ),
    min_size=10,
    max_size=40,
)


class Watched:
    """A rollout step by step, with every rule looked at after each."""

    def __init__(self, boards: list[Ways], spec: RolloutSpec) -> None:
        self.clock = SimulatedClock()
        named = {f"b{number}": (("x", "y")[number % 2], one) for number, one in enumerate(boards)}
        self.fleet = SimulatedFleet({**named, "not-asked": ("x", Ways())}, self.clock)
        self.view = self.fleet.view(ID)
        there = [board for name, board in self.view.boards.items() if name in named]
        self.state = start(ID, FLEET, spec, there, self.clock.now_s)
        self.sent: list[Order] = []
        self.deployed: set[str] = set()

    def step(
        self, *, orders_lost: bool = False, answers_lost: bool = False, again: bool = False, passes_s: float = 5.0
    ) -> None:
        self.fleet.lost = lambda: answers_lost
        before = self.state
        self.state, orders = advance(before, self.view.boards, self.clock.now_s)
        stored = msgspec.json.decode(msgspec.json.encode(before), type=Rollout)
        assert (self.state, orders) == advance(stored, self.view.boards, self.clock.now_s), "a restart changed it"
        self.check(before, orders)
        for order in (*self.sent, *orders) if again else orders:
            if not orders_lost:
                self.fleet.members[order.board].order(order)
        self.sent += orders
        for member in self.fleet.members.values():
            member.work()
        self.clock.now_s += passes_s

    def check(self, before: Rollout, orders: tuple[Order, ...]) -> None:
        state, spec = self.state, self.state.spec
        for order in orders:
            board = state.boards[order.board]
            assert board.wave is not None
            assert self.view.boards[order.board].orderable, "ordered a board that is away"
            assert state.status not in ("paused", "completed"), "it orders while it rests"
            if order.verb == "deploy":
                assert state.status == "running"
                known = self.view.boards[order.board].decided
                assert known is not None
                assert known.opinions[order.arguments["candidate"]].standing == "fits", "deployed without proof"
                self.deployed.add(order.board)
            if order.verb == "rollback":
                assert order.board in self.deployed, "gave back what it had not switched"
                assert state.status in ("undoing", "rolled_back")
        for name, track in state.tracks.items():
            mine = [board for board in state.boards.values() if board.track == name and board.wave is not None]
            counted = [board for board in mine if board.name not in state.accepted]
            assert len(counted) <= track.targets[track.wave], "more boards than the wave allows"
            passed = range(before.tracks[name].wave, track.wave if not track.done else track.wave + 1)
            for wave in passed if not before.tracks[name].done else ():
                of_wave = [board for board in counted if board.wave == wave]
                good = sum(board.phase in SERVES for board in of_wave)
                assert not of_wave or good / len(of_wave) >= spec.success - 1e-9, "past a wave without proof"
        assert state.reason
        assert all(board.reason for board in state.boards.values() if board.kind is not None)

    def do(self, action: str, number: int) -> None:
        name = f"b{number}"
        member = self.fleet.members.get(name)
        if member is not None and action in ("leave", "return"):
            (member.leave if action == "leave" else member.restart)()
        elif action == "restart":
            self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=Rollout)
            self.view = self.fleet.view(ID)
        elif action == "pause" and self.state.status == "running":
            self.state = pause(self.state, "by somebody")
        elif action == "resume" and self.state.status == "paused":
            self.state = resume(self.state, "by somebody", self.clock.now_s)
        elif action in ("abort", "undo") and self.state.status in ("running", "paused"):
            self.state = abort(self.state, "by somebody", give_back=action == "undo")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(boards=st.lists(ways, min_size=1, max_size=7), spec=specs, script=actions)
def test_whatever_happens_the_rules_hold_and_it_ends_or_says_what_it_waits_for(
    boards: list[Ways], spec: RolloutSpec, script: list[tuple[str, int, bool, bool]]
) -> None:
    run = Watched(boards, spec)
    for action, number, orders_lost, answers_lost in script:
        run.do(action, number)
        run.step(orders_lost=orders_lost, answers_lost=answers_lost, again=action == "repeat")
    steps = 0
    while not run.state.ended and not resting(run.state):
        run.step(passes_s=60.0)
        steps += 1
        assert steps < CALM_STEPS, f"it neither ends nor rests: {run.state.status} {run.state.tracks}"
    for name, member in run.fleet.members.items():
        jobs = [job for _, job in member.did]
        assert len(jobs) == len(set(jobs)), "an order had two effects"
        assert [verb for verb, _ in member.did].count("rollback") <= 1, "given back twice is not given back"
        assert name != "not-asked" or not jobs
    if run.state.status == "rolled_back":
        for name in run.deployed:
            board = run.state.boards[name]
            gone = run.view.boards[name].serving
            served = gone is not None and gone.candidate == board.target
            assert not served or board.gave_up, f"{name} still has it: {board}"
            assert not served or board.reason


def resting(state: Rollout) -> bool:
    """Whether it is paused and nothing is at work: it waits for its operator, and says why."""
    return state.status == "paused" and not any(
        board.phase in AT_WORK and board.due is None for board in state.boards.values()
    )


def test_the_same_seed_picks_the_same_boards() -> None:
    def picked() -> list[str]:
        run = Watched([Ways()] * 7, specs_example())
        run.step()
        return [order.board for order in run.sent]

    assert picked() == picked()
    assert len(picked()) == 2


def specs_example(**more: Any) -> RolloutSpec:
    usual: dict[str, Any] = {
        "task": TASK, "candidate": NEW, "address": "all", "waves": parse_waves("2,100%"), "success": 0.99,
        "rules": (), "soak_s": 0.0, "per_class": False,
    }  # fmt: skip
    return RolloutSpec(**{**usual, **more})
