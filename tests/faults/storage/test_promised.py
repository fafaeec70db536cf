"""The power is cut during a pass, a deployment or a rollback on a disk that keeps what it was asked to, and no more.

After each cut holds what ``test_power`` asks on a real ext4, which is kinder: there a file that nobody synced is mostly
there all the same. And what a command has made that came to its end is there for good, whatever is cut then.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.extent import Extent
from tests.faults.storage.at_work import End, Works
from tests.faults.storage.ground import ORDERS, Ground, Order
from tests.faults.storage.test_disk import check_goes_on
from tests.faults.storage.test_power import check_cut
from tests.faults.table import show

SLICE, QUICK, FULL = 1, 12, 400  # calls before which the power is cut, of each order
WAYS = {
    "least": "names and bytes that were synced",
    "names": "all names, bytes that were synced",
    "some": "names and bytes in between",
}


Notes = list[tuple[int, str]]  # what was committed, and after how many calls


def watched(works: Works, ground: Ground, order: Order, folder: Path, **how: Any) -> tuple[End, Notes]:
    """Carry out an order. Args: how: as of ``Works.cut``."""
    state, cuts = folder / "state", folder / "cuts"
    ground.lay_out(order, state)
    end = works.cut([*ground.words(order), "--state-dir", str(state)], state, into=cuts, **how)
    assert end.code == 0, end.err
    told = [text for _, text in map(json.loads, Path(f"{cuts}.notes").read_text().splitlines())]
    shutil.rmtree(state)
    return end, list(zip(end.commits, told, strict=True))


def chosen(end: End, count: int, chance: random.Random) -> set[int]:
    """Return calls before which to cut: half of them right after a commit, which is to last."""
    commits = sorted({calls + 1 for calls in end.commits if calls < end.calls})
    found = set(chance.sample(commits, min(len(commits), (count + 1) // 2)))
    others = [call for call in range(1, end.calls) if call not in found]
    return found | set(chance.sample(others, min(len(others), count - len(found))))


@pytest.mark.timeout(4 * 3600)
def test_what_was_asked_to_be_kept_is_enough(
    works: Works, ground: Ground, extent: Extent, folder_in_memory: Path, record_property: Callable[[str, object], None]
) -> None:
    chance = extent.chance("promised")
    ends: Counter[tuple[str, str]] = Counter()
    violations = []
    for order in [chance.choice(ORDERS[:2]), ORDERS[-1]] if extent.part == "slice" else ORDERS:
        dry, _ = watched(works, ground, order, folder_in_memory)
        shutil.rmtree(folder_in_memory / "cuts")
        at = chosen(dry, extent.count(SLICE, QUICK, FULL), chance)
        end, notes = watched(works, ground, order, folder_in_memory, at=at, seed=f"{extent.seed}-{order.name}")
        violations += [f"{order.name}: it ended, and {one}" for one in end.unkept]
        for left in sorted((folder_in_memory / "cuts").iterdir()):
            call, _, way = left.name.partition("-")
            made = end.calls if call == "end" else int(call) - 1
            try:
                check_cut(ground, order, notes, made, left)
                check_goes_on(works, ground, order, left)
            except AssertionError as error:
                violations.append(f"{order.name}: call {call} of {end.calls}, {WAYS[way]}: {error}"[:2000])
            ends[order.name, WAYS[way]] += 1
        shutil.rmtree(folder_in_memory / "cuts")
    title = f"Power cuts that leave what was promised: {sum(ends.values())}, seed {extent.seed}"
    rows = [(*key, str(count)) for key, count in sorted(ends.items())]
    show(record_property, f"{title}; violations: {len(violations)}", ("command", "what is left", "cases"), rows)
    assert not violations, "\n".join(violations)
