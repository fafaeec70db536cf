"""Running several models at once, each in its own confined child, and what each of them and all of them cost then.

Rules:
- One after the other they start and load, as applications do; then all are let go at one moment and run without pause,
  until the parent ends them. What counts are the blocks of runs that began after every one of them had ended its first
  block, and ended before the first was stopped: in all of these all others ran.
- Waiting for a core is what is measured here and voids nothing. That somebody else took the cores does: the share of
  others is taken over the same window, and above the setting there is no figure.
- Memory is the most that all can have had at one reading: what each has for itself, and of a file that several have
  mapped (an engine's libraries) no more than its length. On top of it comes the largest amount by which one of them
  ever was above its reading: one that loads anew while the others stand.
- Power is the mean over the window, by a meter that sees every one of them.
- One that fails ends the run, and its verdict is that of all.

Leaves to ``agent.select`` what follows from the figures.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.clock import iso
from agent.core.combination import JointMeasurement, JointMember
from agent.core.facts import DeviceFacts
from agent.core.grouped import grouped_percentile
from agent.core.manifest import Candidate
from agent.core.measurement import Figure, OperatingPoint, Verdict
from agent.core.ports import (
    Clock,
    JointReadings,
    MappedMemory,
    PowerMeter,
    Progress,
    ProgressEvent,
    StopRequested,
    never_stop,
    no_progress,
    together_bytes,
)
from agent.errors import MeasurementError
from agent.measure.conditions import context, limit_celsius
from agent.measure.plan import needs_proof
from agent.measure.protocol import Block, FirstRun, HeatPlan, Job
from agent.measure.sampler import PowerSeries, choose_meter, sees
from agent.measure.settings import MeasureSettings
from agent.measure.supervisor import Child, ChildEndedError, is_last, needs_answer
from agent.runtimes.table import is_cpu

BLOCK_S = 0.1  # chosen: thirty in the shortest window
_LISTEN_S = 0.05
_TELL_EVERY_S = 0.5
_SPARE_S = 60.0  # for the children's own clocks and a parent that is late

Others = Callable[[], float | None]


class Member(NamedTuple):
    """One task's model: the candidate at a point, and its verified local file."""

    candidate: Candidate
    point: OperatingPoint
    artifact: Path


class _Running:
    """A member's child, and what it has told."""

    def __init__(self, member: Member, child: Child) -> None:
        self.member, self.child = member, child
        self.go_s = 0.0
        self.blocks: list[Block] = []
        self.memory_bytes: int | None = None
        self.peak_bytes: int | None = None

    def since(self, open_s: float, end_s: float) -> list[Block]:
        """Return the blocks that lie whole between two moments of the parent's clock."""
        return [
            block
            for block in self.blocks
            if self.go_s + block.at_s - block.wall_s >= open_s and self.go_s + block.at_s <= end_s
        ]


class _Memory:
    """The readings of all members' memory."""

    def __init__(self, board: JointReadings) -> None:
        self._board = board
        self.most: int | None = None
        self.rise = 0
        self.readings = 0
        self._told_apart = True
        self.reason: str | None = "it was not read"

    def read(self, running: Sequence[_Running]) -> None:
        """Take a reading of every member; one that cannot be read is no reading of all."""
        parts: list[MappedMemory] = []
        for one in running:
            pid = one.child.pid
            seen, mapped = self._board.process_memory(pid), self._board.mapped_memory(pid)
            if seen is None:
                self.reason = f"{one.member.candidate.task} could not be read"
                return
            self._told_apart = self._told_apart and mapped is not None
            parts.append(mapped or MappedMemory(own_bytes=seen.rss_bytes + (seen.swap_bytes or 0)))
            one.memory_bytes = max(seen.rss_bytes, one.memory_bytes or 0)
            one.peak_bytes = max(seen.peak_bytes, one.peak_bytes or 0)
            self.rise = max(self.rise, seen.peak_bytes - seen.rss_bytes)
        self.most = max(together_bytes(parts), self.most or 0)
        self.readings += 1

    @property
    def method(self) -> str:
        """How the figure was had."""
        how = "smaps, what several have of a file at most once" if self._told_apart else "VmRSS, shared pages for each"
        return f"{how}; the most of {self.readings} readings, and the most that one was above its own (VmHWM)"


