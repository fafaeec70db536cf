"""A worker that is played from the bank: the product's own code on recorded time.

Nothing here measures. ``measure`` calls the product's ``measure_one``; in the place of the child stands ``Played``,
which says the worker's events. What the worker computes in between is computed by the worker's own functions
(``warm_up``, ``time_runs``, ``run_window``, ``evaluate``); only the clock they read is moved on by recorded runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from agent.core.facts import BoardIdentity, CpuFacts, DeviceFacts, EngineFacts, MemoryFacts, OsFacts
from agent.core.manifest import Candidate, TensorSpec
from agent.core.measurement import ContextReading, Measurement, OperatingPoint, Placement
from agent.core.ports import PowerSample, ProcessMemory
from agent.measure import bench, evaluate, exercise, sampler
from agent.measure.protocol import (
    AnyEvent,
    Done,
    FirstRun,
    GoldenChecked,
    Imported,
    Job,
    Loaded,
    Started,
    Tick,
    WindowOpen,
)
from agent.measure.supervisor import ChildEndedError
from benchmarks.replay.bank import Dump, Point

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
WARM_RUNS = 60  # of a dump's beginning, played once; what comes after may be entered anywhere
_PID = 1


class Time:
    """A clock that is moved on by hand, with the names of the module ``time``."""

    def __init__(self) -> None:
        self.now_ns = 0

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)

    sleep = pass_s

    def perf_counter_ns(self) -> int:
        return self.now_ns

    monotonic_ns = thread_time_ns = perf_counter_ns  # what was lost is in the recorded waits

    def perf_counter(self) -> float:
        return self.now_ns / 1e9

    monotonic = monotonic_s = perf_counter

    def utc(self) -> datetime:
        return BEGIN + timedelta(microseconds=self.now_ns // 1000)


class Power(NamedTuple):
    """A declared power model in watts: the bank has no recorded power. ``noise`` is the relative sigma of a reading."""

    idle_w: float
    running_w: float
    noise: float = 0.02


class Meter:
    """A power meter that reads a declared model."""

    name = "declared power model"
    scope = "board"
    period_s = 0.05

    def __init__(self, time: Time, power: Power, seed: int) -> None:
        self._time, self._power = time, power
        self._random = np.random.default_rng(seed)
        self.running = False

    def read(self) -> PowerSample:
        """Return a reading at the present time."""
        mean_w = self._power.running_w if self.running else self._power.idle_w
        power_w = mean_w * (1.0 + self._power.noise * float(self._random.standard_normal()))
        return PowerSample(monotonic_s=self._time.monotonic(), power_w=power_w)


class Board:
    """What the product reads of the board: nothing but the worker's recorded memory and the declared power."""

    def __init__(self, time: Time, point: Point, meter: Meter | None) -> None:
        self._time, self._memory, self._meter = time, point.memory, meter
        self._after = False

    def read_context(self) -> ContextReading:
        return ContextReading(monotonic_s=self._time.monotonic())

    def power_meters(self) -> tuple[Any, ...]:
        return (self._meter,) if self._meter is not None else ()

    def power_absence(self) -> str:
        return "the bank has no recorded power"

    def process_memory(self, pid: int) -> ProcessMemory | None:  # noqa: ARG002
        """Return the recorded memory: with the engine alone when first asked, after the runs from then on."""
        if self._memory is None or self._memory.runtime_baseline_bytes is None:
            return None
        base, steady = self._memory.runtime_baseline_bytes, self._memory.model_steady_bytes or 0
        if not self._after:
            return ProcessMemory(rss_bytes=base, peak_bytes=base)
        return ProcessMemory(rss_bytes=base + steady, peak_bytes=self._memory.admission_peak_bytes)

    def reset_peak_memory(self, pid: int) -> bool:  # noqa: ARG002
        self._after = True
        return True

    def scheduler_counters(self, pid: int) -> None:  # noqa: ARG002
        return None

    def __getattr__(self, name: str) -> Any:
        """Answer what a later product may ask, too: this board does not say."""
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: None


