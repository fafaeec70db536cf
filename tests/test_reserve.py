"""The reserve: held, given up when the disk is full, held again; what may be written meanwhile."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.database import FILE_NAME, Database
from agent.errors import StorageError
from agent.reserve import FILE_NAME as RESERVE
from agent.reserve import LOW_BYTES, SIZE_BYTES, Reserve


class Space(NamedTuple):
    f_bavail: int
    f_frsize: int = 1


class Disk:
    """A disk with as much room as a test says, but for the reserve's own file, which is real."""

    def __init__(self, folder: Path) -> None:
        self.room = 100 << 20
        self.file = folder / RESERVE

    def __call__(self, _: Path) -> Space:
        return Space(max(0, self.room - (self.file.stat().st_size if self.file.exists() else 0)))


def test_it_is_held_given_up_and_held_again(tmp_path: Path) -> None:
    disk, told = Disk(tmp_path), list[bool]()
    reserve = Reserve(tmp_path, disk)
    reserve.listen(told.append)
    assert reserve.tend() is False
    held = (tmp_path / RESERVE).stat()
    assert (held.st_size, told) == (SIZE_BYTES, [])
    assert held.st_blocks * 512 >= SIZE_BYTES, "a hole holds no space"

    disk.room = SIZE_BYTES + LOW_BYTES - 1
    assert reserve.tend() is True
    assert ((tmp_path / RESERVE).stat().st_size, told) == (0, [True])
    assert Reserve(tmp_path, disk).tend() is True, "another process knows it from the file"

    disk.room = SIZE_BYTES + (1 << 20)
    assert reserve.tend() is True, "room for it alone is not enough: it would come and go"
    disk.room = 100 << 20
    assert reserve.tend() is False
    assert ((tmp_path / RESERVE).stat().st_size, told) == (SIZE_BYTES, [True, False])


def test_a_disk_that_was_full_from_the_start_has_none(tmp_path: Path) -> None:
    disk, told = Disk(tmp_path), list[bool]()
    disk.room = LOW_BYTES - 1
    reserve = Reserve(tmp_path, disk)
    reserve.listen(told.append)
    assert reserve.tend() is True
    assert (list(tmp_path.iterdir()), told) == ([], [])


def test_who_listens_later_is_told_what_came_before(tmp_path: Path) -> None:
    disk, told = Disk(tmp_path), list[bool]()
    reserve = Reserve(tmp_path, disk)
    reserve.tend()
    reserve.give_up()
    reserve.listen(told.append)
    assert told == [True]


def test_what_can_be_had_again_is_refused_while_space_is_scarce(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    with Database(tmp_path / FILE_NAME, Reserve(tmp_path, disk)) as database:
        database.ensure(["CREATE TABLE t (n INTEGER)"])
        disk.room = 0
        with database.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (1)")
        with (
            pytest.raises(StorageError, match="no space left") as raised,
            database.transaction(essential=False) as connection,
        ):
            connection.execute("INSERT INTO t VALUES (2)")
        assert raised.value.facts["errno"] == errno.ENOSPC
        assert [row["n"] for row in database.rows("SELECT n FROM t")] == [1]
        disk.room = 100 << 20
        with database.transaction(essential=False) as connection:
            connection.execute("INSERT INTO t VALUES (3)")
