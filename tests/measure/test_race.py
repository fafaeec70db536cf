"""Racing on a simulated board: the same answer as measuring everything, for less, and each omission with its reason."""

from __future__ import annotations

import random

import msgspec
import pytest

from agent.core.decision import Decision
from agent.measure.race import Race
from tests.measure.simulated import Model, SimulatedBoard, budgets, objectives

OBJECTIVES = (
    ("minimize size",),
    ("maximize accuracy_top1",),
    ("maximize accuracy_top1", "minimize latency_p95"),
    ("minimize latency_p95",),
    ("minimize energy_per_inference", "minimize latency_p50"),  # no meter: the second decides
)
BUDGETS = (
    {"latency_p95": "5 ms", "accuracy_top1": "0.94"},
    {"latency_p95": "5 ms", "memory_peak": "90 MiB"},
    {"accuracy_drop": "0.03", "latency_p95": "5 ms"},
    {},
)


def chosen(decision: Decision) -> str | None:
    return None if decision.winner is None else f"{decision.winner.candidate} {decision.winner.point.label}"


def models(seed: int, n: int = 7) -> list[Model]:
    """Models of which no figure is near a limit: at 5 ms p95, two threads 40 % faster than one."""
    rnd = random.Random(seed)
    speeds = (0.0005, 0.001, 0.0017, 0.0025, 0.012, 0.017, 0.03)
    return [
        Model(
            f"m{number}",
            size=rnd.randrange(50_000, 1_000_000),
            top1=rnd.choice((0.85, 0.90, 0.97, 0.985)),
            p50_s=rnd.choice(speeds) * rnd.uniform(0.9, 1.1),
            memory=rnd.choice((50, 70, 120)) * (1 << 20) + rnd.randrange(1 << 20),
        )
        for number in range(n)
    ]


@pytest.mark.parametrize("limits", BUDGETS, ids=str)
@pytest.mark.parametrize("wish", OBJECTIVES, ids=str)
def test_a_race_finds_what_measuring_everything_finds(wish: tuple[str, ...], limits: dict[str, str]) -> None:
    for seed in (1, 2):
        raced = SimulatedBoard(models(seed), budgets(**limits), objectives(*wish), seed=seed)
        whole = SimulatedBoard(models(seed), budgets(**limits), objectives(*wish), seed=seed)
        assert chosen(raced.run(raced.race())) == chosen(whole.run(whole.race(exhaustive=True)))
        assert len(whole.heats) == 14
        assert raced.device_s < whole.device_s


def test_the_best_known_utility_goes_first_and_nothing_below_it_is_run() -> None:
    board = SimulatedBoard(
        [Model("small", 100, 0.9, 0.001), Model("middle", 200, 0.95, 0.001), Model("large", 300, 0.99, 0.001)],
        budgets(latency_p95="5 ms"),
        objectives("minimize size"),
        threads=(1,),
    )
    race = board.race()
    assert chosen(board.run(race)) == "small onnxruntime/CPU x1"
    assert board.heats == ["small x1"]
    left_out = race.untried()
    assert [(o.candidate, o.could_matter) for o in left_out] == [("middle", False), ("large", False)]
    assert "lost on minimize size" in left_out[0].reason


def test_where_a_ladder_is_wanted_its_rungs_are_measured_and_no_more() -> None:
    """Accuracy is known of the publisher's word; what could be no rung below the first, or win, is left out."""
    made = [
        Model("best", 100, 0.985, 0.012),
        Model("light", 200, 0.95, 0.002),
        Model("poor", 300, 0.85, 0.0021),
        Model("poorer", 300, 0.80, 0.02),
    ]
    wish = objectives("maximize accuracy_top1", "minimize latency_p95")
    alone = SimulatedBoard(made, budgets(accuracy_top1="0.75"), wish, threads=(1,))
    alone.run(alone.race())
    assert "light x1" not in alone.heats
    board = SimulatedBoard(made, budgets(accuracy_top1="0.75"), wish, threads=(1,), rungs=2)
    decision = board.run(board.race())
    assert [rung.choice.candidate for rung in decision.ladder] == ["best", "light"]
    assert set(board.heats) == {"best x1", "light x1"}


