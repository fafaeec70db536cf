"""Records the replay bank on this machine: real models, run for real, under conditions really made.

    python -m benchmarks.replay.record [--out FOLDER] [--only TEXT] [--seconds 3]        as root, on a quiet machine

Every point is run twice. Once by the real worker under the real supervisor, evaluation pack and golden data included:
what it cost, used and answered. Then by ``benchmarks.replay.child`` for the runs themselves, once quiet and, for some
points, once more under each condition. Quiet is at real-time priority: others on the machine get 5 % of each second, one
stall that the p99 sees, and the caches. A dump that waited for a core more than its condition explains is taken again, at
most twice; the best is kept with the wait it had. A child that is meant to be disturbed, and the load beside it, run at
nice -20 in scheduling groups of nice -20, so that others disturb little.
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
from typing import Any, NamedTuple

import msgspec

from agent.clock import SystemClock
from agent.core.manifest import Candidate, Manifest, TargetRef, parse_manifest
from agent.core.measurement import OperatingPoint
from agent.core.ports import never_stop, no_progress
from agent.device.board import this_board
from agent.measure.figures import accuracy_figures, memory_figures
from agent.measure.observer import Observer
from agent.measure.protocol import Evaluated, GoldenChecked, Imported, Job, TimingPlan
from agent.measure.supervisor import Child, ChildEndedError, is_last, needs_answer
from agent.runtimes.prove import prove_engines
from benchmarks.replay import large
from benchmarks.replay.bank import FOLDER, DumpHead, Point, Recording, load, save

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "benchmarks" / "zoo" / "registry"
NICE = -20
#: Conditions under which nobody else is to have the core, and the real-time priorities of the process and what stops it.
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
#: Loads that stop the process. The kernel books stopped time as run-queue wait, which a lower clock would not show, so the
#: waits of their dumps are left out; at real-time priority there are hardly others.
STOPPING = ("two_speeds", "throttle")


class Files(NamedTuple):
    """A candidate and its files on this machine."""

    candidate: Candidate
    model: Path
    golden: Path | None = None
    evaluation: Path | None = None
    note: str | None = None
    memory_growth_bytes: int | None = None


def from_registry() -> list[Files]:
    """Return the bundled candidates, from the registry's own list."""
    listed = max(REGISTRY.glob("metadata/*.targets.json"), key=lambda path: int(path.name.partition(".")[0]))
    found = []
    for path, target in json.loads(listed.read_text())["signed"]["targets"].items():
        text = target.get("custom", {}).get("boardfit")
        if not text or "format" not in (fields := json.loads(text)):
            continue
        manifest = parse_manifest(fields)
        reference = TargetRef(path=path, sha256=target["hashes"]["sha256"], length=target["length"])
        files = [_file(ref) if ref else None for ref in (reference, manifest.golden, manifest.evaluation)]
        assert files[0] is not None
        found.append(Files(Candidate(manifest=manifest, target=reference), files[0], files[1], files[2]))
    return sorted(found, key=lambda files: files.candidate.name)


def _file(reference: TargetRef) -> Path:
    place = Path(reference.path)
    return REGISTRY / "targets" / place.parent / f"{reference.sha256}.{place.name}"


def around(path: Path, **more: Any) -> Files:
    """Return a candidate around a model file that no registry lists."""
    data = path.read_bytes()
    manifest = Manifest(
        task="digits", name=path.stem, format="onnx" if path.suffix == ".onnx" else "tflite", inputs=(), outputs=()
    )
    target = TargetRef(path=path.name, sha256=hashlib.sha256(data).hexdigest(), length=len(data))
    return Files(Candidate(manifest=manifest, target=target), path, **more)


def made_large(folder: Path) -> list[Files]:
    found = []
    for name, (width, side) in large.SHAPES.items():
        path = folder / f"{name}.onnx"
        large.build(path, width, side)
        found.append(around(path))
    return found


