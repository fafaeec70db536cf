"""Whether a tiny reference kernel between timed runs tells a contended measurement where run-queue wait does not.

    python benchmarks/reference_kernel.py [--rounds 6] [--json FILE | --markdown]

A trial is a fresh process on one core that loads a model and, for half a second, times runs and, after each 4 ms of
them, every candidate kernel: a call to bring it back into the cache and one on the thread's CPU clock. Trials with
neighbours made on purpose alternate with trials without, in an order drawn anew each round. Under ``chrt -f 10`` other
jobs disturb less, and kinds on the same core are left out, as neighbours of that priority would never let go.

A trial is *slow* if its raw p50 is above 1.10 of the quiet p50, which is the 5th percentile of the p50 of all trials
that did not wait for a core: on a machine that others use too, most trials without a neighbour of ours have another
one. That is what an alarm is to tell. What run-queue wait tells already (above 10 % of the wall time, the product's
rule) is set aside; of the rest each signal is judged by what it catches at two thresholds:

- the least one that alarms on at most 1 of 20 trials that are not slow; chosen on the trials of even rounds and judged
  on those of odd rounds, and the other way round;
- 1.10, the product's.

A kernel's signal is its median time in the trial over a baseline: the 2nd percentile of its calls in this and all
earlier trials (``/ stored``: what a board can keep), or in this trial alone (``/ own``: what it knows the first time).
``p50 / own`` is the model as its own reference. ``lost`` is the share of the wall time in which the thread neither ran
nor waited for a core; ``others`` is how many cores other processes kept busy. ``stop`` stands for a stolen processor:
the trial's process is stopped and let go every few milliseconds. ``CPU p50`` is the median of the runs' CPU time over
the quiet one: what a value corrected for neighbours would be off by.
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
from statistics import fmean, median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported

from agent.core.statistics import percentile  # noqa: E402
from agent.measure.exercise import own_wait_ns  # noqa: E402
from benchmarks.big_model import write  # noqa: E402
from benchmarks.hogs import Hog, Hogs, two_cores  # noqa: E402
from benchmarks.plain_loop import open_model  # noqa: E402
from benchmarks.table import render  # noqa: E402
from benchmarks.zoo.files import artifact  # noqa: E402

SLOW = 1.10  # raw p50 over the quiet p50 that an alarm is to tell
WAIT = 0.10  # the product's rule
FALSE_ALARMS = 1 / 20
BETWEEN_S = 0.004
TRIAL_S = 0.5
WARMUP_RUNS = 12
STOP_S = 0.004
SMALL = artifact("mobilenet_v1-w050-onnx-f32")


def conditions(core: int, other: int | None) -> dict[str, list[Hog]]:
    """Return the kinds of neighbours; ``stop`` has none."""
    kinds: dict[str, list[Hog]] = {"stop": []}
    if other is not None:
        kinds["1 spin, other core"] = [Hog("spin", other)]
        for kind in ("stream", "cache"):
            kinds[f"1 {kind}, other core"] = [Hog(kind, other)]
            kinds[f"2 {kind}, other core"] = [Hog(kind, other)] * 2
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        kinds["1 spin, same core"] = [Hog("spin", core)]
        kinds["2 spin, same core"] = [Hog("spin", core)] * 2
        kinds["1 stream, same core"] = [Hog("stream", core)]
    return kinds


def kernels() -> dict[str, Callable[[], object]]:
    """Return the candidates: arithmetic in the nearest caches, copies, and gathers from the second and third cache."""
    import numpy as np

    draw = np.random.default_rng(1)

    def products(size: int) -> Callable[[], object]:
        a, b = (draw.standard_normal((size, size), dtype=np.float32) for _ in range(2))
        c, d = np.empty_like(a), np.empty_like(a)

        def run() -> None:
            np.matmul(a, b, out=c)
            np.matmul(c, b, out=d)

        return run

    source, sink = np.zeros(1 << 20, np.float32), np.zeros(1 << 20, np.float32)  # 4 MiB each

    def gather(size_bytes: int, picks: int) -> Callable[[], object]:
        table = np.arange(size_bytes // 8, dtype=np.int64)
        where = draw.integers(0, len(table), picks)
        out = np.empty(picks, np.int64)
        return lambda: np.take(table, where, out=out, mode="clip")

    return {
        "matmul 96": products(96),
        "matmul 64": products(64),
        "stream 4 MiB": lambda: np.copyto(sink, source),
        "gather 256 KiB": gather(256 << 10, 8_000),
        "gather 8 MiB": gather(8 << 20, 16_000),
    }


class Trial(NamedTuple):
    """What one trial saw. Times in seconds; of a kernel every call's CPU time is kept."""

    round: int
    kind: str
    p50_s: float
    best_s: float
    wait: float
    lost: float
    others: float
    steal: float
    cpu_p50_s: float
    calls_s: dict[str, list[float]]


