"""The stage between measuring and deciding: which options are run on until the board is warm, and what comes of it.

Rules:
- What serves is run on every time: that is the check. Beside it, where a limit or an objective names sustained latency,
  what would be chosen if only that were no obstacle, one after the other, until the choice is one that was run on.
- The figures become part of the option's newest measurement, and are told as one; the next decision goes by them.
- What is stopped in the middle is dropped and said: it begins anew, since the board has cooled.

Leaves the running to ``agent.measure.sustained``, and deciding to ``agent.select``.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import msgspec

from agent.core.decision import Choice
from agent.core.facts import DeviceFacts
from agent.core.measurement import Measurement, OperatingPoint
from agent.core.ports import ProgressEvent
from agent.errors import ConfigError, Interrupted
from agent.measure.engine_cache import EngineCache
from agent.measure.sustained import hopeful, measure_sustained
from agent.pipeline import BenchResult
from agent.question import Question, candidates_of, current_measurements, question_for
from agent.site import Site

METRIC = "latency_p95_sustained"
_Key = tuple[str, OperatingPoint]


def sustained(site: Site, task: str, facts: DeviceFacts, *, only: Sequence[str] = ()) -> BenchResult:
    """Run on what serves, and what sustained latency keeps from being chosen; each result is stored at once.

    Args: only: these candidates instead, each at its best measured point.
    Raises: ConfigError: a named candidate was not measured. Interrupted: a stop was asked for. TrustError,
        DownloadError, StorageError, MeasurementError.
    """
    question = question_for(site, task, facts)
    asked = [_best_point(site, task, facts, name) for name in only]
    if not only and question.incumbent is not None:
        asked = [question.incumbent]
    measured: list[Measurement] = []
    done: set[_Key] = set()
    while True:
        known = {(m.artifact_sha256, m.point): m for m in current_measurements(site, task, facts)}
        choice = asked.pop(0) if asked else None if only else _next(question, tuple(known.values()))
        if choice is None:
            break
        key = (choice.artifact_sha256, choice.point)
        if key in done:
            break
        done.add(key)
        before = known.get(key)
        if before is None or before.verdict != "ok":
            site.report.event(
                "sustained_left_out", f"{choice.candidate} serves and was not measured here: bench it", task=task
            )
            continue
        measured.append(_run(site, before, facts))
    return BenchResult(measured=tuple(measured))


def _run(site: Site, before: Measurement, facts: DeviceFacts) -> Measurement:
    name = f"{before.candidate}  {before.point.label}"
    site.progress(ProgressEvent(stage="sustained", text=name))
    listed = candidates_of(site, before.task, ())
    candidate = next((one for one in listed if one.sha256 == before.artifact_sha256), None)
    if candidate is None:
        raise ConfigError(f"{before.candidate} is no longer in the registry", fix="run `boardfit once` to decide anew")
    artifact = site.registry.fetch_model(candidate, progress=site.progress, stop=site.stop)
    with site.ledger.measuring(site.stop) as stop:
        begin_s = site.clock.monotonic_s()
        found = measure_sustained(
            candidate, before.point, artifact, facts=facts, board=site.board, clock=site.clock,
            settings=site.measure_settings, engines=EngineCache(site.engines), progress=site.progress, stop=stop,
        )  # fmt: skip
    if found is None or site.stop():
        spent_s = site.clock.monotonic_s() - begin_s
        text = f"{name} was stopped after {spent_s:.0f} s without pause; that is dropped, as the board cools meanwhile"
        site.report.event("sustained_dropped", text, task=before.task, level="info")
        raise Interrupted("stopped on request", fix="run it again: a run until the board is warm cannot be resumed")
    measurement = msgspec.structs.replace(before, id=uuid.uuid4().hex, sustained=found)
    site.records.add_measurement(measurement)
    site.report.measured(measurement)
    return measurement


def _next(question: Question, known: Sequence[Measurement]) -> Choice | None:
    """Return what would be chosen if it held in the long run, where nobody knows that yet."""
    wanted = question.wanted
    if METRIC not in {one.metric for one in wanted.budgets} | {one.metric for one in wanted.objectives}:
        return None
    winner = question.decide(hopeful(known)).winner
    if winner is None:
        return None
    found = next(m for m in known if (m.artifact_sha256, m.point) == (winner.artifact_sha256, winner.point))
    return winner if found.sustained is None else None


def _best_point(site: Site, task: str, facts: DeviceFacts, name: str) -> Choice:
    question = question_for(site, task, facts, budgets=())._replace(withheld={}, incumbent=None)
    known = [m for m in current_measurements(site, task, facts) if m.candidate == name]
    winner = question.decide(hopeful(known)).winner if known else None
    if winner is None:
        raise ConfigError(f"{name} has no figures here", fix=f"run `boardfit bench --task {task} --candidate {name}`")
    return winner
