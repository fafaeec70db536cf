"""Whether a tiny reference kernel between timed runs tells a contended measurement where run-queue wait does not.

    python benchmarks/reference_kernel.py [--rounds 6] [--json FILE | --markdown]

A trial is a fresh process on one core that loads a model and, for half a second, alternates blocks of timed runs with
every candidate kernel. Trials with neighbours made on purpose alternate with quiet ones, kinds in an order drawn anew
each round. A trial is *slow* if its raw p50 is above 1.10 of the median of the four quiet trials nearest to it (its
own left out): that is what an alarm is to tell. What run-queue wait tells already (wait above 10 % of the wall time,
the product's rule) is set aside; of the rest each signal is judged:

- ``caught``: the slow trials it alarms on at the threshold that alarms on at most 1 of 20 quiet trials that are not
  slow. The threshold is chosen on the trials of even rounds and judged on those of odd rounds, and the other way round.
- A kernel's signal is its median time in the trial over a baseline: the median of all quiet trials (``calm``: more
  than a board could know), or the shortest of all earlier trials of this boot (``history``: what a board could store).

``lost`` is no kernel: the share of the wall time in which the runs' thread neither ran nor waited for a core.
``others`` is none either: how many cores other processes kept busy. ``stop`` stands for a stolen processor: the
trial's process is stopped and let go every few milliseconds. ``CPU p50`` is the median of the runs' CPU time over that
of the quiet trials: what a value corrected for neighbours would be off by.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported

from agent.core.statistics import percentile  # noqa: E402
from agent.measure.exercise import own_wait_ns  # noqa: E402
from benchmarks.big_model import write  # noqa: E402
from benchmarks.hogs import Hog, Hogs, over_quiet, two_cores  # noqa: E402
from benchmarks.plain_loop import open_model  # noqa: E402
from benchmarks.table import render  # noqa: E402

SLOW = 1.10  # raw p50 over the quiet p50 that an alarm is to tell
WAIT = 0.10  # the product's rule
FALSE_ALARMS = 1 / 20
BLOCK_S = 0.04
TRIAL_S = 0.5
WARMUP_RUNS = 12
STOP_S = 0.004
SMALL = ROOT / "benchmarks" / "zoo" / "built" / "mobilenet_v1-w050-onnx-f32.onnx"


def conditions(core: int, other: int | None) -> dict[str, list[Hog]]:
    """Return the kinds of neighbours; ``stop`` has none."""
    kinds = {"1 spin, same core": [Hog("spin", core)], "2 spin, same core": [Hog("spin", core)] * 2, "stop": []}
    if other is not None:
        kinds["1 spin, other core"] = [Hog("spin", other)]
        for kind in ("stream", "cache"):
            kinds[f"1 {kind}, other core"] = [Hog(kind, other)]
            kinds[f"2 {kind}, other core"] = [Hog(kind, other)] * 2
    kinds["1 stream, same core"] = [Hog("stream", core)]
    return kinds


def kernels() -> dict[str, Callable[[], object]]:
    """Return the candidates: arithmetic in the first cache, copies, and gathers from the second and third cache."""
    import numpy as np

    draw = np.random.default_rng(1)
    a, b = (draw.standard_normal((96, 96), dtype=np.float32) for _ in range(2))
    c, d = np.empty_like(a), np.empty_like(a)

    def matmul() -> None:
        np.matmul(a, b, out=c)
        np.matmul(c, a, out=d)

    source, sink = np.zeros(1 << 20, np.float32), np.zeros(1 << 20, np.float32)  # 4 MiB each

    def gather(size_bytes: int, picks: int) -> Callable[[], object]:
        table = np.arange(size_bytes // 8, dtype=np.int64)
        where = draw.integers(0, len(table), picks)
        out = np.empty(picks, np.int64)
        return lambda: np.take(table, where, out=out, mode="clip")

    return {
        "matmul": matmul,
        "stream 4 MiB": lambda: np.copyto(sink, source),
        "gather 256 KiB": gather(256 << 10, 8_000),
        "gather 8 MiB": gather(8 << 20, 16_000),
    }


class Trial(NamedTuple):
    """What one trial saw. Times in seconds; a kernel's are the medians of its calls."""

    round: int
    kind: str
    p50_s: float
    wait: float
    lost: float
    others: float
    steal: float
    cpu_p50_s: float
    wall_s: dict[str, float]
    cpu_s: dict[str, float]


def run_trial(model: Path, core: int, kind: str, hogs: Sequence[Hog], number: int) -> Trial:
    """Fork a trial, begin the neighbours when it is warm, and collect what it saw."""
    (ready_r, ready_w), (go_r, go_w) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.sched_setaffinity(0, {core})
            answer = json.dumps(_trial(model, core, ready_w, go_r)).encode()
            os.write(ready_w, answer)
        finally:
            os._exit(0)
    os.close(ready_w)
    os.close(go_r)
    try:
        if os.read(ready_r, 1) != b"r":
            raise SystemExit(f"a trial of {model} failed")
        with Hogs(hogs), stopped_now_and_then(pid if kind == "stop" else None):
            os.write(go_w, b"g")
            answer = b""
            while part := os.read(ready_r, 1 << 16):
                answer += part
    finally:
        os.close(ready_r)
        os.close(go_w)
        os.waitpid(pid, 0)
    return Trial(round=number, kind=kind, **json.loads(answer))


