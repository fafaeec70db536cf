"""Which option each of several tasks gets where they share a board's budgets. Pure, and in whole numbers.

The order of preference is lexicographic by the priority of the tasks. A task's own decision tells which of its options
it prefers and which it cannot tell apart; how much accuracy of one task a millisecond of another is worth nobody has
said, and no number is made up for it. What a task must have are its own budgets, which every option here has met: the
priority shares out only what is beyond them. Rules:
- An option has a *tier*: 0 is tied with the best of its task, 1 with the best of the rest, and so on. The best
  combination has the smallest tier of the first task, among those the smallest of the second, and so on; among equals
  the ranks decide in the same way.
- A combination is allowed where the sum of each load is at most its capacity. Loads are whole (bytes, microwatts), so
  that no order of adding matters.
- Sums that another is no worse than in every load are dropped, so what is kept is a front. With one shared budget it
  is one sum, with two it is mostly short: the answer is exact while no front is longer than ``MOST_SUMS``, which holds
  wherever the tasks but one have no more combinations than that between them.
- A longer front is thinned twice. With every sum of a stretch replaced by the least loads in it, what is found bounds
  every combination from below; with one real sum kept of each stretch, what is found is allowed. ``bound`` is the
  first, ``picks`` the second: where their tiers are equal nothing is lost.
- Combinations that are excluded (they failed when they were run together) are left out by splitting what is left around
  each of them, so the next answer is the best of the others.

Sources: multiple-choice knapsack by dominated sums, Kellerer, Pferschy, Pisinger 2004, Knapsack Problems, ch. 11; the
next best by partition, Lawler 1972, Management Science 18(7).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

MOST_SUMS = 2048  # of one front; chosen: those of sixteen tasks of thirty options each mostly stay below it
MOST_LOADS = 2  # a front of three is no line that can be thinned in order

Loads = tuple[int, ...]
_Tasks = tuple[tuple["Item", ...], ...]
_Order = tuple[tuple[int, ...], tuple[int, ...]]


class Item(NamedTuple):
    """One option of a task. ``key`` is its own within the task; smaller tiers and ranks are preferred."""

    key: str
    tier: int
    rank: int
    loads: Loads


class Solution(NamedTuple):
    """The best combination found, one item of each task in order.

    ``bound``: no allowed combination has tiers below these, compared in order. ``exact``: it is the best there is.
    """

    picks: tuple[Item, ...]
    bound: tuple[int, ...]
    exact: bool

    @property
    def tiers(self) -> tuple[int, ...]:
        """The tier of each task's item."""
        return tuple(item.tier for item in self.picks)


class Unsolved(NamedTuple):
    """No combination was found. ``exact``: there is none. ``nearest`` is the one whose largest excess is smallest."""

    exact: bool
    nearest: tuple[Item, ...]


class _Sum(NamedTuple):
    """The loads of one item of each of some tasks; ``rest`` are the others' of them."""

    loads: Loads
    item: Item | None = None
    rest: _Sum | None = None


class _Space(NamedTuple):
    """A part of all combinations, and the best found in it; ``thinned`` where something may have been missed."""

    tasks: _Tasks
    picks: tuple[Item, ...] | None
    bound: tuple[int, ...] | None  # None: no combination of this part is allowed
    thinned: bool


def combine(
    tasks: Sequence[Sequence[Item]],
    capacity: Loads,
    excluded: Collection[tuple[str, ...]] = (),
    *,
    most_sums: int = MOST_SUMS,
) -> Solution | Unsolved:
    """Return the best allowed combination.

    Args:
        tasks: the options of each task, in the order of their priority; at least one each.
        capacity: of every load: one or two whole numbers. excluded: keys of one item of each task, in order.
    Raises: ValueError: a task without an option, or loads that are not of ``capacity``'s length or below zero.
    """
    whole = tuple(tuple(sorted(items, key=lambda one: (one.tier, one.rank, one.key))) for items in tasks)
    _check(whole, capacity)
    spaces = [_search(whole, capacity, most_sums)]
    left_out = set(excluded)
    while True:
        found = [space for space in spaces if space.picks is not None]
        if not found:
            nearest = _nearest(whole, capacity, most_sums)
            return Unsolved(all(space.bound is None for space in spaces), nearest)
        best = min(found, key=lambda space: _order(space.picks or ()))
        assert best.picks is not None
        if tuple(item.key for item in best.picks) not in left_out:
            bound = min(space.bound for space in spaces if space.bound is not None)
            tiers = _order(best.picks)[0]
            return Solution(best.picks, min(bound, tiers), bound >= tiers and not any(s.thinned for s in spaces))
        spaces = [space for space in spaces if space is not best]
        spaces += [_search(part, capacity, most_sums) for part in _without(best.tasks, best.picks)]


