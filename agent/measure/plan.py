"""What to measure, in which order, and what need not be measured. Pure.

Rules:
- A point is planned for proven engines and providers only; on the CPU every thread count up to four, then powers of two
  and the number of cores itself. Other providers run with one thread.
- A candidate that a static check refuses is planned with its refusal, so that the record says why it was not run.
- A stored result of the same artifact, point and board class stands in for a run while it is young enough; results that
  say nothing about the candidate (interrupted, contended, timeout, out of memory) never do.
- An accelerator is planned for what it can take, and for candidates with golden outputs only: without them nobody can
  say whether it computes right. Models compiled for one run nowhere else.
- Cheap first: small files before large ones, so that early results come early.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from agent.clock import read_iso
from agent.core.facts import DeviceFacts, EngineFacts
from agent.core.manifest import MAX_IR_VERSION, MAX_OPSET, Candidate, Manifest
from agent.core.measurement import Measurement, OperatingPoint, Verdict
from agent.measure.settings import MeasureSettings
from agent.runtimes.providers import PROVIDERS, provider_row
from agent.runtimes.table import ENGINES, is_cpu, is_own, plain_point, split_provider

#: Verdicts that say something about the candidate and not about the hour it was measured in.
LASTING: frozenset[Verdict] = frozenset({"ok", "load_failed", "wrong_output", "bad_evaluation"})
_ALL_COUNTS_UP_TO = 4
_COMPILED = {row.operator for row in PROVIDERS if row.operator is not None}  # operators that one accelerator runs


class PlannedRun(msgspec.Struct, frozen=True, kw_only=True):
    """One (candidate x point): to be run, refused by ``refusal``, or known already as ``stored``."""

    candidate: Candidate
    point: OperatingPoint
    refusal: str | None = None
    stored: Measurement | None = None


def thread_counts(cores: int) -> tuple[int, ...]:
    """Return the thread counts worth trying on ``cores`` cores."""
    if cores <= _ALL_COUNTS_UP_TO:
        return tuple(range(1, max(1, cores) + 1))
    counts = {1 << power for power in range(cores.bit_length())} | {cores}
    return tuple(sorted(count for count in counts if count <= cores))


def operating_points(
    candidate: Candidate, facts: DeviceFacts, threads_wanted: Sequence[int] | None = None
) -> tuple[OperatingPoint, ...]:
    """Return every point at which this candidate can be run here: proven engines x proven providers x threads.

    Args: threads_wanted: thread counts on the CPU; None takes those of ``thread_counts``. Counts above the usable
        cores are left out, and one thread stays where nothing else would.
    """
    cores = facts.cpu.worker_threads
    counts = thread_counts(cores)
    if threads_wanted is not None:
        counts = tuple(sorted({count for count in threads_wanted if count <= cores})) or (1,)
    return tuple(
        OperatingPoint(engine=engine.name, engine_version=engine.version or "", provider=provider, threads=threads)
        for engine in _engines(candidate, facts)
        for provider in engine.providers
        if _takes(engine.name, provider, candidate.manifest)
        for threads in (counts if is_cpu(engine.name, provider) else (1,))
    )


def needs_proof(point: OperatingPoint) -> bool:
    """Whether a point is proven before it is measured: all but those of the engine's own kernels."""
    return not is_own(point.engine, point.provider)


def without_golden(point: OperatingPoint) -> str:
    """Say why a candidate without golden data is not measured on an accelerator."""
    name = split_provider(point.provider)[0]
    return f"without golden outputs nobody can say whether {name} computes right: publish the model with golden data"


def _takes(engine: str, provider: str, manifest: Manifest) -> bool:
    """Whether a provider may take a model at all; how much of it only loading can tell."""
    held = set(manifest.needs.operators)
    row = provider_row(provider)
    if held & _COMPILED:
        return row.operator in held
    quantized = any(spec.quantization is not None for spec in (*manifest.inputs, *manifest.outputs))
    return is_own(engine, provider) or (row.operator is None and (quantized or not row.quantized_only))


def _engines(candidate: Candidate, facts: DeviceFacts) -> list[EngineFacts]:
    needs = candidate.manifest.needs.engines
    known = {row.name for row in ENGINES}
    return [
        engine
        for engine in facts.engines
        if engine.proven
        and engine.name in known
        and candidate.manifest.format in engine.formats
        and (not needs or engine.name in needs)
    ]


