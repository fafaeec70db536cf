"""Slices: every candidate has its boards, everybody finds the same ones, and who comes or goes moves little."""

from __future__ import annotations

import random

import pytest

from agent.core.slices import boards_for, slice_of

CANDIDATES = [f"model-{number}" for number in range(200)]


@pytest.mark.parametrize("boards", [1, 2, 7, 40])
@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_every_candidate_is_measured_by_so_many_boards(boards: int, overlap: int) -> None:
    names = [f"pi-{number}" for number in range(boards)]
    slices = {name: slice_of(name, names, CANDIDATES, overlap) for name in names}
    for candidate in CANDIDATES:
        assert sum(candidate in some for some in slices.values()) == min(overlap, boards)
    even = len(CANDIDATES) * min(overlap, boards) / boards
    assert max(map(len, slices.values())) <= even + 5.0 * even**0.5


def test_the_order_of_the_boards_is_nothing_to_it() -> None:
    names = [f"pi-{number}" for number in range(9)]
    shuffled = random.Random(1).sample(names, len(names))
    for name in names:
        assert slice_of(name, names, CANDIDATES) == slice_of(name, shuffled, CANDIDATES)
    assert slice_of("somebody else", names, CANDIDATES) == ()


def test_a_board_that_comes_takes_its_own_share_and_moves_nothing_else() -> None:
    before = [f"pi-{number}" for number in range(9)]
    after = [*before, "pi-new"]
    for candidate in CANDIDATES:
        old, new = set(boards_for(candidate, before)), set(boards_for(candidate, after))
        assert new - old <= {"pi-new"}
        assert len(old - new) == len(new - old)


def test_neighbours_overlap_so_that_boards_can_be_compared() -> None:
    names = [f"pi-{number}" for number in range(5)]
    slices = {name: set(slice_of(name, names, CANDIDATES)) for name in names}
    assert all(slices[one] & slices[two] for one in names for two in names if one < two)
