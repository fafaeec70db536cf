"""A disk that is full, broken or read-only at any one call of a pass, a deployment or a rollback, and from then on.

Whatever is refused: the command ends typed, what served serves on or the new model does, whole; the database is whole;
and with the disk well again the same command comes through and leaves nothing behind.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.reserve import LOW_BYTES
from tests.faults.extent import Extent
from tests.faults.storage.at_work import End, Works
from tests.faults.storage.ground import (
    ORDERS,
    Ground,
    Order,
    check_database,
    check_ended_typed,
    leftovers,
    told,
)
from tests.faults.storage.refusing import Spell
from tests.faults.table import show

SLICE, QUICK, FULL = 10, 400, 3_000
NUMBERS = (errno.ENOSPC, errno.EIO, errno.EROFS)
SPELLS: tuple[Spell, ...] = ("one", "lasting")
Record = Callable[[str, object], None]


def give(works: Works, ground: Ground, order: Order, state: Path, *fault: object) -> End:
    return works([*ground.words(order), "--state-dir", str(state)], state, *fault)  # type: ignore[arg-type]


def check_ended_well(end: End) -> None:
    assert end.code == 0, end.err


def check_goes_on(works: Works, ground: Ground, order: Order, state: Path, *, ended: bool = False) -> None:
    """Assert that with a disk that is well the board settles, and the command comes through and leaves nothing behind.

    Args: ended: it came through already.
    """
    config = ["--config", str(ground.folder / "late.yaml"), "--state-dir", str(state)]
    check_ended_well(works(["recover", *config], state))
    if not ended:
        check_ended_well(give(works, ground, order, state))
    if order.words[0] != "once":
        check_ended_well(works(["sync", *config], state))
    assert ground.serving(state) == order.after
    check_database(state)
    assert leftovers(state) == []


def check_after(works: Works, ground: Ground, order: Order, state: Path, end: End) -> None:
    """Assert what holds after a command met a disk in trouble, and after the disk is well again."""
    check_ended_typed(end.code, end.out, end.err)
    assert ground.serving(state) in order.allowed
    ground.serving(state, "previous")
    check_database(state)
    check_goes_on(works, ground, order, state, ended=end.code == 0 and order.words[0] != "once")


@pytest.mark.timeout(4 * 3600)
def test_every_refused_call_is_survived(
    works: Works, ground: Ground, extent: Extent, folder_in_memory: Path, record_property: Record
) -> None:
    cases = []
    for order in ORDERS:
        state = folder_in_memory / "dry"
        ground.lay_out(order, state)
        end = give(works, ground, order, state)
        assert (end.code, ground.serving(state), leftovers(state)) == (0, order.after, []), end.err
        shutil.rmtree(state)
        cases += [(order, n, spell, when) for n in NUMBERS for spell in SPELLS for when in range(1, end.calls + 1)]
    chosen = extent.chance("disk").sample(cases, min(len(cases), extent.count(SLICE, QUICK, FULL)))
    ends: Counter[tuple[str, str, str]] = Counter()
    violations = []
    for order, number, spell, when in chosen:
        state = folder_in_memory / "state"
        ground.lay_out(order, state)
        end = give(works, ground, order, state, number, when, spell)
        try:
            check_after(works, ground, order, state, end)
        except AssertionError as error:
            name = f"{order.name}: {errno.errorcode[number]} ({spell}) at call {when}, {end.first}"
            violations.append(f"{name}: {str(error).splitlines()[0] if str(error) else error!r}")
        ends[order.name, f"{errno.errorcode[number]}, {spell}", "came through" if end.code == 0 else "said so"] += 1
        shutil.rmtree(state)
    rows = [(*key, str(count)) for key, count in sorted(ends.items())]
    title = f"Disk: {len(chosen)} of {len(cases)} refused calls, seed {extent.seed}; violations: {len(violations)}"
    show(record_property, title, ("command", "refusal", "the command", "cases"), rows)
    assert not violations, "\n".join(violations)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with 136 MiB: the cache leaves 128 of them to the rest of the board."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=136m", "none", str(place)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("needs root: mounts a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, left: int) -> Path:
    """Take all but ``left`` bytes of a disk. Returns: the file that takes them."""
    ballast = place / "ballast"
    with ballast.open("wb") as file:
        state = os.statvfs(place)
        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - left)
    return ballast


@pytest.mark.timeout(4 * 3600)
def test_a_full_disk_is_survived(
    works: Works, ground: Ground, extent: Extent, small_disk: Path, record_property: Record
) -> None:
    """As above, on a disk with no, or hardly any, room left; it is full for good, and then has room again."""
    rows = []
    room = (0, 4 << 10, 32 << 10, 128 << 10, 512 << 10, 1 << 20)
    for order in ORDERS:
        for left in extent.chance("full", order.name).sample(room, extent.count(1, len(room), len(room))):
            state = small_disk / "state"
            ground.lay_out(order, state)
            ballast = fill(small_disk, left)
            end = give(works, ground, order, state)
            ballast.unlink()
            check_after(works, ground, order, state, end)
            assert order.words[0] != "rollback" or end.code == 0, f"the reserve was there for it: {end.err}"
            if order.start != "empty" and left < LOW_BYTES // 2:
                assert "disk_full" in told(state), "the reserve was given up for this to be told"
                assert "disk_has_room" in told(state), "and is held anew"
            rows.append((order.name, f"{left >> 10} KiB", "came through" if end.code == 0 else "said so"))
            shutil.rmtree(state)
    show(record_property, f"Full disk, seed {extent.seed}", ("command", "room left", "the command"), rows)
