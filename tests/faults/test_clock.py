"""Clocks that start in 1970, stand ahead, and are set in both directions while the agent runs.

Whatever the wall clock does, what is counted by it is bounded by what the monotonic clock knows: nothing is obeyed
longer than it was signed for, nothing is thrown away as old that is young, no allowance is opened twice, no duration is
negative. The registry's part is in test_registry.py, more of the schedule's in tests/core/test_agenda.py.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random

import msgspec
import pytest

from agent.core.deployment import DeployedFile, Deployment
from agent.core.payloads import Telemetry
from agent.core.ports import ProbeResult
from agent.core.topics import address, topic_for
from agent.database import Database
from agent.deploy.health import watch_probation
from agent.ledger import Ledger
from agent.orders.jobs import Jobs
from agent.report.outbox import Bounds, Outbox
from agent.timetable import Timetable
from tests import test_timetable as timetabled
from tests.faults.extent import Extent
from tests.measure.models import ONNX_POINT
from tests.orders.test_desk import Scene

ROOT = Path(__file__).resolve().parents[2]
TRUTH = datetime(2027, 1, 1, 12, tzinfo=timezone.utc)
DAY_S = 86400.0
STEPS = tuple(
    timedelta(seconds=sign * size) for sign in (-1, 1) for size in (1, 61, 3600, DAY_S, 30 * DAY_S, 20 * 365 * DAY_S)
)


class SteppedClock:
    """Time passes by ``wait``; the wall clock is off by ``error``, which is set at will."""

    def __init__(self, error: timedelta = timedelta(0)) -> None:
        self.passed_s, self.error = 0.0, error

    def monotonic_s(self) -> float:
        return 1000.0 + self.passed_s

    def utc(self) -> datetime:
        return TRUTH + timedelta(seconds=self.passed_s) + self.error

    def wait(self, seconds: float) -> None:
        self.passed_s += seconds


def to_1970() -> timedelta:
    return datetime(1970, 1, 1, tzinfo=timezone.utc) - TRUTH


@pytest.fixture
def database(folder_in_memory: Path) -> Iterator[Database]:
    with Database(folder_in_memory / "state.db") as opened:
        yield opened


def walk(chance: Random, count: int) -> Iterator[tuple[float, timedelta]]:
    """Yield how many seconds pass, and by how much the clock is wrong then."""
    for _ in range(count):
        yield chance.choice((1.0, 60.0, 3600.0, 6 * 3600.0)), chance.choice((timedelta(0), to_1970(), *STEPS))


def test_a_day_s_allowance_is_not_opened_again_and_again(database: Database, extent: Extent) -> None:
    """A later day than the one that counts may open one, or a day that has passed; a clock that is set back never."""
    chance, clock = extent.chance("allowance"), SteppedClock()
    ledger = Ledger(database, clock, "boot")
    opened, before = 0, ledger.today()
    for passes_s, error in walk(chance, extent.count(200, 2000, 20_000)):
        clock.wait(passes_s)
        clock.error = error
        ledger.add(bench_s=1.0)
        use = ledger.today()
        assert use.bench_s > 0.0
        if use.bench_s <= before.bench_s:
            opened += 1
            passed_a_day = clock.monotonic_s() - before.began_s >= DAY_S
            assert use.day > before.day or passed_a_day, f"{before} became {use} by a clock set to {clock.utc()}"
        before = use
    assert opened > 0


@pytest.mark.parametrize("step", [*STEPS, to_1970()], ids=str)
def test_an_order_that_waits_ends_in_time_whatever_the_clock_does(tmp_path: Path, step: timedelta) -> None:
    scene = Scene(tmp_path)
    try:
        job = scene.order()
        scene.clock.wall_error = step
        scene.later(minutes=5)
        ended = step > timedelta(minutes=5)
        assert scene.states(job) == (["QUEUED", "TIMED_OUT"] if ended else ["QUEUED"])
        scene.later(minutes=6)
        assert scene.states(job) == ["QUEUED", "TIMED_OUT"]
        assert scene.desk.line.begin(scene.desk.objection) is None
    finally:
        scene.site.close()


@pytest.mark.parametrize("step", [*STEPS, to_1970()], ids=str)
def test_an_order_at_work_has_its_time_whatever_the_clock_does(tmp_path: Path, step: timedelta) -> None:
    scene = Scene(tmp_path)
    try:
        job = scene.order()
        assert scene.desk.line.begin(scene.desk.objection) == ["bench"]
        scene.clock.wall_error = step
        scene.later(hours=5, minutes=59)
        assert not scene.desk.line.stop_asked
        scene.later(minutes=2)
        assert scene.desk.line.stop_asked
        scene.desk.line.finish(1, b"")
        record = Jobs(scene.site.database).find(job)
        assert record is not None
        assert record.state == "TIMED_OUT"
    finally:
        scene.site.close()


def test_an_order_is_not_refused_because_the_clock_was_set_back_by_its_synchronisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board that is an hour ahead takes it and is set right while it waits: it was not issued in the future."""
    scene = Scene(tmp_path)
    try:
        scene.clock.wall_error = timedelta(minutes=8)
        job = scene.order()
        scene.clock.wall_error = timedelta(0)
        monkeypatch.setattr(scene.site.board, "clock_synced", lambda: True)
        assert scene.desk.line.begin(scene.desk.objection) == ["bench"]
        assert scene.states(job) == ["QUEUED", "IN_PROGRESS"]
    finally:
        scene.site.close()


