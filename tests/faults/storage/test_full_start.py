"""A daemon that is started on a disk full to the last byte serves, answers, obeys nothing, and heals by itself."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from agent.core.payloads import Event
from agent.database import FILE_NAME, Database
from agent.deploy.journal import Journal
from agent.errors import StorageError
from agent.reserve import FILE_NAME as RESERVE
from tests.brokers import Mosquitto
from tests.faults.storage.test_disk import fill, small_disk
from tests.orders.conftest import Board

__all__ = ["small_disk"]


def to_the_last_byte(place: Path) -> list[Path]:
    """Take all room of a disk. Returns: the files that take it."""
    ballast, crumbs = fill(place, 0), place / "crumbs"
    with crumbs.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 4096)
    assert os.statvfs(place).f_bavail == 0
    return [ballast, crumbs]


def test_a_daemon_starts_without_a_byte_to_spare_and_is_well_when_there_is_room(
    small_disk: Path, broker: Mosquitto
) -> None:
    board = Board(small_disk, broker)
    try:
        board.start()
        board.wait(board.order("sync"), "SUCCEEDED")
        assert board.stop() == 0
        os.truncate(board.state / RESERVE, 0)  # given up by whoever was here before
        taken = to_the_last_byte(small_disk)
        board.start(stores=False)
        assert board.wait(board.order("status", "vera"), "SUCCEEDED").result["epoch"] == board.epoch
        refused = board.wait(board.order("bench"), "REJECTED")
        assert refused.reason == "this board's disk does not take it, so nothing was done. free some space there"
        assert board.calls("bench") == []
        for one in taken:
            one.unlink()
        board.wait(board.order("bench"), "SUCCEEDED")
        told = [msgspec.json.decode(one.payload, type=Event) for one in board.fleet.topic("/pi/event")]
        assert "disk_has_room" in [one.kind for one in told]
        assert board.stop() == 0
    finally:
        board.close()


def test_a_file_that_can_but_be_read_is_read_as_it_lies_and_written_as_soon_as_there_is_room(small_disk: Path) -> None:
    path = small_disk / FILE_NAME
    with Database(path) as database:
        database.ensure(("CREATE TABLE IF NOT EXISTS kept (n INTEGER)",))
        with database.transaction() as connection:
            connection.execute("INSERT INTO kept VALUES (7)")
    taken = to_the_last_byte(small_disk)
    with Database(path) as database:
        assert [row["n"] for row in database.rows("SELECT n FROM kept")] == [7]
        Journal(database)  # its tables are owed
        with pytest.raises(StorageError, match="no space left"), database.transaction() as connection:
            connection.execute("INSERT INTO kept VALUES (8)")
        for one in taken:
            one.unlink()
        with database.transaction() as connection:
            connection.execute("INSERT INTO kept VALUES (9)")
        assert [row["n"] for row in database.rows("SELECT n FROM kept")] == [7, 9]
        assert Journal(database).records() == ()
    with Database(path) as database:
        assert [row["n"] for row in database.rows("SELECT n FROM kept")] == [7, 9]


def test_what_waits_beside_the_file_is_never_passed_over(small_disk: Path) -> None:
    """A database that a kill has left with a log beside it is not read without it: it would say what was before."""
    path = small_disk / FILE_NAME
    with Database(path) as database:
        database.ensure(("CREATE TABLE IF NOT EXISTS kept (n INTEGER)",))
    database = Database(path)
    with database.transaction() as connection:
        connection.execute("INSERT INTO kept VALUES (7)")
    log = Path(f"{path}-wal").read_bytes()
    database.close()
    Path(f"{path}-wal").write_bytes(log)
    to_the_last_byte(small_disk)
    with pytest.raises(StorageError):
        Database(path)
