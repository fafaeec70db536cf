"""What a fleet consists of, started on this machine and gone with this process.

Rules:
- All that boardfit brings is the real thing: daemon, commands, collector, console, signatures. Only twenty of the
  boards are simulated (``benchmarks.simulated``), and their names say so.
- The registry is made on the spot with keys of its own; they lie in the demo's folder, as the operator's key does.
- One of the candidates is bad on one class of boards in a way that no measurement shows: it goes back in its probation.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from agent.confinement import die_with_parent
from agent.core.operators import Operator as Listed
from agent.demo_broker import EmbeddedBroker, free_port
from agent.errors import ReportError
from agent.fleet.view import BoardView, FleetView
from agent.mqtt import Connection, drive
from agent.registry.keys import check_keys_folder
from benchmarks.one_agent import ROOT, SHORT, Agent, Operator
from benchmarks.simulated.attached import AttachedBoards
from benchmarks.simulated.board import Ways
from benchmarks.simulated.documents import CLASSES, BoardClass, Candidate
from benchmarks.zoo.files import bundled

FLEET, TASK, REAL = "demo", "digits", "real-agent"
#: What serves at first, what is bad on one class of boards, and what is good: the names in the demo's registry.
OLD, BAD, GOOD = "net-2025", "net-2026-rc1", "net-2026"
FILES = {
    OLD: "mobilenet_v1-w050-onnx-f32",
    BAD: "mobilenet_v1-w025-onnx-dynamic-int8",
    GOOD: "mobilenet_v1-w025-onnx-static-int8",
}
BAD_ON = "pi4"
HELD_S, HELD_MOST_S = 3600.0, 60.0
BROKER_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
_MADE_UP = {
    OLD: Candidate(name=OLD, p95_s=0.0050, accuracy_top1=0.951, size_bytes=1_900_000),
    BAD: Candidate(name=BAD, p95_s=0.0031, accuracy_top1=0.958, size_bytes=700_000),
    GOOD: Candidate(name=GOOD, p95_s=0.0033, accuracy_top1=0.957, size_bytes=680_000),
}


class Sizes(NamedTuple):
    """How large the demo is. ``work_s``: how long a job takes a simulated board, about."""

    boards: int = 20
    work_s: float = 0.8
    soak: str = "3s"
    waves: str = "1,50%,100%"


class Registry:
    """A registry of the demo's own, as an author makes one."""

    def __init__(self, folder: Path) -> None:
        from agent.registry import author

        self.folder, self._keys = folder / "models", folder / "registry-keys"
        check_keys_folder(self._keys, self.folder)
        author.init(self.folder, self._keys, now=datetime.now(timezone.utc))

    def publish(self, name: str) -> int:
        """Inspect, sign and publish a candidate. Returns: the bytes of its model."""
        from agent.registry import author

        made = bundled()[FILES[name]]
        added = author.add(
            self.folder,
            made.model,
            task=TASK,
            name=name,
            keys_dir=self._keys,
            now=datetime.now(timezone.utc),
            evaluation=made.evaluation,
            golden=made.golden,
            extra=made.extra | {"parent": None},
        )
        return added.model_bytes

    def enlist(self, operator: Operator, role: str) -> Listed:
        """Sign an operator into the list that boards obey."""
        from agent.registry.operators import add_operator

        now = datetime.now(timezone.utc)
        listed = add_operator(
            self.folder,
            name=operator.name,
            public_key=operator.key.public_key,
            role=role,
            valid_until=now + timedelta(days=7),
            keys_dir=self._keys,
            now=now,
        )
        return next(one for one in listed.operators if one.name == operator.name)


class _HeldBoards(AttachedBoards):
    """Boards whose jobs can be held up."""

    def hold(self, work_s: float) -> None:
        self._work_s = work_s

    def let_go(self, work_s: float) -> None:
        self._work_s = work_s
        for line in self._lines.values():
            if line.work_due is not None:
                line.work_due = 0.0


class Crowd:
    """The simulated boards of one class, in a thread of their own."""

    def __init__(self, broker: EmbeddedBroker, of: BoardClass, count: int, operator: Listed, work_s: float) -> None:
        self._attached, self._work_s = _HeldBoards(broker.settings, work_s=work_s), work_s
        ways = Ways(candidate=BAD, ends="rolled_back" if of.name == BAD_ON else "deployed", serves=OLD)
        for number in range(count):
            self._attached.add(
                f"simulated-{of.name}-{number + 1}", of, ways, fleet=FLEET, groups=(f"line-{number % 2 + 1}",),
                operators=(operator,), task=TASK, candidates=tuple(_MADE_UP.values()),
            )  # fmt: skip
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def hold(self) -> None:
        """Let no job end that begins from now on."""
        self._attached.hold(HELD_S)

    def let_go(self) -> None:
        """Let jobs end again, those that were held at once."""
        self._attached.let_go(self._work_s)

    def __enter__(self) -> Crowd:
        self._attached.connect()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _run(self) -> None:
        with self._attached:
            self._attached.run(self._over.is_set)