def telemetry(outbox: Outbox) -> int | None:
    header = msgspec.structs.asdict(outbox.origin())
    return outbox.put(topic_for(outbox.address, "telemetry", "board"), Telemetry(**header, group="board"))


CLOCKS = {
    "right": (timedelta(0), True),
    "right, not known": (timedelta(0), None),
    "1970": (to_1970(), False),
    "a year behind": (timedelta(days=-365), False),
    "a year ahead": (timedelta(days=365), False),
}


@pytest.mark.parametrize("first", CLOCKS)
@pytest.mark.parametrize("then", CLOCKS)
def test_what_waits_to_be_sent_is_thrown_away_only_when_it_is_old(database: Database, first: str, then: str) -> None:
    """Records of one boot and clock, looked at in the next boot under another clock, an hour and a month later."""
    clock, synced = SteppedClock(), True
    here, bounds = address("plant", "pi"), Bounds(max_age_s=14 * DAY_S)
    clock.error, synced = CLOCKS[first]
    outbox = Outbox(database, here, clock, boot_id="a", bounds=bounds, clock_synced=lambda: synced)
    kept = telemetry(outbox)
    clock.wait(3600.0)
    clock.error, synced = CLOCKS[then]
    outbox = Outbox(database, here, clock, boot_id="b", bounds=bounds, clock_synced=lambda: synced)
    telemetry(outbox)
    assert kept in [one.seq for one in outbox.pending()], "an hour is not old"
    clock.wait(31 * DAY_S)
    telemetry(outbox)
    left = [one.seq for one in outbox.pending()]
    assert (kept in left) == (not (first.startswith("right") and then.startswith("right")))
    assert len(left) == 1 + (kept in left), "within one boot the monotonic clock knows"


@pytest.mark.parametrize("step", [*STEPS, to_1970()], ids=str)
def test_a_probation_lasts_as_long_as_it_is_set(step: timedelta) -> None:
    clock, looks = SteppedClock(), 0
    file = DeployedFile(path="model.onnx", sha256="0" * 64, length=1)
    deployment = Deployment(
        release="r", task="t", candidate="c", format="onnx", model=file, point=ONNX_POINT, inputs=(), outputs=()
    )

    def pause(seconds: float) -> None:
        nonlocal looks
        assert seconds > 0
        clock.wait(seconds)
        looks += 1
        clock.error = step if looks % 2 else timedelta(0)

    passed = ProbeResult(passed=True, reason="it holds")
    result = watch_probation(
        lambda *_: passed, Path("current"), deployment, probation_s=60.0, clock=clock, stop=lambda: False, pause=pause
    )
    assert result.passed
    assert clock.passed_s == pytest.approx(60.0)


