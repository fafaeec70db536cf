"""An accelerator's point is proven in a process of its own before it is measured: placed, built, and right.

Rules:
- The model loads there with at least one node where it was asked for, and its outputs agree with the golden ones that
  the publisher's processor gave. Without golden data nobody can say, and the point is refused.
- What it builds, it builds here: ``build_s`` is load and first inference with an empty folder. The processes that are
  measured find it built, so that their load time is what an application waits that keeps the folder too. Where they
  write it again, they built it again: then there is no figure apart, and nothing is kept.
- The engine's own kernels need none of this: golden outputs were made with them, and are compared after the runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from agent.core.measurement import GoldenResult, Verdict
from agent.errors import StorageError
from agent.measure.engine_cache import EngineCache, Entry
from agent.measure.plan import without_golden
from agent.measure.protocol import FirstRun, GoldenChecked, Job, Loaded, Started
from agent.measure.record import Subject
from agent.measure.supervisor import Child, ChildEndedError, is_last, needs_answer
from agent.runtimes.providers import provider_row
from agent.runtimes.table import split_provider


class Proven(NamedTuple):
    """What the proof said; ``entry`` is what the measured processes work with, None where nothing is kept."""

    verdict: Verdict = "ok"
    reason: str | None = None
    golden: GoldenResult | None = None
    placed: Loaded | None = None
    entry: Entry | None = None
    build_s: float | None = None
    build_reason: str | None = None
    confinement: tuple[str, ...] = ()
    kept: frozenset[tuple[str, int, int]] = frozenset()  # the files as the proof left them


def prove(job: Job, subject: Subject, engines: EngineCache | None, spawn: Callable[[Job], Child]) -> Proven:
    """Prove a point. Args: job: the model, its point and its golden data, nothing to be timed."""
    if subject.golden is None:
        return Proven("refused", without_golden(subject.point))
    entry, why = _entry(subject, engines)
    known_s = None if entry is None else entry.build_s
    found = _run(job_with(job, entry, engines), spawn)
    if entry is None:
        return found._replace(build_s=None, build_reason=why)
    if found.verdict != "ok":
        entry.drop()
        return found._replace(build_s=None, build_reason="it was not proven")
    if known_s is None:
        assert found.build_s is not None
        known_s = found.build_s
        try:
            entry.built(known_s)
        except StorageError as error:
            return found._replace(build_s=known_s, build_reason=f"it is not kept: {error.problem}")
        if not entry.folder.is_dir():
            text = "it is not kept, being larger than all engines together may be"
            return found._replace(build_s=known_s, build_reason=text)
    return found._replace(entry=entry, build_s=known_s, kept=entry.files())


def settle(proven: Proven, subject: Subject) -> Proven:
    """Look whether the process that was measured found what was built, and take back what is not so."""
    entry = proven.entry
    if entry is None or proven.kept <= entry.files():
        return proven
    entry.drop()
    name = split_provider(subject.point.provider)[0]
    text = f"{name} kept what it built and built it again at the next load: building is part of load_time_s"
    return proven._replace(entry=None, build_s=None, build_reason=text)


def job_with(job: Job, entry: Entry | None, engines: EngineCache | None) -> Job:
    """Return a job whose worker finds and keeps its engine in an entry."""
    if entry is None or engines is None:
        return job
    return msgspec.structs.replace(
        job, keep=str(entry.folder), file_size_bytes=max(job.file_size_bytes or 0, engines.quota_bytes)
    )


def _entry(subject: Subject, engines: EngineCache | None) -> tuple[Entry | None, str]:
    name = split_provider(subject.point.provider)[0]
    if not provider_row(name).cache_options:
        return None, f"{name} keeps nothing that it builds: what it prepares is part of load and first inference"
    if engines is None:
        return None, "there was no folder to keep it in: building is part of load and first inference"
    try:
        return engines.entry(subject.facts, subject.point, subject.candidate.sha256), ""
    except OSError as error:
        return None, f"there is no folder to keep it in ({error.strerror}): building is part of load"


def _run(job: Job, spawn: Callable[[Job], Child]) -> Proven:
    golden: GoldenResult | None = None
    placed: Loaded | None = None
    build_s: float | None = None
    confined: tuple[str, ...] = ()
    try:
        with spawn(job) as child:
            while not is_last(event := child.next_event()):
                match event:
                    case Started():
                        confined = event.confinement
                    case Loaded():
                        placed, build_s = event, event.load_time_s
                    case FirstRun():
                        build_s = (build_s or 0.0) + event.first_inference_s
                    case GoldenChecked():
                        golden = event.result
                if needs_answer(event):
                    child.go()
    except ChildEndedError as error:
        return Proven(error.verdict, error.reason, golden, placed, confinement=confined)
    if golden is None or golden.passed is None:
        why = golden.reason if golden is not None and golden.reason else "they were not compared"
        reason = f"its outputs are not known to be right: {why}"
        return Proven("refused", reason, golden, placed, confinement=confined)
    verdict: Verdict = "ok" if golden.passed else "wrong_output"
    return Proven(verdict, golden.reason, golden, placed, build_s=build_s, confinement=confined)
