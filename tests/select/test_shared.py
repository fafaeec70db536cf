"""What each task gets of one board, told from measurements made up for it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.core.budget import Budget, Objective, parse_expression, parse_objective
from agent.core.combination import Combination, JointMeasurement, JointMember
from agent.core.decision import Choice, Decision
from agent.core.measurement import Figure, Measurement, MemoryFigures
from agent.select.decision import decide
from agent.select.explain import explain
from agent.select.joint import confirmed, in_combination, judge_joint, judged_budgets, ladder_beside
from agent.select.shared import Posed, Sharer, choices_of, choose, pose
from tests.select.measured import CLASS, accuracy, measurement, power

MIB = 2**20


def option(task: str, name: str, *, right: int, mib: int, watts: float | None = None, **more: Any) -> Measurement:
    """One option, the more ``right`` of 1000 the better, and the more told apart."""
    memory = MemoryFigures(
        admission_peak_bytes=mib * MIB, model_peak_bytes=None, model_steady_bytes=None, runtime_baseline_bytes=None
    )
    return measurement(
        name, id=f"{task}-{name}", task=task, memory=memory, power=None if watts is None else power(watts),
        accuracy=accuracy([n < right for n in range(1000)]), **more,
    )  # fmt: skip


DIGITS = [
    option("digits", "large", right=990, mib=300, watts=3.0),
    option("digits", "small", right=900, mib=60, watts=2.4),
]
WORDS = [
    option("words", "large", right=970, mib=400, watts=3.4), option("words", "middle", right=900, mib=200, watts=2.8),
    option("words", "small", right=800, mib=50, watts=2.2),
]  # fmt: skip
BEST = (parse_objective("maximize accuracy_top1", where="test"),)


def decided(cases: list[Measurement], budgets: tuple[Budget, ...] = (), **more: Any) -> Decision:
    objectives: tuple[Objective, ...] = BEST
    return decide(
        cases[0].task, cases, budgets, objectives, class_fingerprint=CLASS, decided_at="now", decision_id="d", **more
    )


def sharer(cases: list[Measurement], *, held: bool = False, **more: Any) -> Sharer:
    return Sharer(decided(cases, **more), {one.id: one for one in cases}, held=held)


def posed(*sharers: Sharer, budgets: tuple[str, ...] = ("memory_peak<=600MiB",)) -> Posed:
    return pose([parse_expression(text, where="test") for text in budgets], sharers)


def chosen(question: Posed, failed: dict[tuple[Choice, ...], str] | None = None) -> Combination:
    return choose(question, failed or {}, combination_id="c", decided_at="now")


def names(combination: Combination) -> list[str | None]:
    return [None if share.choice is None else share.choice.candidate for share in combination.shares]


def choice(case: Measurement) -> Choice:
    return Choice(candidate=case.candidate, artifact_sha256=case.artifact_sha256, point=case.point)


def test_where_there_is_room_all_get_what_they_would_get_alone() -> None:
    found = chosen(posed(sharer(DIGITS), sharer(WORDS), budgets=("memory_peak<=700MiB",)))
    assert (found.outcome, names(found)) == ("chosen", ["large", "large"])
    assert found.reason == "all get what they would get alone: together memory_peak 700 MiB <= 700 MiB"
    assert (found.exact, found.tiers, found.bound, found.combinations) == (True, (0, 0), (0, 0), 6)
    assert found.shares[0].reason == "gets large (onnxruntime/CPU x1), as it would alone"


def test_the_second_task_gives_way_and_is_told_by_how_much() -> None:
    found = chosen(posed(sharer(DIGITS), sharer(WORDS)))
    assert names(found) == ["large", "middle"]
    words = found.shares[1]
    assert words.alone is not None
    assert words.alone.candidate == "large"
    assert (words.metric, words.rank) == ("memory_peak", 2)
    assert words.excess_ratio == pytest.approx(100 / 600)
    assert words.reason == (
        "gets middle (onnxruntime/CPU x1) instead of large (onnxruntime/CPU x1): with that, beside what the others "
        "get, memory_peak 700 MiB is over 600 MiB by 17 %"
    )
    assert found.reason == "what each would get alone is too much together: memory_peak 700 MiB is over 600 MiB by 17 %"
    assert [check.value for check in found.planned] == [500 * MIB]


def test_the_order_of_the_tasks_is_their_priority() -> None:
    assert names(chosen(posed(sharer(WORDS), sharer(DIGITS)))) == ["large", "small"]


def test_the_idle_board_is_counted_once() -> None:
    # Idle is 2 W in every figure: 3.06 W and 3.468 W at their upper ends make 4.528 W together, not 6.528 W.
    found = chosen(posed(sharer(DIGITS), sharer(WORDS), budgets=("power_mean<=4.6W",)))
    assert names(found) == ["large", "large"]
    assert found.planned[0].value == pytest.approx(2.0 + 1.06 + 1.468)
    assert names(chosen(posed(sharer(DIGITS), sharer(WORDS), budgets=("power_mean<=4.5W",)))) == ["large", "middle"]


def test_power_that_nobody_measured_is_no_zero() -> None:
    blind = [option("words", "blind", right=990, mib=10)]
    found = chosen(posed(sharer(DIGITS), sharer(blind), budgets=("power_mean<=9W",)))
    assert (found.outcome, names(found)) == ("unknown", [None, None])
    assert "words" in found.reason
    assert "power_mean is unknown: power was not measured" in found.reason
    assert found.alone[0].state == "unknown"


def test_an_option_without_the_figure_is_left_out_where_another_has_it() -> None:
    blind = [option("words", "blind", right=990, mib=10), *WORDS]
    found = chosen(posed(sharer(DIGITS), sharer(blind), budgets=("power_mean<=9W",)))
    assert names(found) == ["large", "large"]
    assert "instead of blind" in found.shares[1].reason
    assert "are not known" in found.shares[1].reason


def test_estimated_power_decides_only_where_it_may() -> None:
    guessed = [msgspec.structs.replace(WORDS[0], power=power(2.5, scope="estimated"))]
    one = Sharer(decided(guessed), {guessed[0].id: guessed[0]})
    budgets = ("power_mean<=9W",)
    assert chosen(posed(sharer(DIGITS), one, budgets=budgets)).outcome == "unknown"
    assert chosen(posed(sharer(DIGITS), one._replace(allow_estimated_power=True), budgets=budgets)).outcome == "chosen"


def test_where_nothing_fits_together_the_nearest_is_told() -> None:
    found = chosen(posed(sharer(DIGITS), sharer(WORDS), budgets=("memory_peak<=100MiB",)))
    assert (found.outcome, names(found)) == ("nothing_fits", [None, None])
    assert found.reason == (
        "no combination is within the shared budgets; the nearest (digits small (onnxruntime/CPU x1), words small "
        "(onnxruntime/CPU x1)): memory_peak 110 MiB is over 100 MiB by 10 %"
    )
    told = in_combination(decided(WORDS), found, None)
    assert (told.outcome, told.winner) == ("nothing_fits", None)


def test_a_task_that_nothing_fits_keeps_what_serves_it_and_that_counts() -> None:
    limits = (parse_expression("accuracy_top1>=0.999", where="test"),)
    serving = choice(WORDS[0])
    cases = sharer(WORDS, budgets=limits, incumbent=serving)
    found = chosen(posed(sharer(DIGITS), cases))
    assert names(found) == ["small", "large"]
    assert (found.shares[1].role, found.shares[1].choice) == ("held", serving)
    nobody = chosen(posed(sharer(DIGITS), sharer(WORDS, budgets=limits)))
    assert (names(nobody), nobody.shares[1].role) == (["large", None], "out")


def test_what_serves_and_was_never_measured_makes_it_unknown() -> None:
    serving = choice(option("words", "from elsewhere", right=1, mib=1))
    found = chosen(posed(sharer(DIGITS), sharer(WORDS, incumbent=serving, held=True)))
    assert found.outcome == "unknown"
    assert "from elsewhere serves words and was not measured" in found.reason


def test_a_task_that_was_not_asked_for_stays() -> None:
    found = chosen(posed(sharer(DIGITS), sharer(WORDS, incumbent=choice(WORDS[1]), held=True)))
    assert names(found) == ["large", "middle"]
    assert found.shares[1].reason == "stays with middle (onnxruntime/CPU x1): it was not asked for"


def test_what_failed_together_is_left_for_the_next_best() -> None:
    question = posed(sharer(DIGITS), sharer(WORDS))
    first = choices_of(chosen(question))[1]
    found = chosen(question, {first: "words: latency_p95 30 ms is over 20 ms by 50 %"})
    assert names(found) == ["large", "small"]
    assert "failed once when it was run together" in found.reason
    last = {first: "a", choices_of(found)[1]: "b"}
    for _ in range(4):
        found = chosen(question, last)
        if found.outcome != "chosen":
            break
        last[choices_of(found)[1]] = "c"
    assert found.outcome == "nothing_fits"
    assert "failed when run together" in found.reason


def figure(value: float, spread: float = 0.01) -> Figure:
    return Figure(value=value, low=value * (1 - spread), high=value * (1 + spread))


def joint(combination: Combination, *, p95_s: float = 0.015, **more: Any) -> JointMeasurement:
    tasks, choices = choices_of(combination)
    members = tuple(
        JointMember(
            task=task, candidate=one.candidate, artifact_sha256=one.artifact_sha256, point=one.point, n=500,
            latency_p95_s=figure(p95_s), throughput_per_s=80.0, memory_bytes=100 * MIB,
        )
        for task, one in zip(tasks, choices, strict=True)
    )  # fmt: skip
    fields: dict[str, Any] = {
        "id": "j", "class_fingerprint": CLASS, "members": members, "verdict": "ok", "started_at": "now",
        "duration_s": 5.0, "window_s": 3.0, "memory_bytes": 450 * MIB,
    }  # fmt: skip
    return JointMeasurement(**(fields | more))


MEMORY = (parse_expression("memory_peak<=600MiB", where="test"),)
OWN = {"digits": (parse_expression("latency_p95<=20ms", where="test"),), "words": ()}


def test_what_was_seen_together_decides() -> None:
    plan = chosen(posed(sharer(DIGITS), sharer(WORDS)))
    seen = joint(plan)
    judged = judge_joint(seen, MEMORY, OWN)
    assert judged.passed is True
    done = confirmed(plan, seen, judged, ())
    assert done.joint_id == "j"
    assert [check.state for check in done.together] == ["met"]
    assert [check.metric for check in done.shares[0].checks] == ["latency_p95"]
    words = in_combination(decided(WORDS), done, seen)
    assert words.winner == done.shares[1].choice
    assert words.outcome == "chosen"
    assert words.combination is not None
    assert (words.combination.metric, words.combination.latency_p95_s) == ("memory_peak", 0.015)
    assert "beside the other tasks" in words.reason
    assert words.combination.reason in explain(words)
    assert msgspec.json.decode(msgspec.json.encode(words), type=Decision) == words
    digits = in_combination(decided(DIGITS), done, seen)
    assert digits.winner == decided(DIGITS).winner


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"p95_s": 0.030}, "digits: latency_p95 30 ms is over 20 ms by 50 %"),
        ({"p95_s": 0.0199}, "digits: latency_p95 is unknown"),
        ({"memory_bytes": 700 * MIB}, "all together: memory_peak 700 MiB is over 600 MiB by 17 %"),
        ({"memory_bytes": None, "memory_reason": "gone"}, "all together: memory_peak is unknown: gone"),
        ({"verdict": "out_of_memory", "reason": "words: killed"}, "out of memory: words: killed"),
    ],
)
def test_a_budget_that_is_not_met_together_fails_the_combination(more: dict[str, Any], says: str) -> None:
    judged = judge_joint(joint(chosen(posed(sharer(DIGITS), sharer(WORDS))), **more), MEMORY, OWN)
    assert judged.passed is False
    assert says in judged.reason


def test_what_others_disturbed_says_nothing() -> None:
    seen = joint(chosen(posed(sharer(DIGITS), sharer(WORDS))), verdict="contended", reason="others took 40 %")
    assert judge_joint(seen, MEMORY, OWN).passed is None


def test_power_together_needs_a_meter_that_may_decide() -> None:
    plan = chosen(posed(sharer(DIGITS), sharer(WORDS), budgets=("power_mean<=9W",)))
    limit = plan.budgets
    assert judge_joint(joint(plan, power_reason="no meter"), limit, {}).passed is False
    guessed = joint(plan, power_mean_w=figure(4.0), power_scope="estimated")
    assert judge_joint(guessed, limit, {}).passed is False
    assert judge_joint(guessed, limit, {}, allow_estimated_power=True).passed is True
    assert judge_joint(joint(plan, power_mean_w=figure(4.0), power_scope="board"), limit, {}).passed is True


def test_a_rung_adds_no_more_to_a_shared_budget_than_what_was_chosen() -> None:
    quick = [
        option("words", "chosen", right=990, mib=200, p95_s=0.020),
        option("words", "quicker", right=970, mib=150, p95_s=0.010),
        option("words", "larger", right=980, mib=300, p95_s=0.012),
        option("words", "best", right=1000, mib=900, p95_s=0.030),
    ]  # fmt: skip
    question = posed(sharer(DIGITS), sharer(quick))
    found = chosen(question)
    beside = in_combination(decided(quick), found, None)
    assert [rung.choice.candidate for rung in ladder_beside(question, beside, 5)] == ["chosen", "quicker"]
    none = in_combination(decided(quick), chosen(posed(sharer(quick), budgets=("memory_peak<=1MiB",))), None)
    assert ladder_beside(question, none, 5) == ()


def test_what_stays_as_it_is_keeps_its_budgets_where_it_met_them() -> None:
    limits = (parse_expression("latency_p95<=20ms", where="test"),)
    other = sharer(WORDS, budgets=limits, incumbent=choice(WORDS[1]), held=True)
    plan = chosen(posed(sharer(DIGITS), other))
    assert judged_budgets(plan, [decided(DIGITS), other.decision]) == {"digits": (), "words": limits}
    hard = (parse_expression("latency_p95<=1us", where="test"),)
    none = sharer(WORDS, budgets=hard, incumbent=choice(WORDS[1]))
    plan = chosen(posed(sharer(DIGITS), none))
    assert judged_budgets(plan, [decided(DIGITS), none.decision]) == {"digits": ()}
