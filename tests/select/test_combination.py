"""The combination of several tasks' options against every combination there is."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.select.combination import Item, Loads, Move, Solution, Unsolved, combine, switching_order


@st.composite
def problems(draw: st.DrawFn, tasks: int = 4, options: int = 5) -> tuple[list[list[Item]], Loads]:
    width = draw(st.integers(1, 2))
    loads = st.tuples(*[st.integers(0, 12)] * width)
    found = []
    for _ in range(draw(st.integers(1, tasks))):
        tiers = draw(st.lists(st.integers(0, 3), min_size=1, max_size=options))
        found.append([Item(f"o{n}", tier, n + 1, draw(loads)) for n, tier in enumerate(sorted(tiers))])
    return found, draw(st.tuples(*[st.integers(0, 12 * len(found))] * width))


def allowed(tasks: list[list[Item]], capacity: Loads) -> list[tuple[Item, ...]]:
    """Every combination within the capacity, the best first."""
    found = [
        picks
        for picks in product(*tasks)
        if all(sum(item.loads[n] for item in picks) <= most for n, most in enumerate(capacity))
    ]
    return sorted(found, key=lambda picks: ([item.tier for item in picks], [item.rank for item in picks]))


def keys(picks: tuple[Item, ...]) -> tuple[str, ...]:
    return tuple(item.key for item in picks)


@settings(max_examples=300, deadline=None)
@given(problems())
def test_it_is_the_best_of_all_combinations(problem: tuple[list[list[Item]], Loads]) -> None:
    tasks, capacity = problem
    every, found = allowed(tasks, capacity), combine(tasks, capacity)
    if not every:
        assert isinstance(found, Unsolved)
        assert found.exact
        assert len(found.nearest) == len(tasks)
    else:
        assert isinstance(found, Solution)
        assert (found.picks, found.bound, found.exact) == (every[0], found.tiers, True)


@settings(max_examples=150, deadline=None)
@given(problems(tasks=3, options=4), st.integers(1, 8))
def test_what_is_excluded_leaves_the_best_of_the_others(problem: tuple[list[list[Item]], Loads], number: int) -> None:
    tasks, capacity = problem
    every = allowed(tasks, capacity)
    excluded = {keys(picks) for picks in every[:number]}
    found = combine(tasks, capacity, excluded)
    if len(every) <= number:
        assert isinstance(found, Unsolved)
    else:
        assert isinstance(found, Solution)
        assert found.picks == every[number]


@settings(max_examples=200, deadline=None)
@given(problems(tasks=5), st.integers(1, 3), st.integers(0, 3))
def test_a_thinned_front_gives_what_is_allowed_and_a_bound_that_holds(
    problem: tuple[list[list[Item]], Loads], most_sums: int, number: int
) -> None:
    tasks, capacity = problem
    every = allowed(tasks, capacity)
    excluded = {keys(picks) for picks in every[:number]}
    rest = every[number:]
    found = combine(tasks, capacity, excluded, most_sums=most_sums)
    if isinstance(found, Solution):
        assert found.picks in rest
        best = tuple(item.tier for item in rest[0])
        assert found.bound <= best <= found.tiers
        assert not found.exact or found.picks == rest[0]
    else:
        assert not (found.exact and rest)


def test_the_first_task_comes_first_and_takes_no_more_than_the_others_can_live_with() -> None:
    first = [Item("large", 0, 1, (8,)), Item("middle", 1, 2, (5,)), Item("small", 2, 3, (1,))]
    second = [Item("large", 0, 1, (9,)), Item("small", 1, 2, (4,))]
    found = combine([first, second], (10,))
    assert isinstance(found, Solution)
    assert keys(found.picks) == ("middle", "small")
    turned = combine([second, first], (10,))
    assert isinstance(turned, Solution)
    assert keys(turned.picks) == ("large", "small")


def test_a_tie_of_the_first_task_gives_way_to_the_second() -> None:
    first = [Item("by name", 0, 1, (8,)), Item("as good", 0, 2, (5,))]
    second = [Item("best", 0, 1, (5,)), Item("worse", 1, 2, (2,))]
    found = combine([first, second], (10,))
    assert isinstance(found, Solution)
    assert keys(found.picks) == ("as good", "best")


def test_the_nearest_is_the_one_least_over() -> None:
    found = combine([[Item("a", 0, 1, (6, 1)), Item("b", 1, 2, (4, 9))], [Item("c", 0, 1, (6, 1))]], (10, 4))
    assert isinstance(found, Unsolved)
    assert keys(found.nearest) == ("a", "c")  # 20 % over in one load, against 150 % in the other


def test_many_tasks_under_two_budgets_are_still_solved_within_a_stated_gap() -> None:
    tasks = [
        [Item(f"o{n}", n, n + 1, (10_007 * (20 - n) % 9973 + 1, 7919 * (n + 3) * (t + 1) % 9967 + 1)) for n in range(8)]
        for t in range(9)
    ]
    found = combine(tasks, (36_000, 36_000), most_sums=64)
    assert isinstance(found, Solution)
    assert all(sum(item.loads[n] for item in found.picks) <= 36_000 for n in range(2))
    whole = combine(tasks, (36_000, 36_000))
    assert isinstance(whole, Solution)
    assert found.bound <= whole.tiers <= found.tiers
    assert whole.bound <= whole.tiers


@pytest.mark.parametrize("seed", range(3))
def test_sixteen_tasks_of_thirty_options_under_two_budgets_are_solved_exactly(seed: int) -> None:
    chance = random.Random(seed)
    tasks = [
        [Item(f"o{n}", n, n + 1, (chance.randrange(20 << 20, 400 << 20), chance.randrange(10**5, 3 * 10**6)))
         for n in range(30)]
        for _ in range(16)
    ]  # fmt: skip
    capacity = tuple(sum(sorted(item.loads[n] for item in items)[10] for items in tasks) for n in range(2))
    found = combine(tasks, capacity)
    assert isinstance(found, Solution)
    assert (found.exact, found.bound) == (True, found.tiers)


@pytest.mark.parametrize(
    ("tasks", "capacity"),
    [([], (1,)), ([[]], (1,)), ([[Item("a", 0, 1, (1,))]], ()), ([[Item("a", 0, 1, (1, 1))]], (1,)),
     ([[Item("a", 0, 1, (-1,))]], (1,)), ([[Item("a", 0, 1, (1, 1, 1))]], (1, 1, 1))],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(tasks: list[list[Item]], capacity: Loads) -> None:
    with pytest.raises(ValueError, match=r"task|loads|budgets"):
        combine(tasks, capacity)


def test_what_shrinks_is_switched_first() -> None:
    moves = [Move("grows", (2,), (6,)), Move("shrinks", (7,), (3,)), Move("new", (0,), (1,))]
    order = switching_order(moves, (10,))
    assert [move.task for move in order] == ["shrinks", "new", "grows"]


def test_what_nobody_knows_is_switched_first_of_all() -> None:
    moves = [Move("shrinks", (7,), (3,)), Move("unknown", None, (5,))]
    assert [move.task for move in switching_order(moves, (10,))] == ["unknown", "shrinks"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_under_one_budget_the_sum_is_never_exceeded_in_between(data: st.DataObject) -> None:
    loads = st.tuples(st.integers(0, 9))
    count = data.draw(st.integers(1, 5))
    moves = [Move(f"t{n}", data.draw(loads), data.draw(loads)) for n in range(count)]
    before, after = (sum(side[0] for side in sides) for sides in zip(*((m.before or (0,), m.after) for m in moves)))  # noqa: B905
    most = max(before, after)
    standing = before
    for move in switching_order(moves, (most,)):
        assert move.before is not None
        standing += move.after[0] - move.before[0]
        assert standing <= most
