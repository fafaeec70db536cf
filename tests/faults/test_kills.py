"""SIGKILL at the system calls by which real verbs change the state of a board, and again during what puts it right."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import MEMORY, MEMORY_BYTES
from tests.faults.extent import Extent
from tests.faults.kills import Case, Point, Yard, cases
from tests.faults.table import show

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
#: How many points of each verb in the quick part, and how many more with a second kill; in full 5 and 10 times that.
QUICK = {
    "enroll": (60, 20), "sync": (180, 30), "download": (100, 20), "bench": (150, 20), "deploy": (340, 60),
    "rollback": (70, 20),
}  # fmt: skip
HEADS = ("verb", "calls known", "killed", "of them distinct", "killed twice", "violations")


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
    with tempfile.TemporaryDirectory(dir=MEMORY if roomy else None, prefix="boardfit-test-") as folder:
        made = Yard(Path(folder), errors=subprocess.DEVNULL)
        made.prepare()
        yield made
        made.close()


def spread(points: tuple[Point, ...], count: int, chance: random.Random) -> Iterator[Point]:
    """Yield points evenly over all of them, from a random one on; then any, for as long as somebody asks."""
    begin = chance.randrange(len(points))
    step = max(1.0, len(points) / count)
    for number in range(min(count, len(points))):
        yield points[(begin + int(number * step)) % len(points)]
    while True:
        yield chance.choice(points)


class Tally:
    """What was done to one verb, and what did not hold."""

    def __init__(self) -> None:
        self.known: set[tuple[str, Point]] = set()
        self.points: list[tuple[str, Point]] = []
        self.pairs = 0
        self.wrong: list[str] = []

    def row(self, verb: str) -> tuple[str, ...]:
        counts = (len(self.known), len(self.points), len(set(self.points)), self.pairs, len(self.wrong))
        return (verb, *map(str, counts))


def kill_once(yard: Yard, case: Case, count: int, chance: random.Random, tally: Tally) -> None:
    if not count:
        return
    tally.known |= {(case.name, point) for point in yard.points(case)}
    left = count
    for tries, point in enumerate(spread(yard.points(case), count, chance)):
        if not left or tries > 3 * count:
            return
        if yard.killed(case, point):
            left -= 1
            tally.points.append((case.name, point))
            tally.wrong += [f"{case.row}, {case.name}, killed at {point}: {text}" for text in yard.after(case)]


def kill_twice(yard: Yard, case: Case, count: int, chance: random.Random, tally: Tally) -> None:
    """Kill the verb anywhere, and what puts it right at one of its calls, whichever of these it comes to."""
    if not count:
        return
    again = yard.points(case)
    for _ in range(10 * count):  # few of a verb's calls come in what puts it right
        first, second = chance.choice(again), chance.choice(again)
        if not count or not yard.killed(case, first):
            continue
        wrong = yard.after(case, recovery=second.tracer())
        if yard.died_again:
            count -= 1
            tally.pairs += 1
        tally.wrong += [f"{case.row}, {case.name}, killed at {first} and {second}: {text}" for text in wrong]


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("row", QUICK)
def test_killed_at_the_calls_that_change_something(
    yard: Yard, row: str, extent: Extent, record_property: Callable[[str, object], None]
) -> None:
    chance, tally = extent.chance("kills", row), Tally()
    points, pairs = QUICK[row]
    once = extent.count(1, points, 5 * points)
    twice = extent.count(int(row == "deploy"), pairs, 10 * pairs)
    mine = [case for case in cases(yard) if case.row == row]
    chance.shuffle(mine)
    for number, case in enumerate(mine):
        for wanted, kill in ((once, kill_once), (twice, kill_twice)):
            kill(yard, case, wanted // len(mine) + (number < wanted % len(mine)), chance, tally)
    title = f"SIGKILL at system calls, measuring and proving children stood in for (seed {extent.seed})"
    show(record_property, title, HEADS, [tally.row(row)])
    assert tally.wrong == []
    assert len(tally.points) == once, "the verb does not come to its calls again: no point was tried there"
