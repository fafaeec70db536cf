"""What the runs share: a signed registry at three moments, what a board knows of it, a broker, an operator, an agent.

Rules:
- All of boardfit is the real thing: registry and signatures, daemon and passes, orders over MQTT through mosquitto. The
  board's temperature and clock are a fixture's (``board``).
- The registry is signed three times over before anything is timed: with the first four models, with the worse one too,
  and with the better one too. To publish is to copy the next moment's files over: signing is done on other machines.
- Every run begins with the same files: one board's state in which the first four are measured. A fixed model is put in
  place by `boardfit deploy`, and no daemon runs beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from agent.clock import iso
from agent.confinement import die_with_parent
from agent.core.command import Audience, Command
from agent.core.payloads import Event, Job, Status
from agent.core.topics import address, topic_for
from agent.demo_broker import EmbeddedBroker
from agent.errors import ReportError
from agent.fleet.signing import OperatorKey
from agent.mqtt import Connection, Incoming, drive
from agent.registry import author
from agent.registry.keys import check_keys_folder
from agent.registry.operators import add_operator
from benchmarks.closed_loop.application import TASK
from benchmarks.closed_loop.board import FixtureBoard
from benchmarks.closed_loop.fixture_agent import COMMAND, ROOT_VARIABLE
from benchmarks.closed_loop.models import BETTER, FIRST, RECIPES, WORSE, load_digits, write_models
from benchmarks.closed_loop.schedule import BUDGET_S, PERIOD_S

HERE = Path(__file__).resolve().parents[2]
FLEET, DEVICE, OPERATOR = "closed-loop", "board", "anna"
_WAIT_S = 120.0
_MOMENTS = ("first", WORSE, BETTER)
#: A shorter dwell than the default of 30 s, so that coming back is seen in a run of a minute and a half.
LADDER = {"rungs": 4, "dwell": "3 s"}
_MEASURE = {"threads": [1], "contended": "flag", "min_runs": 200, "max_time": "6 s", "processes": 1}


def budgets(latency_s: float) -> dict[str, str]:
    """Return a task's budgets as they are written."""
    return {"latency_p95": f"{latency_s * 1e3:g} ms"}


class Agent:
    """The daemon of a run, the operator who orders, and what the fleet hears. Args: seconds are monotonic."""

    def __init__(self, scene: Scene, clock: Any) -> None:
        self._scene, self._clock = scene, clock
        self._counter = 0
        self.heard: list[tuple[float, str, Any]] = []  # when, topic's end, document
        self.connection = Connection(scene.broker.settings)
        self.connection.connect(10)
        self.connection.subscribe(f"boardfit/v1/{FLEET}/{DEVICE}/#", self._take)
        log = (scene.folder / "agent.log").open("ab")
        self._process = subprocess.Popen(
            [*COMMAND, "run", str(scene.config), str(scene.state)], cwd=HERE, stdout=log, stderr=log,
            env=scene.environment, start_new_session=True, preexec_fn=die_with_parent,  # noqa: PLW1509 - one call
        )  # fmt: skip
        log.close()

    def _take(self, message: Incoming) -> None:
        kind = message.topic.split("/", 4)[-1]
        self.heard.append((self._clock(), kind, msgspec.json.decode(message.payload) if message.payload else None))

    def settle(self) -> None:
        """Wait until the pass at start-up is over. Raises: ReportError."""
        serving = f"deployment/{TASK}"
        self._wait(lambda: any(kind == serving for _, kind, _ in self.heard), "the first deployment")
        status = self.order("status")
        self._wait(lambda: self.job(status) is not None, "an answer")
        chosen = self.order("select", task=TASK)  # waits in line until the pass has ended
        self._wait(lambda: self.job(chosen) is not None, "the end of the first pass")

    def job(self, job_id: str) -> tuple[float, Job] | None:
        """Return a job that has ended, and when that was heard."""
        for at, kind, document in self.heard:
            if kind == f"job/{job_id}" and document.get("finished_at"):
                return at, msgspec.convert(document, Job)
        return None

    def events(self) -> list[tuple[float, Event]]:
        """Return the events heard, and when."""
        return [(at, msgspec.convert(one, Event)) for at, kind, one in self.heard if kind == "event"]

    def order(self, verb: str, **arguments: Any) -> str:
        """Sign and send a command, waiting for nothing. Returns: the job's id. Raises: ReportError: nobody is there."""
        self._wait(lambda: self._epoch() is not None, "the agent's greeting")
        self._counter += 1
        now = datetime.now(timezone.utc)
        command = Command(
            schema="boardfit.command/1", id=f"job-{self._counter:04}", verb=verb, issuer=OPERATOR,  # type: ignore[arg-type]
            counter=self._counter, audience=Audience(fleet=FLEET, device=DEVICE), issued_at=iso(now),
            expires_at=iso(now + timedelta(minutes=9)),
            epoch=self._epoch() if verb in ("deploy", "rollback") else None, arguments=arguments,
        )  # fmt: skip
        topic = topic_for(address(FLEET, DEVICE), "cmd", verb)
        self.connection.publish(topic, self._scene.key.sign_command(command))
        return command.id

    def _epoch(self) -> str | None:
        said = [one for _, kind, one in self.heard if kind == "status" and one["state"] != "offline"]
        return msgspec.convert(said[-1], Status).epoch if said else None

    def _wait(self, until: Any, what: str) -> None:
        if not drive(self.connection, until, _WAIT_S):
            raise ReportError(f"{what} did not come within {_WAIT_S:g} s", fix=f"see {self._scene.folder}/agent.log")

    def close(self) -> None:
        """Stop the daemon and hear it out."""
        self._process.send_signal(signal.SIGTERM)
        drive(self.connection, lambda: self._process.poll() is not None, 30.0)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.connection.close()


