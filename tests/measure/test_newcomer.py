"""A newcomer on a simulated board: what its class told makes it quicker, and never makes it pass a budget."""

from __future__ import annotations

import random

import msgspec
import pytest

from agent.core.class_results import BoardResults, ClassResult, ClassView, pool, pooled, results_to_tell
from agent.core.decision import Decision
from agent.core.measurement import Measurement
from agent.measure.newcomer import Looks
from agent.measure.plan import LASTING
from agent.measure.race import Race
from tests.measure.simulated import Model, SimulatedBoard, budgets, objectives
from tests.measure.test_race import chosen, models

LIMITS = {"latency_p95": "5 ms", "accuracy_top1": "0.94"}
WISH = ("minimize latency_p95",)


def board(
    seed: int, *, slower: float = 1.0, of: list[Model] | None = None, wish: tuple[str, ...] = WISH
) -> SimulatedBoard:
    """Return a SIMULATED board of the class, ``slower`` times as slow."""
    some = [Model(m.name, m.size, m.top1, m.p50_s * slower, memory=m.memory) for m in of or models(1)]
    return SimulatedBoard(some, budgets(**LIMITS), objectives(*wish), seed=seed)


def run(one: SimulatedBoard, race: Race) -> list[Measurement]:
    kept: dict[object, Measurement] = {}
    while (heat := race.next()) is not None:
        measurement = one.measure(heat)
        if race.add(heat, measurement):
            kept[measurement.key] = measurement
    return list(kept.values())


def results(seed: int, **more: float) -> tuple[ClassResult, ...]:
    """Return what a board tells that measured everything."""
    one = board(seed, **more)  # type: ignore[arg-type]
    return results_to_tell(run(one, one.race(exhaustive=True)), LASTING)


def view(*told: tuple[ClassResult, ...]) -> ClassView:
    of = {"task": "t", "class_fingerprint": "test-class", "told_at": "2026-01-01T00:00:00Z"}
    documents = [BoardResults(board=f"f/{n}", results=some, **of) for n, some in enumerate(told)]
    return pool(documents, class_fingerprint="test-class", task="t")


@pytest.fixture(scope="module")
def honest() -> list[tuple[ClassResult, ...]]:
    return [results(seed) for seed in range(10, 15)]


def alone(seed: int, **more: float) -> tuple[Decision, SimulatedBoard]:
    one = board(seed, **more)  # type: ignore[arg-type]
    return one.run(one.race()), one


def test_a_newcomer_of_a_known_class_chooses_the_same_for_less(honest: list[tuple[ClassResult, ...]]) -> None:
    decision, by_itself = alone(3)
    one = board(3)
    race = one.race(view=view(*honest))
    assert chosen(one.run(race)) == chosen(decision)
    assert one.device_s < by_itself.device_s
    account = race.from_class()
    assert account is not None
    assert (account.use, account.boards) == ("bounds", 5)
    assert {check.state for check in account.checks} == {"agrees"}
    left = [option for option in race.untried() if option.reason.startswith("by the figures of its class")]
    assert len(left) == account.left_out > 0
    assert not any(option.could_matter for option in left)


def test_a_board_that_is_not_like_its_class_says_so_and_measures_as_if_alone(
    honest: list[tuple[ClassResult, ...]],
) -> None:
    decision, _ = alone(3, slower=1.6)
    one = board(3, slower=1.6)
    race = one.race(view=view(*honest))
    assert chosen(one.run(race)) == chosen(decision)
    account = race.from_class()
    assert account is not None
    assert (account.use, account.left_out) == ("none", 0)
    assert "1.6" in account.reason
    assert all(check.looks > 1 for check in account.checks if check.state == "disagrees")  # no look alone says so
    assert not any(option.reason.startswith("by the figures of its class") for option in race.untried())


def test_one_or_two_boards_are_an_order_of_trying_and_nothing_else(honest: list[tuple[ClassResult, ...]]) -> None:
    for told in (honest[:1], honest[:2]):
        one = board(4)
        race = one.race(view=view(*told))
        one.run(race)
        account = race.from_class()
        assert account is not None
        assert (account.use, account.left_out) == ("order", 0)
        assert "too few" in account.reason
    assert board(4).race(view=view()).from_class() is None  # nobody told anything


@pytest.mark.parametrize("seed", range(6))
def test_lies_never_get_a_model_over_budget_chosen(honest: list[tuple[ClassResult, ...]], seed: int) -> None:
    draw = random.Random(seed)

    def lie(some: tuple[ClassResult, ...]) -> tuple[ClassResult, ...]:
        by = {r.artifact_sha256: 10 ** draw.uniform(-2, 2) for r in some}
        return tuple(
            msgspec.structs.replace(r, accuracy_top1=1.0, n=1000, latency_p50_s=0.004 * by[r.artifact_sha256],
                                    latency_p95_s=0.004 * by[r.artifact_sha256], memory_peak_bytes=1.0)
            for r in some
        )  # fmt: skip

    one = board(seed)
    race = one.race(view=view(*[lie(some) for some in honest]))  # all of them lie, each in its own way
    decision = one.run(race)
    assert decision.winner is not None
    winner = decision.options[0]
    assert all(check.state == "met" for check in winner.checks)
    true = next(model for model in one.models if model.name == winner.candidate)
    assert true.p50_s * (0.6 if winner.point.threads == 2 else 1.0) < 0.005
    assert true.top1 > 0.94


def test_one_liar_among_four_changes_nothing_that_is_chosen(honest: list[tuple[ClassResult, ...]]) -> None:
    liar = tuple(
        msgspec.structs.replace(r, latency_p50_s=r.latency_p50_s * 5, latency_p95_s=r.latency_p50_s * 6)
        for r in honest[0]
        if r.latency_p50_s is not None
    )
    decision, _ = alone(5)
    one = board(5)
    assert chosen(one.run(one.race(view=view(liar, *honest[1:4])))) == chosen(decision)


def test_a_second_pass_needs_no_second_spot_check(honest: list[tuple[ClassResult, ...]]) -> None:
    one = board(6)
    first = one.race(view=view(*honest))
    stored = run(one, first)
    one.heats.clear()
    again = one.race(tuple(stored), view=view(*honest))
    assert chosen(one.run(again)) == chosen(first.decision)
    assert one.heats == []


def test_measuring_everything_asks_no_class(honest: list[tuple[ClassResult, ...]]) -> None:
    one = board(7)
    race = one.race(exhaustive=True, view=view(*honest))
    one.run(race)
    assert race.from_class() is None
    assert len(one.heats) == 14


def test_a_look_is_told_of_the_point_that_was_really_run(honest: list[tuple[ClassResult, ...]]) -> None:
    one = board(8)
    heat = one.race(view=view(*honest)).next()
    assert heat is not None
    really = msgspec.structs.replace(heat.run.point, provider="built-in")  # XNNPACK took no node of it, say
    looks = Looks(pooled([0.01, 0.01, 0.01]), really)
    looks.add(0.011)
    looks.add(0.011)
    check = looks.check(heat.run)
    assert (check.point, check.looks, check.state) == (really, 2, "agrees")
    told = results_to_tell([msgspec.structs.replace(one.measure(heat), point=really)], LASTING, [check])
    assert [(r.looks, r.latency_p50_s) for r in told] == [(2, pytest.approx(0.011))]
