"""Running one model without pause until the board is as warm as it gets, and what its latency and power are then.

``heat`` says what steady means; here is how long that is asked, and of which runs. Rules:
- The model runs back to back in a fresh child, and the board's temperature is read between blocks of some seconds. The
  figures are those of the last window, the one that was found steady; power comes right after, in a window of its own.
- A board without a temperature sensor is judged by latency alone, and by no less than ``BLIND_S``: what has not
  slowed down by then may still do so only as slowly as no window shows. The reason says by what it was judged.
- Blocks that waited for a core are left out, like in every other measurement, unless the settings keep them.
- What an accelerator built for the model when it was measured is taken; else it builds anew, before the first block.
- Not steady within the time given is no figure: unknown, with what was still moving. Throttling on the way is the
  board's truth and no fault: it is in the flags.
- It cannot be resumed: what is stopped in the middle leaves nothing, since the board has cooled by the time it goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import chain
from pathlib import Path
from statistics import median

import msgspec

from agent.clock import iso, read_iso
from agent.core.facts import DeviceFacts
from agent.core.grouped import grouped_percentile
from agent.core.manifest import Candidate
from agent.core.measurement import ContextReading, Figure, Measurement, OperatingPoint, SustainedFigures
from agent.core.ports import (
    BoardReadings,
    Clock,
    PowerMeter,
    Progress,
    ProgressEvent,
    StopRequested,
    never_stop,
    no_progress,
)
from agent.errors import MeasurementError
from agent.measure.conditions import context, limit_celsius
from agent.measure.engine_cache import EngineCache, built_entry
from agent.measure.heat import HeatPolicy, Steady, slope_window_s, steady_state
from agent.measure.plan import needs_proof
from agent.measure.protocol import Block, HeatPlan, Job
from agent.measure.proving import job_with
from agent.measure.sampler import PowerSeries, choose_meter
from agent.measure.settings import MeasureSettings
from agent.measure.supervisor import Child, ChildEndedError, is_last, needs_answer
from agent.runtimes.table import is_cpu

BLIND_S = 600.0  # chosen: where nothing but latency tells; near two time constants of a heat-sink of 360 s
BLOCK_S = 5.0  # twelve in the shortest window; a reading of a zone costs a millisecond
_FREE = Figure(value=1e-12, low=1e-12, high=1e-12)
_START_S = 120.0  # chosen: for a child to load and begin


class Soak:
    """The blocks of one run so far; pure. ``blocks`` counts all, ``contended`` those left out.

    Args: contended_wait_ratio: None keeps every block. blind_s: least time where the board tells no temperature.
    """

    def __init__(self, policy: HeatPolicy, contended_wait_ratio: float | None, blind_s: float = BLIND_S) -> None:
        self._policy, self._ratio, self._blind_s = policy, contended_wait_ratio, blind_s
        self._kept: list[tuple[float, float | None, Block]] = []
        self.blocks = self.contended = 0
        self.at_s = 0.0

    def add(self, block: Block, celsius: float | None) -> None:
        """Take a block and the temperature at its end."""
        self.blocks, self.at_s = self.blocks + 1, block.at_s
        if self._ratio is not None and block.waited_s is not None and block.waited_s > self._ratio * block.wall_s:
            self.contended += 1
            return
        self._kept.append((block.at_s, celsius, block))

    @property
    def blind(self) -> bool:
        """Whether no block had a temperature."""
        return all(celsius is None for _, celsius, _ in self._kept)

    def steady(self) -> Steady:
        """Judge the last window."""
        times = [at_s for at_s, _, _ in self._kept]
        latencies = [float(median(block.latencies_ns)) for _, _, block in self._kept]
        found = steady_state(times, [celsius for _, celsius, _ in self._kept], latencies, self._policy)
        if found.steady and self.blind:
            if self.at_s < self._blind_s:
                return found._replace(steady=False, why=f"latency alone is no proof before {self._blind_s:g} s")
            return found._replace(why=f"{found.why} after {self.at_s:.0f} s; this board tells no temperature")
        return found

    def window(self) -> tuple[list[Block], float]:
        """Return the blocks of the last window, and its length in seconds."""
        known = [celsius for _, celsius, _ in self._kept if celsius is not None]
        length_s = slope_window_s(known, self._policy) if known else self._policy.window_s
        last = self._kept[-1][0] if self._kept else 0.0
        return [block for at_s, _, block in self._kept if at_s >= last - length_s], length_s


def measure_sustained(
    candidate: Candidate,
    point: OperatingPoint,
    artifact: Path,
    *,
    facts: DeviceFacts,
    board: BoardReadings,
    clock: Clock,
    settings: MeasureSettings,
    engines: EngineCache | None = None,
    policy: HeatPolicy | None = None,
    blind_s: float = BLIND_S,
    block_s: float = BLOCK_S,
    progress: Progress = no_progress,
    stop: StopRequested = never_stop,
) -> SustainedFigures | None:
    """Run a candidate at one operating point until it is steady, ``settings.sustained_max_s`` at most.

    Args: artifact: a local file whose digest was verified. engines: what accelerators keep. blind_s, block_s: seconds.
    Returns: the figures, or the reason why there are none; None when a stop was asked for.
    Raises: MeasurementError: no child can be started here at all.
    """
    policy = policy or HeatPolicy()
    on_processor = is_cpu(point.engine, point.provider)
    chosen = choose_meter(board.power_meters(), settings, on_processor=on_processor) or board.power_absence()
    meter, power_s = (None, 0.0) if isinstance(chosen, str) else chosen
    soak = Soak(policy, settings.contended_wait_ratio if settings.contended == "refuse" else None, blind_s)
    plan = HeatPlan(
        max_s=settings.sustained_max_s + power_s + block_s, block_s=block_s,
        one_thread=point.threads == 1 and on_processor,
    )  # fmt: skip
    job = Job(
        model=str(artifact.resolve()), point=point, inputs=candidate.manifest.inputs, heat=plan,
        memory_growth_bytes=settings.memory_growth_bytes if on_processor else None,
        file_size_bytes=0 if on_processor else 64 << 20,
    )  # fmt: skip
    entry = built_entry(engines, facts, point, candidate.sha256)
    job = job_with(job, entry, engines)
    measured_at, readings, series = iso(clock.utc()), [board.read_context()], None
    why: str | None = None
    try:
        start_s = settings.build_deadline_s if needs_proof(point) else _START_S
        with _child(job, clock, stop, plan.max_s + start_s, board) as child:
            found = _soak(child, soak, board, readings, most_s=settings.sustained_max_s, progress=progress)
            if found.steady and meter is not None:
                series = _power(child, meter, power_s, clock)
    except ChildEndedError as error:
        if error.verdict == "interrupted":
            return None
        why, found = error.reason, Steady(False, "", None, None)
        if entry is not None:
            entry.drop()  # it may be damaged
    readings.append(board.read_context())
    power_reason = chosen if isinstance(chosen, str) else "it was not reached" if series is None else None
    made = _figures(soak, found, readings, measured_at, limit=limit_celsius(facts, settings), settings=settings)
    return _with_power(msgspec.structs.replace(made, reason=why or made.reason), series, power_s, power_reason)


def _child(job: Job, clock: Clock, stop: StopRequested, deadline_s: float, board: BoardReadings) -> Child:
    try:
        return Child(job, clock=clock, stop=stop, deadline_s=deadline_s, group=board.worker_group())
    except OSError as error:
        raise MeasurementError(f"no measuring process can be started: {error}", fix="see `boardfit doctor`") from error


def _soak(
    child: Child, soak: Soak, board: BoardReadings, readings: list[ContextReading], *, most_s: float, progress: Progress
) -> Steady:
    """Let it run until it is steady or ``most_s`` are over. Raises: ChildEndedError."""
    while not is_last(event := child.next_event()):
        if isinstance(event, Block):
            reading = board.read_context()
            readings.append(reading)
            soak.add(event, reading.temperature_celsius)
            found = soak.steady()
            where = "" if reading.temperature_celsius is None else f", {reading.temperature_celsius:.1f} °C"
            text = f"running on until steady{where}: {found.why}"
            progress(ProgressEvent(stage="sustained", text=text, done=soak.at_s, total=most_s, unit="s"))
            if found.steady or soak.at_s >= most_s:
                return found
        elif needs_answer(event):
            child.go()
    return soak.steady()


def _power(child: Child, meter: PowerMeter, length_s: float, clock: Clock) -> PowerSeries:
    """Read the meter for ``length_s`` while the model runs on. Raises: ChildEndedError."""
    series, end = PowerSeries(meter), clock.monotonic_s() + length_s
    series.read()
    while clock.monotonic_s() < end:
        if is_last(child.next_event(series.read, meter.period_s)):
            break
    return series


def _figures(
    soak: Soak, found: Steady, readings: list[ContextReading], measured_at: str, *, limit: float,
    settings: MeasureSettings,
) -> SustainedFigures:  # fmt: skip
    window, length_s = soak.window()
    before, after = readings[0].temperature_celsius, readings[-1].temperature_celsius
    reason = found.why
    if not found.steady:
        reason = f"not steady within {soak.at_s:.0f} s: {found.why}"
        if soak.contended:
            reason += f"; {soak.contended} of {soak.blocks} blocks waited for a core"
    made = SustainedFigures(
        measured_at=measured_at, steady=found.steady, reason=reason, duration_s=soak.at_s, window_s=length_s,
        contended_blocks=soak.contended, blocks=soak.blocks, temperature_before_celsius=before,
        temperature_after_celsius=after, flags=context(readings, None, settings, limit).flags,
    )  # fmt: skip
    if not found.steady:
        return made
    latencies = [ns / 1e9 for ns in chain.from_iterable(block.latencies_ns for block in window)]
    p50, p95 = (grouped_percentile([latencies], q) for q in (0.50, 0.95))
    return msgspec.structs.replace(
        made,
        n=len(latencies),
        latency_p50_s=Figure(value=p50.value, low=p50.interval.low, high=p50.interval.high),
        latency_p95_s=Figure(value=p95.value, low=p95.interval.low, high=p95.interval.high),
        throughput_per_s=sum(block.runs for block in window) / sum(block.wall_s for block in window),
    )


def _with_power(
    made: SustainedFigures, series: PowerSeries | None, length_s: float, reason: str | None
) -> SustainedFigures:
    if series is None:
        return msgspec.structs.replace(made, power_reason=reason)
    mean = series.mean()
    if isinstance(mean, str):
        return msgspec.structs.replace(made, power_reason=mean)
    mean = mean.over(length_s)
    return msgspec.structs.replace(
        made, power_mean_w=Figure(value=mean.mean_w, low=mean.interval.low, high=mean.interval.high),
        power_source=series.meter.name, power_scope=series.meter.scope,
    )  # fmt: skip


def hopeful(measurements: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """Return the measurements as if whatever was never run on would meet every limit on its sustained latency.

    What a decision over them chooses is what is worth running on, and worth measuring at all.
    """
    free = SustainedFigures(
        measured_at="", steady=True, reason="not measured", duration_s=0.0, window_s=0.0, latency_p95_s=_FREE
    )
    return tuple(m if m.sustained is not None else msgspec.structs.replace(m, sustained=free) for m in measurements)


def carried(new: Measurement, before: Measurement | None, now: datetime, max_age_s: float) -> Measurement:
    """Return a new measurement with the sustained figures of the one it replaces, while they are young enough."""
    if before is None or before.sustained is None or new.sustained is not None or before.key != new.key:
        return new
    try:
        age_s = (now - read_iso(before.sustained.measured_at)).total_seconds()
    except (ValueError, TypeError):
        return new
    young = 0.0 <= age_s <= max_age_s
    return msgspec.structs.replace(new, sustained=before.sustained) if young else new
