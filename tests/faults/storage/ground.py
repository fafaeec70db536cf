"""A registry of three small signed models and state directories of a board in several states, to be harmed.

Everything that touches the disk is real: the command line, registry, downloads, database, outbox, deployment. Engines
are stood in for (``stand_in``), as they take a hundred times longer than everything else: which engines run is given, a
measurement is made up from the model's name, and a release is proved by a look at its bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml

from agent.clock import iso
from agent.core.deployment import Deployment
from agent.core.facts import EngineFacts
from agent.core.manifest import Candidate
from agent.core.measurement import Measurement, OperatingPoint
from agent.core.ports import ProbeResult
from agent.deploy.store import ReleaseStore
from agent.registry.author import add, init
from tests.registry.samples import onnx_model
from tests.select.measured import measurement

TASK = "digits"
P95_S = {"first": 0.030, "second": 0.020, "third": 0.010}
ENGINE = EngineFacts(
    name="onnxruntime", formats=("onnx",), version="1.23.2", providers=("CPUExecutionProvider",), proven=True
)
DATABASE = "boardfit.db"

Main = Callable[[Sequence[str]], int]


def stand_in() -> Main:
    """Put the stand-ins in place, for this process and its forks. Returns: the command line."""
    from agent import cli, pipeline, site
    from agent.verbs import passes, publishing, views  # noqa: F401 - loaded once, and not by every fork

    pipeline.prove_engines = lambda: (ENGINE,)  # type: ignore[assignment]
    pipeline.measure_one = _measure_one  # type: ignore[assignment]
    site._prove = _prove  # type: ignore[assignment]
    publishing.DRAIN_TIMEOUT_S = 0.0  # the broker is away
    return cli.main


def _measure_one(
    candidate: Candidate, point: OperatingPoint, *_: object, facts: Any, clock: Any, **__: object
) -> Measurement:
    return measurement(
        candidate.name, p95_s=P95_S[candidate.name], id=uuid.uuid4().hex, task=candidate.task, point=point,
        artifact_sha256=candidate.sha256, size_bytes=candidate.size_bytes, class_fingerprint=facts.class_fingerprint,
        started_at=iso(clock.utc()),
    )  # fmt: skip


def _prove(release: Path, deployment: Deployment, **_: object) -> ProbeResult:
    data = (release / deployment.model.path).read_bytes()
    good = hashlib.sha256(data).hexdigest() == deployment.model.sha256
    return ProbeResult(passed=good, reason="the bytes are the signed ones" if good else "other bytes than signed")


@dataclass(frozen=True)
class Order:
    """One command. ``start``: the state it is given in. ``before``, ``after``: what serves then. ``between``: what may
    serve where a model could not be had. A word may be {release}."""

    name: str
    start: str
    words: tuple[str, ...]
    before: str | None
    after: str
    between: str | None = None

    @property
    def allowed(self) -> set[str | None]:
        """What may serve after a fault."""
        return {self.before, self.after, self.between or self.after}


ORDERS = (
    Order("first pass", "empty", ("once",), None, "first"),
    Order("pass that updates", "offered", ("once",), "first", "third", "second"),
    Order("pass with no news", "settled", ("once",), "third", "third"),
    Order("deployment by name", "settled", ("deploy", "--task", TASK, "--candidate", "second"), "third", "second"),
    Order("rollback", "settled", ("rollback", "--task", TASK, "--release", "{release}"), "third", "first"),
)


class Ground:
    """The folder that holds the registries and the states in which an order may come."""

    def __init__(self, folder: Path, run: Callable[[Path, Sequence[str]], int]) -> None:
        self.folder = folder
        now = datetime.now(timezone.utc) - timedelta(hours=1)
        early, late, keys = folder / "early", folder / "late", folder / "keys"
        init(early, keys, now=now)
        for count, name in enumerate(P95_S):
            if count == 1:
                shutil.copytree(early, late)
            model = onnx_model(folder / f"{name}.onnx", features=4 + count)
            registry, then = early if count == 0 else late, now + timedelta(seconds=1 + count)
            add(registry, model, task=TASK, name=name, keys_dir=keys, now=then)
        self.digests = {name: hashlib.sha256((folder / f"{name}.onnx").read_bytes()).hexdigest() for name in P95_S}
        self.write_config(folder / "early.yaml", early)
        self.write_config(folder / "late.yaml", late)
        (folder / "empty").mkdir()
        run(folder / "offered", ("once", "--config", str(folder / "early.yaml")))
        shutil.copytree(folder / "offered", folder / "settled", symlinks=True)
        run(folder / "settled", ("once", "--config", str(folder / "late.yaml")))
        run(folder / "settled", ("bench", "--candidate", "second", "--config", str(folder / "late.yaml")))
        for start, serving in (("offered", "first"), ("settled", "third")):
            assert self.serving(folder / start) == serving, start

    def write_config(self, path: Path, registry: Path) -> None:
        document = {
            "registry": {"url": str(registry), "root": str(registry / "root.json")},
            "mqtt": {"url": "mqtt://127.0.0.1:1", "fleet": "faults"},
            "device": {"id": "board"},
            "tasks": {TASK: {"budgets": {"latency_p95": "1 s"}, "objective": ["minimize latency_p95"]}},
            "measure": {"threads": [1], "contended": "flag"},
        }
        path.write_text(yaml.safe_dump(document))

    def words(self, order: Order) -> list[str]:
        """Return the command, its state directory left open."""
        config = self.folder / ("early.yaml" if order.start == "empty" else "late.yaml")
        release = ReleaseStore(self.folder / order.start / "deploy").linked(TASK, "current")
        return [word.format(release=release) for word in order.words] + ["--json", "--config", str(config)]

    def lay_out(self, order: Order, state: Path) -> None:
        """Put the order's state in place."""
        shutil.copytree(self.folder / order.start, state, symlinks=True)

    def serving(self, state: Path, link: str = "current") -> str | None:
        """Return the candidate behind a link after every file of its release was found whole; None without a link."""
        store = ReleaseStore(state / "deploy")
        release = store.linked(TASK, link)
        if release is None:
            assert not (state / "deploy" / TASK / link).exists(), "a link that leads nowhere"
            return None
        assert store.find_damage(TASK, release) is None, f"{link}: {store.find_damage(TASK, release)}"
        document = store.read(TASK, release)
        assert document is not None
        assert document.model.sha256 == self.digests[document.candidate]
        return document.candidate