@contextmanager
def stopped_now_and_then(pid: int | None) -> Any:
    """Stop a process for ``STOP_S`` of every three times that."""
    over = threading.Event()

    def work() -> None:
        assert pid is not None
        try:
            while not over.wait(2 * STOP_S):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(STOP_S)
                os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass

    thread = threading.Thread(target=work, daemon=True)
    if pid is not None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if pid is not None:
            thread.join()


def _trial(model: Path, core: int, ready: int, go: int) -> dict[str, Any]:
    import onnxruntime

    run = open_model(onnxruntime, str(model), 1)
    candidates = kernels()
    for _ in range(WARMUP_RUNS):
        run()
    for kernel in candidates.values():
        kernel()
        kernel()
    os.write(ready, b"r")
    os.read(go, 1)
    wall, cpu = time.perf_counter_ns, time.thread_time_ns
    seen: list[int] = []
    spent: list[int] = []
    block_wall = block_cpu = waited = 0
    walls: dict[str, list[int]] = {name: [] for name in candidates}
    cpus: dict[str, list[int]] = {name: [] for name in candidates}
    steal, busy, own = _steal(core), _busy_s(), time.process_time()
    begin = wall()
    while wall() - begin < TRIAL_S * 1e9:
        run()  # what the kernels evicted
        wait_before, cpu_before, start = own_wait_ns() or 0, cpu(), wall()
        while wall() - start < BLOCK_S * 1e9:
            before_cpu, before = cpu(), wall()
            run()
            seen.append(wall() - before)
            spent.append(cpu() - before_cpu)
        block_wall += wall() - start
        block_cpu += cpu() - cpu_before
        waited += (own_wait_ns() or 0) - wait_before
        for name, kernel in candidates.items():
            kernel()  # the model evicted it: what is timed is a warm call, as its baseline is
            before_cpu, before = cpu(), wall()
            kernel()
            walls[name].append(wall() - before)
            cpus[name].append(cpu() - before_cpu)
    others_s = _busy_s() - busy - (time.process_time() - own)
    return {
        "p50_s": median(seen) / 1e9,
        "cpu_p50_s": median(spent) / 1e9,
        "others": max(0.0, others_s) / ((wall() - begin) / 1e9),
        "wait": waited / block_wall,
        "lost": max(0.0, 1 - (block_cpu + waited) / block_wall),
        "steal": (_steal(core) - steal) / ((wall() - begin) / 1e9),
        "wall_s": {name: median(taken) / 1e9 for name, taken in walls.items()},
        "cpu_s": {name: median(taken) / 1e9 for name, taken in cpus.items()},
    }


def _steal(core: int) -> float:
    """Return the seconds that a hypervisor took from a core. Source: proc(5), /proc/stat, eighth field."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            return int(line.split()[8]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _busy_s() -> float:
    """Return the seconds all cores have worked. Source: proc(5), /proc/stat: user, nice, system, irq, softirq."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(fields[place]) for place in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


def slowdowns(trials: Sequence[Trial]) -> list[float]:
    """Return each trial's raw p50 over that of the quiet trials nearest to it."""
    return over_quiet([trial.p50_s for trial in trials], [trial.kind == "quiet" for trial in trials])


def signals(trials: Sequence[Trial]) -> dict[str, list[float]]:
    """Return every signal's value in every trial; larger is more suspicious."""
    names = ("lost", "others", "steal")
    found: dict[str, list[float]] = {name: [getattr(trial, name) for trial in trials] for name in names}
    for name in trials[0].wall_s:
        for what in ("cpu", "wall"):
            times = [getattr(trial, f"{what}_s")[name] for trial in trials]
            calm = median(t for t, trial in zip(times, trials, strict=True) if trial.kind == "quiet")
            found[f"{name}, {what} / calm"] = [t / calm for t in times]
            found[f"{name}, {what} / history"] = [t / min(times[: place + 1]) for place, t in enumerate(times)]
    return found


def threshold(values: Sequence[float]) -> float:
    """Return the least value that at most 1 of 20 of ``values`` exceeds."""
    ordered = sorted(values)
    return ordered[len(ordered) - 1 - int(len(ordered) * FALSE_ALARMS)]


