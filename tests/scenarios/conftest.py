"""A registry of a few real candidates, a state directory, and the command line as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.zoo.files import artifact, bundled, evaluation_pack

ROOT = Path(__file__).resolve().parent.parent.parent

#: Small enough for a test, and of both formats.
CANDIDATES = ("mobilenet_v1-w025-onnx-static-int8", "mobilenet_v1-w025-tflite-f32", "densenet_bc-k8-onnx-f32")
QUICK = {"min_runs": 100, "min_time": "0.05 s", "max_time": "3 s", "threads": [1], "contended": "flag"}


@dataclass
class Result:
    """How one call of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def run(*arguments: str | Path, timeout: float = 240, env: dict[str, str] | None = None) -> Result:
    """Run ``boardfit`` in a process of its own; a traceback is never acceptable."""
    done = subprocess.run(
        [sys.executable, "-m", "agent", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, cwd=ROOT, env={**os.environ, **(env or {})}, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


@dataclass
class Installation:
    """One board's configuration and state directory."""

    folder: Path
    registry: str
    root: Path
    tasks: dict[str, Any] = field(default_factory=lambda: {"digits": {"budgets": {"accuracy_top1": ">= 0.9"}}})
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "agent.yaml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def current(self) -> Path:
        return self.state / "deploy" / "digits" / "current"

    def write(self, **more: Any) -> Installation:
        document = {"registry": {"url": self.registry, "root": str(self.root)}, "tasks": self.tasks, "measure": QUICK}
        self.config.write_text(yaml.safe_dump({**document, **self.more, **more}))
        return self

    def __call__(self, verb: str, *arguments: str | Path, timeout: float = 240) -> Result:
        return run(verb, *arguments, "--config", self.config, "--state-dir", self.state, timeout=timeout)


def publish(directory: Path, names: tuple[str, ...], *, days: float = 30) -> None:
    """Author a registry with bundled candidates through the command line."""
    keys = directory.with_name(directory.name + ".keys")
    assert run("registry", "init", directory, "--keys", keys, "--expires-days", str(days)).code == 0
    for name in names:
        added = add(directory, name)
        assert added.code == 0, added.err


def model_file(name: str) -> Path:
    """Return the bundled model file of a candidate."""
    return artifact(name)


def manifest_file(folder: Path, name: str) -> Path:
    """Write what a publisher says of a bundled candidate beyond its file."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(bundled()[name].extra))
    return path


def add(directory: Path, name: str, *, model: Path | None = None, pack: Path | None = None) -> Result:
    """Add one bundled candidate, or another file under its name."""
    return run(
        "registry", "add", directory, model or model_file(name), "--task", "digits", "--name", name,
        "--eval", pack or evaluation_pack(), "--manifest", manifest_file(directory.parent, name),
        "--keys", directory.with_name(directory.name + ".keys"),
    )  # fmt: skip


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with three candidates, made once and never changed."""
    directory = tmp_path_factory.mktemp("published") / "models"
    publish(directory, CANDIDATES)
    return directory


@pytest.fixture
def registry(published: Path, tmp_path: Path) -> Path:
    """A copy of that registry with its keys, free to be harmed."""
    copy = tmp_path / "models"
    shutil.copytree(published, copy)
    shutil.copytree(published.with_name("models.keys"), tmp_path / "models.keys")
    return copy


@pytest.fixture
def installation(registry: Path, tmp_path: Path) -> Installation:
    """A board configured for that registry."""
    return Installation(tmp_path, str(registry), registry / "root.json").write()


@pytest.fixture
def boardfit() -> Callable[..., Result]:
    """The command line."""
    return run
