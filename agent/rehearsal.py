"""The shadow run before a switch: when one is asked for, and what comes of its verdict.

Rules:
- For a task with ``shadow`` in its configuration, where another model serves and nobody asked for this one by name.
  What is kept out already is refused before; what runs already at these options is no switch.
- Passed: the switch goes on. Refused: the incumbent stays, and the model is withheld until it is pardoned or deployed
  by name. Not enough: ``without_traffic: skip`` goes on and says so; ``require`` leaves the switch to a later pass, of
  which there are so many a day as there are attempts at a deployment.
- The result is an event, and stands in ``boardfit status`` until the task's next run.

Leaves the run to ``agent.watch.shadow``, the rule to ``agent.core.shadow``, the switch to ``agent.deploy``.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.clock import iso
from agent.core.deployment import Deployment
from agent.core.manifest import Candidate
from agent.core.measurement import Measurement, OperatingPoint
from agent.core.ports import ProgressEvent
from agent.core.shadow import Shadow
from agent.database import Database
from agent.deploy.document import deployment_for, is_same_model
from agent.errors import DeploymentError, Interrupted
from agent.site import Site
from agent.watch.shadow import Ran, run_beside
from agent.watch.understudies import Stopped

_TABLES = ("CREATE TABLE IF NOT EXISTS shadow_run (task TEXT PRIMARY KEY, document BLOB NOT NULL)",)


class Shadows:
    """The newest run of each task, in an open state database. Raises: StorageError, from every method."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.ensure(_TABLES)

    def all(self) -> dict[str, Shadow]:
        """Return the newest of each task; one of a later version is left out."""
        found = {}
        for row in self._database.rows("SELECT task, document FROM shadow_run ORDER BY task"):
            try:
                found[row["task"]] = msgspec.json.decode(row["document"], type=Shadow)
            except msgspec.DecodeError:
                continue
        return found

    def keep(self, one: Shadow) -> None:
        """Store one in the place of the task's last."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO shadow_run VALUES (?, ?)", (one.task, msgspec.json.encode(one)))


def rehearse(
    site: Site, candidate: Candidate, point: OperatingPoint, artifact: Path, measurement: Measurement | None
) -> Shadow | None:
    """Run a candidate beside what serves, where the task asks for that. Args: artifact: its verified file.

    Returns: the result with which the switch goes on; None: no run is asked for.
    Raises: DeploymentError: refused, withheld already, or not enough traffic where it is required. Interrupted.
    """
    task = site.config.task(candidate.task)
    if task.shadow is None:
        return None
    deployer = site.deployer(task)
    serving = deployer.status(task.name).current
    wanted = deployment_for(candidate, point, None, measurement)
    chosen = deployer.store.read(task.name, deployer.store.chosen(task.name))  # a lower rung of it may serve
    known = (msgspec.structs.replace(one, golden=None) for one in (serving, chosen) if one is not None)
    if serving is None or any(is_same_model(wanted, one) for one in known):
        return None
    deployer.withheld.check(task.name, candidate, point)
    text = f"{task.name}: {candidate.name} beside {serving.candidate}"
    site.progress(ProgressEvent(stage="shadow", text=text, total=task.shadow.requests))
    try:
        ran = run_beside(site, wanted, artifact, serving, task.shadow)
    except Stopped:
        raise Interrupted("stopped on request", fix="run again: nothing was switched") from None
    except OSError as error:
        raise DeploymentError(f"the shadow run of {candidate.name} has no socket: {error.strerror}") from error
    result = _result(site, wanted, serving, ran)
    Shadows(site.database).keep(result)
    _act(site, candidate, point, result)
    return result


def _result(site: Site, wanted: Deployment, serving: Deployment, ran: Ran) -> Shadow:
    text = ran.trial.text(ran.verdict)
    if ran.problem is not None:
        text = ran.problem if ran.trial.requests == 0 else f"{text}; {ran.problem}"
    fields = {
        "task": wanted.task, "candidate": wanted.candidate, "artifact_sha256": wanted.model.sha256,
        "point": wanted.point.label, "incumbent": serving.candidate, "at": iso(site.clock.utc()),
        "verdict": ran.verdict, "text": text, "duration_s": ran.duration_s, **ran.trial.figures(),
    }  # fmt: skip
    return msgspec.convert(fields, type=Shadow)


def _act(site: Site, candidate: Candidate, point: OperatingPoint, result: Shadow) -> None:
    task = site.config.task(candidate.task)
    withheld = site.deployer(task).withheld
    beside = f"{result.candidate} beside {result.incumbent}, on the requests of {task.name}"
    if result.verdict == "passed":
        site.report.event("shadow_passed", f"{beside}: {result.text}", level="info", task=task.name)
        return
    if result.verdict == "refused":
        fix = f"publish a corrected model, or `boardfit deploy --task {task.name} --candidate {result.candidate}`"
        withheld.by_shadow(task.name, candidate, result.text)
        text = f"{beside}: {result.text}. {result.incumbent} stays"
        site.report.event("shadow_refused", text, level="error", task=task.name, fix=fix)
        raise DeploymentError(f"{candidate.name} was refused by its shadow run: {result.text}", fix=fix)
    waits = result.without_traffic == "require"
    then = "the switch waits for a later pass" if waits else "the switch goes on without it"
    site.report.event("shadow_not_enough", f"{beside}: {result.text}; {then}", task=task.name)
    if waits:
        withheld.count(task.name, candidate, point)
        fix = "let an application that uses agent.client run, or set `shadow.without_traffic: skip`"
        raise DeploymentError(f"{candidate.name} was not deployed: {result.text}", fix=fix)
