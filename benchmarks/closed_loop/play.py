"""One run: the application from its first request to its last, while what the schedule says happens to the machine.

Rules:
- Everything but boardfit happens in every run at the same moments: hogs on every core, the fixture's temperature and
  the throttle that follows it, the files of a new registry, the tighter budget that requests are held against.
- With an agent the operator orders, at the moment of publishing, a bench and the deployment of whatever wins; at the
  tighter budget he desires that and orders nothing more. Heat and hogs are told to nobody.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from agent.confinement import die_with_parent
from agent.errors import ReportError
from agent.mqtt import drive
from benchmarks.closed_loop.application import TASK
from benchmarks.closed_loop.board import COOL_CELSIUS, HOT_CELSIUS
from benchmarks.closed_loop.models import BETTER, WORSE
from benchmarks.closed_loop.record import Run, Told
from benchmarks.closed_loop.scene import HERE, Agent, Scene, budgets
from benchmarks.closed_loop.schedule import RATE_HZ, TELL_S, TIGHTER_S, Phase, Schedule
from benchmarks.hogs import Hog, Hogs

_LEAD_S = 0.5
_TEND_S = 0.1
_DRAIN_S = 120.0


class _Orders:
    """What the operator orders in a run with an agent; nothing in one without."""

    def __init__(self, agent: Agent | None) -> None:
        self.agent = agent
        self.given: dict[str, list[tuple[str, str, float]]] = {}

    def give(self, phase: Phase, verb: str, **arguments: Any) -> None:
        if self.agent is not None:
            job = self.agent.order(verb, **arguments)
            self.given.setdefault(phase.name, []).append((job, verb, time.monotonic()))

    def ended(self) -> dict[str, tuple[tuple[str, float | None, str], ...]]:
        if self.agent is None:
            return {}
        return {name: tuple(self._ended(*one) for one in given) for name, given in self.given.items()}

    def _ended(self, job: str, verb: str, given_s: float) -> tuple[str, float | None, str]:
        assert self.agent is not None
        found = self.agent.job(job)
        if found is None:
            return verb, None, "not ended"
        at, document = found
        said = document.result.get("candidate") or document.reason or ""
        return verb, at - given_s, f"{document.state} {said}".strip()


def play(scene: Scene, mode: str, phases: Schedule, seed: int, agent: Agent | None = None) -> Run:
    """Run the application through the phases on what is laid now. Raises: ReportError: it did not end well."""
    out = scene.folder / "served.npz"
    out.unlink(missing_ok=True)
    seconds = phases[-1].end_s
    application = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.closed_loop.application", *map(str, (
            scene.state, scene.inputs, seconds, RATE_HZ, seed, TELL_S, out))],
        cwd=HERE, env=scene.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
    )  # fmt: skip
    assert application.stdin is not None
    assert application.stdout is not None
    orders = _Orders(agent)
    with ExitStack() as parts:
        parts.callback(_end, application)
        if application.stdout.readline().strip() != "ready":
            raise ReportError(f"the application did not open the model ({mode})")
        follows = [str(application.pid), str(scene.fixture.thermometer)]
        sidecar = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.closed_loop.board", *follows],
            cwd=HERE, env=scene.environment, preexec_fn=die_with_parent,  # noqa: PLW1509
        )  # fmt: skip
        parts.callback(_end, sidecar)
        parts.callback(_cool, scene)
        start = time.monotonic() + _LEAD_S
        print(start, file=application.stdin, flush=True)
        with ExitStack() as hogs:
            for phase in phases:
                _wait(scene, agent, start + phase.begin_s)
                _enter(scene, phase, hogs, orders)
            _wait(scene, agent, start + seconds)
        _wait_for(scene, agent, application)
        if application.returncode != 0:
            raise ReportError(f"the application ended with {application.returncode} ({mode})")
    told = [] if agent is None else agent.events()
    return Run(
        mode=mode, phases=phases, orders=orders.ended(),
        told=tuple(Told(at - start, one.kind, one.text) for at, one in told if at >= start), **_columns(out, start),
    )  # fmt: skip


def _enter(scene: Scene, phase: Phase, hogs: ExitStack, orders: _Orders) -> None:
    now = time.monotonic()
    hogs.close()
    scene.fixture.head_for(HOT_CELSIUS if phase.event == "hot" else COOL_CELSIUS, now)
    if phase.event == "hogs":
        hogs.enter_context(Hogs([Hog("spin", core) for core in sorted(os.sched_getaffinity(0))]))
    elif phase.event in ("worse", "better"):
        scene.publish(WORSE if phase.event == "worse" else BETTER)
        orders.give(phase, "bench", task=TASK)
        orders.give(phase, "deploy", task=TASK)
    elif phase.event == "tighter":
        settings = {"tasks": {TASK: {"budgets": budgets(TIGHTER_S)}}}
        orders.give(phase, "set-desired", version=1, settings=settings)


def _wait(scene: Scene, agent: Agent | None, until_s: float) -> None:
    """Let time pass: hear the agent, and move the fixture's temperature."""
    while (left := until_s - time.monotonic()) > 0:
        scene.fixture.tend(time.monotonic())
        if agent is None:
            time.sleep(min(left, _TEND_S))
        else:
            drive(agent.connection, lambda: False, min(left, _TEND_S))


def _wait_for(scene: Scene, agent: Agent | None, application: subprocess.Popen[str]) -> None:
    """Wait until what had queued up is served, too. Raises: ReportError: that takes too long."""
    end = time.monotonic() + _DRAIN_S
    while application.poll() is None:
        if time.monotonic() > end:
            raise ReportError(f"the application was not through {_DRAIN_S:g} s after its last request was due")
        _wait(scene, agent, time.monotonic() + _TEND_S)


def _cool(scene: Scene) -> None:
    scene.fixture.head_for(COOL_CELSIUS, 0.0)
    scene.fixture.tend(time.monotonic())


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
    process.wait()


def _columns(out: Path, start: float) -> dict[str, Any]:
    with np.load(out, allow_pickle=False) as served:
        times = {name: served[name] - start for name in ("due_s", "begin_s", "end_s")}
        others = {name: served[name] for name in ("correct", "failed", "served_by")}
        return {**times, **others, "errors": tuple(one for one in served["errors"].tolist() if one)}
