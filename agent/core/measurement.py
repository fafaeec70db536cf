"""One measurement: a candidate at an operating point on this board, with the conditions it was taken under. Pure.

Rules:
- What was not seen is None, with the reason beside it; it is never 0.
- ``verdict`` is from a closed list; figures may be present only under the verdict they belong to.
- Raw latencies are kept (bounded by the measuring side), so that a result can be looked at again.
- ``key`` identifies what may be replaced by a newer measurement: same artifact, point and board class.
- An artifact is the model file as the engine opened it. ``size_bytes`` is what a board must transfer to have it (what
  the budget ``size`` limits); where that is a packed file, ``size_unpacked_bytes`` is the model's own size on disk.

History: ``boardfit.measurement/1`` first version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from agent.core.manifest import Candidate

SCHEMA = "boardfit.measurement/1"

Verdict = Literal[
    "ok",  # figures hold
    "refused",  # a static check refused it before it was run (format, operators, ISA, memory)
    "engine_missing",  # the engine or provider is not proven on this board
    "load_failed",  # the runtime refused the model
    "crashed",  # the worker died by a signal or exited without a result
    "timeout",  # wall-clock deadline
    "out_of_memory",  # memory cap or the kernel's OOM killer
    "wrong_output",  # golden outputs differ
    "bad_evaluation",  # the evaluation pack does not fit the model
    "contended",  # too few clean runs: not a number
    "interrupted",  # a stop was asked for
]


class OperatingPoint(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """How a model is run: engine, execution provider or delegate, threads, batch."""

    engine: str
    engine_version: str
    provider: str
    threads: int
    batch: int = 1

    @property
    def label(self) -> str:
        """A short stable text, e.g. ``onnxruntime/CPU x2``."""
        return f"{self.engine}/{self.provider_label} x{self.threads}"

    @property
    def provider_label(self) -> str:
        """The provider in short, every one of them where the nodes are shared out: ``CUDA+CPU``."""
        return "+".join(name.removesuffix("ExecutionProvider") for name in self.provider.split("+"))


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A value with its two-sided 95 % interval; a None bound is unknown."""

    value: float
    low: float | None = None
    high: float | None = None


class LatencyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Steady-state latency of single inferences in seconds, timed inside the worker."""

    n: int
    p50_s: Figure
    p90_s: Figure
    p95_s: Figure
    p99_s: Figure
    mean_s: Figure
    min_s: float
    max_s: float
    warmup_runs: int
    warmup_settled: bool
    throughput_per_s: float
    run_queue_wait_ratio: float | None = None  # time runnable but not running / wall, from schedstat
    involuntary_switches: int | None = None
    contended_runs: int = 0  # runs in blocks that waited for a core: left out of every figure here
    autocorrelation: float | None = None  # lag 1, of the ranks of the runs in order; intervals allow for it
    effective_n: int | None = None  # independent runs that n is worth at the worst of the four percentiles
    process_n: tuple[int, ...] = ()  # runs of each process, in order, where there were several: intervals allow for it


class MemoryFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the worker in bytes. ``methods`` says by name how a figure was had, ``reasons`` why there is none.

    The budget ``memory_peak`` is held against ``admission_peak_bytes``: interpreter, engine, load, first inference,
    warm-up, timed runs and the power window, which repeats the timed runs. Evaluation and golden outputs come later
    and hold arrays of the harness that no deployment has, so ``later_peak_bytes``, which counts them too, decides
    nothing.
    """

    admission_peak_bytes: int  # VmHWM since spawn: what the board must have free
    model_peak_bytes: int | None  # VmHWM after reset, less the imported runtime's RSS
    model_steady_bytes: int | None  # RSS after the runs, less the imported runtime's RSS
    runtime_baseline_bytes: int | None  # RSS with the runtime imported and no model
    model_anonymous_bytes: int | None = None  # of model_steady_bytes; the kernel keeps no peak of the parts
    model_file_bytes: int | None = None
    method: str = "VmHWM, reset by clear_refs after import"
    swapped_bytes: int | None = None  # of the worker, after the timed runs: not in any resident figure
    later_peak_bytes: int | None = None  # VmHWM after evaluation and golden outputs, the harness's arrays included
    cgroup_peak_bytes: int | None = None  # of the worker's own group: what the kernel kills for
    accelerator_bytes: int | None = None  # on the accelerator; never part of the figures above
    methods: dict[str, str] = {}
    reasons: dict[str, str] = {}


class PowerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Power and energy over a window of their own, taken after the latency runs.

    ``energy_per_inference_j`` is (E_window - idle_w * t) / n; ``mean_w`` includes idle. Their intervals are
    those of the mean if one went on (autocorrelation of the readings allowed for), missing values and the meter's step
    and accuracy included as far as they are known; the uncertainties are those of this window: ``agent.core.power``.
    """

    source: str
    scope: str  # board | module | package | gpu | rails | estimated: what of the board it is the power of
    mean_w: Figure
    idle_w: float | None
    energy_per_inference_j: Figure | None
    window_s: float
    inferences: int
    samples: int
    sample_rate_hz: float  # achieved, missing values included
    method: str = "trapezoid"  # or "counter": the difference of an energy counter
    period_s: float | None = None  # how often the meter has a new value
    missed_samples: int = 0  # values that should have come in the window and did not
    skipped_reads: int = 0  # reads in the window that the meter put off (EAGAIN and its like)
    resolution_w: float | None = None  # the meter's step, of a counter spread over the window; None is unknown
    accuracy_ratio: float | None = None  # the maker's bound on the error, a share of the value; None is unknown
    uncertainty_w: float | None = None  # of the mean over this window, at 95 %; the interval of mean_w goes on from it
    energy_uncertainty_j: float | None = None  # likewise of energy_per_inference_j
    idle_samples: int = 0
    idle_window_s: float | None = None


class SustainedFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What became of latency and power when the model ran without pause until the board was as warm as it gets.

    ``latency_*`` are of the last window and None unless ``steady``; ``reason`` says by what it was judged, or why it is
    not. A run that throttled on the way is the board's truth, and ``flags`` say so.
    """

    measured_at: str  # UTC, ISO 8601 with Z
    steady: bool
    reason: str
    duration_s: float  # without pause, until it was steady or given up
    window_s: float  # of the runs that the figures are of
    n: int = 0
    latency_p50_s: Figure | None = None
    latency_p95_s: Figure | None = None
    throughput_per_s: float | None = None
    contended_blocks: int = 0  # that waited for a core: left out
    blocks: int = 0
    temperature_before_celsius: float | None = None
    temperature_after_celsius: float | None = None
    flags: tuple[str, ...] = ()
    power_mean_w: Figure | None = None  # over a window of its own, right after
    power_source: str | None = None
    power_scope: str | None = None
    power_reason: str | None = None


class AccuracyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Top-1 accuracy on the evaluation pack with its exact interval.

    ``correct_bits`` is the hex of one bit per sample (first sample = highest bit of the first byte), kept so that two
    candidates can be compared sample by sample; empty above the kept size.
    """

    top1: Figure
    correct: int
    n: int
    pack_sha256: str
    correct_bits: str = ""
    pack_n: int | None = None  # samples the pack has; more than ``n`` where a test was decided before its end

    @property
    def whole(self) -> bool:
        """Whether the whole pack was judged."""
        return self.pack_n is None or self.n >= self.pack_n

    def hits(self) -> int | None:
        """Return the kept results as an integer of ``n`` bits, None where they are missing or contradict the counts."""
        length = (self.n + 7) // 8
        if len(self.correct_bits) != 2 * length:
            return None
        try:
            bits = int(self.correct_bits, 16) >> (8 * length - self.n)
        except ValueError:
            return None
        return bits if bits.bit_count() == self.correct else None


def bits_text(hits: int, n: int) -> str:
    """Return ``correct_bits`` of ``n`` results given as one integer: the reverse of ``AccuracyFigures.hits``."""
    length = (n + 7) // 8
    return f"{hits << (8 * length - n):0{2 * length}x}"


class GoldenResult(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison with the publisher's golden outputs."""

    checked: bool
    passed: bool | None
    max_abs_error: float | None = None
    tolerance: float | None = None
    reason: str | None = None
    samples: int | None = None
    samples_off: int | None = None  # that differ by more than is allowed
    max_rel_error: float | None = None  # the largest difference over the largest magnitude of that golden output


