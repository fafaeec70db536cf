"""What the agent and a measuring child say to each other. Pure.

Parent to child, on stdin: one line, the ``Job``; then a line ``go`` after each event that waits. Child to parent, on a
pipe of its own: one JSON line per event, in the order of the classes below; phases that the job does not ask for are
left out.
Every event but ``Tick``, ``Block``, ``Failed`` and ``Done`` waits for ``go``, so that the parent can read the child
from outside.

The parent trusts no event: lines are capped, decoding is strict, and the order is checked.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from agent.core.manifest import TensorSpec
from agent.core.measurement import GoldenResult, OperatingPoint, Placement, Proof

SCHEMA: Literal["boardfit.job/1"] = "boardfit.job/1"
MAX_JOB_BYTES = 48 << 10  # below a pipe's capacity, so that sending it never blocks
MAX_EVENT_BYTES = 4 << 20  # 100,000 latencies fit
GO = b"go\n"


class LatencyTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit on the q-quantile of latency in seconds, watched while runs are timed.

    Missed, it ends the timing. ``decides``: timing also goes on, within the plan's caps, until it is decided.
    """

    metric: str
    q: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    limit_s: float
    decides: bool = True


class AccuracyTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lower limit on top-1 accuracy. Missed, it ends the evaluation; met, only if ``may_stop_when_met``."""

    limit: float
    may_stop_when_met: bool = False


class TimingPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long to warm up and to time. Runs come in blocks; a block that waited for a core is left out."""

    min_runs: int
    min_time_s: float
    max_runs: int
    max_time_s: float
    warmup_max_runs: int
    warmup_max_s: float
    block_runs: int
    block_s: float
    contended_wait_ratio: float | None  # None keeps every block
    contended_patience_s: float
    one_thread: bool = False  # the model runs in one thread and on no accelerator: it never blocks by itself
    tests: tuple[LatencyTest, ...] = ()
    bounded: tuple[Annotated[float, msgspec.Meta(gt=0, lt=1)], ...] = ()  # quantiles to time until bounded from above


class HeatPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to run on without pause, until the parent ends the child, or ``max_s`` at most."""

    max_s: float
    block_s: float
    kept: int = 500  # latencies told of a block, evenly taken
    one_thread: bool = False  # as in ``TimingPlan``


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measurement as the child is told it. None or empty leaves a phase out."""

    model: str
    point: OperatingPoint
    schema: Literal["boardfit.job/1"] = SCHEMA
    inputs: tuple[TensorSpec, ...] = ()  # the manifest's, for dynamic dimensions and missing quantization
    timing: TimingPlan | None = None
    heat: HeatPlan | None = None
    power_window_s: float | None = None
    evaluation: str | None = None
    accuracy_time_s: float = 60.0
    accuracy_test: AccuracyTest | None = None
    preprocessing: tuple[dict[str, Any], ...] = ()
    label_offset: int = 0
    golden: str | None = None
    keep: str | None = None  # folder in which a provider keeps what it built for this model at this point
    memory_growth_bytes: int | None = None
    file_size_bytes: int | None = 0
    cpu_s: int | None = None
    open_files: int = 256


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="event"):
    """Base of what the child says."""


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """The child runs, confined as listed, and has read its job."""

    confinement: tuple[str, ...]


class Imported(Event, frozen=True, kw_only=True, tag="imported"):
    """The engine is imported and no model is open yet: the memory baseline."""


class Loaded(Event, frozen=True, kw_only=True, tag="loaded"):
    """The model is open and its tensors are allocated."""

    load_time_s: float
    placement: Placement
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class FirstRun(Event, frozen=True, kw_only=True, tag="first_run"):
    """The first inference is done."""

    first_inference_s: float


class Block(Event, frozen=True, kw_only=True, tag="block"):
    """One block of runs without pause: every so-maniest latency; ``at_s`` is its end since the first block began."""

    latencies_ns: tuple[Annotated[int, msgspec.Meta(ge=1)], ...]
    runs: Annotated[int, msgspec.Meta(ge=1)]
    at_s: Annotated[float, msgspec.Meta(gt=0)]
    wall_s: Annotated[float, msgspec.Meta(gt=0)]
    waited_s: Annotated[float, msgspec.Meta(ge=0)] | None  # for a core, all its threads together


