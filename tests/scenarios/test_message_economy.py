"""How many messages a pass costs: counted at a real broker, from a real daemon's scheduled passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from agent.clock import iso
from agent.core.topics import parse_topic
from agent.database import FILE_NAME, Database
from agent.mqtt import BrokerSettings
from agent.records import Records
from tests.brokers import Listener, Mosquitto
from tests.scenarios.conftest import Installation
from tests.scenarios.test_daemon import WAIT_S, Service, start

__all__ = ["start"]  # the fixture

MOST = 4  # messages of one pass
BESIDE = ["profile", "reported", "status", "status"]  # of a connection: what and how it is, here, and gone

#: A daemon without a pass of its own at its start, whose wall clock is set so that five seconds later a minute begins:
#: the pass that was missed comes at once, and the next one of the schedule when that has ended.
AT_THE_END_OF_A_MINUTE = """
import sys
from datetime import timedelta
from agent import clock, daemon
from agent.cli import main
real, later = clock.SystemClock.utc, timedelta(minutes=int(sys.argv.pop(1)))
later += timedelta(seconds=(55 - real(None).second) % 60)
clock.SystemClock.utc = lambda self: real(self) + later
enqueue = daemon.Daemon._enqueue
daemon.Daemon._enqueue = lambda self, work: None if work.cause == "start-up" else enqueue(self, work)
sys.exit(main())
"""
EVERY_MINUTE = {"name": "often", "action": "pass", "cron": "* * * * *", "window": "30 min"}
QUICK = {"min_runs": 100, "min_time": "0.05 s", "max_time": "3 s", "threads": [1, 2], "contended": "flag"}


def counted(installation: Installation) -> int:
    """Return the number of the last message that was put into the outbox."""
    with Database(installation.state / FILE_NAME) as database:
        return int(database.rows("SELECT value FROM outbox_counter WHERE name = 'seq'")[0][0])


def nothing_waits(installation: Installation) -> bool:
    with Database(installation.state / FILE_NAME) as database:
        return not database.rows("SELECT 1 FROM outbox UNION SELECT 1 FROM outbox_gathered LIMIT 1")


def test_a_scheduled_pass_costs_four_messages_at_most_and_one_when_nothing_is_new(
    start: Callable[..., Service],
    installation: Installation,
    broker: Mosquitto,
    listen: Callable[[BrokerSettings], Listener],
    tmp_path: Path,
) -> None:
    fleet = listen(broker.settings())
    assert installation("profile").code == 0  # a board that is known; a new one's first pass is in test_daemon
    with Database(installation.state / FILE_NAME) as database:
        Records(database).keep_run("often", iso(datetime.now(timezone.utc) - timedelta(minutes=1)))

    def two_passes(minutes_later: int) -> tuple[list[str], list[str], list[str]]:
        """Return what came of a first and of a second pass over one connection, and beside both; no telemetry."""
        del fleet.got[:]
        (tmp_path / "notify").unlink(missing_ok=True)
        service = start(
            command=("-c", AT_THE_END_OF_A_MINUTE, str(minutes_later)), schedule=[EVERY_MINUTE], measure=QUICK
        )
        marks = []
        for _ in range(2):
            service.wait_for("STATUS=pass: schedule often")
            marks.append(counted(installation))
        service.wait_for("STATUS=serving")
        fleet.wait(lambda: nothing_waits(installation), WAIT_S)
        end = counted(installation)
        errors = service.stop()
        assert service.process.returncode == 0, errors
        fleet.wait(lambda: any(b'"offline"' in one.payload for one in fleet.topic("/status")))
        heard = [(json.loads(one.payload)["seq"], parse_topic(one.topic).kind) for one in fleet.got if not one.retain]
        assert len(heard) == len(set(heard)) + 1, heard  # the status alone comes twice
        heard = [(seq, kind) for seq, kind in heard if kind != "telemetry"]
        first = [kind for seq, kind in heard if marks[0] < seq <= marks[1]]
        second = [kind for seq, kind in heard if marks[1] < seq <= end]
        return first, second, [kind for seq, kind in heard if seq <= marks[0]]

    first, second, beside = two_passes(0)
    told = json.loads(fleet.topic("/measurement")[0].payload)["measurements"]
    with Database(installation.state / FILE_NAME) as database:
        kept = database.rows("SELECT id FROM measurement ORDER BY rowid")
    assert [one["id"] for one in told] == [row["id"] for row in kept]
    assert len(told) >= 4
    assert len(first) == len(set(first)) <= MOST, first
    assert set(first) - {"reported"} == {"decision", "deployment", "measurement"}
    assert len(second) == len(set(second)) <= MOST, second
    assert set(second) <= {"decision", "deployment", "reported"}  # it keeps what runs, which it did not say before
    assert sorted(beside) == BESIDE

    again, idle, beside = two_passes(30)
    assert sorted(beside) == BESIDE
    assert len(again) == len(set(again)) <= MOST, again
    assert set(again) - {"reported"} == {"decision", "deployment"}  # a new connection: the broker may have forgotten
    assert set(idle) <= {"reported"}  # when it is due next; twice where the pass outlasts its minute
    assert len(idle) <= 2
