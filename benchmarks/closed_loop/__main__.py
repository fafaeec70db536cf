"""An application at 50 requests a second while its board is disturbed: with boardfit, without an agent, with the
smallest model.

    python -m benchmarks.closed_loop [--rounds 2] [--quick] [--folder DIR] [--seed 2026] [--json | --markdown]

Real: the application and `agent.client`, the models (trained here, see `models.py`), the daemon, its passes, the signed
registry, mosquitto, the operator's signed orders, the CPU hogs. SIMULATED, and named so: the temperature (a fixture
board's sysfs), the slowness that comes of it (the application has 40 % of its time while the fixture is hot; a
temperature alone slows nothing), and the shake and noise in the frames.

The story, the same in every run: quiet; a busy loop on every core; gone; hot; cool again; a worse model is published
that claims to be the best; a better one is published; the latency budget tightens from 15 to 6 ms. Each round has one
run with boardfit and one with the model that it chose first and no agent; which comes first changes from round to
round. The smallest model goes through it once, since nothing happens to it, and the others once, shortened, for the
oracle. The ladder's dwell time is 3 s instead of 30, so that coming back is seen; the application tells every 0.3 s.

What is counted and how the oracle chooses: `judging.py`. Exit status 1 where a goal is missed. About ten minutes;
`--quick` shows in two that it works, with figures worth nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agent.errors import BoardfitError
from benchmarks.closed_loop.board import RUN_SHARE
from benchmarks.closed_loop.judging import (
    Counted,
    Oracle,
    Verdict,
    count,
    in_phase,
    noise,
    oracle,
    over_budget,
    reaction,
    spread,
    verdicts,
)
from benchmarks.closed_loop.models import BETTER, FIRST
from benchmarks.closed_loop.play import play
from benchmarks.closed_loop.record import Run
from benchmarks.closed_loop.scene import LADDER, Agent, Scene
from benchmarks.closed_loop.schedule import FULL_S, KNOWING_S, QUICK_S, RATE_HZ, TELL_S, Schedule, schedule
from benchmarks.table import render

BOARDFIT, NO_AGENT, SMALLEST = "boardfit", "no agent", "fixed smallest"
MODES = (NO_AGENT, BOARDFIT, SMALLEST)


class Found(NamedTuple):
    """Everything that was taken."""

    first: str
    rounds: tuple[dict[str, Run], ...]
    best: Oracle
    accuracy: dict[str, float]
    latency_p95_s: dict[str, float]
    load_before: float
    took_s: float

    def counted(self, mode: str) -> list[Counted]:
        """Return a mode's runs, summed up."""
        return [count(one[mode], self.accuracy) for one in self.rounds if mode in one]

    @property
    def quiet_share(self) -> float:
        """Which share of the first model's requests was over budget before anything happened."""
        chosen = [(run, in_phase(run, run.phases[0])) for run in (one[NO_AGENT] for one in self.rounds)]
        return float(np.mean(np.concatenate([over_budget(run)[where] for run, where in chosen])))

    def verdicts(self) -> tuple[Verdict, ...]:
        """Judge it."""
        with_agent, without, others = (self.counted(mode) for mode in (BOARDFIT, NO_AGENT, SMALLEST))
        return verdicts(with_agent, without, others, self.best, noise(self.first, self.quiet_share))


def take(scene: Scene, phases: Schedule, knowing: Schedule, rounds: int, seed: int) -> Found:
    """Take all runs. Raises: BoardfitError."""
    began, load = time.monotonic(), os.getloadavg()[0]
    first = scene.lay_first()
    fixed = {NO_AGENT: first, SMALLEST: tuple(FIRST)[-1]}
    taken = []
    for number in range(rounds):
        this: dict[str, Run] = {}
        compared = (NO_AGENT, BOARDFIT) if number % 2 == 0 else (BOARDFIT, NO_AGENT)
        for mode in (*compared, SMALLEST) if number == 0 else compared:
            _say(f"round {number + 1} of {rounds}: {mode}")
            this[mode] = _with_agent(scene, phases, seed + number) if mode == BOARDFIT else _without(
                scene, mode, fixed[mode], phases, seed + number
            )  # fmt: skip
        taken.append(this)
    alone = {fixed[mode]: taken[0][mode] for mode in fixed}
    for name in (*FIRST, BETTER):
        if name not in alone:
            _say(f"for the oracle: {name}")
            alone[name] = _without(scene, f"fixed {name}", name, knowing, seed)
    best = oracle(alone, phases, scene.accuracy)
    return Found(first, tuple(taken), best, scene.accuracy, scene.latency_p95_s, load, time.monotonic() - began)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _without(scene: Scene, mode: str, name: str, phases: Schedule, seed: int) -> Run:
    scene.lay_fixed(name)
    return play(scene, mode, phases, seed)


def _with_agent(scene: Scene, phases: Schedule, seed: int) -> Run:
    scene.lay_first()
    agent = Agent(scene, time.monotonic)
    try:
        agent.settle()
        return play(scene, BOARDFIT, phases, seed, agent)
    finally:
        agent.close()


