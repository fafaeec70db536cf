"""Bad candidates of thirteen kinds, deployed while an application uses what serves: all go back, no request fails.

The proof runs real models in real workers. One kind dies in service only, which no model file does at will: for it the
worker's answers are made up, and its name says so. Its health check lies: it always says that all is well.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
import pytest

from agent.clock import SystemClock
from agent.core.budget import Budget, parse_expression
from agent.core.deployment import Deployment
from agent.core.manifest import Candidate
from agent.core.ports import Probe, ProbeResult
from agent.database import FILE_NAME, Database
from agent.deploy.executor import Deployer
from agent.deploy.hook import HookSettings
from agent.deploy.phases import is_settled
from agent.errors import DeploymentError
from agent.measure.bench import prove_release
from agent.measure.settings import PROOF
from agent.registry.author import add, init
from agent.registry.cache import Cache
from agent.registry.client import RegistryClient
from tests.deploy.scene import POINT, TASK
from tests.faults.extent import Extent
from tests.faults.table import show
from tests.measure import models
from tests.registry.samples import evaluation_pack, onnx_model

SETTINGS = msgspec.structs.replace(
    PROOF, min_runs=5, min_time_s=0.01, max_time_s=0.2, warmup_max_s=0.2, memory_growth_bytes=256 << 20
)
SLICE = 4  # of the kinds, in plain pytest


class Bad(NamedTuple):
    """One bad candidate: its files, and how the board's own side behaves."""

    candidate: Candidate
    model: Path
    golden: Path
    hook: tuple[str, ...] = ("/bin/true",)
    health: str = "exit 0"
    probe: Probe | None = None
    switched: bool = False  # whether it may have served before it went back
    settings: Any = SETTINGS
    budgets: tuple[Budget, ...] = ()


