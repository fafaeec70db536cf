"""A state directory, candidates with real files, a probe that looks at the model's bytes, and a way to be killed.

Run as a program it carries out one order: ``python -m tests.deploy.scene FOLDER ORDER``. Orders that are killed are
given to ``tests.deploy.killing``.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from agent.core.deployment import Deployment, DeploymentStatus, RungPlace
from agent.core.manifest import Candidate, Manifest, TargetRef, TensorSpec
from agent.core.measurement import OperatingPoint
from agent.core.ports import ProbeResult, ProgressEvent
from agent.database import FILE_NAME, Database
from agent.deploy.document import deployment_for, golden_file
from agent.deploy.executor import Deployer
from agent.deploy.hook import HookSettings
from agent.deploy.rungs import LeftOut, RungSource
from agent.errors import BoardfitError, StorageError

TASK = "digits"
POINT = OperatingPoint(engine="onnxruntime", engine_version="1.23.2", provider="CPUExecutionProvider", threads=1)
REPOSITORY = Path(__file__).parents[2]


class FrozenClock:
    """Wall time stands still on a day; every look at the monotonic clock is one second later."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.day = 2

    def monotonic_s(self) -> float:
        self.seconds += 1.0
        return self.seconds

    def utc(self) -> datetime:
        return datetime(2026, 1, self.day, 3, 4, 5, tzinfo=timezone.utc)


def model_bytes(name: str) -> bytes:
    return f"{name} model ".encode() * 3000


def candidate(folder: Path, name: str) -> tuple[Candidate, Path, Path]:
    """Return a candidate with its model and golden file in the cache below ``folder``."""
    cache = folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    model, golden = cache / f"{name}.onnx", cache / f"{name}.npz"
    data, outputs = model_bytes(name), b"golden of " + name.encode()
    if not model.exists():
        model.write_bytes(b"torn" if name == "torn" else data)
        golden.write_bytes(outputs)
    spec = (TensorSpec(name="x", dtype="float32", shape=(1, 4)),)
    signed = TargetRef(path="golden.npz", sha256=hashlib.sha256(outputs).hexdigest(), length=len(outputs))
    manifest = Manifest(task=TASK, name=name, format="onnx", inputs=spec, outputs=spec, golden=signed, licence="MIT")
    target = TargetRef(path="model.onnx", sha256=hashlib.sha256(data).hexdigest(), length=len(data))
    return Candidate(manifest=manifest, target=target), model, golden


def look_at_bytes(release: Path, deployment: Deployment) -> ProbeResult:
    """Stand in for the child that loads a model: ``bad`` never loads, ``late`` only before the switch."""
    data = (release / deployment.model.path).read_bytes()
    if deployment.golden is not None and not (release / deployment.golden.path).read_bytes().startswith(b"golden"):
        return ProbeResult(passed=False, reason="no golden outputs")
    if data.startswith(b"bad") or (data.startswith(b"late") and release.name == "current"):
        return ProbeResult(passed=False, reason="golden outputs differ")
    return ProbeResult(passed=True, reason="golden outputs agree")


def hook(folder: Path) -> HookSettings:
    """Log what the hook was told and where ``current`` points; fail for the candidate ``unhooked``."""
    script = 'echo "$BOARDFIT_EVENT $BOARDFIT_CANDIDATE $(cat "$BOARDFIT_MODEL" | head -c 4)" >> "$1"; '
    script += 'test "$BOARDFIT_CANDIDATE" != unhooked'
    return HookSettings(argv=("/bin/sh", "-c", script, "hook", str(folder / "hook.log")), deadline_s=30.0)


