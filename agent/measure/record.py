"""Putting together the measurement document from what was asked, what was seen and how it ended."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.clock import iso
from agent.core.facts import DeviceFacts
from agent.core.manifest import Candidate
from agent.core.measurement import (
    AccuracyFigures,
    Measurement,
    OperatingPoint,
    Placement,
    PowerFigures,
    Proof,
    Verdict,
)
from agent.measure.conditions import Contention, context, limit_celsius, together
from agent.measure.figures import accuracy_figures, latency_figures, memory_figures
from agent.measure.observer import Observer
from agent.measure.sampler import PowerSeries, power_figures
from agent.measure.settings import MeasureSettings
from agent.runtimes.table import plain_point


class Subject(NamedTuple):
    """What is measured: the candidate at a point, its verified local files, and where."""

    candidate: Candidate
    point: OperatingPoint
    artifact: Path
    golden: Path | None
    evaluation: Path | None
    facts: DeviceFacts
    settings: MeasureSettings


class Ending(NamedTuple):
    """How it ended, when it began and what it cost; ``boot_id`` and ``agent_version`` as the caller knows them."""

    verdict: Verdict
    reason: str | None
    started_at: datetime
    duration_s: float
    agent_version: str | None
    boot_id: str | None
    stopped: str | None = None
    engine_build_s: float | None = None
    engine_build_reason: str | None = None


def compose(
    subject: Subject,
    observers: Sequence[Observer],
    ending: Ending,
    idle: PowerSeries | None,
    power_reason: str | None,
) -> Measurement:
    """Return the measurement.

    Args:
        observers: one for each process; the first saw all, in the others nothing but latency was taken.
        idle, power_reason: the idle series of the meter used, or why no meter was.
    """
    observer = observers[0]
    candidate, settings = subject.candidate, subject.settings
    timed = _timed(observers)
    latencies = tuple(chain.from_iterable(timed.processes_s))
    latency = None
    if observer.warm is not None and timed.contention is not None and ending.verdict != "contended":
        latency = latency_figures(timed.processes_s, observer.warm, timed.contention)
    power, power_reason = _power(observer, idle, power_reason)
    accuracy, accuracy_reason = _accuracy(subject, observer, ending)
    point, placement = _really(subject.point, observer.placement)
    return Measurement(
        id=uuid.uuid4().hex,
        task=candidate.task,
        candidate=candidate.name,
        artifact_sha256=candidate.sha256,
        size_bytes=candidate.size_bytes,
        size_unpacked_bytes=candidate.size_unpacked_bytes,
        point=point,
        class_fingerprint=subject.facts.class_fingerprint,
        verdict=ending.verdict,
        started_at=iso(ending.started_at),
        duration_s=ending.duration_s,
        reason=ending.reason,
        agent_version=ending.agent_version,
        boot_id=ending.boot_id,
        engine_build_s=ending.engine_build_s,
        engine_build_reason=ending.engine_build_reason,
        load_time_s=observer.load_time_s,
        first_inference_s=observer.first_inference_s,
        latency=latency,
        memory=memory_figures(
            observer.memory_imported, observer.memory_after, observer.peak_was_reset,
            window=observer.memory_window, later=observer.memory_later,
        ),
        power=power,
        power_reason=power_reason,
        accuracy=accuracy,
        accuracy_reason=accuracy_reason,
        golden=observer.golden,
        placement=placement,
        context=context(
            [reading for part in observers for reading in part.contexts],
            timed.contention, settings, limit_celsius(subject.facts, settings),
        ),
        confinement=observer.confinement,
        latencies_s=latencies[: settings.kept_latencies],
        latencies_dropped=max(0, len(latencies) - settings.kept_latencies) + timed.contended_runs,
        proofs=_proofs(observer) if ending.verdict == "ok" else (),
        stopped=ending.stopped,
    )  # fmt: skip


def _really(point: OperatingPoint, placement: Placement | None) -> tuple[OperatingPoint, Placement | None]:
    """Name the point a run really was: that of the built-in kernels, or of an accelerator and the CPU together.

    Where the runtime does not say who ran what, the point keeps its name and the fallback its mark.
    """
    plain = plain_point(point)
    if plain is None or placement is None or not placement.fallback or not placement.nodes:
        return point, placement
    return plain, msgspec.structs.replace(placement, fallback=False)


class _Timed(NamedTuple):
    """The clean runs of each process, and how all of them fared; None where nothing was timed."""

    processes_s: tuple[tuple[float, ...], ...]
    contention: Contention | None
    contended_runs: int


def _timed(observers: Sequence[Observer]) -> _Timed:
    found = [(part.timed, part.contention) for part in observers if part.timed is not None]
    fared = [contention for _, contention in found if contention is not None]
    return _Timed(
        tuple(tuple(nanoseconds / 1e9 for nanoseconds in timed.latencies_ns) for timed, _ in found),
        together(fared) if fared else None,
        sum(timed.contended_runs for timed, _ in found),
    )


def _power(observer: Observer, idle: PowerSeries | None, reason: str | None) -> tuple[PowerFigures | None, str | None]:
    if idle is None:
        return None, reason
    if observer.power is None or observer.window is None:
        return None, "the power window was not reached"
    return power_figures(idle, observer.power, observer.window.inferences, observer.window.elapsed_s)


def _accuracy(subject: Subject, observer: Observer, ending: Ending) -> tuple[AccuracyFigures | None, str | None]:
    if subject.evaluation is None:
        return None, "no evaluation pack"
    if observer.evaluated is None:
        if ending.verdict == "ok" and ending.stopped is None:
            return None, "not asked for: no budget and no objective names accuracy"
        if ending.stopped is not None:
            return None, f"not needed: {ending.stopped}"
        return None, ending.reason if ending.verdict == "bad_evaluation" else "not reached"
    digest = _pack_sha256(subject.candidate, subject.evaluation)
    return accuracy_figures(observer.evaluated, digest), observer.evaluated.reason


def _proofs(observer: Observer) -> tuple[Proof, ...]:
    timed = observer.timed.proofs if observer.timed is not None else ()
    judged = observer.evaluated.proof if observer.evaluated is not None else None
    return timed if judged is None else (*timed, judged)


def _pack_sha256(candidate: Candidate, evaluation: Path) -> str:
    if candidate.manifest.evaluation is not None:
        return candidate.manifest.evaluation.sha256
    digest = hashlib.sha256()
    with evaluation.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
