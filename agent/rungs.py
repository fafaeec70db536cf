"""Brings the ladder of a decision into the release store, so that it can be stepped along without asking anybody.

Decides which rungs can be had (fetched, with a document of their own); leaves choosing them to ``agent.select``, laying
and proving them to ``agent.deploy``, and stepping to ``agent.watch``. A rung that cannot be had is an event, never the
end of a pass: what was chosen serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent.core.decision import LadderRung
from agent.core.deployment import DeploymentStatus, RungPlace
from agent.core.facts import DeviceFacts
from agent.core.manifest import Candidate, TargetRef
from agent.core.measurement import Measurement, OperatingPoint
from agent.deploy.document import deployment_for, golden_file
from agent.deploy.rungs import RungSource
from agent.errors import BusyError, DownloadError, ModelError, StorageError, TrustError
from agent.site import Site


def rung_sources(site: Site, task: str, ladder: Sequence[LadderRung], facts: DeviceFacts) -> tuple[RungSource, ...]:
    """Return what the rungs below the first are made of, fetched; what cannot be had is told and left out.

    Raises: Interrupted: a stop was asked for.
    """
    if len(ladder) < 2:
        return ()
    listed = {one.sha256: one for one in site.registry.candidates(task)}
    measured = {
        (one.artifact_sha256, one.point): one for one in site.records.measurements(task, facts.class_fingerprint)
    }
    found: list[tuple[LadderRung, Candidate, Path, Path | None]] = []
    for rung in ladder[1:]:
        candidate = listed.get(rung.choice.artifact_sha256)
        if candidate is None:
            continue
        try:
            model = site.registry.fetch_model(candidate, progress=site.progress, stop=site.stop)
            golden = _fetched(site, candidate.manifest.golden)
        except (TrustError, DownloadError, StorageError, ModelError) as error:
            site.report.failure("rung_left_out", error, task=task)
            continue
        found.append((rung, candidate, model, golden))
    return tuple(
        _source(number, 1 + len(found), rung, candidate, model, golden, measured)
        for number, (rung, candidate, model, golden) in enumerate(found, start=1)
    )


def lay_rungs(site: Site, status: DeploymentStatus, sources: Sequence[RungSource]) -> DeploymentStatus:
    """Lay the ladder of what is deployed. Returns: the status with it. Raises: Interrupted: a stop was asked for."""
    task = status.task
    deployer = site.deployer(site.config.task(task))
    try:
        left_out = deployer.rungs.lay(task, sources)
    except (BusyError, StorageError) as error:
        site.report.failure("rung_left_out", error, task=task)
        left_out = ()
    for one in left_out:
        site.report.event("rung_left_out", f"{one.candidate} is no rung of {task}: {one.reason}", task=task)
    now = deployer.status(task)
    site.report.deployment(now)
    return msgspec.structs.replace(status, ladder=now.ladder, rung=now.rung)


def _source(  # noqa: PLR0917 - the parts of one rung
    number: int, count: int, rung: LadderRung, candidate: Candidate, model: Path, golden: Path | None,
    measured: dict[tuple[str, OperatingPoint], Measurement],
) -> RungSource:  # fmt: skip
    choice, place = rung.choice, RungPlace(index=number, count=count)
    measurement = measured.get((choice.artifact_sha256, choice.point))
    document = deployment_for(candidate, choice.point, golden_file(candidate, golden), measurement, place)
    return RungSource(document, model, golden)


def _fetched(site: Site, ref: TargetRef | None) -> Path | None:
    return None if ref is None else site.registry.fetch(ref, progress=site.progress, stop=site.stop)