class _Window(NamedTuple):
    """When all ran, by the parent's clock, and the others' share of the processors meanwhile."""

    open_s: float
    end_s: float
    others_share: float | None


def measure_together(
    members: Sequence[Member],
    *,
    facts: DeviceFacts,
    board: JointReadings,
    clock: Clock,
    settings: MeasureSettings,
    window_s: float,
    bounded: Sequence[float] = (),
    others: Others = lambda: None,
    progress: Progress = no_progress,
    stop: StopRequested = never_stop,
    agent_version: str | None = None,
    boot_id: str | None = None,
) -> JointMeasurement | None:
    """Run all members at once for ``window_s`` seconds at least, and until each has the settings' least runs.

    Args:
        bounded: latency quantiles that each member is run on for until they are bounded from above, within the caps.
        others: gives the share of the processors' time that others used since it was asked last, 0..1.
    Returns: the measurement; None when a stop was asked for.
    Raises: MeasurementError: no child can be started here at all.
    """
    started_at, begin_s = clock.utc(), clock.monotonic_s()
    readings = [board.read_context()]
    chosen = _meter(board, members, settings)
    meter, power_s = (None, 0.0) if isinstance(chosen, str) else chosen
    run = _Run(board, clock, settings, max(window_s, power_s), meter, tuple(bounded), others, progress, stop)
    verdict: Verdict = "ok"
    reason: str | None = None
    with contextlib.ExitStack() as children:
        try:
            for member in members:
                run.start(member, children)
            run.all_at_once()
        except _MemberEndedError as ended:
            if ended.verdict == "interrupted":
                return None
            verdict, reason = ended.verdict, str(ended)
    readings.append(board.read_context())
    made = JointMeasurement(
        id=uuid.uuid4().hex,
        class_fingerprint=facts.class_fingerprint,
        members=tuple(run.figures(one) for one in run.all(members)),
        verdict=verdict,
        reason=reason,
        started_at=iso(started_at),
        duration_s=clock.monotonic_s() - begin_s,
        context=context(readings, None, settings, limit_celsius(facts, settings)),
        agent_version=agent_version,
        boot_id=boot_id,
        power_reason=chosen if isinstance(chosen, str) else "it was not reached",
        memory_reason=reason,
    )
    return made if verdict != "ok" else run.judged(made, power_s)


class _MemberEndedError(Exception):
    """A member ended before all were done; its text names it."""

    def __init__(self, member: Member, error: ChildEndedError) -> None:
        super().__init__(f"{member.candidate.task}: {error.reason}")
        self.verdict: Verdict = error.verdict