class Scene:
    """A folder with all of it; a context manager. Raises: BoardfitError: a part of it does not work."""

    def __init__(self, folder: Path, seed: int, say: Any) -> None:
        self.folder, self._parts = folder, ExitStack()
        self.broker = self._parts.enter_context(EmbeddedBroker("mosquitto"))
        self.fixture = FixtureBoard(folder / "fixture")
        self.environment = {**os.environ, "PYTHONPATH": str(HERE), ROOT_VARIABLE: str(self.fixture.root)}
        self.config, self.state, self.registry = folder / "agent.yaml", folder / "state", folder / "models"
        say("training the models")
        digits = load_digits(seed)
        self.inputs = folder / "fed.npz"
        np.savez_compressed(self.inputs, inputs=digits.fed, labels=digits.fed_labels)
        (folder / "made").mkdir()
        files = write_models(folder / "made", digits, PERIOD_S, seed)
        say("signing the registry")
        self._publish_all(files)
        say("measuring the first models")
        self._configure()
        self._know("first", tuple(FIRST))
        say("measuring the later ones, for what is fixed and for the oracle")
        self.accuracy, self.latency_p95_s = self._know(BETTER, tuple(RECIPES), beyond="first")

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    def _publish_all(self, files: dict[str, Path]) -> None:
        keys, now = self.folder / "registry-keys", datetime.now(timezone.utc)
        check_keys_folder(keys, self.registry)
        author.init(self.registry, keys, now=now)
        self.key = OperatorKey.make(self.folder / "operator.pem")
        until = now + timedelta(days=1)
        add_operator(
            self.registry, name=OPERATOR, public_key=self.key.public_key, role="admin", valid_until=until,
            keys_dir=keys, now=now,
        )  # fmt: skip
        for name, recipe in RECIPES.items():
            says: dict[str, Any] = {"family": "burst_reader"}
            if recipe.claims is not None:
                says["reference"] = {"value": recipe.claims, "n": 540, "data": "what its publisher says, and is wrong"}
            author.add(
                self.registry, files[name], task=TASK, name=name, keys_dir=keys, now=datetime.now(timezone.utc),
                evaluation=self.inputs, extra=says,
            )  # fmt: skip
            if name not in FIRST or name == tuple(FIRST)[-1]:
                moment = name if name in _MOMENTS else "first"
                shutil.copytree(self.registry, self.folder / f"models-{moment}")

    def _configure(self) -> None:
        document = {
            "device": {"id": DEVICE},
            "registry": {"url": str(self.registry), "root": str(self.registry / "root.json")},
            "mqtt": {"url": self.broker.url, "fleet": FLEET},
            "tasks": {TASK: {"budgets": budgets(BUDGET_S), "ladder": LADDER}},
            "measure": _MEASURE,
        }
        self.config.write_text(yaml.safe_dump(document))

    def _know(
        self, moment: str, names: Sequence[str], beyond: str | None = None
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Measure models and keep the board's state under a moment's name. Returns: accuracy and p95 of each."""
        self._lay(moment, beyond)
        for name in names if beyond is None else [one for one in names if one not in FIRST]:
            self.boardfit("bench", "--candidate", name)
        decided = self.boardfit("select", codes=(0, 3))["decisions"][0]
        shutil.copytree(self.state, self.folder / f"state-{moment}", symlinks=True)
        accuracy, latency = {}, {}
        for option in decided["options"]:
            figures = option["estimates"]
            accuracy[option["candidate"]] = figures["accuracy_top1"]["value"]
            latency[option["candidate"]] = figures["latency_p95"]["value"]
        return accuracy, latency

    def _lay(self, moment: str, state_of: str | None) -> None:
        shutil.rmtree(self.registry)
        shutil.copytree(self.folder / f"models-{moment}", self.registry)
        shutil.rmtree(self.state, ignore_errors=True)
        if state_of is not None:
            shutil.copytree(self.folder / f"state-{state_of}", self.state, symlinks=True)

    def boardfit(self, verb: str, *words: str, codes: Sequence[int] = (0,)) -> Any:
        """Run a verb on the fixture board. Returns: its document. Raises: ReportError: it failed."""
        done = subprocess.run(
            [*COMMAND, verb, *words, "--json", "--config", str(self.config), "--state-dir", str(self.state)],
            cwd=HERE, env=self.environment, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        if done.returncode not in codes:
            raise ReportError(f"`boardfit {verb} {' '.join(words)}` failed: {(done.stderr or done.stdout)[-400:]}")
        return json.loads(done.stdout)

    def lay_fixed(self, name: str) -> None:
        """Put one model in place on a board without a daemon."""
        self._lay(BETTER, BETTER)
        self.boardfit("deploy", "--task", TASK, "--candidate", name)

    def lay_first(self) -> str:
        """Begin anew, with the first decision in place. Returns: the candidate that it chose."""
        self._lay("first", "first")
        done = self.boardfit("once", codes=(0, 3))
        if "decisions" not in done:
            raise ReportError("no model fits the budgets here", fix="run it on a machine that has nothing else to do")
        return str(done["decisions"][0]["winner"]["candidate"])

    def publish(self, moment: str) -> None:
        """Copy a moment's registry over what boards read: what is new first, the timestamp last."""
        source = self.folder / f"models-{moment}"
        files = [path for path in source.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda one: (one.parent.name == "metadata", one.name == "timestamp.json")):
            place = self.registry / path.relative_to(source)
            if place.exists() and place.read_bytes() == path.read_bytes():
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            spare = place.with_name(f".{place.name}")
            shutil.copyfile(path, spare)
            spare.rename(place)