def refusal(candidate: Candidate, facts: DeviceFacts) -> str | None:
    """Return why this candidate cannot run here, as one sentence, or None when only running it can tell."""
    manifest = candidate.manifest
    needs = manifest.needs
    if needs.opset is not None and needs.opset > MAX_OPSET:
        return f"it needs opset {needs.opset}; {MAX_OPSET} is the newest that every supported engine runs"
    if needs.ir_version is not None and needs.ir_version > MAX_IR_VERSION:
        return f"it needs IR version {needs.ir_version}; {MAX_IR_VERSION} is the newest every supported engine reads"
    missing = [name for name in needs.isa if name not in facts.cpu.features]
    if missing:
        return f"this processor ({facts.cpu.architecture}) lacks {', '.join(missing)}"
    wanted = max(needs.memory_bytes or 0, candidate.model_bytes)
    if wanted > facts.memory.usable_bytes:
        return f"it needs {wanted} bytes of memory; this board has {facts.memory.usable_bytes}"
    if not _engines(candidate, facts):
        tried = [f"{e.name}: {e.reason or 'not proven'}" for e in facts.engines if manifest.format in e.formats]
        wish = f" of {', '.join(needs.engines)}" if needs.engines else ""
        return f"no engine{wish} for {manifest.format} is proven here" + (f" ({'; '.join(tried)})" if tried else "")
    compiled = sorted(_COMPILED & set(needs.operators))
    if compiled and not operating_points(candidate, facts):
        names = ", ".join(row.name for row in PROVIDERS if row.operator in compiled)
        return f"it is compiled for {names}, which is not proven here"
    return None


def nominal_point(candidate: Candidate, facts: DeviceFacts) -> OperatingPoint:
    """Return the point under which a refusal is recorded: the first proven one, else the format's first engine."""
    points = operating_points(candidate, facts)
    if points:
        return points[0]
    row = next(row for row in ENGINES if candidate.manifest.format in row.formats)
    engine = facts.engine(row.name)
    version = engine.version if engine is not None else None
    return OperatingPoint(engine=row.name, engine_version=version or "", provider=row.cpu_provider, threads=1)


def plan(
    candidates: Sequence[Candidate],
    facts: DeviceFacts,
    settings: MeasureSettings,
    stored: Iterable[Measurement],
    now: datetime,
) -> tuple[PlannedRun, ...]:
    """Return all runs of the given candidates, cheap first.

    Args: stored: earlier measurements, in any order; the youngest usable one of a key counts. now: aware, UTC.
    """
    known: dict[object, Measurement] = {}
    for measurement in stored:
        if measurement.verdict in LASTING and _age_s(measurement, now) <= settings.reuse_max_age_s:
            other = known.get(measurement.key)
            if other is None or other.started_at < measurement.started_at:
                known[measurement.key] = measurement
    runs = []
    for candidate in sorted(candidates, key=lambda c: (c.size_bytes, c.task, c.name)):
        reason = refusal(candidate, facts)
        if reason is not None:
            runs.append(PlannedRun(candidate=candidate, point=nominal_point(candidate, facts), refusal=reason))
            continue
        for point in operating_points(candidate, facts, settings.threads):
            if needs_proof(point) and candidate.manifest.golden is None:
                runs.append(PlannedRun(candidate=candidate, point=point, refusal=without_golden(point)))
                continue
            names = (point, plain_point(point))  # the second where the CPU provider took no node of it
            keys = [(candidate.task, candidate.sha256, name, facts.class_fingerprint) for name in names if name]
            found = next((known[key] for key in keys if key in known), None)
            runs.append(PlannedRun(candidate=candidate, point=point, stored=found))
    return tuple(runs)


def _age_s(measurement: Measurement, now: datetime) -> float:
    """Return the age in seconds; a time that lies ahead or cannot be read makes it infinite, so that it is not used."""
    try:
        age = (now - read_iso(measurement.started_at)).total_seconds()
    except (ValueError, TypeError):
        return float("inf")
    return age if age >= 0 else float("inf")