class Scene:
    """One state directory, driven in this process; ``events`` are the progress events seen."""

    def __init__(
        self, folder: Path, *, killer: Callable[[ProgressEvent], None] | None = None, **changes: object
    ) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.database = Database(self.state / FILE_NAME)
        self.events: list[tuple[str, int]] = []
        self.stop_at: str | None = None
        self._killer = killer
        settings: dict[str, object] = {"clock": FrozenClock(), "probe": look_at_bytes, "hook": hook(folder)}
        settings |= {"progress": self._see, "stop": self._stopped, "pause": lambda seconds: None} | changes
        self.deployer = Deployer(self.state, self.database, **settings)  # type: ignore[arg-type]
        self.store = self.deployer.store

    def _see(self, event: ProgressEvent) -> None:
        self.events.append((event.text.removeprefix(f"{TASK}: "), int(event.done)))
        if self._killer is not None:
            self._killer(event)

    def _stopped(self) -> bool:
        return self.stop_at is not None and self.events[-1][0] == self.stop_at

    @property
    def chain(self) -> list[str]:
        """The phases that were stored, in order."""
        return [phase for phase, done in self.events if not done]

    def deploy(self, name: str, point: OperatingPoint = POINT, **changes: object) -> DeploymentStatus:
        found, model, golden = candidate(self.folder, name)
        return self.deployer.deploy(TASK, found, point, model, golden, None, **changes)  # type: ignore[arg-type]

    def sources(self, *names: str) -> tuple[RungSource, ...]:
        """Return the rungs below the first of a ladder."""
        found = []
        for number, name in enumerate(names, start=1):
            made, model, golden = candidate(self.folder, name)
            place = RungPlace(index=number, count=1 + len(names))
            document = deployment_for(made, POINT, golden_file(made, golden), None, place)
            found.append(RungSource(document, model, golden))
        return tuple(found)

    def lay(self, top: str, *lower: str) -> tuple[LeftOut, ...]:
        sources = self.sources(*lower)
        self.deploy(top, rungs=[one.document for one in sources])
        return self.deployer.rungs.lay(TASK, sources)

    def step(self, name: str, *, jammed: bool = False) -> DeploymentStatus:
        """Step to the rung of this candidate, and run the hook; ``jammed``: the link cannot be moved, once."""
        ladder = self.store.ladder(TASK)
        assert ladder is not None
        release = next(rung.release for rung in ladder.rungs if rung.candidate == name)
        if jammed:
            moved = self.store.set_link

            def fail(task: str, link: str, wanted: str | None) -> None:
                self.store.set_link = moved  # type: ignore[method-assign]
                raise StorageError("the disk is full")

            self.store.set_link = fail  # type: ignore[method-assign]
        self.deployer.step(TASK, release, "calls are over 20 ms")
        return self.deployer.finish_step(TASK)

    @staticmethod
    def point(**changes: int) -> OperatingPoint:
        return msgspec.structs.replace(POINT, **changes)

    def obey(self, order: str) -> DeploymentStatus | None:
        """Do ``deploy:NAME``, ``stop:PHASE`` (deploy ``new`` and stop there), ``rollback``, ``jam``, ``recover``,
        ``ladder:NAME+NAME`` or ``step:NAME`` (``jammed:NAME``)."""
        verb, _, argument = order.partition(":")
        if verb == "deploy":
            return self.deploy(argument)
        if verb == "stop":
            self.stop_at = argument
            return self.deploy("new")
        if verb == "rollback":
            return self.deployer.rollback(TASK)
        if verb == "ladder":  # deploy the first and lay the others below it
            self.lay(*argument.split("+"))
            return None
        if verb in ("step", "jammed"):
            return self.step(argument, jammed=verb == "jammed")
        if verb == "jam":  # nothing can be renamed onto a folder: the switch fails half way
            (self.store.folder(TASK) / "previous").mkdir()
            return None
        self.deployer.recover()
        return None

    def try_to(self, order: str) -> BoardfitError | None:
        try:
            self.obey(order)
        except BoardfitError as error:
            return error
        return None

    def serving(self, link: str = "current") -> str | None:
        """Return the candidate behind a link, after every file of its release has been found whole."""
        release = self.store.linked(TASK, link)
        if release is None:
            return None
        assert self.store.find_damage(TASK, release) is None
        document = self.store.read(TASK, release)
        assert document is not None
        assert (self.store.folder(TASK) / link / document.model.path).read_bytes() == model_bytes(document.candidate)
        return document.candidate

    def assert_tidy(self) -> None:
        """Nothing is in progress and nothing is left over."""
        folder = self.store.folder(TASK)
        if not folder.exists():
            return
        kept = {self.store.linked(TASK, "current"), self.store.linked(TASK, "previous")} - {None}
        ladder = self.store.ladder(TASK)
        kept |= set() if ladder is None else {rung.release for rung in ladder.rungs}
        releases = folder / "releases"
        assert {path.name for path in releases.iterdir()} == kept if releases.exists() else not kept
        assert {path.name for path in folder.iterdir()} <= {"releases", "current", "previous", "ladder.json"}

    def hook_log(self) -> list[str]:
        path = self.folder / "hook.log"
        return path.read_text().splitlines() if path.exists() else []

    def close(self) -> None:
        self.database.close()


if __name__ == "__main__":
    scene = Scene(Path(sys.argv[1]))
    scene.try_to(sys.argv[2])
    scene.close()