def judge(trials: Sequence[Trial]) -> dict[str, Any]:
    """Judge every signal on what run-queue wait leaves open."""
    slow = [ratio > SLOW for ratio in slowdowns(trials)]
    told = [trial.wait > WAIT for trial in trials]
    open_places = [place for place in range(len(trials)) if not told[place]]
    missed = [place for place in open_places if slow[place]]
    fine = [place for place in open_places if not slow[place] and trials[place].kind == "quiet"]
    rows = {}
    for name, values in signals(trials).items():
        caught = alarms = 0
        limits = []
        for half in (0, 1):
            chosen_on = [values[place] for place in fine if trials[place].round % 2 == half]
            if not chosen_on:
                continue
            limit = threshold(chosen_on)
            limits.append(limit)
            caught += sum(values[place] > limit for place in missed if trials[place].round % 2 != half)
            alarms += sum(values[place] > limit for place in fine if trials[place].round % 2 != half)
        rows[name] = {"caught": caught, "of": len(missed), "alarms": alarms, "fine": len(fine), "thresholds": limits}
    return {
        "trials": len(trials),
        "slow": sum(slow),
        "told_by_wait": sum(s and t for s, t in zip(slow, told, strict=True)),
        "quiet_told_by_wait": sum(t and trial.kind == "quiet" for t, trial in zip(told, trials, strict=True)),
        "quiet": sum(trial.kind == "quiet" for trial in trials),
        "missed": [trials[place].kind for place in missed],
        "signals": rows,
    }


def by_kind(trials: Sequence[Trial]) -> list[list[str]]:
    """Return one line per kind of neighbour: median slowdown, wait, lost, steal and calm ratio of every kernel."""
    ratios, found = slowdowns(trials), signals(trials)
    calm_s = median(trial.cpu_p50_s for trial in trials if trial.kind == "quiet")
    body = []
    for kind in dict.fromkeys(["quiet", *(trial.kind for trial in trials)]):
        places = [place for place, trial in enumerate(trials) if trial.kind == kind]
        over = sum(ratios[place] > SLOW for place in places)
        cells = [
            f"{median(ratios[place] for place in places):.2f}", f"{over} of {len(places)}",
            f"{median(trials[place].wait for place in places):.2f}",
            f"{median(trials[place].lost for place in places):.2f}",
            f"{median(trials[place].others for place in places):.2f}",
            f"{median(trials[place].cpu_p50_s for place in places) / calm_s:.2f}",
            f"{max(trials[place].cpu_p50_s for place in places) / calm_s:.2f}",
        ]  # fmt: skip
        for name in trials[0].wall_s:
            cells.append(f"{median(found[f'{name}, cpu / calm'][place] for place in places):.2f}")
        body.append([kind, *cells])
    return body


def experiment(model: Path, rounds: int) -> list[Trial]:
    core, other = two_cores()
    kinds = conditions(core, other)
    trials = []
    begin = time.monotonic()
    for number in range(rounds):
        order = list(kinds)
        random.Random(number).shuffle(order)
        for kind in order:
            trials.append(run_trial(model, core, "quiet", [], number))
            trials.append(run_trial(model, core, kind, kinds[kind], number))
        print(f"{model.stem}: round {number + 1} of {rounds}, {time.monotonic() - begin:.0f} s", file=sys.stderr)
    trials.append(run_trial(model, core, "quiet", [], rounds))
    return trials


def report(name: str, trials: Sequence[Trial], *, markdown: bool) -> str:
    quiet_s = median(trial.p50_s for trial in trials if trial.kind == "quiet")
    spread = [ratio for ratio, trial in zip(slowdowns(trials), trials, strict=True) if trial.kind == "quiet"]
    found = judge(trials)
    heads = (
        "neighbours",
        "raw p50",
        "> 1.10",
        "wait",
        "lost",
        "others",
        "CPU p50",
        "at most",
        *(f"{kernel} CPU" for kernel in trials[0].wall_s),
    )
    rows = [
        [signal_name, f"{row['caught']} of {row['of']}", f"{row['alarms']} of {row['fine']}",
         " ".join(f"{limit:.2f}" for limit in row["thresholds"])]
        for signal_name, row in found["signals"].items()
    ]  # fmt: skip
    head = (
        f"{name}: quiet p50 {quiet_s * 1e3:.2f} ms, quiet over near quiet {percentile(spread, 0.25):.2f} to "
        f"{percentile(spread, 0.75):.2f} (quartiles), {max(spread):.2f} at most."
    )
    left = (
        f"Slow trials: {found['slow']}, told by run-queue wait: {found['told_by_wait']}; quiet trials with such a "
        f"wait: {found['quiet_told_by_wait']} of {found['quiet']}. What is left to tell:"
    )
    told = render(("signal", "caught", "false alarms", "thresholds"), rows, markdown=markdown)
    return "\n".join([head, "", render(heads, by_kind(trials), markdown=markdown), "", left, "", told, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("models", nargs="*", type=Path, help="ONNX files (default: 224 and 96 pixel MobileNetV2, zoo)")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every trial here")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = options.models or [
            write(Path(folder) / "mobilenet_v2-224.onnx"),
            write(Path(folder) / "mobilenet_v2-w035-96.onnx", 96, 0.35),
            SMALL,
        ]
        seen = {model.stem: experiment(model, options.rounds) for model in models}
    for name, trials in seen.items():
        print(report(name, trials, markdown=options.markdown))
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.rounds} rounds.")
    if options.json:
        options.json.write_text(json.dumps({n: [t._asdict() for t in ts] for n, ts in seen.items()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
