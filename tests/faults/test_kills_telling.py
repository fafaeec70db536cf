"""SIGKILL while the outbox is sent and while a signed command is taken and carried out, and again after the restart."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.config import load_config
from agent.core.command import Command
from agent.database import FILE_NAME, Database
from agent.deploy.journal import Journal
from agent.mqtt import drive
from agent.orders.jobs import FINAL
from agent.site import Site
from tests.brokers import Mosquitto
from tests.deploy.killing import KILLED, Orders
from tests.faults.extent import Extent
from tests.faults.kills import CALLS, MODULES, Point, points_of
from tests.faults.table import show
from tests.faults.test_kills import HEADS, Tally, spread
from tests.orders.conftest import KEYS, WAIT_S, Board

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
EVENTS = 20


class Telling:
    """A board whose agent is killed while it speaks with a real broker."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.folder = folder
        self.start = folder / "start"
        self.start.mkdir()
        self.board = Board(self.start, broker)
        self.board.folder = self.work = folder / "work"
        self.config, self.state = self.work / "agent.yaml", self.work / "state"
        self.orders = Orders(*MODULES)
        self.trace = folder / "trace"
        self.tracing = ("strace", "-y", "-o", str(self.trace), "-e", f"trace={CALLS}")

    def close(self) -> None:
        self.board.close()
        self.orders.close()

    def bring(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.start, self.work)
        self.board.fleet.got.clear()

    def drain(self, tracer: tuple[str, ...] = ()) -> int:
        return self.orders(
            self.work, f"boardfit recover --config {self.config} --state-dir {self.state}", tracer=tracer
        )

    def wrong(self) -> list[str]:
        """Return what is not as it must be, whatever was done."""
        with Database(self.state / FILE_NAME) as database:
            left = database.rows("SELECT seq FROM outbox")
            Journal(database)
        found = [f"{len(left)} messages are left in the outbox"] if left else []
        return found + [f"left over: {path}" for path in self.work.rglob(".*.tmp")]


class Drain(Telling):
    """Events wait in the outbox; ``boardfit recover`` sends them, as every verb does at its end."""

    def prepare(self) -> tuple[Point, ...]:
        with Site(load_config(self.start / "agent.yaml"), self.start / "state") as site:
            for number in range(EVENTS):
                site.report.event("test", f"event {number}", level="info")
        self.bring()
        assert self.run(self.tracing) == 0
        return tuple(points_of(self.trace.read_text(), str(self.work), lambda line: True))

    def run(self, tracer: tuple[str, ...] = ()) -> int:
        return self.orders(
            self.work, f"boardfit recover --config {self.config} --state-dir {self.state}", tracer=tracer
        )

    def settle(self) -> list[str]:
        """Send what is left; return what was lost."""
        if self.run() != 0:
            return ["sending again failed"]
        wanted = {f"event {number}" for number in range(EVENTS)}
        self.board.fleet.connection.publish("end", b"")
        self.board.fleet.wait(lambda: bool(self.board.fleet.topic("end")), WAIT_S)
        heard: dict[int, set[bytes]] = {}
        for one in self.board.fleet.topic("/event"):
            heard.setdefault(json.loads(one.payload)["seq"], set()).add(one.payload)
        told = {json.loads(text)["text"] for texts in heard.values() for text in texts}
        lost = [f"{text} was never heard" for text in sorted(wanted - told)]
        return lost + [f"seq {seq} means two things" for seq, texts in heard.items() if len(texts) > 1] + self.wrong()