def test_a_model_over_its_budget_costs_a_few_runs() -> None:
    board = SimulatedBoard([Model("slow", 100, 0.9, 0.03)], budgets(latency_p95="20 ms"), objectives("minimize size"),
                           threads=(1,))  # fmt: skip
    race = board.race()
    heat = race.next()
    assert heat is not None
    measurement = board.measure(heat)
    race.add(heat, measurement)
    assert measurement.latency is not None
    assert measurement.latency.n <= 5
    assert [(proof.metric, proof.state) for proof in measurement.proofs] == [("latency_p95", "missed")]
    assert race.next() is None
    assert race.decision.outcome == "nothing_fits"
    assert race.decision.options[0].standing == "over_budget"


def test_a_slower_rival_is_ended_early_and_cannot_win() -> None:
    board = SimulatedBoard(
        [Model("fast", 200, 0.95, 0.004), Model("slow", 300, 0.95, 0.012)],
        budgets(), objectives("minimize latency_p95"), threads=(1,),
    )  # fmt: skip
    race = board.race()
    assert chosen(board.run(race)) == "fast onnxruntime/CPU x1"
    (slow,) = [option for option in race.decision.options if option.candidate == "slow"]
    assert slow.estimates["latency_p95"].low is not None
    assert slow.rank == 2
    (left,) = race.untried()
    assert (left.candidate, left.could_matter) == ("slow", False)
    assert left.reason.startswith("ended early")


def test_a_race_is_resumed_from_what_is_stored_and_runs_nothing_twice() -> None:
    board = SimulatedBoard(models(3), budgets(latency_p95="5 ms"), objectives("maximize accuracy_top1"), seed=3)
    race, taken = board.race(), []
    while (heat := race.next()) is not None and len(taken) < 3:
        taken.append(board.measure(heat))
        race.add(heat, taken[-1])
    first = list(board.heats)
    again = board.race(tuple(taken))
    board.heats.clear()
    resumed = chosen(board.run(again))
    assert not {*first} & {*board.heats}
    other = SimulatedBoard(models(3), budgets(latency_p95="5 ms"), objectives("maximize accuracy_top1"), seed=3)
    assert resumed == chosen(other.run(other.race()))


def test_asked_for_in_full_what_was_timed_in_one_process_is_measured_again() -> None:
    board = SimulatedBoard([Model("m", 100, 0.95, 0.001)], budgets(), objectives("minimize size"), threads=(1,))
    heat = board.race().next()
    assert heat is not None and not heat.stakes.repeated
    raced = board.measure(heat)
    again = board.race((raced,), exhaustive=True).next()
    assert again is not None and again.stakes.repeated
    assert raced.latency is not None
    full = msgspec.structs.replace(raced, latency=msgspec.structs.replace(raced.latency, process_n=(100, 100, 100)))
    assert board.race((full,), exhaustive=True).next() is None


def test_other_budgets_open_again_what_was_ended_early() -> None:
    fast = Model("tight", 100, 0.95, 0.010)
    board = SimulatedBoard([fast], budgets(latency_p95="5 ms"), objectives("minimize size"), threads=(1,))
    race = board.race()
    heat = race.next()
    assert heat is not None
    partial = board.measure(heat)
    assert partial.stopped is not None
    loose = SimulatedBoard([fast], budgets(latency_p95="20 ms"), objectives("minimize size"), threads=(1,))
    again = loose.race((partial,))
    assert [option.could_matter for option in again.untried()] == [True]
    assert chosen(loose.run(again)) == "tight onnxruntime/CPU x1"


def test_tighter_budgets_and_a_new_candidate_measure_what_is_not_known_and_no_more() -> None:
    old = [Model("a", 100, 0.95, 0.004), Model("b", 200, 0.95, 0.001)]
    wish = objectives("minimize size")
    board = SimulatedBoard(old, budgets(latency_p95="20 ms"), wish, threads=(1,))
    race, stored = board.race(), []
    while (heat := race.next()) is not None:
        stored.append(board.measure(heat))
        race.add(heat, stored[-1])
    assert (chosen(race.decision), board.heats) == ("a onnxruntime/CPU x1", ["a x1"])
    tighter = SimulatedBoard(old, budgets(latency_p95="2 ms"), wish, threads=(1,))
    race = tighter.race(tuple(stored))
    while (heat := race.next()) is not None:
        stored.append(tighter.measure(heat))
        race.add(heat, stored[-1])
    assert (chosen(race.decision), tighter.heats) == ("b onnxruntime/CPU x1", ["b x1"])
    newer = SimulatedBoard([*old, Model("c", 150, 0.95, 0.001)], budgets(latency_p95="2 ms"), wish, threads=(1,))
    assert chosen(newer.run(newer.race(tuple(stored)))) == "c onnxruntime/CPU x1"
    assert newer.heats == ["c x1"]


