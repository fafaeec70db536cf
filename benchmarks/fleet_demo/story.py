"""What an operator does with the demo's fleet, told as it happens; what came of it is read from the rollouts' store."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from typing import NamedTuple

from agent.core.units import format_quantity
from agent.errors import ReportError
from agent.fleet.rollout import Rollout
from agent.fleet.rollout_store import RolloutStore
from agent.fleet.view import BoardView
from benchmarks.fleet_demo.scene import BAD, BAD_ON, FILES, FLEET, GOOD, OLD, REAL, TASK, Scene, Watch
from benchmarks.fleet_demo.telling import WIDTH, Telling
from benchmarks.one_agent import ROOT
from benchmarks.simulated.documents import CLASSES

START_S = 60.0
_TIMEOUT_S = 300.0
_WAVE = re.compile(r"wave \d+( of class \w+)? is through")
_TURN = re.compile(r"^(running|undoing|rolled_back|completed|stopping|aborted|paused): ")
_BOARD = re.compile(r"^(?P<board>[a-z0-9-]+): (?P<phase>soaking|rolled back|failed|undoing|undone|unreachable)\b")


class Outcome(NamedTuple):
    """How the two rollouts stand in the store, and what serves where afterwards."""

    bad: Rollout
    good: Rollout
    serving: dict[str, str | None]

    @property
    def amiss(self) -> str | None:
        """What is not as meant: the bad candidate is stopped at its first wave and given back, the good one serves."""
        reached = {board.wave for board in self.bad.boards.values()} - {None}
        if self.bad.status != "rolled_back" or reached != {0}:
            return f"the first rollout is {self.bad.status} and reached the waves {sorted(reached)}"
        if self.good.status != "completed":
            return f"the second rollout is {self.good.status}: {self.good.reason}"
        odd = sorted(name for name, found in self.serving.items() if found != GOOD)
        told = ", ".join(f"{name} serves {self.serving[name]}" for name in odd)
        return f"{told}, not {GOOD}" if odd else None


def tell(scene: Scene, telling: Telling) -> Outcome:
    """Tell it from the beginning to the end. Raises: BoardfitError: a part does not do its part."""
    _beginning(scene, telling)
    _release(scene, telling)
    _bad_rollout(scene, telling)
    _good_rollout(scene, telling)
    with RolloutStore(scene.operator.state) as store:
        good, bad = store.newest(FLEET, 2)
    return Outcome(bad, good, _serving(scene))


def _serving(scene: Scene) -> dict[str, str | None]:
    """Return what the broker retains of what serves on each board."""
    with Watch(scene.broker) as now:
        now.wait(
            lambda boards: sum(_candidate(board) is not None for board in boards.values()) == scene.count,
            START_S,
            "the replay of what boards serve",
        )
        return {name: _candidate(board) for name, board in now.view.boards.items()}


def _candidate(board: BoardView) -> str | None:
    task = board.tasks.get(TASK)
    return None if task is None else task.candidate


def _beginning(scene: Scene, telling: Telling) -> None:
    telling.chapter(
        "A broker, and a registry that boards trust",
        "Boards and operators meet at any MQTT broker, which is trusted with nothing: models come from a signed "
        "registry (static files), and who may give orders stands in a list that is signed there too.",
    )
    broker = scene.open_broker()
    telling.line(f"{broker.kind} listens on {broker.url}")
    listed = scene.open_registry()
    telling.line(f"registry made in {scene.registry.folder}, one candidate signed: {OLD}")
    telling.line(f"{listed.name} has made herself a key and is listed as {listed.role}")
    telling.chapter(
        "A collector keeps what boards tell, and a console shows it",
        "Boards keep each record until the collector says that it is stored: a broker that forgets loses nothing. The "
        "console is served from what is stored; it loads nothing from elsewhere.",
    )
    telling.command("boardfit fleet serve --registry models --root models/root.json")
    telling.address = scene.open_collector()
    telling.line(f"the console: {telling.address}", good=True)
    each = (scene.sizes.boards + len(CLASSES) - 1) // len(CLASSES)
    telling.chapter(
        f"{each * len(CLASSES) + 1} boards come online",
        "Each profiles itself, measures what the registry offers on its own hardware, deploys what fits its budgets "
        "and tells the broker. Boards with the same hardware are one class.",
    )
    watch = scene.open_boards(listed)
    watch.wait(
        lambda boards: sum(board.reachable for board in boards.values()) >= scene.count - 1, START_S, "coming online"
    )
    kinds = ", ".join(f"{each} x {one.name}" for one in CLASSES)
    telling.line(f"{each * len(CLASSES)} simulated boards ({kinds}): real messages, made-up figures")
    watch.wait(
        lambda boards: REAL in boards and _candidate(boards[REAL]) == OLD
        and boards[REAL].status == "online" and boards[REAL].class_fingerprint is not None,
        START_S,
        "the real agent's first pass",
    )  # fmt: skip
    real = watch.view.boards[REAL]
    p95 = format_quantity(real.tasks[TASK].p95_s, "time")
    telling.line(f"{REAL}: `boardfit run` on this machine; it has measured {OLD}: p95 {p95}, and serves it")
    telling.names |= {one.class_fingerprint[:8]: one.name for one in CLASSES}
    telling.names[(real.class_fingerprint or "")[:8]] = "this machine"


def _release(scene: Scene, telling: Telling) -> None:
    telling.chapter(
        "A new model is published, and measured where it is to run",
        "Boards find it at their next sync and measure it by their schedule; here the operator asks for both.",
    )
    for name in (BAD, GOOD):
        size = format_quantity(scene.registry.publish(name), "bytes")
        telling.line(f"{name} is signed and published: {size}, {FILES[name]}")
    full = ["--candidate", BAD, "--candidate", GOOD]  # not only as far as a decision between them needs
    for words in (["sync", "all"], ["bench", "all", "--task", TASK, *full], ["select", "all", "--task", TASK]):
        _run(scene, telling, words, lambda line, verb=words[0]: line.startswith(f"{verb}: "))  # type: ignore[misc]


def _bad_rollout(scene: Scene, telling: Telling) -> None:
    telling.chapter(
        f"Rollout of {BAD}: it stops by itself",
        "Waves count in each class of boards: first one board of every class, then half, then all. A board is switched "
        "only where its own figures say that the candidate fits its budgets, and a wave is through only when its "
        "boards have held out. More than 1 % that go back stop everything.",
    )
    scene.stage_the_failure()
    code = _rollout(scene, telling, BAD)
    with RolloutStore(scene.operator.state) as store:
        ended = store.newest(FLEET, 1)[0]
    spared = sum(board.wave is None for board in ended.boards.values())
    telling.line(
        f"Exit code {code}: {ended.status.replace('_', ' ')}. {BAD} fits every budget and still fails in its "
        f"probation on {BAD_ON}, which no desk would have shown. {spared} of {len(ended.boards)} boards were never "
        f"touched, and those that had switched serve {OLD} again.",
        good=ended.status == "rolled_back",
    )


def _good_rollout(scene: Scene, telling: Telling) -> None:
    telling.chapter(
        f"Rollout of {GOOD}: it goes through",
        "The same command with the repaired candidate. Everything is in the operator's SQLite file before it is sent: "
        "the process could be killed now, and `fleet rollout run` would go on.",
    )
    code = _rollout(scene, telling, GOOD)
    with RolloutStore(scene.operator.state) as store:
        ended = store.newest(FLEET, 1)[0]
    there = sum(board.phase == "succeeded" for board in ended.boards.values())
    telling.line(
        f"Exit code {code}: {there} of {len(ended.boards)} boards have proved it and serve it.",
        good=ended.status == "completed",
    )
    _run(scene, telling, ["list", f"{REAL} or name~*-1"], lambda _: True, raw=True)


def _rollout(scene: Scene, telling: Telling, candidate: str) -> int:
    sizes = scene.sizes
    words = ["rollout", "start", "all", "--task", TASK, "--candidate", candidate, "--waves", sizes.waves]
    words += ["--abort-on", "rollback>1%", "--soak", sizes.soak, "--per-class"]
    first = True

    def shown(line: str) -> bool:
        nonlocal first
        if board := _BOARD.match(line):
            return board["phase"] != "soaking" or first
        first = first and _WAVE.match(line) is None
        return bool(_WAVE.match(line) or _TURN.match(line))

    return _run(scene, telling, words, shown)


def _run(scene: Scene, telling: Telling, words: list[str], shown: Callable[[str], bool], *, raw: bool = False) -> int:
    """Run ``boardfit fleet``, and show some of the lines that it prints as they come. Returns: its exit code."""
    telling.command("boardfit fleet " + shlex.join(words))
    command = scene.operator.words(*words)
    environment = {**scene.operator.environment, "COLUMNS": str(WIDTH - 5)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,  # Ctrl-C is ours to pass on
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = []
        try:
            for line in process.stdout:
                said.append(line)
                if not shown(line.rstrip()):
                    continue
                if raw:
                    telling.raw(line.rstrip())
                else:
                    _say(telling, line.rstrip())
            code = process.wait(_TIMEOUT_S)
        except BaseException:
            process.terminate()
            raise
    if code not in (0, 1, 5):
        raise ReportError(f"boardfit fleet {shlex.join(words)} ended with {code}: {''.join(said)[-400:]}")
    return code


def _say(telling: Telling, line: str) -> None:
    board = _BOARD.match(line)
    bad = (board is not None and board["phase"] in ("rolled back", "failed")) or line.startswith("undoing: ")
    fine = _WAVE.match(line) is not None or line.startswith("completed: ")
    line = re.sub(r": soaking\b", ": serves it, is watched", line)
    line = re.sub(r": undone\b", ": has gone back", line)
    line = re.sub(r"^([a-z0-9-]+): undoing\b", r"\1: is told to go back", line)
    telling.line(line, good=False if bad else True if fine else None)
