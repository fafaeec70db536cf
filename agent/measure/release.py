"""Proving a release with what its accelerator has built for it, so that a deployment does not wait for that again.

Rules:
- What was built when the model was measured is taken: it has given the golden outputs there, and gives them here again.
- What is kept may be damaged, or refused by a library that was changed: a proof that fails with it proves nothing
  against the model. It is dropped, and the proof is taken again without.

Leaves the proof itself to ``agent.measure.bench``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.core.deployment import Deployment
from agent.core.facts import DeviceFacts
from agent.core.ports import ProbeResult, StopRequested
from agent.measure import bench
from agent.measure.engine_cache import EngineCache, built_entry
from agent.measure.proving import job_with


def prove_with_kept(
    release: Path,
    deployment: Deployment,
    *,
    engines: EngineCache,
    facts: Callable[[], DeviceFacts | None],
    stop: StopRequested,
    **given: Any,
) -> ProbeResult:
    """Prove a staged release. Args: facts: this board's, None where it was never profiled. given: ``prove_release``'s.

    Returns, Raises: as ``prove_release``.
    """
    entry = built_entry(engines, facts(), deployment.point, deployment.model.sha256)
    if entry is not None:
        found = bench.prove_release(
            release, deployment, stop=stop, kept=lambda job: job_with(job, entry, engines), **given
        )
        if found.passed or stop():
            return found
        entry.drop()
    return bench.prove_release(release, deployment, stop=stop, **given)
