"""A state database that a bad card has damaged: set aside, said, and made anew from what the store itself shows."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.extent import Extent
from tests.faults.storage.at_work import Works
from tests.faults.storage.ground import DATABASE, ORDERS, Ground, check_database, check_ended_typed, told
from tests.faults.table import show

SLICE, QUICK, FULL = 5, 60, 500


def cut_off(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def lose_pages(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 8)):
        page = chance.randrange(len(data) // 4096)
        data[page * 4096 : (page + 1) * 4096] = bytes(4096)


def flip_bits(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 10, 1000))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def swap_pages(data: bytearray, chance: random.Random) -> None:
    one, other = (4096 * chance.randrange(len(data) // 4096) for _ in range(2))
    data[one : one + 4096], data[other : other + 4096] = data[other : other + 4096], data[one : one + 4096]


def lose_the_head(data: bytearray, chance: random.Random) -> None:
    data[: chance.randint(1, 100)] = chance.randbytes(40)


WAYS = (cut_off, lose_pages, flip_bits, swap_pages, lose_the_head)


@pytest.mark.timeout(4 * 3600)
def test_a_damaged_database_takes_nothing_down(
    works: Works, ground: Ground, extent: Extent, folder_in_memory: Path, record_property: Callable[[str, object], None]
) -> None:
    order = next(one for one in ORDERS if one.name == "pass with no news")
    ends: Counter[tuple[str, str]] = Counter()
    for number in range(extent.count(SLICE, QUICK, FULL)):
        chance = extent.chance("damage", number)
        way = WAYS[number % len(WAYS)]
        state = folder_in_memory / "state"
        ground.lay_out(order, state)
        data = bytearray((state / DATABASE).read_bytes())
        way(data, chance)
        (state / DATABASE).write_bytes(data)
        name = f"{way.__name__}, case {number} of seed {extent.seed}"
        end = works([*ground.words(order), "--state-dir", str(state)], state)
        check_ended_typed(end.code, end.out, end.err)
        assert end.code == 0, f"{name}: what was damaged and is not set aside fails again in every pass: {end.err}"
        assert ground.serving(state) == "third", name
        aside = list(state.glob(f"{DATABASE}.damaged-*"))
        if aside:
            assert "database_set_aside" in told(state), name
            check_database(state)
            release = ground.words(next(one for one in ORDERS if one.name == "rollback"))
            assert works([*release, "--state-dir", str(state)], state).code == 0, name
            assert ground.serving(state) == "first", f"{name}: what came before is known from its link"
        ends[way.__name__.replace("_", " "), "set aside" if aside else "read on"] += 1
        shutil.rmtree(state)
    rows = [(*key, str(count)) for key, count in sorted(ends.items())]
    show(record_property, f"Damaged databases, seed {extent.seed}", ("damage", "the database was", "cases"), rows)