class Runs:
    """The runs of a dump as a worker's ``run``: each call moves the clock on by the next recorded run.

    After the first ``WARM_RUNS`` it goes on at a piece drawn from the seed, and from the last piece to the first: a
    dump that is shorter than what is asked of it is repeated in whole pieces.
    """

    def __init__(self, time: Time, dump: Dump, seed: int) -> None:
        self._time = time
        self._wait_ns = 0.0
        self._steps = self._walk(dump, seed)
        self.tick: Callable[[], None] | None = None
        self._tick_s = 0.0
        self._next_tick_s = 0.0

    def every(self, tick: Callable[[], None] | None, tick_s: float) -> None:
        """Call ``tick`` about every ``tick_s`` seconds while runs go on; None ends that."""
        self.tick, self._tick_s, self._next_tick_s = tick, tick_s, self._time.monotonic() + tick_s

    def __call__(self) -> None:
        latency_ns, waited_ns = next(self._steps)
        self._time.now_ns += latency_ns
        self._wait_ns += waited_ns
        if self.tick is not None and self._time.monotonic() >= self._next_tick_s:
            self._next_tick_s += self._tick_s
            self.tick()

    def wait_ns(self) -> int:
        """Stand in for ``exercise.own_wait_ns``."""
        return round(self._wait_ns)

    @staticmethod
    def _walk(dump: Dump, seed: int) -> Iterator[tuple[int, float]]:
        pieces = dump.pieces
        cold, runs = 0, 0
        while runs < WARM_RUNS and cold < len(pieces) - 1:
            runs += len(pieces[cold].latencies_ns)
            cold += 1
        place, first = 0, True
        while True:
            piece = pieces[place]
            total = sum(piece.latencies_ns)
            for latency_ns in piece.latencies_ns:
                yield latency_ns, piece.waited_ns * latency_ns / total
            place += 1
            if first and place == cold:
                first, place = False, cold + int(np.random.default_rng(seed).integers(len(pieces) - cold))
            elif place == len(pieces):
                place = cold if cold < len(pieces) else 0


class _Samples:
    """A runtime that answers as recorded: it gets a sample's number and says class 0 where it was right."""

    inputs = (TensorSpec(name="number", dtype="float32", shape=(1, 1)),)
    outputs = (TensorSpec(name="scores", dtype="float32", shape=(1, 2)),)

    def __init__(self, time: Time, hits: np.ndarray[Any, Any], each_s: float) -> None:
        self._time, self._hits, self._each_s = time, hits, each_s
        self._number = 0

    def reset(self) -> None:
        pass

    def set_input(self, index: int, array: np.ndarray[Any, Any]) -> None:  # noqa: ARG002
        self._number = int(array[0, 0])

    def run(self) -> None:
        self._time.pass_s(self._each_s)

    def output(self, index: int) -> np.ndarray[Any, Any]:  # noqa: ARG002
        return np.array([[1.0, 0.0] if self._hits[self._number] else [0.0, 1.0]], np.float32)


@cache
def _numbers_pack(n: int) -> str:
    """Write a pack whose samples are their own numbers and whose labels are all 0; kept as long as the process."""
    folder = tempfile.TemporaryDirectory(prefix="boardfit-replay-")
    _kept.append(folder)
    path = Path(folder.name) / "pack.npz"
    np.savez(path, inputs=np.arange(n, dtype=np.float32).reshape(n, 1), labels=np.zeros(n, np.int64))
    return str(path)


_kept: list[tempfile.TemporaryDirectory[str]] = []


class Subject(NamedTuple):
    """One attempt at one point, as a case asks for it."""

    point: Point
    dump: Dump | None  # None where the point does not load
    seed: int
    power: Power | None = None