def run_trial(model: Path, core: int, kind: str, hogs: Sequence[Hog], number: int) -> Trial:
    """Fork a trial, begin the neighbours when it is warm, and collect what it saw."""
    (ready_r, ready_w), (go_r, go_w) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.sched_setaffinity(0, {core})
            answer = memoryview(json.dumps(_trial(model, core, ready_w, go_r)).encode())
            while answer:
                answer = answer[os.write(ready_w, answer) :]
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
    calls: dict[str, list[int]] = {name: [] for name in candidates}
    block_wall = block_cpu = waited = 0
    steal, busy, own = _steal(core), _busy_s(), time.process_time()
    begin = wall()
    while wall() - begin < TRIAL_S * 1e9:
        wait_before, cpu_before, start = own_wait_ns() or 0, cpu(), wall()
        while wall() - start < BETWEEN_S * 1e9:
            before_cpu, before = cpu(), wall()
            run()
            seen.append(wall() - before)
            spent.append(cpu() - before_cpu)
        block_wall += wall() - start
        block_cpu += cpu() - cpu_before
        waited += (own_wait_ns() or 0) - wait_before
        for name, kernel in candidates.items():
            kernel()
            before = cpu()
            kernel()
            calls[name].append(cpu() - before)
    elapsed_s = (wall() - begin) / 1e9
    others_s = _busy_s() - busy - (time.process_time() - own)
    return {
        "p50_s": median(seen) / 1e9,
        "best_s": percentile(seen, 0.02) / 1e9,
        "cpu_p50_s": median(spent) / 1e9,
        "others": max(0.0, others_s) / elapsed_s,
        "wait": waited / block_wall,
        "lost": max(0.0, 1 - (block_cpu + waited) / block_wall),
        "steal": (_steal(core) - steal) / elapsed_s,
        "calls_s": {name: [taken / 1e9 for taken in all_taken] for name, all_taken in calls.items()},
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
    """Return each trial's raw p50 over the quiet one. Raises: ValueError: every trial waited for a core."""
    quiet_s = percentile([trial.p50_s for trial in trials if trial.wait <= WAIT], 0.05)
    return [trial.p50_s / quiet_s for trial in trials]


def signals(trials: Sequence[Trial]) -> dict[str, list[float]]:
    """Return every signal's value in every trial; larger is more suspicious, and 1.10 is the product's threshold."""
    found: dict[str, list[float]] = {}
    for name in trials[0].calls_s:
        typical = [median(trial.calls_s[name]) for trial in trials]
        best = [percentile(trial.calls_s[name], 0.02) for trial in trials]
        found[f"{name} / stored"] = [t / min(best[: place + 1]) for place, t in enumerate(typical)]
        found[f"{name} / own"] = [t / own for t, own in zip(typical, best, strict=True)]
    found["p50 / own"] = [trial.p50_s / trial.best_s for trial in trials]
    found["1 + lost"] = [1 + trial.lost for trial in trials]
    found["1 + lost + wait"] = [1 + trial.lost + trial.wait for trial in trials]
    found["1 + others"] = [1 + trial.others for trial in trials]
    found["1 + steal"] = [1 + trial.steal for trial in trials]
    return found


def threshold(values: Sequence[float]) -> float:
    """Return the least value that at most 1 of 20 of ``values`` exceeds."""
    ordered = sorted(values)
    return ordered[len(ordered) - 1 - int(len(ordered) * FALSE_ALARMS)]


def judge(trials: Sequence[Trial]) -> dict[str, Any]:
    """Judge every signal on what run-queue wait leaves open."""
    slow = [ratio > SLOW for ratio in slowdowns(trials)]
    left = [place for place, trial in enumerate(trials) if trial.wait <= WAIT]
    missed = [place for place in left if slow[place]]
    fine = [place for place in left if not slow[place]]
    rows = {}
    for name, values in signals(trials).items():
        row: dict[str, Any] = {"of": len(missed), "fine": len(fine), "caught": 0, "alarms": 0, "thresholds": []}
        for half in (0, 1):
            chosen_on = [values[place] for place in fine if trials[place].round % 2 == half]
            if not chosen_on:
                continue
            limit = threshold(chosen_on)
            row["thresholds"].append(limit)
            row["caught"] += sum(values[place] > limit for place in missed if trials[place].round % 2 != half)
            row["alarms"] += sum(values[place] > limit for place in fine if trials[place].round % 2 != half)
        row["caught_at_product"] = sum(values[place] > SLOW for place in missed)
        row["alarms_at_product"] = sum(values[place] > SLOW for place in fine)
        pairs = [(values[a] > values[b]) + (values[a] == values[b]) / 2 for a in missed for b in fine]
        row["area"] = fmean(pairs) if pairs else None
        rows[name] = row
    told = [place for place, trial in enumerate(trials) if trial.wait > WAIT]
    return {"slow": sum(slow), "told": sum(slow[place] for place in told), "signals": rows}


def by_kind(trials: Sequence[Trial]) -> list[list[str]]:
    """Return one line per kind of neighbour."""
    ratios, found = slowdowns(trials), signals(trials)
    calm_s = percentile([trial.cpu_p50_s for trial in trials], 0.05)
    body = []
    for kind in dict.fromkeys(["quiet", *(trial.kind for trial in trials)]):
        places = [place for place, trial in enumerate(trials) if trial.kind == kind]
        of_kind = [trials[place] for place in places]
        cells = [
            f"{median(ratios[place] for place in places):.2f}",
            f"{sum(ratios[place] > SLOW for place in places)} of {len(places)}",
            *(f"{median(getattr(trial, name) for trial in of_kind):.2f}" for name in ("wait", "lost", "others")),
            f"{median(trial.cpu_p50_s for trial in of_kind) / calm_s:.2f}",
            f"{max(trial.cpu_p50_s for trial in of_kind) / calm_s:.2f}",
        ]
        for name in trials[0].calls_s:
            cells.append(f"{median(found[f'{name} / stored'][place] for place in places):.2f}")
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
    ratios = slowdowns(trials)
    quiet_s = trials[0].p50_s / ratios[0]
    found = judge(trials)
    heads = ("neighbours", "raw p50", "slow", "wait", "lost", "others", "CPU p50", "at most", *trials[0].calls_s)
    kinds = render(heads, by_kind(trials), markdown=markdown)
    body = []
    for signal_name, row in found["signals"].items():
        area = "-" if row["area"] is None else f"{row['area']:.2f}"
        limits = " ".join(f"{limit:.2f}" for limit in row["thresholds"])
        chosen = [f"{row['caught']} of {row['of']}", f"{row['alarms']} of {row['fine']}", limits]
        fixed = [f"{row['caught_at_product']} of {row['of']}", f"{row['alarms_at_product']} of {row['fine']}"]
        body.append([signal_name, area, *chosen, *fixed])
    heads = ("signal", "area", "caught", "false", "thresholds", f"caught at {SLOW:.2f}", "false")
    left = (
        f"Slow trials: {found['slow']}, told by run-queue wait: {found['told']}. What is left to tell (area: how often "
        f"a slow trial's value is above that of one that is not; 0.5 tells nothing):"
    )
    title = f"{name}: quiet p50 {quiet_s * 1e3:.2f} ms"
    return "\n".join([title, "", kinds, "", left, "", render(heads, body, markdown=markdown), ""])


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
