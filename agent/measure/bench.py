"""Taking one measurement, and proving one release. What the rest of boardfit calls of this stage.

Rules:
- A candidate that fails is a measurement with a verdict and its reason; what was seen before it failed is kept.
- Figures of a contended run are not given: too few runs had their cores, so there is no number.
- The same worker measures and proves, so that what serves has gone through the same door as what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.core.budget import Budget
from agent.core.deployment import Deployment
from agent.core.facts import DeviceFacts
from agent.core.manifest import Candidate
from agent.core.measurement import Measurement, OperatingPoint, Verdict
from agent.core.ports import (
    BoardReadings,
    Clock,
    PowerMeter,
    ProbeResult,
    Progress,
    StopRequested,
    WorkerGroup,
    never_stop,
    no_progress,
)
from agent.core.statistics import percentile
from agent.errors import MeasurementError
from agent.measure.engine_cache import EngineCache
from agent.measure.latency_check import too_slow
from agent.measure.observer import SPOT, Observer
from agent.measure.plan import needs_proof, refusal
from agent.measure.protocol import AnyEvent, FirstRun, GoldenChecked, Job, Loaded, Timed, TimingPlan
from agent.measure.proving import Proven, job_with, prove, settle
from agent.measure.record import Ending, Subject, compose
from agent.measure.sampler import PowerSeries, choose_meter, read_idle
from agent.measure.settings import NOTHING_AT_STAKE, PROOF, MeasureSettings, Stakes
from agent.measure.supervisor import Child, ChildEndedError, is_last, needs_answer
from agent.runtimes.table import engine_row, is_cpu

_ACCELERATOR_FILE_BYTES = 64 << 20  # compiled kernels; a CPU engine writes no file
_DEFAULTS = MeasureSettings()


def measure_one(
    candidate: Candidate,
    point: OperatingPoint,
    artifact: Path,
    golden: Path | None,
    evaluation: Path | None,
    *,
    facts: DeviceFacts,
    board: BoardReadings,
    clock: Clock,
    settings: MeasureSettings = _DEFAULTS,
    stakes: Stakes = NOTHING_AT_STAKE,
    engines: EngineCache | None = None,
    progress: Progress = no_progress,
    stop: StopRequested = never_stop,
    agent_version: str | None = None,
    boot_id: str | None = None,
) -> Measurement:
    """Measure a candidate at one operating point in a fresh child; on an accelerator it is proven in another before.

    Args:
        artifact, golden, evaluation: local files whose digests were verified; without golden data or an evaluation pack
            those parts are left out, with a reason.
        stakes: limits that end the measurement once one is missed; what was not reached is then left out.
        engines: where accelerators keep what they build; None: it is built in every process.
        boot_id: the kernel's, so that counters of two measurements can be told apart; ``board`` does not give it.

    Returns: the whole measurement; every failure of the candidate is its verdict.
    Raises: MeasurementError: no child can be started here at all.
    """
    subject = Subject(candidate, point, artifact, golden, evaluation, facts, settings)
    observer = Observer(board, f"{candidate.name} {point.label}", progress)
    started_at, begin = clock.utc(), clock.monotonic_s()
    observer.read_context()
    verdict, reason = _refused(candidate, point, facts)
    stopped: str | None = None
    again: list[Observer] = []
    idle: PowerSeries | None = None
    power_reason: str | None = "not reached"
    proven = Proven()
    if verdict == "ok" and needs_proof(point):
        proven = _prove_point(subject, observer, engines, _Limits(clock, stop, settings.build_deadline_s), board)
        verdict, reason = proven.verdict, proven.reason
        subject = subject._replace(golden=None)  # compared already
    if verdict == "ok":
        meter, length_s, power_reason = (None, 0.0, SPOT) if stakes.spot else _power_plan(board, point, settings)
        if meter is not None:
            idle = read_idle(meter, length_s / 2.0, stop)
        limits = _Limits(clock, stop, settings.deadline_s + length_s, board.worker_group())
        drive = _Drive(observer, meter, stakes, settings)
        job = _job(subject, length_s if meter is not None else None, stakes)
        verdict, reason = _run(job_with(job, proven.entry, engines), drive, limits)
        proven = settle(proven, subject)
        stopped = drive.stopped
        if verdict == "ok" and stopped is None and stakes.repeated and observer.timed is not None:
            for number in range(2, settings.processes + 1):
                again.append(Observer(board, f"{observer.label}, process {number} of {settings.processes}", progress))
                alone = _job(subject._replace(golden=None, evaluation=None), None, NOTHING_AT_STAKE)
                alone = job_with(alone, proven.entry, engines)
                verdict, reason = _time_again(alone, again[-1], settings, limits._replace(group=board.worker_group()))
                if verdict != "ok":
                    reason = f"in process {number} of {settings.processes}: {reason}"
                    break
    if verdict == "ok" and observer.golden is not None and observer.golden.passed is False:
        verdict, reason, stopped = "wrong_output", observer.golden.reason, None  # final: no limit matters any more
    if len(observer.contexts) == 1:
        observer.read_context()
    ending = Ending(
        verdict, reason, started_at, clock.monotonic_s() - begin, agent_version, boot_id, stopped,
        proven.build_s, proven.build_reason,
    )  # fmt: skip
    return compose(subject, (observer, *again), ending, idle, power_reason)


def record_refusal(
    candidate: Candidate,
    point: OperatingPoint,
    *,
    facts: DeviceFacts,
    board: BoardReadings,
    clock: Clock,
    settings: MeasureSettings = _DEFAULTS,
    refused: str | None = None,
    agent_version: str | None = None,
    boot_id: str | None = None,
) -> Measurement:
    """Return the record of a candidate that a static check refuses; nothing is started and no file is needed.

    Args: refused: why it is refused at this point, where it is not refused at every one.
    """
    subject = Subject(candidate, point, Path(), None, None, facts, settings)
    observer = Observer(board, f"{candidate.name} {point.label}", no_progress)
    observer.read_context()
    observer.read_context()
    verdict, reason = _refused(candidate, point, facts)
    if verdict == "ok" and refused is not None:
        verdict, reason = "refused", refused
    ending = Ending(verdict, reason, clock.utc(), 0.0, agent_version, boot_id)
    return compose(subject, (observer,), ending, None, "not run")


def prove_release(
    release: Path,
    deployment: Deployment,
    *,
    clock: Clock,
    settings: MeasureSettings = PROOF,
    budgets: Sequence[Budget] = (),
    stop: StopRequested = never_stop,
    timed: bool = True,
    kept: Callable[[Job], Job] = lambda job: job,
) -> ProbeResult:
    """Prove a staged release in a fresh child: it loads at its point, gives its golden outputs, and is not too slow.

    With ``functools.partial`` over the keywords this is ``agent.core.ports.Probe``.

    Args:
        budgets: the task's, of which those on latency are held against a few timed runs, as ``latency_check`` says.
        timed: also time it; without, its first inference stands for its latency.
        kept: gives the job what an accelerator has built for it before; by itself it is built here anew.

    Returns: ``passed`` only if all of that held; without golden data the reason says that outputs were not compared.
    Raises: MeasurementError: no child can be started here at all.
    """
    model = _inside(release, deployment.model.path)
    golden = _inside(release, deployment.golden.path) if deployment.golden is not None else None
    if model is None or (deployment.golden is not None and golden is None):
        return ProbeResult(passed=False, reason="a path of the deployment leads out of its release or to no file")
    job = Job(
        model=str(model),
        point=deployment.point,
        inputs=deployment.inputs,
        timing=_timing(settings, one_thread=_one_thread(deployment.point)) if timed else None,
        golden=None if golden is None else str(golden),
        memory_growth_bytes=_growth_cap(deployment.point, settings),
        file_size_bytes=_file_cap(deployment.point),
    )
    load_time_s = latency_p50_s = slow = None
    checked = None
    verdict: Verdict = "ok"
    try:
        # An accelerator's engine may be built here anew.
        deadline_s = settings.build_deadline_s if needs_proof(deployment.point) else settings.deadline_s
        with _spawn(kept(job), _Limits(clock, stop, deadline_s)) as child:
            while not is_last(event := child.next_event()):
                match event:
                    case Loaded():
                        load_time_s = event.load_time_s
                    case FirstRun():
                        latency_p50_s = event.first_inference_s
                    case Timed() if event.latencies_ns:
                        latencies_s = [ns / 1e9 for ns in event.latencies_ns]
                        latency_p50_s = percentile(latencies_s, 0.5)
                        slow = too_slow(latencies_s, event.wait_ratio, deployment.expected, budgets)
                    case GoldenChecked():
                        checked = event.result
                if needs_answer(event):
                    child.go()
    except ChildEndedError as error:
        passed, reason, verdict = False, error.reason, error.verdict
    else:
        passed, reason = True, "it loads and runs; there are no golden outputs to compare"
        if checked is not None:
            passed = checked.passed is True
            reason = checked.reason or "it loads, runs, and gives the golden outputs"
        if passed and slow is not None:
            passed, reason = False, slow
    return ProbeResult(
        passed=passed, reason=reason, verdict=verdict, golden=checked, load_time_s=load_time_s,
        latency_p50_s=latency_p50_s,
    )  # fmt: skip


def _inside(folder: Path, name: str) -> Path | None:
    """Return the resolved file of a release, None if it lies outside it or is no file."""
    root = folder.resolve()
    path = (root / name).resolve()
    return path if path.is_relative_to(root) and path.is_file() else None


def _refused(candidate: Candidate, point: OperatingPoint, facts: DeviceFacts) -> tuple[Verdict, str | None]:
    reason = refusal(candidate, facts)
    if reason is not None:
        engines = [engine for engine in facts.engines if candidate.manifest.format in engine.formats]
        missing = not any(engine.proven for engine in engines)
        return ("engine_missing" if missing else "refused"), reason
    engine = facts.engine(point.engine)
    plain = point.provider == engine_row(point.engine).plain_provider  # what the CPU provider leaves, it runs itself
    if engine is None or not engine.proven or not (plain or point.provider in engine.providers):
        return "engine_missing", f"{point.engine} with {point.provider} is not proven on this board"
    return "ok", None


def _power_plan(
    board: BoardReadings, point: OperatingPoint, settings: MeasureSettings
) -> tuple[PowerMeter | None, float, str | None]:
    """Choose the meter that sees this point and its window in seconds, or say why there is none."""
    meters = board.power_meters()
    if not meters:
        return None, 0.0, board.power_absence()
    chosen = choose_meter(meters, settings, on_processor=is_cpu(point.engine, point.provider))
    return (None, 0.0, chosen) if isinstance(chosen, str) else (*chosen, None)


def _timing(settings: MeasureSettings, stakes: Stakes = NOTHING_AT_STAKE, *, one_thread: bool = False) -> TimingPlan:
    return TimingPlan(
        min_runs=min(settings.max_runs, int(settings.min_runs * stakes.longer)),
        min_time_s=settings.min_time_s * stakes.longer,
        max_runs=settings.max_runs,
        max_time_s=settings.max_time_s,
        warmup_max_runs=settings.warmup_max_runs,
        warmup_max_s=settings.warmup_max_s,
        block_runs=settings.block_runs,
        block_s=settings.block_s,
        contended_wait_ratio=settings.contended_wait_ratio if settings.contended == "refuse" else None,
        contended_patience_s=settings.contended_patience_s,
        one_thread=one_thread,
        tests=stakes.latency,
        bounded=stakes.bounded,
    )


def _one_thread(point: OperatingPoint) -> bool:
    """Tell whether a model runs in the calling thread alone, which then never blocks by itself."""
    return point.threads == 1 and is_cpu(point.engine, point.provider)


def _job(subject: Subject, power_window_s: float | None, stakes: Stakes) -> Job:
    manifest, point, settings = subject.candidate.manifest, subject.point, subject.settings
    return Job(
        model=str(subject.artifact.resolve()),
        point=point,
        inputs=manifest.inputs,
        timing=_timing(settings, stakes, one_thread=_one_thread(point)),
        power_window_s=power_window_s,
        evaluation=None if subject.evaluation is None or not stakes.evaluate else str(subject.evaluation.resolve()),
        accuracy_time_s=settings.accuracy_time_s,
        accuracy_test=stakes.accuracy,
        preprocessing=manifest.preprocessing,
        label_offset=manifest.label_offset,
        golden=None if subject.golden is None else str(subject.golden.resolve()),
        memory_growth_bytes=_growth_cap(point, settings),
        file_size_bytes=_file_cap(point),
    )


def _growth_cap(point: OperatingPoint, settings: MeasureSettings) -> int | None:
    """Return the address-space cap; accelerator runtimes reserve far more than they use, so they get none."""
    return settings.memory_growth_bytes if is_cpu(point.engine, point.provider) else None


def _file_cap(point: OperatingPoint) -> int:
    return 0 if is_cpu(point.engine, point.provider) else _ACCELERATOR_FILE_BYTES


class _Limits(NamedTuple):
    clock: Clock
    stop: StopRequested
    deadline_s: float
    group: WorkerGroup | None = None  # of the worker, which closes it


def _spawn(job: Job, limits: _Limits) -> Child:
    try:
        return Child(job, clock=limits.clock, stop=limits.stop, deadline_s=limits.deadline_s, group=limits.group)
    except OSError as error:
        raise MeasurementError(f"no measuring process can be started: {error}", fix="see `boardfit doctor`") from error


class _Drive:
    """What is done with the events of one child, and why it was ended before its last, if it was."""

    def __init__(self, observer: Observer, meter: PowerMeter | None, stakes: Stakes, settings: MeasureSettings) -> None:
        self.observer = observer
        self.meter = meter
        self.stopped: str | None = None
        self._stakes = stakes
        self._settings = settings

    def take(self, event: AnyEvent, pid: int) -> str | None:
        """Take one event; ``stopped`` is set where nothing more is needed.

        Returns: why the runs give no figure, if they do not.
        """
        self.observer.take(event, pid, self.meter)
        contended = _contended(self.observer, self._settings)
        if contended is None:
            self.stopped = self.observer.missed(self._stakes)
        return contended


def _run(job: Job, drive: _Drive, limits: _Limits) -> tuple[Verdict, str | None]:
    """Drive one child through its phases. Returns: ok, or the verdict and reason it ended with."""
    period_s = drive.meter.period_s if drive.meter is not None else 1.0
    try:
        with _spawn(job, limits) as child:
            while not is_last(event := child.next_event(drive.observer.sample_power, period_s)):
                contended = drive.take(event, child.pid)
                if contended is not None:
                    return "contended", contended  # accuracy would cost device time and stand beside no figure
                if drive.stopped is not None:
                    break
                if needs_answer(event):
                    child.go()
    except ChildEndedError as error:
        return error.verdict, error.reason
    return "ok", None


def _time_again(job: Job, observer: Observer, settings: MeasureSettings, limits: _Limits) -> tuple[Verdict, str | None]:
    """Time the model in one more process: processes differ by more than the runs of one can tell."""
    return _run(job, _Drive(observer, None, NOTHING_AT_STAKE, settings), limits)


def _prove_point(
    subject: Subject, observer: Observer, engines: EngineCache | None, limits: _Limits, board: BoardReadings
) -> Proven:
    """Prove an accelerator's point in a child of its own; what it told of the placement is the observer's to keep."""
    job = Job(
        model=str(subject.artifact.resolve()),
        point=subject.point,
        inputs=subject.candidate.manifest.inputs,
        golden=None if subject.golden is None else str(subject.golden.resolve()),
        memory_growth_bytes=_growth_cap(subject.point, subject.settings),
        file_size_bytes=_file_cap(subject.point),
    )
    found = prove(job, subject, engines, lambda one: _spawn(one, limits._replace(group=board.worker_group())))
    observer.golden, observer.confinement = found.golden, found.confinement
    if found.placed is not None:
        observer.placement = found.placed.placement
    return found


def _contended(observer: Observer, settings: MeasureSettings) -> str | None:
    """Return why the timed runs give no figure, None while they do or are not over."""
    timed = observer.timed
    if timed is None or settings.contended != "refuse":
        return None
    clean, bad = len(timed.latencies_ns), timed.contended_runs
    if clean > 0 and (bad <= clean or clean >= settings.min_runs):
        return None
    wait = f", run-queue wait {timed.wait_ratio:.0%} of the time" if timed.wait_ratio is not None else ""
    return f"{bad} of {clean + bad} runs waited for a core{wait}: too few clean ones for a figure"