class Played:
    """In the place of ``supervisor.Child``: the events of a worker that behaves as recorded."""

    pid = _PID

    def __init__(self, subject: Subject, time: Time, meter: Meter | None, job: Job) -> None:
        self._subject, self._time, self._meter, self._job = subject, time, meter, job
        self._runs = Runs(time, subject.dump, subject.seed) if subject.dump is not None else None
        self._events: Generator[AnyEvent] = self._work()

    def __enter__(self) -> Played:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        self._time.pass_s(self._subject.point.ending_s)

    def go(self) -> None:
        pass

    def next_event(self, tick: Callable[[], None] | None = None, tick_s: float = 0.1) -> AnyEvent:
        if self._runs is not None:
            self._runs.every(tick, tick_s)
        return next(self._events)

    def _work(self) -> Generator[AnyEvent]:
        point, time, job = self._subject.point, self._time, self._job
        if self._runs is None or self._subject.dump is None:
            yield Started(confinement=())
            time.pass_s(point.died_s or 0.0)
            assert point.verdict not in ("ok", "wrong_output")
            raise ChildEndedError(point.verdict, point.reason or "")
        head = self._subject.dump.head
        time.pass_s(head.spawn_s)
        yield Started(confinement=())
        yield Imported()
        time.pass_s(head.load_s)
        placement = point.placement or Placement(requested=point.point.provider, actual=(point.point.provider,))
        yield Loaded(load_time_s=head.load_s, placement=placement, inputs=(), outputs=())
        time.pass_s(head.first_s)
        yield FirstRun(first_inference_s=head.first_s)
        with self._recorded_time():
            if job.timing is not None:
                yield exercise.warm_up(self._runs, job.timing)
                yield exercise.time_runs(self._runs, job.timing)
            if job.power_window_s is not None:
                assert self._meter is not None
                yield WindowOpen()
                self._meter.running = True
                yield exercise.run_window(self._runs, job.power_window_s)
            if job.evaluation is not None and point.accuracy is not None:
                yield from self._evaluate()
        if job.golden is not None and point.golden is not None:
            time.pass_s(point.golden_s or 0.0)
            yield GoldenChecked(result=point.golden)
        yield Done()

    def _evaluate(self) -> Iterator[AnyEvent]:
        accuracy = self._subject.point.accuracy
        assert accuracy is not None
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(accuracy.correct_bits), np.uint8))[: accuracy.n]
        each_s = (self._subject.point.evaluation_s or 0.0) / accuracy.n
        runtime: Any = _Samples(self._time, bits.astype(bool), each_s)
        job = Job(
            **{name: getattr(self._job, name) for name in self._job.__struct_fields__}
            | {"evaluation": _numbers_pack(accuracy.n), "preprocessing": (), "inputs": (), "label_offset": 0}
        )
        ticks: list[Tick] = []
        yield evaluate.evaluate(runtime, (1, 1), job, lambda done, total: ticks.append(Tick(done=done, total=total)))

    @contextmanager
    def _recorded_time(self) -> Iterator[None]:
        assert self._runs is not None
        with (
            mock.patch.object(exercise, "time", self._time),
            mock.patch.object(exercise, "own_wait_ns", self._runs.wait_ns),
            mock.patch.object(exercise, "gc", mock.Mock()),
            mock.patch.object(evaluate, "time", self._time),
        ):
            yield


def facts_for(points: Any) -> DeviceFacts:
    """Return a board that offers what the given operating points need."""
    found: dict[str, EngineFacts] = {}
    for point in points:
        old = found.get(point.engine)
        providers = tuple(sorted({*(old.providers if old else ()), point.provider}))
        found[point.engine] = EngineFacts(
            name=point.engine, formats=("onnx",) if point.engine == "onnxruntime" else ("tflite",),
            version=point.engine_version, providers=providers, proven=True,
        )  # fmt: skip
    return DeviceFacts(
        board=BoardIdentity(model=None, profile="generic", matched_on="replay"),
        cpu=CpuFacts(architecture="x86_64", present=(0, 1), usable=(0, 1)),
        memory=MemoryFacts(total_bytes=1 << 40),
        os=OsFacts(),
        class_fingerprint="replay",
        engines=tuple(found.values()),
    )


def measure(
    subject: Subject, candidate: Candidate, point: OperatingPoint, facts: DeviceFacts, time: Time, **options: Any
) -> Measurement:
    """Let the product measure one point on recorded time.

    Returns: its measurement; ``time`` has moved on by what it cost.
    """
    recorded = subject.point
    meter = Meter(time, subject.power, subject.seed) if subject.power is not None else None
    board: Any = Board(time, recorded, meter)

    def child(job: Job, **_: Any) -> Played:
        return Played(subject, time, meter, job)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(bench, "Child", child))
        stack.enter_context(mock.patch.object(sampler.read_idle, "__defaults__", (time.sleep, time.monotonic)))
        stack.enter_context(mock.patch.object(sampler.PowerSeries.__init__, "__defaults__", (time.monotonic,)))
        return bench.measure_one(
            candidate, point, Path("/recorded"),
            Path("/golden") if recorded.golden is not None else None,
            Path("/pack") if recorded.accuracy is not None else None,
            facts=facts, board=board, clock=time, **options,
        )  # fmt: skip