def _check(tasks: _Tasks, capacity: Loads) -> None:
    if not 1 <= len(capacity) <= MOST_LOADS:
        raise ValueError(f"{len(capacity)} shared budgets; 1 to {MOST_LOADS} can be solved")
    if not tasks or not all(tasks):
        raise ValueError("a task has no option")
    for item in (item for items in tasks for item in items):
        if len(item.loads) != len(capacity) or min(item.loads) < 0:
            raise ValueError(f"loads {item.loads} of {item.key}")


def _order(picks: Sequence[Item]) -> _Order:
    return tuple(item.tier for item in picks), tuple(item.rank for item in picks)


def _without(tasks: _Tasks, picks: Sequence[Item]) -> Iterable[_Tasks]:
    """Split a space around one combination: up to task n as it has it, task n otherwise, what comes after free."""
    for number, pick in enumerate(picks):
        others = tuple(item for item in tasks[number] if item is not pick)
        if others:
            yield (*((item,) for item in picks[:number]), others, *tasks[number + 1 :])


def _search(tasks: _Tasks, capacity: Loads, most: int) -> _Space:
    """Search one space: the tiers first, then the ranks within them."""
    thinned = _Thinned()
    by_tier = tuple(_grouped(items) for items in tasks)
    bound = _walk(by_tier, capacity, _Floor(most, thinned))
    least = None if bound is None else _tiers(by_tier, bound.places)
    first = _walk(by_tier, capacity, _Real(most, thinned))
    if first is None:
        return _Space(tasks, None, least, thinned.happened)
    single = tuple(
        tuple((item,) for item in groups[place]) for groups, place in zip(by_tier, first.places, strict=True)
    )
    # Where a thinned front hides it from the second walk, what the first one reached is a combination of these tiers.
    second = _walk(single, capacity, _Real(most, thinned))
    return _Space(tasks, _items_of((second or first).reached)[::-1], least, thinned.happened)


def _grouped(items: Sequence[Item]) -> tuple[tuple[Item, ...], ...]:
    tiers = sorted({item.tier for item in items})
    return tuple(tuple(item for item in items if item.tier == tier) for tier in tiers)


def _tiers(groups: Sequence[Sequence[Sequence[Item]]], places: Sequence[int]) -> tuple[int, ...]:
    return tuple(of_task[place][0].tier for of_task, place in zip(groups, places, strict=True))


class _Thinned:
    """Whether a front was ever thinned."""

    happened = False


class _Real:
    """Thins a front to real sums of it, the ends among them."""

    def __init__(self, most: int, thinned: _Thinned) -> None:
        self.most, self._thinned = most, thinned

    def __call__(self, front: list[_Sum]) -> list[_Sum]:
        if len(front) <= self.most:
            return front
        self._thinned.happened = True
        last = len(front) - 1
        places = sorted({round(number * last / max(1, self.most - 1)) for number in range(self.most)})
        return [front[place] for place in places]