def faulty(folder: Path, good: Sequence[Files]) -> list[Files]:
    """Return candidates that give no figure: each has its note."""
    from tests.measure import models  # the test suite's hostile ones

    by_name = {files.candidate.name: files for files in good}
    onnx, lite = by_name["mobilenet_v2-w050-onnx-f32"], by_name["mobilenet_v2-w050-tflite-f16"]
    found = []
    for files in (onnx, lite):
        data = files.model.read_bytes()
        path = folder / f"cut_off-{files.model.suffix[1:]}{files.model.suffix}"
        path.write_bytes(data[: len(data) // 2])
        found.append(around(path, note=f"the first half of {files.candidate.name}"))
    crash = models.function_chain(folder / "kills_the_engine.onnx")
    found.append(around(crash, note="functions nested so deep that the engine's stack ends"))
    bomb = around(models.memory_bomb(folder / "memory_bomb.onnx"), note="asks for 16 GiB at its first run")
    found.append(bomb._replace(memory_growth_bytes=1 << 30))
    fat = around(onnx.model, note="8 MiB of address space allowed", memory_growth_bytes=8 << 20)
    found.append(fat._replace(candidate=_renamed(fat.candidate, "over_its_memory")))
    for files, other in ((onnx, "mobilenet_v2-w025-onnx-f32"), (lite, "mobilenet_v2-w025-tflite-f32")):
        name = f"wrong_output-{files.candidate.manifest.format}"
        note = f"{files.candidate.name} held against the golden outputs of {other}"
        found.append(files._replace(
            candidate=_renamed(files.candidate, name), golden=by_name[other].golden, note=note,
        ))  # fmt: skip
    return found


def _renamed(candidate: Candidate, name: str) -> Candidate:
    """Return the candidate under a name, and a digest, of its own."""
    manifest = msgspec.structs.replace(candidate.manifest, name=name)
    digest = hashlib.sha256(name.encode()).hexdigest()
    return Candidate(manifest=manifest, target=msgspec.structs.replace(candidate.target, sha256=digest))


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


def least_disturbed(files: Files, point: OperatingPoint, key: str, condition: str, seconds: float) -> Recording:
    """Record until nobody but the condition disturbed it, at most ``TRIES`` times; return the one that waited least."""
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
    if best is None:
        raise SystemExit(f"{key} cannot be recorded; --go-on resumes")
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


def disturbing(number: int, point: OperatingPoint, p50_s: float) -> list[str]:
    """Choose the conditions of the ``number``-th point; slowing down by milliseconds says nothing of shorter runs."""
    wanted = ["contended"] if number % 3 == 0 else []
    if point.threads == 1 and p50_s > 0.25e-3 and number % 3 == 1:
        wanted += ["drifting"]
    if point.threads == 1 and p50_s > 1e-3:
        wanted += ["bimodal" if number % 2 else "throttled"]
    return wanted


def about(command: Sequence[str]) -> dict[str, Any]:
    names = ("onnxruntime", "ai-edge-litert", "tflite-runtime", "numpy")
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").open() if "model name" in line), "?")
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
            "bimodal": "simulated: stopped and continued by the millisecond, to 60 %, for 50 to 300 ms, then not, in turn; real-time",
            "throttled": "simulated: stopped and continued by the half millisecond, to 50 %, throughout; real-time",
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="records the replay bank on this machine")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--only", help="only candidates whose name contains this")
    parser.add_argument("--seconds", type=float, default=3.0, help="least length of a quiet dump")
    parser.add_argument("--go-on", action="store_true", help="keep what FOLDER has and record the other points")
    options = parser.parse_args()
    os.nice(NICE - os.nice(0))
    board = this_board()
    engines = prove_engines()
    points, recordings = earlier(options.out) if options.go_on else ([], [])
    done = {point.key for point in points}
    with tempfile.TemporaryDirectory(prefix="boardfit-bank-") as folder:
        listed = from_registry()
        everything = [*listed, *made_large(Path(folder)), *faulty(Path(folder), listed)]
        for files in everything:
            if options.only and options.only not in files.candidate.name:
                continue
            for point in points_of(files, engines):
                if f"{files.candidate.name}@{point.label}" in done:
                    continue
                found = observe(files, point, board)
                points.append(found)
                if found.verdict in ("ok", "wrong_output"):
                    first = least_disturbed(files, point, found.key, "quiet", options.seconds)
                    recordings.append(first)
                    p50_s = sorted(first.latencies_ns)[len(first.latencies_ns) // 2] / 1e9
                    if found.verdict == "ok":
                        recordings += [
                            least_disturbed(files, point, found.key, condition, LENGTHS[condition] * options.seconds)
                            for condition in disturbing(len(points), point, p50_s)
                        ]
                save(options.out, about([Path(sys.executable).name, *sys.argv]), points, recordings, preset=0)
                for recording in recordings:
                    if recording.head.point == found.key:
                        _say(recording)
                print(found.key, found.verdict, found.reason or "", file=sys.stderr, flush=True)
        again(recordings, {(f.candidate.name): f for f in everything}, points, options.seconds)
    save(options.out, about([Path(sys.executable).name, *sys.argv]), points, recordings)
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{len(points)} points, {len(recordings)} dumps, {size / 1e6:.2f} MB", file=sys.stderr)
    return 0


def earlier(folder: Path) -> tuple[list[Point], list[Recording]]:
    """Return what a recording that was interrupted has left; steps of latency stay as they are."""
    bank = load(folder)
    points = list(bank.points.values())
    recordings = []
    for dump_ in bank.dumps:
        pieces = [(len(piece.latencies_ns), piece.waited_ns, piece.wall_ns) for piece in dump_.pieces]
        latencies = [latency for piece in dump_.pieces for latency in piece.latencies_ns]
        recordings.append(Recording(dump_.head, latencies, pieces))
    return points, recordings


def again(recordings: list[Recording], files: dict[str, Files], points: Sequence[Point], seconds: float) -> None:
    """Record quiet dumps anew that were disturbed; keep the better of both."""
    known = {point.key: point for point in points}
    for place, old in enumerate(recordings):
        if old.head.condition == "quiet" and old.head.wait_ratio > MOST_WAIT["quiet"]:
            point = known[old.head.point]
            found = least_disturbed(files[point.candidate.name], point.point, point.key, "quiet", seconds)
            if found.head.wait_ratio < old.head.wait_ratio:
                recordings[place] = found
                print(f"again: {point.key}", file=sys.stderr)
                _say(found)


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
