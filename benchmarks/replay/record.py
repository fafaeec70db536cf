"""Records the replay bank on this machine: real models, run for real, under conditions really made.

    python -m benchmarks.replay.record [--out FOLDER] [--only TEXT] [--seconds 3]        as root, on a quiet machine

Every point is run twice. Once by the real worker under the real supervisor, evaluation pack and golden data included:
what it cost, used and answered. Then by ``benchmarks.replay.child`` for the runs themselves, once quiet and, for some
points, once more under each condition. Quiet is at real-time priority: others on the machine get 5 % of each second,
one stall that the p99 sees, and the caches. A dump that waited for a core more than its condition explains is taken
again, at most twice; the best is kept with the wait it had. A child that is meant to be disturbed, and the load beside
it, run at nice -20 in scheduling groups of nice -20, so that others disturb little.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from agent.clock import SystemClock
from agent.core.manifest import Candidate
from agent.core.measurement import OperatingPoint
from agent.core.ports import never_stop, no_progress
from agent.device.board import this_board
from agent.measure.figures import accuracy_figures, memory_figures
from agent.measure.observer import Observer
from agent.measure.protocol import Evaluated, GoldenChecked, Imported, Job, TimingPlan
from agent.measure.supervisor import Child, ChildEndedError, is_last, needs_answer
from agent.runtimes.prove import prove_engines
from benchmarks.replay.bank import FOLDER, DumpHead, Point, Recording, load, save
from benchmarks.replay.subjects import Files, faulty, from_registry, made_large

ROOT = Path(__file__).resolve().parents[2]
NICE = -20
#: Conditions under which nobody else is to have the core; real-time priorities of the process and of what stops it.
REAL_TIME = ("quiet", "bimodal", "throttled")
ALONE, STEERING = 50, 60
#: Run-queue wait above which somebody else than the condition was there. What stops a process is booked as wait too.
MOST_WAIT = {"quiet": 0.06, "contended": 0.6, "drifting": 0.4, "bimodal": 1.0, "throttled": 0.75}
LENGTHS = {"contended": 1.5, "drifting": 3.0, "bimodal": 2.0, "throttled": 1.5}  # of a quiet dump's
PIECE_S = 0.01
TRIES = 2
SHORT = TimingPlan(
    min_runs=20, min_time_s=0.2, max_runs=200, max_time_s=1.0, warmup_max_runs=60, warmup_max_s=3.0,
    block_runs=10, block_s=0.1, contended_wait_ratio=None, contended_patience_s=1.0,
)  # fmt: skip
#: Condition: the load beside it, where it runs, and how long is recorded.
LOADS = {"contended": "spin", "drifting": "come_and_go", "bimodal": "two_speeds", "throttled": "throttle"}
#: Loads that stop the process. The kernel books stopped time as run-queue wait, which a lower clock would not show, so
#: the waits of their dumps are left out; at real-time priority there are hardly others.
STOPPING = ("two_speeds", "throttle")


def observe(files: Files, point: OperatingPoint, board: Any) -> Point:
    """Let the real worker run one point, and write down everything but the runs."""
    job = Job(
        model=str(files.model), point=point, inputs=files.candidate.manifest.inputs, timing=SHORT,
        evaluation=None if files.evaluation is None else str(files.evaluation),
        preprocessing=files.candidate.manifest.preprocessing, label_offset=files.candidate.manifest.label_offset,
        golden=None if files.golden is None else str(files.golden), memory_growth_bytes=files.memory_growth_bytes,
    )  # fmt: skip
    observer = Observer(board, point.label, no_progress)
    begin = last = time.monotonic()
    spent: dict[str, float] = {}
    fields: dict[str, Any] = {"candidate": _slim(files.candidate), "point": point, "note": files.note}
    try:
        with Child(job, clock=SystemClock(), stop=never_stop, deadline_s=120.0) as child:
            real_time(child.pid, ALONE)
            while not is_last(event := child.next_event()):
                now = time.monotonic()
                name = {Imported: "spawn_s", Evaluated: "evaluation_s", GoldenChecked: "golden_s"}.get(type(event))
                if name is not None:
                    spent[name] = now - (begin if name == "spawn_s" else last)
                observer.take(event, child.pid, None)
                if needs_answer(event):
                    last = time.monotonic()
                    child.go()
            ended = time.monotonic()
        spent["ending_s"] = time.monotonic() - ended
        verdict, reason = "ok", None
    except ChildEndedError as error:
        verdict, reason = error.verdict, error.reason
        spent["died_s"] = time.monotonic() - begin
    if observer.golden is not None and observer.golden.passed is False:
        verdict, reason = "wrong_output", observer.golden.reason
    accuracy = None
    if observer.evaluated is not None and files.evaluation is not None:
        accuracy = accuracy_figures(observer.evaluated, hashlib.sha256(files.evaluation.read_bytes()).hexdigest())
    return Point(
        verdict=verdict, reason=reason, load_s=observer.load_time_s, first_s=observer.first_inference_s,
        memory=memory_figures(observer.memory_imported, observer.memory_after, observer.peak_was_reset),
        accuracy=accuracy, golden=observer.golden, placement=observer.placement, **spent, **fields,
    )  # fmt: skip


def _slim(candidate: Candidate) -> Candidate:
    """Leave out what no protocol looks at, to keep the bank small."""
    manifest = msgspec.structs.replace(
        candidate.manifest, preprocessing=(), labels=(), description=None, licence=None, compression=(), extra={}
    )
    return msgspec.structs.replace(candidate, manifest=manifest)


def raised(pid: int) -> None:
    """Give a process that leads its session the machine: the kernel shares out by session first, then by niceness.

    Source: sched(7), the autogroup feature; without it the write is refused, and niceness alone counts.
    """
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(NICE))


def real_time(pid: int, priority: int) -> None:
    """Let a process go before all others; the kernel still keeps 5 % of each second for them."""
    os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(priority))


@contextmanager
def disturbed(condition: str, pid: int, core: int, seed: int) -> Iterator[None]:
    """Hold a condition for as long as the block lasts."""
    kind = LOADS.get(condition)
    if kind is None:
        yield
        return
    command = [sys.executable, "-m", "benchmarks.replay.loads", kind, str(seed), str(pid)]
    beside = kind in STOPPING  # these steer from the other core
    load = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        raised(load.pid)
        if beside:
            real_time(load.pid, STEERING)
        os.sched_setaffinity(load.pid, {0 if beside else core})
        yield
    finally:
        load.kill()  # what stopped a process may leave it stopped: the caller kills that one
        load.wait()


def dump(files: Files, point: OperatingPoint, key: str, condition: str, seconds: float) -> Recording:
    """Record one dump. Raises: RuntimeError: the child ended before it was done."""
    core = os.cpu_count() - 1  # the kernel's own work is mostly on the first
    job = {
        "model": str(files.model), "point": msgspec.to_builtins(point), "piece_s": PIECE_S, "min_s": seconds,
        "max_s": max(8.0, seconds), "min_runs": 800, "max_runs": 12_000 if condition == "quiet" else 24_000,
    }  # fmt: skip
    load_1min = os.getloadavg()[0]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    begin = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.replay.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=None, cwd=ROOT, env=environment, start_new_session=True, text=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        if condition in REAL_TIME:
            real_time(child.pid, ALONE)
        else:
            raised(child.pid)
        if condition != "quiet" and point.threads == 1:
            os.sched_setaffinity(child.pid, {core})
        with disturbed(condition, child.pid, core, seed=len(key)):
            child.stdin.write(json.dumps(job) + "\n")
            child.stdin.close()
            told = {(line := json.loads(text))["event"]: line for text in child.stdout}
    finally:
        child.kill()
        child.wait()
    if "recorded" not in told:
        raise RuntimeError(f"{key}, {condition}: the recording child ended early")
    runs, pieces = told["recorded"]["latencies_ns"], told["recorded"]["pieces"]
    wait_ratio = sum(wait for _, wait, _ in pieces) / sum(wall for _, _, wall in pieces)
    if LOADS.get(condition) in STOPPING:
        pieces = [(count, 0, wall) for count, _, wall in pieces]
    head = DumpHead(
        point=key, condition=condition, spawn_s=told["imported"]["monotonic_s"] - begin,
        load_s=told["first_run"]["load_s"], first_s=told["first_run"]["first_s"], runs=len(runs), pieces=len(pieces),
        wait_ratio=wait_ratio, load_1min=load_1min,
        recorded_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )  # fmt: skip
    return Recording(head, runs, pieces)


def least_disturbed(files: Files, point: OperatingPoint, key: str, condition: str, seconds: float) -> Recording | None:
    """Record until nobody but the condition disturbed it, at most ``TRIES`` times.

    Returns: the dump that waited least; None where every child ended early.
    """
    best: Recording | None = None
    for _ in range(TRIES):
        try:
            found = dump(files, point, key, condition, seconds)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            continue
        if best is None or found.head.wait_ratio < best.head.wait_ratio:
            best = found
        if best.head.wait_ratio <= MOST_WAIT[condition] * point.threads:
            break
    return best


def points_of(files: Files, engines: Sequence[Any]) -> list[OperatingPoint]:
    form = files.candidate.manifest.format
    one_only = files.note is not None or zlib.crc32(files.candidate.name.encode()) % 3  # a third at two threads too
    return [
        OperatingPoint(engine=engine.name, engine_version=engine.version, provider=engine.providers[0], threads=threads)
        for engine in engines
        if engine.proven and form in engine.formats
        for threads in ((1,) if one_only else (1, 2))
    ]


def disturbing(point: Point, p50_s: float) -> list[str]:
    """Choose a point's conditions; slowing down by milliseconds says nothing of shorter runs."""
    number = zlib.crc32(point.key.encode()) // 8
    wanted = ["contended"] if number % 3 == 0 else []
    if point.point.threads == 1 and p50_s > 0.25e-3 and number % 3 == 1:
        wanted += ["drifting"]
    if point.point.threads == 1 and p50_s > 1e-3:
        wanted += ["bimodal" if number % 2 else "throttled"]
    return wanted


