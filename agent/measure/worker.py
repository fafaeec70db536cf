"""The measuring child: reads one job, runs its phases, says what it saw, and ends.

    python -m agent.measure.worker EVENT_FD PARENT_PID        started by ``agent.measure.supervisor`` only

Rules:
- Whatever goes wrong is one ``Failed`` event with a verdict and a sentence; a death by signal is the parent's to judge.
- The model file's structure is looked at before an engine sees it, and neither happens outside of the sandbox.
- The engine is imported before the model is opened, with a pause in between in which the parent reads the memory.
- Golden data and evaluation are opened after the timed runs, so that they count for neither latency nor memory; golden
  data first: a limit on accuracy that wrong outputs miss must not end the measurement before they are seen to be wrong.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from agent.measure.confine import confine, limit_address_space
from agent.measure.exercise import run_on, run_window, time_runs, warm_up
from agent.measure.protocol import (
    GO,
    MAX_EVENT_BYTES,
    MAX_JOB_BYTES,
    UNANSWERED,
    Done,
    Event,
    Failed,
    FirstRun,
    GoldenChecked,
    Imported,
    Job,
    Loaded,
    ProtocolError,
    Started,
    Tick,
    WindowOpen,
    decode_job,
)
from agent.runtimes.structure import StructureError, check_structure
from agent.runtimes.table import EngineUnavailableError, Runtime, engine_row, runtime_class

FaultVerdict = Literal["engine_missing", "load_failed", "crashed", "out_of_memory", "bad_evaluation", "wrong_output"]
_REASON_CHARACTERS = 300
_PATH = re.compile(r"(?<![\w.])/(?:[\w.+~-]+/)+[\w.+~-]+")  # engines name the cache's file, which tells nobody anything
_MEMORY_WORDS = ("failed to allocate", "bad_alloc", "bad allocation", "out of memory", "cannot allocate")


class PhaseFailedError(Exception):
    """A phase ended; carries the event that says so."""

    def __init__(self, verdict: FaultVerdict, reason: str) -> None:
        super().__init__(reason)
        self.event = Failed(verdict=verdict, reason=reason)


class Channel:
    """The pipe to the parent and its answers."""

    def __init__(self, event_fd: int, answers: BinaryIO) -> None:
        self._fd = event_fd
        self._answers = answers

    def read_job(self) -> Job:
        """Read the first line. Raises: ProtocolError."""
        return decode_job(self._answers.readline(MAX_JOB_BYTES))

    def say(self, event: Event) -> None:
        """Send an event and wait for ``go`` if it is one that waits. Raises: ProtocolError: too long, or no ``go``."""
        line = memoryview(msgspec.json.encode(event) + b"\n")
        if len(line) > MAX_EVENT_BYTES:
            raise ProtocolError(f"an event of {len(line)} bytes")
        while line:
            line = line[os.write(self._fd, line) :]
        if not isinstance(event, UNANSWERED) and self._answers.readline(len(GO)) != GO:
            raise ProtocolError("the parent did not say go")


@contextmanager
def phase(verdict: FaultVerdict, doing: str) -> Iterator[None]:
    """Turn whatever an engine raises into a verdict and one sentence.

    Raises: PhaseFailedError: always in place of the foreign exception.
    """
    try:
        yield
    except (PhaseFailedError, ProtocolError):
        raise
    except EngineUnavailableError as error:
        raise PhaseFailedError("engine_missing", _sentence(error)) from error
    except MemoryError as error:
        raise PhaseFailedError("out_of_memory", f"memory ran out while {doing}") from error
    except Exception as error:
        text = _sentence(error)
        if any(word in text.lower() for word in _MEMORY_WORDS):
            raise PhaseFailedError("out_of_memory", f"memory ran out while {doing}: {text}") from error
        raise PhaseFailedError(verdict, f"{doing} failed: {text}") from error


def _sentence(error: Exception) -> str:
    """Return an exception's text on one line, short enough for a table."""
    text = _PATH.sub("the model file", " ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= _REASON_CHARACTERS else text[: _REASON_CHARACTERS - 1] + "…"


def work(job: Job, channel: Channel) -> None:
    """Run every phase of a job. Raises: PhaseFailedError: one failed. ProtocolError: the parent is not as expected."""
    with phase("load_failed", "looking at the model file"):
        try:
            check_structure(Path(job.model), engine_row(job.point.engine).formats[0])
        except StructureError as error:
            raise PhaseFailedError("load_failed", f"the model is refused: {error}") from error
    if job.keep is not None:
        from agent.measure.engine_cache import DRIVER_CACHE

        os.environ["CUDA_CACHE_PATH"] = str(Path(job.keep) / DRIVER_CACHE)
    with phase("engine_missing", "importing the engine"):
        engine = runtime_class(job.point.engine)
        from agent.measure import evaluate as feeding

        if job.memory_growth_bytes is not None:
            limit_address_space(job.memory_growth_bytes)
    channel.say(Imported())
    with phase("load_failed", "loading the model"):
        begin = time.perf_counter()
        runtime = engine.load(Path(job.model), job.point, *(() if job.keep is None else (Path(job.keep),)))
        shapes = feeding.resolve_shapes(runtime, job)
        runtime.resize(shapes)
        load_time_s = time.perf_counter() - begin
        placement = runtime.placement()
    channel.say(Loaded(load_time_s=load_time_s, placement=placement, inputs=runtime.inputs, outputs=runtime.outputs))
    with phase("load_failed", "the first inference"):
        for index, shape in enumerate(shapes):
            runtime.set_input(index, feeding.synthetic(runtime.inputs[index], shape))
        begin = time.perf_counter()
        runtime.run()
        first_s = time.perf_counter() - begin
    channel.say(FirstRun(first_inference_s=first_s))
    with phase("crashed", "running the model"):
        _exercise(job, channel, runtime)
    if job.golden is not None:
        with phase("crashed", "checking golden outputs"):
            result = feeding.check_golden(runtime, shapes, job.golden)
        channel.say(GoldenChecked(result=result))
    with phase("crashed", "evaluating accuracy"):
        _evaluate(job, channel, runtime, shapes)
    channel.say(Done())


def _exercise(job: Job, channel: Channel, runtime: Runtime) -> None:
    if job.heat is not None:
        for block in run_on(runtime.run, job.heat):
            channel.say(block)
    if job.timing is not None:
        channel.say(warm_up(runtime.run, job.timing))
        channel.say(time_runs(runtime.run, job.timing))
    if job.power_window_s is not None:
        channel.say(WindowOpen())
        channel.say(run_window(runtime.run, job.power_window_s))


def _evaluate(job: Job, channel: Channel, runtime: Runtime, shapes: tuple[tuple[int, ...], ...]) -> None:
    if job.evaluation is None:
        return
    from agent.measure.evaluate import PackError, evaluate

    try:
        result = evaluate(runtime, shapes[0], job, lambda done, total: channel.say(Tick(done=done, total=total)))
    except PackError as error:
        raise PhaseFailedError("bad_evaluation", _sentence(error)) from error
    channel.say(result)


def main(arguments: list[str]) -> int:
    """Work one job. Returns: 0 when every outcome was told to the parent, 1 when the parent is not there to be told."""
    event_fd, parent_pid = int(arguments[0]), int(arguments[1])
    channel = Channel(event_fd, sys.stdin.buffer)
    try:
        job = channel.read_job()
        channel.say(Started(confinement=confine(job, parent_pid)))
        try:
            work(job, channel)
        except PhaseFailedError as error:
            channel.say(error.event)
    except (ProtocolError, BrokenPipeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    # Engines' destructors are not what is measured, and some of them hang or crash at exit.
    os._exit(code)