class _Run:
    """One run of all members. Args: window_s: how long all must run at least."""

    def __init__(  # noqa: PLR0917 - in the order in which they are used
        self, board: JointReadings, clock: Clock, settings: MeasureSettings, window_s: float,
        meter: PowerMeter | None, bounded: Sequence[float], others: Others, progress: Progress, stop: StopRequested,
    ) -> None:  # fmt: skip
        self._board, self._clock, self._settings, self._window_s = board, clock, settings, window_s
        self._meter, self._bounded, self._others = meter, bounded, others
        self._progress, self._stop = progress, stop
        self._look_at_s = 0.0  # when it is looked again whether quantiles are bounded, which takes some milliseconds
        self._most_s = window_s + settings.max_time_s
        self._running: list[_Running] = []
        self._memory = _Memory(board)
        self._series: PowerSeries | None = None
        self._window: _Window | None = None

    def start(self, member: Member, children: contextlib.ExitStack) -> None:
        """Start a member and let it load; it then waits for the others. Raises: _MemberEndedError, MeasurementError."""
        self._say(f"loading {member.candidate.task}", len(self._running))
        start_s = self._settings.build_deadline_s if needs_proof(member.point) else self._settings.deadline_s
        try:
            child = Child(
                self._job(member), clock=self._clock, stop=self._stop, group=self._board.worker_group(),
                deadline_s=start_s + self._most_s + _SPARE_S,
            )  # fmt: skip
            children.enter_context(child)
            self._running.append(_Running(member, child))
            while not isinstance(event := child.next_event(), FirstRun):
                if needs_answer(event):
                    child.go()
        except ChildEndedError as error:
            raise _MemberEndedError(member, error) from error
        except OSError as error:
            fix = "see `boardfit doctor`"
            raise MeasurementError(f"no measuring process can be started: {error}", fix=fix) from error
        self._memory.read(self._running)

    def all_at_once(self) -> None:
        """Let all go, listen until it is enough, and close the window. Raises: _MemberEndedError."""
        for one in self._running:
            one.go_s = self._clock.monotonic_s()
            one.child.go()
        begin_s = self._clock.monotonic_s()
        while any(not one.blocks for one in self._running):
            self._listen(begin_s + self._settings.deadline_s)
        self._memory.read(self._running)  # it walks all page tables, so never while anything is timed
        self._others()
        open_s = self._clock.monotonic_s()
        if self._meter is not None:
            self._series = PowerSeries(self._meter)
        told_at = power_at = open_s
        while not self._is_enough(open_s, now := self._clock.monotonic_s()):
            if self._series is not None and self._meter is not None and now >= power_at:
                self._series.read()
                power_at = max(power_at + self._meter.period_s, now)
            if now >= told_at:
                self._say("all at once", min(now - open_s, self._window_s), self._window_s, "s")
                told_at = now + _TELL_EVERY_S
            self._listen(min(now + _LISTEN_S, power_at) if self._series is not None else now + _LISTEN_S)
        if self._series is not None:
            self._series.read()
        end_s = self._clock.monotonic_s()
        self._window = _Window(open_s, end_s, self._others())
        self._memory.read(self._running)

    def all(self, members: Sequence[Member]) -> list[_Running | Member]:
        """Return every member: with what it told, or alone where it was not reached."""
        return [*self._running, *members[len(self._running) :]]

    def figures(self, one: _Running | Member) -> JointMember:
        """Return a member's figures over the window; without one there are none."""
        member = one.member if isinstance(one, _Running) else one
        made = JointMember(
            task=member.candidate.task, candidate=member.candidate.name, artifact_sha256=member.candidate.sha256,
            point=member.point,
        )  # fmt: skip
        if isinstance(one, Member) or self._window is None:
            return made
        blocks = one.since(self._window.open_s, self._window.end_s)
        latencies = self._latencies(one, self._window.open_s, self._window.end_s)
        made = msgspec.structs.replace(made, memory_bytes=one.memory_bytes, peak_bytes=one.peak_bytes)
        if not latencies:
            return made
        p50, p90, p95, p99 = (_figure(latencies, q) for q in (0.50, 0.90, 0.95, 0.99))
        wall_s = sum(block.wall_s for block in blocks)
        waits = [block.waited_s for block in blocks if block.waited_s is not None]
        return msgspec.structs.replace(
            made, n=len(latencies), latency_p50_s=p50, latency_p90_s=p90, latency_p95_s=p95, latency_p99_s=p99,
            throughput_per_s=sum(block.runs for block in blocks) / wall_s,
            wait_ratio=sum(waits) / wall_s if len(waits) == len(blocks) else None,
        )  # fmt: skip

    def judged(self, made: JointMeasurement, power_s: float) -> JointMeasurement:
        """Return the measurement with what all cost together, void where others took the processor."""
        assert self._window is not None
        memory, share = self._memory, self._window.others_share
        made = msgspec.structs.replace(
            made, window_s=self._window.end_s - self._window.open_s, others_share=share,
            memory_bytes=None if memory.most is None else memory.most + memory.rise, memory_readings=memory.readings,
            memory_method=None if memory.most is None else memory.method,
            memory_reason=memory.reason if memory.most is None else None,
        )  # fmt: skip
        if self._series is not None:
            made = _with_power(made, self._series, max(power_s, made.window_s or 0.0))
        most = self._settings.contended_wait_ratio
        if self._settings.contended == "refuse" and share is not None and share > most:
            text = f"other work used {share:.0%} of the processors meanwhile"
            return msgspec.structs.replace(made, verdict="contended", reason=text)
        return made

    def _job(self, member: Member) -> Job:
        on_processor = is_cpu(member.point.engine, member.point.provider)
        return Job(
            model=str(member.artifact.resolve()), point=member.point, inputs=member.candidate.manifest.inputs,
            heat=HeatPlan(max_s=self._most_s + self._settings.deadline_s + _SPARE_S, block_s=BLOCK_S),
            memory_growth_bytes=self._settings.memory_growth_bytes if on_processor else None,
            file_size_bytes=0 if on_processor else 64 << 20,
        )  # fmt: skip

    def _listen(self, until_s: float) -> None:
        """Take what the children tell; return after one round of them, at ``until_s`` at the latest, or so."""
        wait_s = max(0.0, min(_LISTEN_S, until_s - self._clock.monotonic_s())) / len(self._running)
        for one in self._running:
            try:
                event = one.child.poll(wait_s)
                while event is not None:
                    if isinstance(event, Block):
                        one.blocks.append(event)
                    elif is_last(event):
                        raise ChildEndedError("timeout", "it was done before the others")
                    event = one.child.poll(0.0)
            except ChildEndedError as error:
                raise _MemberEndedError(one.member, error) from error

    def _is_enough(self, open_s: float, now_s: float) -> bool:
        if now_s - open_s < self._window_s:
            return False
        if now_s - open_s >= self._most_s:
            return True
        seen = [self._latencies(one, open_s, now_s) for one in self._running]
        if min(map(len, seen)) < self._settings.min_runs:
            return False
        if now_s < self._look_at_s:
            return not self._bounded
        self._look_at_s = now_s + _TELL_EVERY_S
        return all(_figure(latencies, q).high is not None for latencies in seen for q in self._bounded)

    @staticmethod
    def _latencies(one: _Running, open_s: float, end_s: float) -> list[float]:
        return [ns / 1e9 for block in one.since(open_s, end_s) for ns in block.latencies_ns]

    def _say(self, text: str, done: float, total: float | None = None, unit: str = "steps") -> None:
        self._progress(ProgressEvent(stage="together", text=text, done=done, total=total, unit=unit))