class Watch:
    """What the boards tell, as an operator's machine sees it."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.view = FleetView(FLEET)
        self._connection = Connection(broker.settings)
        self._connection.connect(10)
        self._connection.subscribe(f"boardfit/v1/{FLEET}/+/#", lambda told: self.view.take(told.topic, told.payload))

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def wait(self, until: Callable[[dict[str, BoardView]], bool], timeout_s: float, what: str) -> None:
        """Wait for something that boards tell. Raises: ReportError: it does not come."""
        if not drive(self._connection, lambda: until(self.view.boards), timeout_s):
            raise ReportError(f"{what} did not happen within {timeout_s:g} s", fix="see the logs in the demo's folder")


class Scene:
    """All of it; a context manager. Args: folder: empty, kept afterwards. Raises: BoardfitError: a part won't start."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.folder, self.sizes = folder, sizes
        self.crowds: dict[str, Crowd] = {}
        self._parts = ExitStack()

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    def open_broker(self) -> EmbeddedBroker:
        """Start a broker. Raises: ReportError: mosquitto is not installed, or does not start."""
        if shutil.which("mosquitto", path=BROKER_PATH) is None:
            raise ReportError("the fleet demo needs the broker mosquitto", fix="install it: apt-get install mosquitto")
        self.broker = self._parts.enter_context(EmbeddedBroker("mosquitto"))
        return self.broker

    def open_registry(self) -> Listed:
        """Make a registry with what serves today, and an operator in its signed list."""
        self.registry = Registry(self.folder)
        self.registry.publish(OLD)
        self.operator = Operator(self.folder / "operator", "anna", self.broker.url, FLEET)
        return self.registry.enlist(self.operator, "admin")

    def open_collector(self) -> str:
        """Start ``boardfit fleet serve``. Returns: the console's address. Raises: ReportError: it does not start."""
        at = f"127.0.0.1:{free_port()}"
        words = [
            "serve",
            "--listen",
            at,
            "--name",
            "demo",
            "--database",
            f"sqlite:///{self.folder / 'collector.sqlite'}",
        ]
        process = subprocess.Popen(
            self.operator.words(*words),
            cwd=ROOT,
            env=self.operator.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
        )
        self._parts.callback(_end, process)
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("Collecting "):
                threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would stop it
                return f"http://{at}/"
        raise ReportError(f"the collector did not start: {said.strip()[-300:]}")

    def stage_the_failure(self) -> None:
        """Have the boards on which the bad candidate fails do so when one of each other class serves it.

        Simulated boards are a hundred times faster than a real one, and nobody would see why a wave has to wait.
        """
        for crowd in self.crowds.values():
            crowd.hold()
        threading.Thread(target=self._let_it_fail, daemon=True).start()

    def _let_it_fail(self) -> None:
        def bad(boards: dict[str, BoardView]) -> set[str]:
            return {
                name for name, board in boards.items() if TASK in board.tasks and board.tasks[TASK].candidate == BAD
            }

        others = [crowd for name, crowd in self.crowds.items() if name != BAD_ON]
        with Watch(self.broker) as watch, suppress(ReportError):
            watch.wait(lambda boards: REAL in bad(boards), HELD_MOST_S, "the real agent's switch")
            for crowd in others:
                crowd.let_go()
            watch.wait(lambda boards: len(bad(boards)) > len(others), HELD_MOST_S, "the others' switch")
        for crowd in self.crowds.values():
            crowd.let_go()

    def open_boards(self, listed: Listed) -> Watch:
        """Start the simulated boards and the agent."""
        self.watch = self._parts.enter_context(Watch(self.broker))
        self.agent = Agent(
            self.folder / REAL,
            REAL,
            registry=str(self.registry.folder),
            root=self.registry.folder / "root.json",
            broker=self.broker.url,
            fleet=FLEET,
            more={"measure": {**SHORT, "processes": 1, "min_runs": 30}},
        )
        self._parts.callback(self.agent.stop)
        self.agent.start()
        each = -(-self.sizes.boards // len(CLASSES))
        for of in CLASSES:
            crowd = Crowd(self.broker, of, each, listed, self.sizes.work_s)
            self.crowds[of.name] = self._parts.enter_context(crowd)
        self.count = each * len(CLASSES) + 1
        return self.watch


def _end(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and see that it does."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