class Shop:
    """A board that serves ``one``, an application that uses it, and a good model ``two`` to make bad ones of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        now = datetime.now(timezone.utc)
        directory, keys = folder / "registry", folder / "keys"
        init(directory, keys, now=now)
        pack = evaluation_pack(folder / "pack.npz")
        for number, name in enumerate(("one", "two")):
            model = onnx_model(folder / f"{name}.onnx", ir_version=8 + number)
            add(directory, model, task=TASK, name=name, keys_dir=keys, now=now, evaluation=pack)
        cache = Cache(folder / "cache", reserve_bytes=0)
        client = RegistryClient(str(directory), directory / "root.json", folder / "trust", cache, clock=SystemClock())
        client.refresh()
        self.good = {one.name: one for one in client.candidates()}
        self.models = {name: client.fetch_model(one) for name, one in self.good.items()}
        self.goldens = {
            name: client.fetch(one.manifest.golden) for name, one in self.good.items() if one.manifest.golden
        }
        self.database = Database(folder / "state" / FILE_NAME)
        one = self.deployer(Bad(self.good["one"], self.models["one"], self.goldens["one"]))
        one.deploy(TASK, self.good["one"], POINT, self.models["one"], self.goldens["one"], None)
        command = [sys.executable, str(Path(__file__).with_name("client.py")), str(one.store.link(TASK))]
        self.application = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self) -> None:
        self.application.communicate()
        self.database.close()

    def deployer(self, bad: Bad) -> Deployer:
        clock = SystemClock()

        def prove(release: Path, deployment: Deployment) -> ProbeResult:
            return prove_release(release, deployment, clock=clock, settings=bad.settings, budgets=bad.budgets)

        return Deployer(
            self.folder / "state", self.database, clock=clock, probe=bad.probe or prove,
            hook=HookSettings(argv=bad.hook, deadline_s=0.5), probation_s=0.05,
            health=HookSettings(argv=("/bin/sh", "-c", bad.health), deadline_s=0.5),
        )  # fmt: skip

    def ask(self) -> dict[str, Any]:
        """Return what the application has seen so far."""
        assert self.application.stdin is not None and self.application.stdout is not None
        self.application.stdin.write(b"?\n")
        self.application.stdin.flush()
        answer: dict[str, Any] = json.loads(self.application.stdout.readline())
        return answer

    def with_model(self, data: bytes | Path, name: str = "two", **more: Any) -> Bad:
        """Return a candidate of other bytes, signed as they are, with the golden outputs of a good one."""
        data = data.read_bytes() if isinstance(data, Path) else data
        path = self.folder / f"{hashlib.sha256(data).hexdigest()}.onnx"
        path.write_bytes(data)
        good = self.good[name]
        target = msgspec.structs.replace(good.target, sha256=path.stem, length=len(data))
        return Bad(msgspec.structs.replace(good, target=target), path, self.goldens[name], **more)

    def two(self, **more: Any) -> Bad:
        """Return the good one, whose surroundings are bad."""
        return Bad(self.good["two"], self.models["two"], self.goldens["two"], **more)

    def spoilt(self, source: Path, chance: random.Random) -> Path:
        """Return a copy with one other byte."""
        data = bytearray(source.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path = self.folder / f"spoilt-{chance.randrange(1 << 30)}"
        path.write_bytes(data)
        return path


def fails_to_load(shop: Shop, chance: random.Random) -> Bad:
    return shop.with_model(chance.randbytes(chance.randrange(1, 4096)))


def is_cut_short(shop: Shop, chance: random.Random) -> Bad:
    data = shop.models["two"].read_bytes()
    return shop.with_model(data[: chance.randrange(len(data) // 4, len(data) - 4)])


def gives_wrong_outputs(shop: Shop, chance: random.Random) -> Bad:
    model = onnx.load_from_string(shop.models["two"].read_bytes())
    weights = np.random.default_rng(chance.randrange(1 << 32)).standard_normal((4, 3)).astype(np.float32)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    return shop.with_model(model.SerializeToString())


def never_ends(shop: Shop, chance: random.Random) -> Bad:
    path = models.endless_loop(shop.folder / "loop.onnx")
    return shop.with_model(path, settings=msgspec.structs.replace(SETTINGS, deadline_s=3.0 + chance.random()))


def is_right_and_too_slow(shop: Shop, chance: random.Random) -> Bad:
    """The good model, that turns its input round thousands of times first: its outputs are right."""
    model = onnx.load_from_string(shop.models["two"].read_bytes())
    models.linger(model, turns=2 * chance.randrange(1_000, 5_000))
    return shop.with_model(model.SerializeToString(), budgets=(parse_expression("latency_p95<=10us", where="tests"),))


def takes_all_memory(shop: Shop, chance: random.Random) -> Bad:
    return shop.with_model(models.memory_bomb(shop.folder / "bomb.onnx"))


def has_no_golden_file(shop: Shop, chance: random.Random) -> Bad:
    return shop.two()._replace(golden=shop.folder / "missing.npz")


def is_not_what_was_signed(shop: Shop, chance: random.Random) -> Bad:
    if chance.random() < 0.5:
        return shop.two()._replace(golden=shop.spoilt(shop.goldens["two"], chance))
    return shop.two()._replace(model=shop.spoilt(shop.models["two"], chance))


def hook_hangs(shop: Shop, chance: random.Random) -> Bad:
    script = 'test "$BOARDFIT_EVENT" = rolled_back || sleep 600'
    return shop.two(hook=("/bin/sh", "-c", script), switched=True)


def hook_crashes_then_is_well(shop: Shop, chance: random.Random) -> Bad:
    script = f'test "$BOARDFIT_EVENT" = rolled_back || kill -{chance.choice((6, 9, 11))} $$'
    return shop.two(hook=("/bin/sh", "-c", script), switched=True)


def answers(*passed: bool) -> Probe:
    left = list(passed)

    def probe(release: Path, deployment: Deployment) -> ProbeResult:
        return ProbeResult(passed=left.pop(0), reason="made up: the worker died")

    return probe


def health_check_hangs_or_crashes(shop: Shop, chance: random.Random) -> Bad:
    return shop.two(health=chance.choice(("sleep 600", "kill -11 $$", "exit 3", "no-such-program")), switched=True)


def is_unhealthy_then_healthy(shop: Shop, chance: random.Random) -> Bad:
    mark = shop.folder / f"was-ill-{chance.randrange(1 << 30)}"
    return shop.two(health=f"test -e {mark} || {{ touch {mark}; exit 1; }}", switched=True)


def dies_after_a_while_simulated(shop: Shop, chance: random.Random) -> Bad:
    return shop.two(probe=answers(True, True, False), switched=True)


KINDS: tuple[Callable[[Shop, random.Random], Bad], ...] = (
    fails_to_load, is_cut_short, gives_wrong_outputs, is_right_and_too_slow, never_ends, takes_all_memory,
    has_no_golden_file, is_not_what_was_signed, hook_hangs, hook_crashes_then_is_well, health_check_hangs_or_crashes,
    is_unhealthy_then_healthy, dies_after_a_while_simulated,
)  # fmt: skip


@pytest.fixture
def shop(folder_in_memory: Path) -> Iterator[Shop]:
    made = Shop(folder_in_memory)
    yield made
    made.close()


def try_one(shop: Shop, bad: Bad) -> list[str]:
    """Deploy a bad candidate; return what did not hold."""
    deployer = shop.deployer(bad)
    before = shop.ask()
    serving = deployer.store.linked(TASK, "current")
    try:
        deployer.deploy(TASK, bad.candidate, POINT, bad.model, bad.golden, None)
        found = ["it was deployed"]
    except DeploymentError as error:
        switched = error.facts.get("phase") == "rolled_back"
        found = [] if switched == bad.switched else [f"switched: {switched}, {error.problem}"]
    after = shop.ask()
    if deployer.store.linked(TASK, "current") != serving or serving is None:
        found.append("another release serves than before")
    elif (damage := deployer.store.find_damage(TASK, serving)) is not None:
        found.append(f"what serves is damaged: {damage}")
    if not is_settled(phase := deployer.status(TASK).phase):
        found.append(f"it is left in phase {phase}")
    if after["failed"] > before["failed"]:
        found.append(f"{after['failed'] - before['failed']} requests failed: {after['last']}")
    deployer.withheld.pardon(TASK)  # the good model is made bad more often than a board would try it
    return found


@pytest.mark.timeout(4 * 3600)
def test_bad_candidates_go_back_and_no_request_fails(
    shop: Shop, extent: Extent, record_property: Callable[[str, object], None]
) -> None:
    chance = extent.chance("candidates")
    kinds = chance.sample(KINDS, SLICE) if extent.part == "slice" else KINDS
    rows, wrong = [], []
    for kind in kinds:
        name, begun = kind.__name__.replace("_", " "), shop.ask()["requests"]
        times = extent.count(1, 3, 50)
        found = [text for _ in range(times) for text in try_one(shop, kind(shop, chance))]
        rows.append((name, str(times), str(shop.ask()["requests"] - begun), str(len(found))))
        wrong += [f"{name}: {text}" for text in found]
    seen = shop.ask()
    heads = ("candidate", "tried", "requests meanwhile", "violations")
    title = f"bad candidates, with an application at work: {seen['failed']} of {seen['requests']} requests failed"
    show(record_property, f"{title} (seed {extent.seed})", heads, rows)
    assert wrong == []
    assert seen["failed"] == 0
    assert seen["releases"] >= 1