def show(found: Found, markdown: bool) -> str:
    """Return the tables."""
    parts = [render(("goal", "found", "goal is", "verdict"), found.verdicts(), markdown=markdown)]
    rows = []
    for mode in MODES:
        runs = found.counted(mode)
        rows.append((
            f"{mode} ({found.first})" if mode == NO_AGENT else mode,
            spread([one.over for one in runs], "{:.0f}"), f"{runs[0].requests}",
            spread([one.over / one.requests * 100 for one in runs], "{:.1f} %"), f"{sum(one.failed for one in runs)}",
            spread([one.accuracy_expected for one in runs], "{:.3f}"),
            spread([one.accuracy_counted for one in runs], "{:.3f}"),
            spread([one.accuracy_expected / found.best.accuracy for one in runs], "{:.3f}"),
        ))  # fmt: skip
    rows.append(("oracle", "", "", "", "", f"{found.best.accuracy:.3f}", "", "1.000"))
    heads = (
        "mode", "over budget", "of", "share", "failed", "accuracy expected", "counted", "of the oracle's",
    )  # fmt: skip
    parts.append(render(heads, rows, markdown=markdown))
    over = [f"over: {mode}" for mode in MODES]
    heads = ("phase", "seconds", "budget, ms", *over, "oracle serves", "react, s", "back, s")
    parts.append(render(heads, _phase_rows(found), markdown=markdown))
    models = [
        (name, f"{found.accuracy[name]:.3f}", f"{found.latency_p95_s[name] * 1e3:.2f}") for name in found.accuracy
    ]
    parts.append(render(("model", "accuracy", "p95 when measured, ms"), sorted(models), markdown=markdown))
    parts.append("\n".join(_notes(found)))
    return "\n\n".join(parts)


def _phase_rows(found: Found) -> list[tuple[str, ...]]:
    rows = []
    agents = [one[BOARDFIT] for one in found.rounds]
    counted = {mode: found.counted(mode) for mode in MODES}
    for phase in agents[0].phases:
        over = [spread([one.by_phase[phase.name] for one in counted[mode]], "{:.0f}") for mode in MODES]
        reactions = [reaction(run, phase, found.accuracy) for run in agents]
        quiet = phase.event == "quiet"
        comes_back = any(one.ends == phase.event for one in agents[0].phases)
        rows.append((
            phase.name, f"{phase.seconds:g}", f"{phase.budget_s * 1e3:g}", *over, found.best.serves[phase.name],
            "" if quiet else spread([one.react_s for one in reactions], "{:.1f}"),
            spread([one.back_s for one in reactions], "{:.1f}") if comes_back else "",
        ))  # fmt: skip
    return rows


def _notes(found: Found) -> list[str]:
    lines = ["What the agent said and was ordered, first round (seconds since the first request):"]
    run = found.rounds[0][BOARDFIT]
    said = [(one.at_s, f"{one.kind}: {one.text}") for one in run.told]
    for phase in run.phases:
        said += [
            (phase.begin_s, f"ordered {verb}: {'not ended' if took is None else f'{took:.1f} s'}, {how}")
            for verb, took, how in run.orders.get(phase.name, ())
        ]
    lines += [f"- {at:.1f} {text}" for at, text in sorted(said)]
    errors = {text for one in found.rounds for run in one.values() for text in run.errors}
    lines += [f"- a request failed: {text}" for text in sorted(errors)]
    lines.append(
        f"\nSIMULATED: temperature and clock (a fixture's sysfs) and the throttle that follows them (the application "
        f"has {RUN_SHARE:.0%} of its time). The application tells every {TELL_S:g} s, a step up waits "
        f"for {LADDER['dwell']} at least. {RATE_HZ:g} requests/s, "
        f"{len(found.rounds)} rounds, median (least to most). Python {platform.python_version()}, "
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"load {found.load_before:.1f} before, {found.took_s:.0f} s."
    )
    return lines


def document(found: Found) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "verdicts": [one._asdict() for one in found.verdicts()],
        "runs": {mode: [one._asdict() for one in found.counted(mode)] for mode in MODES},
        "oracle": found.best._asdict(),
        "reactions": [
            {
                phase.name: reaction(one[BOARDFIT], phase, found.accuracy)._asdict()
                for phase in one[BOARDFIT].phases if phase.event != "quiet"
            }
            for one in found.rounds
        ],
        "told": [[told._asdict() for told in one[BOARDFIT].told] for one in found.rounds],
        "orders": [one[BOARDFIT].orders for one in found.rounds],
        "accuracy": found.accuracy, "latency_p95_s": found.latency_p95_s, "quiet_share": found.quiet_share,
    }  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of short phases: does it work?")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep everything there, which must be new")
    parser.add_argument("--seed", type=int, default=2026)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true")
    options = parser.parse_args(words)
    phases = schedule(QUICK_S if options.quick else FULL_S)
    knowing = schedule((1.0,) * len(phases)) if options.quick else schedule(KNOWING_S)

    with tempfile.TemporaryDirectory(prefix="boardfit-closed-loop-") as made:
        folder = Path(made) / "loop" if options.folder is None else options.folder
        folder.mkdir(parents=True)
        try:
            with Scene(folder.resolve(), options.seed, _say) as scene:
                found = take(scene, phases, knowing, 1 if options.quick else options.rounds, options.seed)
        except BoardfitError as error:
            print(f"closed_loop: {error}", file=sys.stderr)
            return 1
    print(json.dumps(document(found)) if options.json else show(found, options.markdown))
    return 1 if any(one.verdict == "missed" for one in found.verdicts()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