class ContextReading(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the machine at one moment; None is "this board does not say"."""

    monotonic_s: float
    temperature_celsius: float | None = None
    temperature_zone: str | None = None
    clock_hz: float | None = None  # mean of scaling_cur_freq over usable cores
    clock_max_hz: float | None = None
    governor: str | None = None
    load_1min: float | None = None
    steal_ratio: float | None = None  # since the previous reading; None on the first
    throttle_now: tuple[str, ...] | None = None  # names of bits set now; () is "none set"
    throttle_counts: dict[str, int] | None = None  # monotonic counters since boot
    supply_ok: bool | None = None
    memory_available_bytes: int | None = None
    power_mode: str | None = None
    notes: tuple[str, ...] = ()


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions before and after, and what changed in between that matters."""

    before: ContextReading
    after: ContextReading
    flags: tuple[str, ...] = ()  # throttled, clock_changed, hot, steal, low_supply, contended ...


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Which provider or delegate really ran the nodes, as the runtime tells after load.

    ``fallback``: nodes ran elsewhere than the point says, so its figures are not those of the provider it names. A
    model of which a provider took a part is measured at a point that names every provider, and is no fallback there.
    """

    requested: str
    actual: tuple[str, ...]
    nodes_delegated: int | None = None
    nodes_total: int | None = None
    fallback: bool = False
    nodes: dict[str, int] = {}  # by provider, as ``method`` counts them
    share: float | None = None  # of the nodes, on the provider asked for: 0..1
    method: str | None = None
    reason: str | None = None  # why ``nodes`` or ``share`` is not known
    left: dict[str, int] = {}  # nodes by operator that an accelerator left to the engine's own kernels


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What a sequential test said about one limit while the runs went on; see ``agent.core.sequential``.

    ``met`` and ``missed`` hold at the test's stated error however often it was looked at; ``open`` says nothing.
    """

    metric: str
    limit: float
    state: Literal["open", "met", "missed"]
    n: int  # runs or samples the test had seen when it was decided, or in all


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document.

    ``stopped`` says why it ended before everything was measured: a limit was missed, so that the rest could not matter.
    What was measured until then holds.
    """

    id: str
    task: str
    candidate: str
    artifact_sha256: str
    size_bytes: int
    point: OperatingPoint
    class_fingerprint: str
    verdict: Verdict
    started_at: str  # UTC, ISO 8601 with Z
    duration_s: float  # device seconds this measurement cost, spawn included
    schema: str = SCHEMA
    reason: str | None = None
    agent_version: str | None = None
    boot_id: str | None = None
    load_time_s: float | None = None
    first_inference_s: float | None = None
    latency: LatencyFigures | None = None
    memory: MemoryFigures | None = None
    power: PowerFigures | None = None
    power_reason: str | None = None
    accuracy: AccuracyFigures | None = None
    accuracy_reason: str | None = None
    golden: GoldenResult | None = None
    placement: Placement | None = None
    context: Context | None = None
    confinement: tuple[str, ...] = ()  # session, rlimit_*, no_new_privs, landlock_abi_N, seccomp, memory_group ...
    latencies_s: tuple[float, ...] = ()
    latencies_dropped: int = 0
    proofs: tuple[Proof, ...] = ()
    stopped: str | None = None
    size_unpacked_bytes: int | None = None  # None: what is transferred is the model file itself
    sustained: SustainedFigures | None = None  # of another run, later than the rest; None: there was none
    engine_build_s: float | None = None  # what an accelerator took to build its engine, kept since; not in load_time_s
    engine_build_reason: str | None = None  # why there is none; at a point of the engine's own kernels there never is

    @property
    def key(self) -> tuple[str, str, OperatingPoint, str]:
        """What a newer measurement replaces: task, artifact, point and board class."""
        return (self.task, self.artifact_sha256, self.point, self.class_fingerprint)


def as_listed(measurements: Iterable[Measurement], candidates: Iterable[Candidate]) -> tuple[Measurement, ...]:
    """Return the measurements with the sizes under which their artifacts are published now.

    A model measured before may be published packed since: what was measured stands, what it takes to have it changed.
    Candidates of the same name and artifact come first, then any of the same artifact.
    """
    sizes: dict[tuple[str, str, str], tuple[int, int | None]] = {}
    for one in candidates:
        found = (one.size_bytes, one.size_unpacked_bytes)
        sizes[one.task, one.sha256, one.name] = found
        sizes.setdefault((one.task, one.sha256, ""), found)
    listed = []
    for item in measurements:
        artifact = (item.task, item.artifact_sha256)
        now = sizes.get((*artifact, item.candidate)) or sizes.get((*artifact, ""))
        size, unpacked = now or (item.size_bytes, item.size_unpacked_bytes)
        listed.append(msgspec.structs.replace(item, size_bytes=size, size_unpacked_bytes=unpacked))
    return tuple(listed)


def summary_document(measurement: Measurement) -> dict[str, Any]:
    """Return the JSON-ready mapping without raw values: what travels over MQTT and stands in tables."""
    document = msgspec.to_builtins(measurement)
    del document["latencies_s"]
    if document["accuracy"]:
        document["accuracy"].pop("correct_bits")
    return dict(document)