def about(command: Sequence[str]) -> dict[str, Any]:
    names = ("onnxruntime", "ai-edge-litert", "tflite-runtime", "numpy")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")
    return {
        "command": " ".join(command),
        "recorded_on": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{model}, {os.cpu_count()} virtual cores, shared with other jobs",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in names},
        "nice": os.nice(0),
        "piece_s": PIECE_S,
        "conditions": {
            "quiet": "real-time priority (FIFO), not pinned",
            "contended": "a busy loop on the same core (of both, at two threads) throughout",
            "drifting": "a busy loop on the same core that comes and goes, 0.3 to 1.5 s each",
            "bimodal": "simulated: stopped and continued by the millisecond to 60 %, or not, 50 to 300 ms each",
            "throttled": "simulated: stopped and continued by the half millisecond to 50 %, throughout",
        },
    }


class Session:
    """One recording: all points, then all conditions; what is there already is kept unless it was disturbed."""

    def __init__(self, out: Path, seconds: float, *, go_on: bool) -> None:
        self._out, self._seconds = out, seconds
        self.points, self.recordings = earlier(out) if go_on else ({}, {})

    def look_at(self, files: Files, point: OperatingPoint, board: Any) -> Point:
        """Have a point observed by the worker, and its quiet dump."""
        found = self.points.get(f"{files.candidate.name}@{point.label}")
        if found is None:
            found = observe(files, point, board)
            self.points[found.key] = found
            print(found.key, found.verdict, found.reason or "", file=sys.stderr, flush=True)
        if found.verdict in ("ok", "wrong_output"):
            self._take(files, found, "quiet", self._seconds)
        self.save(preset=0)
        return found

    def disturb(self, files: Files, point: Point) -> None:
        """Have a point's dumps under its conditions."""
        ordered = sorted(self.recordings[point.key, "quiet"].latencies_ns)
        for condition in disturbing(point, ordered[len(ordered) // 2] / 1e9):
            self._take(files, point, condition, LENGTHS[condition] * self._seconds)
        self.save(preset=0)

    def _take(self, files: Files, point: Point, condition: str, seconds: float) -> None:
        old = self.recordings.get((point.key, condition))
        if old is not None and old.head.wait_ratio <= MOST_WAIT[condition] * point.point.threads:
            return
        found = least_disturbed(files, point.point, point.key, condition, seconds)
        if found is not None and (old is None or found.head.wait_ratio < old.head.wait_ratio):
            self.recordings[point.key, condition] = found
            _say(found)

    def save(self, preset: int = 9) -> None:
        """Write all that there is."""
        save(self._out, about([Path(sys.executable).name, *sys.argv]), list(self.points.values()),
             list(self.recordings.values()), preset)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="records the replay bank on this machine")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--only", default="", help="only candidates whose name contains this")
    parser.add_argument("--seconds", type=float, default=2.0, help="least length of a quiet dump (default: 2)")
    parser.add_argument("--go-on", action="store_true", help="keep what FOLDER has; record what is missing, disturbed")
    parser.add_argument("--quiet-only", action="store_true", help="leave the other conditions for later")
    options = parser.parse_args()
    os.nice(NICE - os.nice(0))
    board = this_board()
    engines = prove_engines()
    session = Session(options.out, options.seconds, go_on=options.go_on)
    with tempfile.TemporaryDirectory(prefix="boardfit-bank-") as folder:
        listed = from_registry()
        everything = [*listed, *faulty(Path(folder), listed), *made_large(Path(folder))]
        wanted = [files for files in everything if options.only in files.candidate.name]
        looked_at = [(f, session.look_at(f, point, board)) for f in wanted for point in points_of(f, engines)]
        for files, point in looked_at:
            if point.verdict == "ok" and not options.quiet_only and (point.key, "quiet") in session.recordings:
                session.disturb(files, point)
    session.save()
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{len(session.points)} points, {len(session.recordings)} dumps, {size / 1e6:.2f} MB", file=sys.stderr)
    return 0


def earlier(folder: Path) -> tuple[dict[str, Point], dict[tuple[str, str], Recording]]:
    """Return what an earlier recording has left."""
    bank = load(folder)
    recordings = {}
    for found in bank.dumps:
        pieces = [(len(piece.latencies_ns), piece.waited_ns, piece.wall_ns) for piece in found.pieces]
        latencies = [latency for piece in found.pieces for latency in piece.latencies_ns]
        recordings[found.head.point, found.head.condition] = Recording(found.head, latencies, pieces)
    return bank.points, recordings


def _say(recording: Recording) -> None:
    ordered = sorted(recording.latencies_ns)
    p50, p95 = (ordered[int(len(ordered) * q)] / 1e6 for q in (0.5, 0.95))
    head = recording.head
    print(
        f"  {head.condition:10} p50 {p50:7.3f} p95 {p95:7.3f} ms  {head.runs:6} runs  wait {head.wait_ratio:.3f}"
        f"  spawn {head.spawn_s:.2f} s  load {head.load_1min:.1f}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    raise SystemExit(main())
