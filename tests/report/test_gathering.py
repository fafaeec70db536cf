"""Measurements that wait to go out together: few messages, and each in exactly one, whoever is killed when."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from agent.core.conversions import summary_of_measurement
from agent.core.messages import MAX_PAYLOAD_BYTES
from agent.core.payloads import MeasurementSummary
from agent.core.topics import Address
from agent.database import Database
from agent.report.gathering import Gathering
from agent.report.outbox import Entry, Outbox
from tests.report.synthetic_report import synthetic_report
from tests.report.test_outbox import measured


def sent(outbox: Outbox) -> list[list[str]]:
    """Return the ids of the measurements in each message that waits."""
    found: list[Entry] = []
    while more := outbox.pending(found[-1].seq if found else 0):
        found += more
    return [[one["id"] for one in json.loads(entry.payload)["measurements"]] for entry in found]


@pytest.fixture
def gathering(database: Database, outbox: Outbox) -> Gathering:
    return Gathering(database, outbox)


def test_what_is_added_goes_out_as_one_message_and_once(gathering: Gathering, outbox: Outbox) -> None:
    for name in "abc":
        gathering.add(measured(name))
    assert outbox.pending() == ()
    gathering.release()
    gathering.release()
    assert sent(outbox) == [["a", "b", "c"]]


def test_a_whole_first_pass_fits_into_one_message(gathering: Gathering, outbox: Outbox) -> None:
    task = synthetic_report(runs=40).tasks[0]
    for number in range(78):  # as many as the demo measures
        like = task.measurements[number % len(task.measurements)]
        gathering.add(summary_of_measurement(msgspec.structs.replace(like, id=f"{number:032}"), outbox.boot_id))
    gathering.release()
    (entry,) = outbox.pending()
    assert len(json.loads(entry.payload)["measurements"]) == 78
    assert len(entry.payload) <= MAX_PAYLOAD_BYTES


def test_more_than_one_message_holds_goes_out_before_the_end_in_order(gathering: Gathering, outbox: Outbox) -> None:
    names = [f"m-{number}" for number in range(10)]
    for name in names:
        gathering.add(measured(name, "x" * 30_000))
    assert len(outbox.pending()) == 2
    gathering.release()
    assert [name for message in sent(outbox) for name in message] == names
    assert [len(message) for message in sent(outbox)] == [4, 4, 2]


def test_a_broker_with_a_lower_limit_gets_more_messages(gathering: Gathering, outbox: Outbox) -> None:
    outbox.know_limit(40_000)
    for name in "abcd":
        gathering.add(measured(name, "x" * 10_000))
    gathering.release()
    assert all(len(entry.payload) < 40_000 for entry in outbox.pending())
    assert sent(outbox) == [["a", "b", "c"], ["d"]]


def test_a_disk_that_takes_nothing_stops_nobody_and_is_counted(
    gathering: Gathering, outbox: Outbox, database: Database
) -> None:
    gathering.add(measured("a"))
    with sqlite3.connect(database.path) as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON outbox_gathered BEGIN SELECT RAISE(ABORT, 'full'); END")
        other.execute("CREATE TRIGGER more BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'full'); END")
    gathering.add(measured("b"))
    gathering.release()
    assert [(loss.precedence, loss.cause, loss.messages) for loss in outbox.fill().losses] == [
        ("measurement", "not_stored", 1)
    ]
    with sqlite3.connect(database.path) as other:
        other.executescript("DROP TRIGGER full; DROP TRIGGER more")
    gathering.release()
    assert sent(outbox) == [["a"]]


def test_what_a_later_version_left_there_is_left_out(gathering: Gathering, outbox: Outbox, database: Database) -> None:
    gathering.add(measured("a"))
    with database.transaction() as connection:
        connection.execute("INSERT INTO outbox_gathered (document) VALUES (?)", (b'{"id": 7}',))
    gathering.add(measured("b"))
    gathering.release()
    assert sent(outbox) == [["a", "b"]]


def test_two_who_release_at_once_send_nothing_twice(
    outbox: Outbox, here: Address, system_clock, tmp_path: Path
) -> None:
    path = tmp_path / "state" / "boardfit.db"
    begin = threading.Barrier(4)

    def work(first: int) -> None:
        with Database(path) as mine:
            own = Gathering(mine, Outbox(mine, here, system_clock, boot_id="boot-a"))
            begin.wait()
            for number in range(first, first + 25):
                own.add(measured(f"m-{number}"))
                own.release()

    workers = [threading.Thread(target=work, args=(100 * number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    names = [name for message in sent(outbox) for name in message]
    assert len(names) == len(set(names)) == 100


ADDS_UNTIL_KILLED = """
import itertools, sys
from pathlib import Path
from agent.clock import SystemClock
from agent.core.topics import address
from agent.database import Database
from agent.report.gathering import Gathering
from agent.report.outbox import Outbox
from tests.report.test_outbox import measured
database = Database(Path(sys.argv[1]))
gathering = Gathering(database, Outbox(database, address("plant-7", "pi5-kitchen"), SystemClock()))
for number in itertools.count():
    gathering.add(measured(f"{sys.argv[2]}-{number}", "x" * 20_000))
    print(f"{sys.argv[2]}-{number}", flush=True)
    if number % 7 == 6:
        gathering.release()
"""


def test_a_kill_at_any_moment_loses_no_measurement_and_sends_none_twice(
    outbox: Outbox, gathering: Gathering, tmp_path: Path
) -> None:
    finished: list[str] = []
    for run in range(5):
        command = [sys.executable, "-c", ADDS_UNTIL_KILLED, str(tmp_path / "state" / "boardfit.db"), str(run)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert process.stdout is not None
        finished += [process.stdout.readline().strip() for _ in range(11 + run)]
        os.kill(process.pid, signal.SIGKILL)
        finished += process.stdout.read().split()
        process.wait()
    gathering.release()
    names = [name for message in sent(outbox) for name in message]
    assert len(names) == len(set(names))
    assert set(finished) <= set(names)
    assert len(set(names) - set(finished)) <= 5  # on disk, and killed before it said so


def test_a_summary_is_kept_as_it_is(gathering: Gathering, outbox: Outbox) -> None:
    task = synthetic_report(runs=40).tasks[0]
    summaries = [summary_of_measurement(one, None) for one in task.measurements[:5]]
    for summary in summaries:
        gathering.add(summary)
    gathering.release()
    (entry,) = outbox.pending()
    assert msgspec.convert(json.loads(entry.payload)["measurements"], list[MeasurementSummary]) == summaries