class Warm(Event, frozen=True, kw_only=True, tag="warm"):
    """Warm-up is over: the runs it took, and whether two blocks agreed."""

    runs: int
    settled: bool


class Timed(Event, frozen=True, kw_only=True, tag="timed"):
    """The timed runs, in order. ``contended_runs`` stood in blocks that waited for a core and are not in the list."""

    latencies_ns: tuple[Annotated[int, msgspec.Meta(ge=1)], ...]
    elapsed_s: Annotated[float, msgspec.Meta(gt=0)]
    contended_runs: Annotated[int, msgspec.Meta(ge=0)]
    wait_ratio: Annotated[float, msgspec.Meta(ge=0)] | None
    proofs: tuple[Proof, ...] = ()


class WindowOpen(Event, frozen=True, kw_only=True, tag="window_open"):
    """The power window is about to begin."""


class WindowClosed(Event, frozen=True, kw_only=True, tag="window_closed"):
    """The power window is over: inferences done in it and its length by the child's clock."""

    inferences: Annotated[int, msgspec.Meta(ge=1)]
    elapsed_s: Annotated[float, msgspec.Meta(gt=0)]


class Evaluated(Event, frozen=True, kw_only=True, tag="evaluated"):
    """Accuracy: one bit per sample, first sample highest; or the reason why there is none.

    A test that ended the evaluation early leaves ``n`` below ``pack_n`` and no bits.
    """

    pack_n: Annotated[int, msgspec.Meta(ge=0)] = 0
    proof: Proof | None = None
    n: Annotated[int, msgspec.Meta(ge=0)] = 0
    correct: Annotated[int, msgspec.Meta(ge=0)] = 0
    correct_bits: str = ""
    reason: str | None = None


class GoldenChecked(Event, frozen=True, kw_only=True, tag="golden"):
    """Golden outputs compared."""

    result: GoldenResult


class Tick(Event, frozen=True, kw_only=True, tag="tick"):
    """Progress within the evaluation."""

    done: int
    total: int


class Failed(Event, frozen=True, kw_only=True, tag="failed"):
    """The child cannot go on, and ends; ``verdict`` says whose fault it is."""

    verdict: Literal["engine_missing", "load_failed", "crashed", "out_of_memory", "bad_evaluation", "wrong_output"]
    reason: str


class Done(Event, frozen=True, kw_only=True, tag="done"):
    """All phases that were asked for are over."""


AnyEvent = (
    Started | Imported | Loaded | FirstRun | Warm | Timed | WindowOpen | WindowClosed | GoldenChecked | Evaluated
    | Tick | Block | Failed | Done
)  # fmt: skip
UNANSWERED = (Tick, Block, Failed, Done)
_ORDER = (
    Started, Imported, Loaded, FirstRun, Warm, Timed, WindowOpen, WindowClosed, GoldenChecked, Evaluated, Done,
)  # fmt: skip
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


class ProtocolError(Exception):
    """The child said something that is not an event, too long, or out of order."""


def encode_job(job: Job) -> bytes:
    """Return the job as one line. Raises: ProtocolError: it is longer than a child reads."""
    line = msgspec.json.encode(job) + b"\n"
    if len(line) > MAX_JOB_BYTES:
        raise ProtocolError(f"the job is {len(line)} bytes long, a child reads {MAX_JOB_BYTES}")
    return line


def decode_job(line: bytes) -> Job:
    """Read a job line strictly. Raises: ProtocolError: it is not a job of this version."""
    try:
        return msgspec.json.decode(line, type=Job)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a job: {error}") from error


def decode_event(line: bytes, previous: Event | None) -> AnyEvent:
    """Read one event line strictly; ``previous`` is the last before it that was no ``Tick`` or ``Block``.

    Raises: ProtocolError: it is not an event, or cannot follow ``previous``.
    """
    try:
        event = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not an event: {error}") from error
    if isinstance(event, Failed):
        return event
    reached = -1 if previous is None else _ORDER.index(type(previous))
    if isinstance(event, Tick):
        return event
    if isinstance(event, Block) and isinstance(previous, FirstRun):
        return event
    if isinstance(event, Block):
        raise ProtocolError("Block can follow FirstRun only")
    if _ORDER.index(type(event)) <= reached or (previous is None and not isinstance(event, Started)):
        name = "nothing" if previous is None else type(previous).__name__
        raise ProtocolError(f"{type(event).__name__} cannot follow {name}")
    return event
