"""The power is cut at every write and flush of a pass, a deployment or a rollback on a real ext4.

After each cut: what had been committed before it is there, what serves is whole, the database is whole; and the
command, given again, comes through and leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.deploy.store import ReleaseStore
from tests.faults.extent import Extent
from tests.faults.storage.acknowledging import stored
from tests.faults.storage.at_work import ROOT, Works
from tests.faults.storage.disk import Entry, NoDiskError, cut, logging_disk, mounted, read_log
from tests.faults.storage.ground import DATABASE, ORDERS, Ground, Order
from tests.faults.storage.test_disk import check_database, check_goes_on
from tests.faults.table import show

SLICE, QUICK, FULL = 6, 200, 2_000
SIZE = 192 << 20  # the cache leaves 128 MiB free for the rest of the board
SWITCHED = {"switched", "hook", "probation", "committing", "done"}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts FUSE, a loop device and ext4")


class Recorded(NamedTuple):
    """One command as the disk saw it. ``begin``: how many entries came before; ``notes``: acknowledged until where."""

    entries: list[Entry]
    begin: int
    notes: list[tuple[int, str]]


def record(ground: Ground, order: Order, folder: Path) -> Recorded:
    """Carry out an order on a disk that is written down."""
    notes = folder / "notes"
    try:
        with logging_disk(folder, SIZE) as (place, log):
            state = place / "state"
            ground.lay_out(order, state)
            os.sync()
            begin = os.stat(log).st_size
            command = [sys.executable, "-m", "tests.faults.storage.acknowledging", str(log), str(notes)]
            command += [*ground.words(order), "--state-dir", str(state)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            end = os.stat(log).st_size  # what unmounting writes comes after the command, and is no part of it
    except NoDiskError as error:
        pytest.skip(f"needs FUSE, loop devices and ext4: {error}")
    entries = [one for one in read_log(log) if one.end <= end]
    told = [(at, text) for at, text in map(json.loads, notes.read_text().splitlines())]
    return Recorded(entries, sum(one.end <= begin for one in entries), told)


def check_cut(ground: Ground, order: Order, notes: list[tuple[int, str]], at: int, state: Path) -> None:
    """Assert what holds on a disk whose power was cut. Args: notes: what was committed, and when; at: of the cut."""
    acknowledged = [number for number, (end, _) in enumerate(notes) if end <= at]
    if (state / DATABASE).exists():
        check_database(state)
        with sqlite3.connect(state / DATABASE) as connection:
            found = stored(connection)
        connection.close()
    else:
        found = "{}"
    if acknowledged:
        lasting = [text for _, text in notes[acknowledged[-1] :]]
        assert found in lasting, f"lost after commit {acknowledged[-1]} of {len(notes)}: {found} {lasting[0]}"
    serving = ground.serving(state)
    assert serving in order.allowed
    ground.serving(state, "previous")
    for task, phase, _, release, restored, *_ in json.loads(found).get("deployment_journal", ()):
        linked = ReleaseStore(state / "deploy").linked(task, "current")
        assert phase not in SWITCHED or linked == release, f"{phase}, and the link leads elsewhere: {linked}"
        assert phase != "rolled_back" or linked == restored, f"{phase}, and the link leads elsewhere: {linked}"


@needs_root
@pytest.mark.timeout(4 * 3600)
def test_the_power_is_cut(
    works: Works, ground: Ground, extent: Extent, folder_in_memory: Path, record_property: Callable[[str, object], None]
) -> None:
    chance = extent.chance("power")
    orders = [chance.choice(ORDERS[:2]), ORDERS[-1]] if extent.part == "slice" else list(ORDERS)
    cases: list[tuple[Order, Recorded, int, int | None]] = []
    for order in orders:
        folder = folder_in_memory / order.name.replace(" ", "-")
        folder.mkdir()
        taken = record(ground, order, folder)
        shutil.rmtree(folder)
        places = range(taken.begin + 1, len(taken.entries) + 1)
        flushes = [place for place in places if taken.entries[place - 1].data is None]
        assert flushes, "nothing was ever flushed"
        share = extent.count(SLICE, QUICK, FULL) // len(orders)
        at_commits = [len(taken.entries), *chance.sample(flushes, min(len(flushes), share // 2 - 1))]
        cases += [(order, taken, place, None) for place in at_commits]
        cases += [
            (order, taken, chance.choice(places), chance.randrange(1 << 32)) for _ in range(share - len(at_commits))
        ]
    place = folder_in_memory / "after"
    place.mkdir()
    ends: Counter[tuple[str, str]] = Counter()
    violations = []
    for number, (order, taken, count, seed) in enumerate(cases):
        image = folder_in_memory / f"image-{number}"  # of its own: the loop device of the one before may linger
        cut(taken.entries, count, image, SIZE, None if seed is None else random.Random(seed))
        with mounted(image, place):
            try:
                check_cut(ground, order, taken.notes, taken.entries[count - 1].end, place / "state")
                check_goes_on(works, ground, order, place / "state")
            except AssertionError as error:
                name = f"{order.name}: entry {count - taken.begin} of {len(taken.entries) - taken.begin}, cache {seed}"
                violations.append(f"{name}: {error}"[:2000])
        image.unlink()
        ends[order.name, "at a commit" if seed is None else "at random, part of the cache lost"] += 1
    title = f"Power cuts: {len(cases)}, seed {extent.seed}; violations: {len(violations)}"
    rows = [(*key, str(count)) for key, count in sorted(ends.items())]
    show(record_property, title, ("command", "cut", "cases"), rows)
    assert not violations, "\n".join(violations)