class Obey(Telling):
    """A real daemon, whose verbs are stood in for, takes a ``bench`` and carries it out."""

    command: Command | None = None
    envelope = b""

    def prepare(self) -> tuple[Point, ...]:
        self.bring()
        assert self.run(self.tracing) == 0
        return tuple(points_of(self.trace.read_text(), str(self.work), lambda line: True))

    def run(self, tracer: tuple[str, ...] = ()) -> int:
        """Run the daemon until the job has ended and SIGTERM has ended it, or until it is killed."""
        before = len(self.board.statuses)
        words = f"python tests.orders.service {self.config} {self.state} {self.work}"
        child = self.orders.begin(self.work, words, tracer=tracer)
        orders = self.orders
        self.wait(lambda: orders.ended() or any(one.state != "offline" for one in self.board.statuses[before:]))
        if not orders.ended():  # the same command for as long as this board's disk is the same
            if self.command is None:
                self.command = self.board.command("bench")
                self.envelope = KEYS["otto"].sign_command(self.command)
            self.wait(lambda: orders.ended() or bool(self.ends()), meanwhile=self.say)
        if not orders.ended():
            os.kill(child, signal.SIGTERM)
        return orders.end()

    def say(self) -> None:
        """Send the command; a second time it changes nothing."""
        assert self.command is not None
        self.board.publish(self.command, self.envelope)

    def wait(self, until: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait for something that no message may tell of, such as the end of the daemon."""
        end, again = time.monotonic() + WAIT_S, 0.0
        while not drive(self.board.fleet.connection, until, 0.05):
            assert time.monotonic() < end, [one.topic for one in self.board.fleet.got]
            if time.monotonic() > again:
                again = time.monotonic() + 2.0
                meanwhile()

    def ends(self) -> list[str]:
        """Return how the job was told to have ended, each time it was."""
        if self.command is None:
            return []
        return [job.state for job in self.board.jobs(self.command.id) if job.state in FINAL]

    def settle(self) -> list[str]:
        """Start the daemon again; return what was done twice, or not told."""
        if (code := self.run()) != 0:
            return [f"the daemon that was started again ended with {code}"]
        self.drain()  # what it had to tell at its very end
        begun, ends = len(self.board.calls("bench")), self.ends()
        found = [f"the command was carried out {begun} times"] if begun > 1 else []
        found += [f"its end was told as {sorted(set(ends))}"] if len(set(ends)) != 1 else []
        found += ["it is told to have succeeded and was never begun"] if "SUCCEEDED" in ends and not begun else []
        return found + self.wrong()


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize(("kind", "points", "pairs"), [(Drain, 60, 20), (Obey, 40, 10)], ids=["drain", "command"])
def test_killed_while_it_tells_and_obeys(  # noqa: PLR0917 - one suite, two kinds
    kind: type[Drain | Obey], points: int, pairs: int, folder_in_memory: Path, broker: Mosquitto, extent: Extent,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    chance, tally = extent.chance("kills", kind.__name__), Tally()
    one = kind(folder_in_memory, broker)
    try:
        known = one.prepare()
        tally.known |= {("", point) for point in known}
        wanted = extent.count(1, points, 5 * points)
        for point in tries(spread(known, wanted, chance), 3 * wanted):
            if len(tally.points) < wanted and killed(one, point):
                tally.points.append(("", point))
                tally.wrong += [f"killed at {point}: {text}" for text in one.settle()]
        wanted = extent.count(int(kind is Drain), pairs, 10 * pairs)
        for first in tries(spread(known, wanted, chance), 3 * wanted):
            second = chance.choice(known)
            if tally.pairs < wanted and killed(one, first) and one.run(second.tracer()) == KILLED:
                tally.pairs += 1
                tally.wrong += [f"killed at {first} and {second}: {text}" for text in one.settle()]
    finally:
        one.close()
    row = tally.row(kind.__name__.lower())
    show(record_property, f"SIGKILL while a broker is spoken with (seed {extent.seed})", HEADS, [row])
    assert tally.wrong == []
    assert (len(tally.points), tally.pairs) >= (extent.count(1, points, 5 * points), 0)


def killed(one: Drain | Obey, point: Point) -> bool:
    one.bring()
    if isinstance(one, Obey):
        one.command = None
    return one.run(point.tracer()) == KILLED


def tries(points: Iterator[Point], most: int) -> Iterator[Point]:
    """Yield so many points at most: not every run comes to every call."""
    for _, point in zip(range(most), points, strict=False):
        yield point
