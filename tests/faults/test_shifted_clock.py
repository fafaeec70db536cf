"""Real processes whose wall clock is another's: a pass and a daemon that wake in 1970 and are set to and fro.

The clock is libfaketime's (Debian's package of that name): what it reads from a file is every process's wall clock from
then on; the monotonic clock and the kernel's stamps on files are the machine's own. Engines are stood in for, and below
the daemon every verb. What the agent's parts do under such clocks is test_clock.py's.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core.payloads import Telemetry
from agent.device.board import this_board
from tests.brokers import Mosquitto
from tests.faults.extent import Extent
from tests.faults.storage.at_work import Works
from tests.faults.storage.ground import DATABASE, Ground, check_database, check_ended_typed
from tests.faults.table import show
from tests.orders.conftest import Board

TRUE, AT_1970 = "+0", "@1970-01-01 00:00:30"
BACK, AHEAD, FAR_AHEAD = "-7000d", "+1d", "+3650d"
Set = Callable[[str], None]


@pytest.fixture
def set_clock(folder_in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> Set:
    """Set the wall clock of every process that is started from now on, whenever it is called."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("needs libfaketime: apt-get install libfaketime")
    file = folder_in_memory / "clock"

    def set_to(text: str) -> None:
        beside = file.with_name("clock.new")
        beside.write_text(f"{text}\n")
        beside.replace(file)

    set_to(TRUE)
    monkeypatch.setenv("LD_PRELOAD", str(found[0]))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(file))
    for name in ("FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "NO_FAKE_STAT"):
        monkeypatch.setenv(name, "1")
    return set_to


def negative_durations(document: Any, where: str = "") -> list[str]:
    """Return the fields of a document that are lengths of time, and below nothing."""
    if isinstance(document, dict):
        return [found for name, value in document.items() for found in negative_durations(value, f"{where}.{name}")]
    if isinstance(document, list):
        return [
            found for number, value in enumerate(document) for found in negative_durations(value, f"{where}[{number}]")
        ]
    is_length = isinstance(document, int | float) and where.endswith("_s") and not where.endswith("monotonic_s")
    return [f"{where} = {document}"] if is_length and document < 0 else []


def told(state: Path) -> list[Any]:
    """Return the documents that wait to be sent."""
    with sqlite3.connect(state / DATABASE) as connection:
        rows = connection.execute("SELECT payload FROM outbox").fetchall()
    connection.close()
    return [json.loads(row[0]) for row in rows]


@pytest.fixture
def works(set_clock: Set) -> Iterator[Works]:
    """A warm process whose forks have the clock that is set."""
    made = Works()
    yield made
    made.close()


def test_a_pass_wakes_in_1970_and_is_set_to_and_fro(
    works: Works, set_clock: Set, folder_in_memory: Path, extent: Extent, record_property: Callable[[str, object], None]
) -> None:
    folder = folder_in_memory / "ground"
    folder.mkdir()

    def run(state: Path, words: Any) -> int:
        end = works.unwatched([*words, "--json", "--state-dir", str(state)])
        assert end.code == 0, end.err
        return end.code

    ground = Ground(folder, run)
    state = folder_in_memory / "state"
    shutil.copytree(ground.folder / "empty", state)
    rows = []

    def once(clock: str, config: str) -> None:
        """Do a pass. It finds the newest; where the registry has expired by a clock far ahead, all stays as it is."""
        before = ground.serving(state)
        set_clock(clock)
        words = ["once", "--json", "--config", str(ground.folder / f"{config}.yaml"), "--state-dir", str(state)]
        end = works.unwatched(words)
        check_ended_typed(end.code, end.out, end.err)
        expired = clock == FAR_AHEAD
        assert end.code == (4 if expired else 0), f"{clock}: {end.err}"
        assert ground.serving(state) == (before if expired else {"early": "first", "late": "third"}[config])
        check_database(state)
        assert negative_durations(json.loads(end.out)) == []
        assert negative_durations(told(state)) == []
        rows.append((clock, config, str(end.code), str(ground.serving(state))))

    once(AT_1970, "early")
    once(TRUE, "late")
    chance = extent.chance("shifted")
    for _ in range(extent.count(2, 20, 200)):
        once(chance.choice((AT_1970, BACK, FAR_AHEAD, TRUE)), "late")
    once(TRUE, "late")
    show(
        record_property,
        f"Passes under shifted clocks, seed {extent.seed}",
        ("clock", "registry", "code", "serves"),
        rows,
    )


def test_a_daemon_wakes_in_1970_is_set_to_and_fro_and_obeys_what_is_of_now(
    tmp_path: Path, broker: Mosquitto, set_clock: Set
) -> None:
    board = Board(tmp_path, broker)
    try:
        set_clock(AT_1970)
        board.start()
        assert board.process is not None
        # A kernel that calls the machine's clock right does not know of the shift: what is of now is ahead of it.
        trusted, obeyed = this_board().clock_synced(), 0
        for clock in (AT_1970, TRUE, BACK, TRUE, AT_1970, TRUE):
            set_clock(clock)
            done = board.wait(board.order("bench"), "SUCCEEDED", "REJECTED", "TIMED_OUT", "FAILED")
            if trusted and clock != TRUE:
                assert "which is in this board's future" in (done.reason or "")
                continue
            assert done.state == "SUCCEEDED", f"{clock}: {done.reason}"
            obeyed += 1
        set_clock(AHEAD)
        refused = board.wait(board.order("bench"), "REJECTED", "SUCCEEDED")
        assert (refused.reason or "").startswith("it expired at ")
        set_clock(TRUE)
        board.wait(board.order("bench"), "SUCCEEDED")
        assert len(board.calls("bench")) == obeyed + 1
        heard = [json.loads(one.payload) for one in board.fleet.got if one.payload.startswith(b"{")]
        assert negative_durations(heard) == []
        assert [
            one for one in board.fleet.topic("/telemetry/board") if msgspec.json.decode(one.payload, type=Telemetry)
        ]
        assert board.process.poll() is None
        assert board.stop() == 0
    finally:
        board.close()
