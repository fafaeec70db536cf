"""Settles deployments that a power cut, a crash or a kill left unfinished, and tells the fleet how each ended.

Rules:
- Only who holds the pass lock settles: a child whose daemon was killed may still be putting things back, and it is
  waited for as long as such a child may take. Where nothing is unfinished nobody is waited for.
- One task that cannot be settled keeps no other from it, and is told.

Leaves how an attempt is settled to ``agent.deploy``.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from agent.child import STOP_GRACE_S
from agent.core.deployment import DeploymentStatus
from agent.errors import BoardfitError
from agent.locks import exclusive
from agent.site import Site

log = logging.getLogger("boardfit")

_PATIENCE_S = STOP_GRACE_S + 15.0  # chosen: what a child that was asked to stop may take, and a little


def recover(site: Site) -> tuple[DeploymentStatus, ...]:
    """Settle what is unfinished, task by task. Returns: those that were.

    Raises: BusyError: somebody else's pass holds the lock. StorageError. DeploymentError: a journal of another version.
    """
    found: list[DeploymentStatus] = []
    patience_s = _PATIENCE_S if unfinished(site) else 0.0
    with exclusive(site.state_dir / "pass.lock", "a pass", patience_s):
        for name in sorted({*site.config.tasks, *site.records.tasks()}):
            deployer = site.deployer(site.config.task(name))
            try:
                recovered = deployer.recover(name)
            except BoardfitError as error:
                site.report.failure("recovery_failed", error, task=name)
                continue
            for status in recovered:
                site.report.event("deployment_recovered", status.reason or status.phase, task=name)
                site.report.deployment(status)
            found += recovered
    return tuple(found)


def finish_steps(site: Site) -> tuple[DeploymentStatus, ...]:
    """Run the hooks of steps along ladders, beside a pass. Returns: those tasks' status.

    Raises: BusyError: something else is being switched. StorageError. DeploymentError: a journal of another version.
    """
    from agent.deploy.journal import Journal
    from agent.deploy.phases import Phase

    waiting = [one.task for one in Journal(site.database).records() if one.phase == Phase.STEPPED_OVER.value]
    found = []
    for name in waiting:
        status = site.deployer(site.config.task(name)).finish_step(name)
        if status.outcome != "stepped":
            site.report.event("ladder_step_failed", status.reason or status.phase, level="error", task=name)
        site.report.deployment(status)
        found.append(status)
    return tuple(found)


class Unfinished(NamedTuple):
    """A deployment in progress. ``switched``: its release serves, or may, and is not confirmed yet."""

    task: str
    release: str | None
    switched: bool


def unfinished(site: Site) -> tuple[Unfinished, ...]:
    """Return the deployments in progress. Raises: StorageError, DeploymentError."""
    from agent.deploy.journal import Journal
    from agent.deploy.phases import UNCONFIRMED, is_settled

    found = [one for one in Journal(site.database).records() if not is_settled(one.phase)]
    return tuple(Unfinished(one.task, one.release, one.phase in UNCONFIRMED) for one in found)


def known_unfinished(site: Site) -> tuple[Unfinished, ...]:
    """Return the deployments in progress; none, with a warning, where the journal cannot be read."""
    try:
        return unfinished(site)
    except BoardfitError as error:
        log.warning("%s", error)
        return ()