def test_a_contended_option_is_tried_again_after_the_others_and_then_given_up() -> None:
    board = SimulatedBoard(
        [Model("busy", 100, 0.9, 0.001, contended=9), Model("calm", 200, 0.9, 0.001)],
        budgets(latency_p95="5 ms"), objectives("minimize size"), threads=(1,),
    )  # fmt: skip
    race = board.race()
    assert chosen(board.run(race)) == "calm onnxruntime/CPU x1"
    assert board.heats == ["busy x1", "calm x1", "busy x1", "busy x1"]
    board.models[0].contended = 1
    board.heats.clear()
    assert chosen(board.run(board.race())) == "busy onnxruntime/CPU x1"


def test_a_busy_machine_ends_the_retries() -> None:
    board = SimulatedBoard(
        [Model(f"m{i}", 100 + i, 0.9, 0.001, contended=99) for i in range(12)],
        budgets(latency_p95="5 ms"), objectives("minimize size"), threads=(1,),
    )  # fmt: skip
    board.run(board.race())
    assert len(board.heats) < 12 + 2 * 5


def test_a_busy_hour_takes_no_good_figure_away() -> None:
    fast = Model("fast", 100, 0.95, 0.010)
    board = SimulatedBoard([fast], budgets(latency_p95="5 ms"), objectives("minimize size"), threads=(1,))
    heat = board.race().next()
    assert heat is not None
    partial = board.measure(heat)
    loose = SimulatedBoard([fast], budgets(latency_p95="20 ms"), objectives("minimize size"), threads=(1,))
    fast.contended = 99
    race = loose.race((partial,))
    loose.run(race)
    assert len(loose.heats) == 3
    assert race.decision.options[0].measurement_id == partial.id
    assert [(o.could_matter, o.reason.split(":")[0]) for o in race.untried()] == [(True, "ended early")]


def test_a_winner_that_can_no_longer_be_fetched_ends_the_race() -> None:
    board = SimulatedBoard(
        [Model("good", 100, 0.985, 0.001)], budgets(accuracy_top1="0.8"), objectives("minimize size"), threads=(1,)
    )
    race = board.race()
    heat = race.next()
    assert heat is not None
    race.add(heat, board.measure(heat))
    again = race.next()
    assert again is not None  # on its whole pack
    race.leave_out(again.run.candidate, "it could not be fetched")
    assert race.next() is None


def test_where_nothing_can_fit_one_option_is_measured_to_say_what_is_missing() -> None:
    board = SimulatedBoard(models(4), budgets(power_mean="2 W"), objectives("minimize size"))
    race = board.race()
    decision = board.run(race)
    assert len(board.heats) == 1
    assert decision.nearest_miss is not None
    assert decision.nearest_miss.metric == "power_mean"
    assert all("power" in option.reason for option in race.untried())


def test_the_most_accurate_is_measured_whole_where_a_drop_is_limited() -> None:
    board = SimulatedBoard(
        [Model("teacher", 900, 0.985, 0.03), Model("student", 100, 0.96, 0.001)],
        budgets(accuracy_drop="0.045", latency_p95="5 ms"), objectives("minimize size"), threads=(1,),
    )  # fmt: skip
    race = board.race()
    board.run(race)
    assert board.heats == ["student x1", "teacher x1"]
    teacher, student = (m for m in race.decision.options if m.candidate in {"teacher", "student"})
    drops = {option.candidate: option.estimates["accuracy_drop"].value for option in (teacher, student)}
    assert drops["teacher"] == 0.0  # over its latency budget, and judged whole all the same
    assert drops["student"] is not None
    assert drops["student"] > 0.0


def test_a_winner_judged_on_part_of_its_pack_is_judged_whole() -> None:
    board = SimulatedBoard(
        [Model("good", 100, 0.985, 0.001)], budgets(accuracy_top1="0.8"), objectives("minimize size"), threads=(1,)
    )
    race: Race = board.race()
    heat = race.next()
    assert heat is not None
    first = board.measure(heat)
    race.add(heat, first)
    assert first.accuracy is not None
    assert first.accuracy.n < 540
    assert race.decision.winner is not None
    last = race.next()
    assert last is not None
    whole = board.measure(last)
    race.add(last, whole)
    assert whole.accuracy is not None
    assert whole.accuracy.n == 540
    assert race.next() is None