class Nights:
    """A board with one entry at 3:00, whose work ends at once; its clock is wrong by what each step says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = {"name": "nightly", "action": "bench", "cron": "0 3 * * *", "window": "2 h"}
        self.scene = timetabled.Scene(folder, monkeypatch, schedule=[entry])
        self.truth = self.scene.clock.now
        self.done: list[datetime] = []

    def wait(self, hours: float, error: timedelta) -> None:
        """Let time pass, set the clock, and do what is due by it."""
        scene, self.truth = self.scene, self.truth + timedelta(hours=hours)
        scene.clock.now, scene.clock.monotonic = self.truth + error, scene.clock.monotonic + hours * 3600
        assert all(at >= scene.clock.monotonic for at in scene.timetable.deadlines(scene.clock.monotonic))
        work = scene.timetable.tend(idle=True)
        if work is not None:
            assert work.due is not None
            assert timedelta(0) <= scene.clock.now - work.due <= timedelta(hours=2)
            scene.timetable.begin(work, pid=1)
            scene.timetable.end(cut_short=False, complete=True)
            self.done.append(work.due)

    def restart(self) -> None:
        """Begin anew from what is stored."""
        self.scene.timetable = Timetable(self.scene.site)
        self.scene.timetable.plan()


def test_the_schedule_comes_back_to_its_times_after_any_clock(
    folder_in_memory: Path, monkeypatch: pytest.MonkeyPatch, extent: Extent
) -> None:
    """Steps in both directions, restarts among them; then three days with the clock right.

    One night may be left out: a clock that was a day ahead has served it already.
    """
    for number in range(extent.count(3, 40, 400)):
        chance = extent.chance("schedule", number)
        nights = Nights(folder_in_memory / str(number), monkeypatch)
        for _ in range(20):
            error = chance.choice((timedelta(0), to_1970(), *STEPS))
            for _ in range(chance.randrange(1, 4)):
                nights.wait(chance.choice((0.02, 1.0, 5.0)), error)
            if chance.random() < 0.3:
                nights.restart()
        nights.wait(0.5, timedelta(0))
        nights.done.clear()
        for _ in range(6 * 24):
            nights.wait(0.5, timedelta(0))
        wanted = [nights.truth.replace(hour=3, minute=0, second=0) - timedelta(days=ago) for ago in (2, 1, 0)]
        wanted = [due if due <= nights.truth else due - timedelta(days=3) for due in wanted]
        assert nights.done in (sorted(wanted), sorted(wanted)[1:]), (
            f"round {number} of seed {extent.seed}: {nights.done}"
        )
        nights.scene.site.close()


# Every file that asks what time it is by the wall clock, and what for. A duration, a deadline or an age on a board is
# counted by the monotonic clock; where it must outlive a boot, the wall clock is held against a floor or left out.
ON_RECORD = "when something happened, for whoever reads it; nothing is counted by it"
ELSEWHERE = "on an operator's or collector's machine, not on a board"
WALL = {
    "clock.py": "the clock itself",
    "classmates.py": "expiry of other boards' certificates, held against the floor; where an age is negative its class "
    "is heard anew",
    "client/engines.py": "the order of use, by which the oldest leaves; on a wrong clock that order suffers only",
    "combination.py": ON_RECORD,
    "deploy/carrier.py": ON_RECORD,
    "enrolment/proof.py": "signed into a board's own certificate request, which the operator judges",
    "joint.py": "the age of a stored run, of which a negative one is not used",
    "ledger.py": "days, by agent.core.allowance: bounded by the monotonic clock, and they never go back",
    "measure/bench.py": ON_RECORD + "; durations beside it are monotonic",
    "measure/engine_cache.py": "the order of use, by which the oldest leaves; on a wrong clock that order suffers only",
    "measure/sustained.py": ON_RECORD + "; an age by it counts only when it is not negative",
    "measure/together.py": ON_RECORD,
    "orders/desk.py": "expiry at acceptance, held against the floor",
    "orders/line.py": ON_RECORD + "; ends a waiting job earlier than the monotonic clock does, never later",
    "pipeline.py": ON_RECORD + "; ages of stored measurements, of which a negative one is not used",
    "question.py": ON_RECORD + "; ages of stored measurements, of which a negative one is not used",
    "registry/client.py": "expiry, held against the floor",
    "registry/conformance.py": "expiry, as TUF's public suite wants it judged",
    "rehearsal.py": ON_RECORD,
    "replay.py": ON_RECORD,
    "report/outbox.py": ON_RECORD + "; ages over boots, where it is not known to be wrong",
    "site.py": "expiry of signed receipts, held against the floor",
    "timetable.py": "when entries are due, by agent.core.agenda",
    "verbs/authoring.py": ELSEWHERE,
    "verbs/candidates.py": ELSEWHERE,
    "verbs/enroll.py": "whether a certificate is valid now",
    "verbs/operators.py": ELSEWHERE,
    "verbs/setup_questions.py": "whether a certificate is valid now",
    "verbs/views.py": ON_RECORD,
    "watch/replaying.py": "when a replay is due: an interval from now at most, and after a monotonic pause",
    **{
        f"collector/{name}.py": ELSEWHERE for name in ("intake", "store_keeping")
    },
    **{
        f"fleet/{name}.py": ELSEWHERE
        for name in (
            "classes", "ledger", "listed", "pen", "rollout_drive", "rollout_link", "rollout_notices", "sending",
        )
    },
    **{
        f"verbs/fleet_{name}.py": ELSEWHERE
        for name in ("desired", "jobs", "rollout", "rollout_others", "views", "wishes")
    },
}  # fmt: skip


def asks_the_wall_clock(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, owner = node.func.attr, node.func.value
        of = owner.id if isinstance(owner, ast.Name) else ""
        if name == "utc" or (of, name) in {
            ("datetime", "now"),
            ("datetime", "utcnow"),
            ("time", "time"),
            ("time", "time_ns"),
        }:
            return True
    return False


def test_every_use_of_the_wall_clock_is_known() -> None:
    package = ROOT / "agent"
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if asks_the_wall_clock(path)}
    assert found == set(WALL), "say in WALL what the wall clock is asked for, or count by monotonic_s"