class _Floor(_Real):
    """Thins a front to the least loads of each stretch of it: a sum that no real one of the stretch is below."""

    def __call__(self, front: list[_Sum]) -> list[_Sum]:
        if len(front) <= self.most:
            return front
        self._thinned.happened = True
        edges = [len(front) * number // self.most for number in range(self.most + 1)]
        # Along a front the first load rises and the last falls.
        return [_Sum((front[low].loads[0], front[high - 1].loads[-1])) for low, high in pairwise(edges)]


class _Way(NamedTuple):
    """The place of the group taken of each task, and one sum of all tasks that was reached by it."""

    places: tuple[int, ...]
    reached: _Sum


def _walk(groups: Sequence[Sequence[Sequence[Item]]], capacity: Loads, thin: _Real) -> _Way | None:
    """Take the first group of each task, one task after the other, that leaves room for all that come after.

    Returns: None where there is no room from the start.
    """
    after = _fronts_after(groups[1:], len(capacity), thin)
    reached = [_Sum((0,) * len(capacity))]
    chosen: list[int] = []
    for number, of_task in enumerate(groups):
        for place, group in enumerate(of_task):
            grown = _front(_plus(reached, group))
            able = [one for one in grown if _has_room(one.loads, after[number], capacity)]
            if able:
                chosen.append(place)
                reached = thin(able) if number + 1 < len(groups) else able
                break
        else:
            return None
    return _Way(tuple(chosen), reached[0])


def _fronts_after(groups: Sequence[Sequence[Sequence[Item]]], width: int, thin: _Real) -> list[list[_Sum]]:
    """Return for each task the front of sums of it and all after it; of none, the last, the sum is zero."""
    fronts = [[_Sum((0,) * width)]]
    for of_task in reversed(groups):
        items = [item for group in of_task for item in group]
        fronts.append(thin(_front(_plus(fronts[-1], items))))
    return fronts[::-1]


def _plus(sums: Iterable[_Sum], items: Sequence[Item]) -> list[_Sum]:
    return [
        _Sum(tuple(a + b for a, b in zip(one.loads, item.loads, strict=True)), item, one)
        for one in sums
        for item in items
    ]


def _front(sums: Iterable[_Sum]) -> list[_Sum]:
    """Return the sums that no other is at most in every load, the first load rising and the last falling."""
    kept: list[_Sum] = []
    for one in sorted(sums, key=lambda sum_: sum_.loads):
        if not kept or one.loads[-1] < kept[-1].loads[-1]:
            kept.append(one)
    return kept


def _has_room(loads: Loads, after: Sequence[_Sum], capacity: Loads) -> bool:
    """Tell whether some sum of ``after`` fits beside these loads: of those whose first load does, the last is least."""
    place = bisect_right(after, capacity[0] - loads[0], key=lambda one: one.loads[0])
    return place > 0 and after[place - 1].loads[-1] + loads[-1] <= capacity[-1]


def _nearest(tasks: _Tasks, capacity: Loads, most: int) -> tuple[Item, ...]:
    """Return the combination whose largest excess, as a share of its capacity, is smallest of those kept."""
    fronts = _fronts_after([(items,) for items in tasks], len(capacity), _Real(most, _Thinned()))

    def excess(one: _Sum) -> float:
        return max((load - most_) / max(1, most_) for load, most_ in zip(one.loads, capacity, strict=True))

    return _items_of(min(fronts[0], key=excess))


def _items_of(total: _Sum) -> tuple[Item, ...]:
    """Return the items of a sum, the one that was added last first."""
    items: list[Item] = []
    node: _Sum | None = total
    while node is not None and node.item is not None:
        items.append(node.item)
        node = node.rest
    return tuple(items)


class Move(NamedTuple):
    """What a task's loads are before and after its switch; None is not known, zero is "nothing runs"."""

    task: str
    before: Loads | None
    after: Loads


def switching_order(moves: Sequence[Move], capacity: Loads) -> tuple[Move, ...]:
    """Return the moves in an order in which the sum is over its capacity as little as can be, mostly never.

    At each step comes what leaves the sum least over; among those what grows least, so that what shrinks comes first.
    What nobody knows the loads of goes first: afterwards they are known.
    """
    left, done = list(moves), list[Move]()
    while left:
        standing = [move.after for move in done] + [move.before for move in left if move.before is not None]
        sums = [sum(loads[place] for loads in standing) for place in range(len(capacity))]
        chosen = min(left, key=lambda move: _cost(move, sums, capacity))
        left.remove(chosen)
        done.append(chosen)
    return tuple(done)


def _cost(move: Move, sums: Sequence[int], capacity: Loads) -> tuple[object, ...]:
    before = move.before or (0,) * len(capacity)
    grown = [new - old for new, old in zip(move.after, before, strict=True)]
    over = max(
        max(0.0, (total + more - most) / max(1, most)) for total, more, most in zip(sums, grown, capacity, strict=True)
    )
    growth = max(more / max(1, most) for more, most in zip(grown, capacity, strict=True))
    return (move.before is not None, over, growth, move.task)