def check_database(state: Path) -> None:
    """Assert that the state database, where there is one, is whole."""
    if not (state / DATABASE).exists():
        return
    with sqlite3.connect(state / DATABASE) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def check_ended_typed(code: int, out: str, err: str) -> None:
    """Assert that a command ended as one of ours does: a known code, one JSON document, one sentence, no traceback."""
    assert "Traceback" not in err and "Error:" not in err.replace("StorageError:", ""), err
    assert code in range(6), f"{code}: {err}"
    if code and out:
        document = json.loads(out)
        assert document.get("schema") == "boardfit.error/1" or code == 3, out
    assert code == 0 or "boardfit: " in err, err


def leftovers(state: Path) -> list[str]:
    """Return what no finished command leaves behind: temporary files, parts of downloads, half-made releases."""
    store = ReleaseStore(state / "deploy")
    kept = {store.linked(TASK, "current"), store.linked(TASK, "previous")}
    found = [str(path.relative_to(state)) for path in state.rglob("*") if _is_temporary(path)]
    found += [str(path.relative_to(state)) for path in (state / "cache" / "parts").glob("*")]
    found += [f"release {path.name}" for path in (state / "deploy").glob("*/releases/*") if path.name not in kept]
    return sorted(found)


def _is_temporary(path: Path) -> bool:
    return path.name.endswith(".tmp") or path.name == "staging" or ".damaged-" in path.name


def told(state: Path) -> str:
    """Return the payloads of the outbox's events."""
    with sqlite3.connect(state / DATABASE) as connection:
        rows = connection.execute("SELECT payload FROM outbox WHERE topic LIKE '%/event'").fetchall()
    connection.close()
    return "".join(row[0].decode() for row in rows)