def _figure(latencies_s: Sequence[float], q: float) -> Figure:
    found = grouped_percentile([latencies_s], q)
    return Figure(value=found.value, low=found.interval.low, high=found.interval.high)


def _meter(
    board: JointReadings, members: Sequence[Member], settings: MeasureSettings
) -> tuple[PowerMeter, float] | str:
    """Return a meter that sees every member, with its window in seconds, or why there is none."""
    meters = board.power_meters()
    if not meters:
        return board.power_absence()
    sides = {is_cpu(member.point.engine, member.point.provider) for member in members}
    seeing = [meter for meter in meters if all(sees(meter, on_processor=side) for side in sides)]
    if not seeing:
        return "no meter sees the processor and the accelerator both"
    return choose_meter(seeing, settings, on_processor=next(iter(sides)))


def _with_power(made: JointMeasurement, series: PowerSeries, length_s: float) -> JointMeasurement:
    mean = series.mean()
    if isinstance(mean, str):
        return msgspec.structs.replace(made, power_reason=mean)
    mean = mean.over(length_s)
    return msgspec.structs.replace(
        made, power_mean_w=Figure(value=mean.mean_w, low=mean.interval.low, high=mean.interval.high),
        power_source=series.meter.name, power_scope=series.meter.scope, power_reason=None,
    )  # fmt: skip
