"""What may be asked of a task's deployment: deploy, roll back, step along the ladder, recover, status.

Rules:
- What runs already is not switched in again, and what is kept out is refused, before anything is staged.
- A step along the ladder (``agent.deploy.rungs``) relinks ``current`` to a release that was proven when it was laid.
- One process at a time switches in a state directory, by a lock of our own: a step does not wait for a pass that
  measures. That no two passes work on one is the caller's.

Leaves carrying out an attempt to ``agent.deploy.carrier``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import UNSET

from agent.core.deployment import Deployment, DeploymentStatus, RungPlace
from agent.core.manifest import Candidate
from agent.core.measurement import Measurement, OperatingPoint
from agent.core.ports import Clock, Probe, StopRequested, never_stop, no_progress
from agent.core.ports import Progress as ProgressSink
from agent.database import Database
from agent.deploy.carrier import Attempt, Carrier, is_suspect, now_text
from agent.deploy.document import deployment_for, golden_file, is_same_model
from agent.deploy.hook import HookSettings
from agent.deploy.journal import WITHDRAWN, Failures, Journal, Record
from agent.deploy.phases import (
    Event,
    Phase,
    is_settled,
)
from agent.deploy.rungs import Rungs
from agent.deploy.store import CURRENT, PREVIOUS, ReleaseStore
from agent.deploy.withheld import Told, Withheld, tell_nobody
from agent.errors import BoardfitError, DeploymentError, Interrupted, RolledBackError
from agent.locks import exclusive

_PATIENCE_S = 60.0  # chosen: a step takes milliseconds, and the hook after it as long as it may


class Deployer:
    """Deploys, rolls back and recovers the tasks of one state directory.

    Args:
        probe: proves a release folder in a fresh child; used before the switch and again in the probation.
        hook: run after every switch; None for none. health: asked in the probation how the application is.
        probation_s: how long a switched model is watched before it is confirmed, seconds.
        progress: told of every phase when it is stored (done 0) and when its action has ended (done 1).
        pause: sleeps for some seconds.
        told: told of a model that has just been quarantined.
    """

    def __init__(
        self, state_dir: Path, database: Database, *, clock: Clock, probe: Probe, hook: HookSettings | None = None,
        health: HookSettings | None = None, probation_s: float = 0.0, progress: ProgressSink = no_progress,
        stop: StopRequested = never_stop,
        pause: Callable[[float], None] = time.sleep, told: Told = tell_nobody,
    ) -> None:  # fmt: skip
        self.store = ReleaseStore(state_dir / "deploy")
        self._lock = state_dir / "switch.lock"
        self._journal = Journal(database)
        self.withheld = Withheld(self._journal, self._now, told)
        self.rungs = Rungs(self.store, probe, self._alone)
        self._clock = clock
        self._carrier = Carrier(
            self.store, self._journal, self.withheld, clock=clock, probe=probe, hook=hook, health=health,
            probation_s=probation_s, progress=progress, stop=stop, pause=pause,
        )  # fmt: skip

    def deploy(  # noqa: PLR0917 - in the order in which they come about
        self, task: str, candidate: Candidate, point: OperatingPoint, artifact: Path, golden: Path | None,
        measurement: Measurement | None, *, force: bool = False, rungs: Sequence[Deployment] = (),
    ) -> DeploymentStatus:  # fmt: skip
        """Put a candidate in place; outcome ``deployed``, or ``unchanged`` where it runs already and is whole.

        A candidate that was chosen before and is served by a lower rung of its ladder is not switched in again: that
        is for whoever steps. Args: artifact, golden: verified files of the registry's cache; they are copied.
            force: even if withheld, or stepped down from. rungs: the documents below it in the new ladder.
        Raises: RolledBackError: it was switched in and did not hold; what ran before is back.
            DeploymentError: it was not switched in: withheld, not proven, or the cache's file is damaged.
            StorageError: the disk is full or failing. Interrupted: a stop was asked for.
        """
        if candidate.task != task:
            raise DeploymentError(f"candidate {candidate.name} is for task {candidate.task}, not {task}")
        place = RungPlace(index=0, count=1 + len(rungs)) if rungs else UNSET
        wanted = deployment_for(candidate, point, golden_file(candidate, golden), measurement, place)
        with self._alone():
            self._carrier.settle(task)
            return self._deploy(task, candidate, wanted, artifact, golden, force=force, rungs=rungs)

    def _deploy(
        self, task: str, candidate: Candidate, wanted: Deployment, artifact: Path, golden: Path | None, *, force: bool,
        rungs: Sequence[Deployment],
    ) -> DeploymentStatus:  # fmt: skip
        point = wanted.point
        running = self.store.linked(task, CURRENT)
        document = self.store.read(task, running)
        if running == wanted.release:
            document = wanted
        if running is not None and document is not None and is_same_model(wanted, document):
            return self._unchanged(task, running, document, artifact, golden)
        if document is not None and not force and self._is_stepped_down(wanted, document, rungs):
            reason = f"{wanted.candidate} is chosen, and {document.candidate} of its ladder serves in its place"
            return msgspec.structs.replace(self.status(task), outcome="unchanged", reason=reason)
        if not force:
            self.withheld.check(task, candidate, point)
        self.store.check_space(wanted)
        self.withheld.count(task, candidate, point)
        record = Record(
            task=task, phase=self._phase(task), changed_at="", release=wanted.release, candidate=candidate.name,
            artifact_sha256=candidate.sha256, restore_current=running,
            restore_previous=self.store.linked(task, PREVIOUS),
        )  # fmt: skip
        attempt = Attempt(deployment=wanted, model=artifact, golden=golden)
        record = self._carrier.run(record, Event.DEPLOY, attempt)
        if record.phase == Phase.DONE.value:
            return self.status(task)
        if isinstance(attempt.error, Interrupted):
            self.withheld.count(task, candidate, point, -1)
        back = record.phase == Phase.ROLLED_BACK.value
        if attempt.error is not None and (not back or isinstance(attempt.error, Interrupted)):
            raise attempt.error
        failed = RolledBackError if back else DeploymentError
        raise failed(
            f"{candidate.name} was {'rolled back' if back else 'not deployed'}: {record.reason}",
            candidate=candidate.name, release=wanted.release, phase=record.phase,
        ) from attempt.error  # fmt: skip

    def rollback(self, task: str, leaving: str | None = None) -> DeploymentStatus:
        """Switch back to the previous release and run the hook; the two links change places.

        The model that is left is withdrawn: no pass selects it again until it is deployed by name (``force``).
        Args: leaving: the release to go back from; where its own attempt has put back what ran before it, that was it.
        Raises: DeploymentError: there is no previous release, it is damaged, or the hook failed after the switch; or
            another release serves than the one to go back from. StorageError: the disk.
        """
        with self._alone():
            self._carrier.settle(task)
            return self._roll_back(task, leaving)

    def _roll_back(self, task: str, leaving: str | None) -> DeploymentStatus:
        current, previous = (self.store.linked(task, name) for name in (CURRENT, PREVIOUS))
        chosen = self.store.chosen(task)
        if leaving is not None and leaving not in (current, chosen):
            return self._gone_back(task, leaving)
        if previous is None:
            raise DeploymentError(f"task {task} has no previous deployment to go back to")
        damage = self.store.find_damage(task, previous)
        if damage is not None:
            raise DeploymentError(f"the previous deployment of {task} is damaged: {damage}", fix="deploy a candidate")
        document = self.store.read(task, previous)
        record = Record(
            task=task, phase=self._phase(task), changed_at="", release=previous, reason="a rollback was asked for",
            candidate=document.candidate if document else None, restore_current=previous, restore_previous=chosen,
        )  # fmt: skip
        for left in dict.fromkeys((current, chosen)):  # a rung is left with what was chosen
            self.withheld.by_hand(task, leaving=self.store.read(task, left), restored=document)
        attempt = Attempt()
        self._carrier.run(record, Event.ROLL_BACK, attempt)
        if attempt.hook_failure is not None:
            raise DeploymentError(f"task {task} is back at its previous deployment, but {attempt.hook_failure}")
        return self.status(task)

    def recover(self, task: str | None = None) -> tuple[DeploymentStatus, ...]:
        """Settle what a power cut or kill left in progress, and collect leftovers; call once at start.

        Args: task: this one only (a deployer with a hook serves one task); None: all.
        Returns: the status of every task that was in progress. Raises: StorageError, DeploymentError.
        """
        with self._alone():
            mine = [record for record in self._journal.records() if task is None or record.task == task]
            found = [record for record in mine if not is_settled(record.phase)]
            self._recover(found)
            for name in self.store.tasks():
                if task is None or name == task:
                    self.rungs.forget_unlaid(name)
        return tuple(self.status(record.task) for record in found)

    def _recover(self, found: Sequence[Record]) -> None:
        failed: BoardfitError | None = None
        for record in found:
            try:
                self._carrier.resume(record, f"interrupted in phase {record.phase}", blame=is_suspect(record.phase))
            except BoardfitError as error:  # the other tasks are settled all the same
                failed = failed or error
        if failed is not None:
            raise failed

    def step(self, task: str, release: str, reason: str) -> DeploymentStatus:
        """Serve another rung of the ladder. With a hook the outcome is still open: ``finish_step`` runs it.

        Raises: BusyError: something else is being switched. DeploymentError: the release is no rung of what serves, or
            what is in progress must be settled first. StorageError: the disk; what served goes on.
        """
        with self._alone(0.0):
            record, ladder = self._journal.read(task), self.store.ladder(task)
            current = self.store.linked(task, CURRENT)
            if record is not None and not is_settled(record.phase):
                raise DeploymentError(f"a deployment of {task} is in progress", phase=record.phase)
            document = self.store.read(task, release)
            if ladder is None or None in (ladder.index(current), ladder.index(release)) or document is None:
                raise DeploymentError(f"release {release[:12]} is no rung of what serves {task}")
            record = Record(
                task=task, phase=self._phase(task), changed_at="", release=release, candidate=document.candidate,
                artifact_sha256=document.model.sha256, restore_current=current, reason=reason,
                restore_previous=self.store.linked(task, PREVIOUS),
            )  # fmt: skip
            attempt = Attempt(deployment=document, leaves_hook=self._carrier.has_hook)
            record = self._carrier.run(record, Event.STEP, attempt)
            if attempt.error is not None:
                raise attempt.error
            return self.status(task)

    def finish_step(self, task: str) -> DeploymentStatus:
        """Run the hook of a step. Raises: BusyError. StorageError. DeploymentError: a journal of another version."""
        with self._alone():
            record = self._journal.read(task)
            if record is not None and record.phase == Phase.STEPPED_OVER.value:
                self._carrier.settle(task)
            return self.status(task)

    def status(self, task: str) -> DeploymentStatus:
        """Return what serves now and how the last attempt ended. Raises: StorageError, DeploymentError."""
        record, current = self._journal.read(task), self.store.linked(task, CURRENT)
        ladder = self.store.ladder(task)
        rung = None if ladder is None else ladder.index(current)
        return DeploymentStatus(
            task=task,
            phase=record.phase if record else Phase.IDLE.value,
            changed_at=record.changed_at if record else self._now(),
            current=self.store.read(task, current),
            previous_release=self.store.linked(task, PREVIOUS),
            outcome=record.outcome if record else "none",
            reason=record.reason if record else None,
            path=str(self.store.link(task)),
            ladder=() if ladder is None or rung is None else ladder.rungs,
            rung=rung,
            withheld={one.candidate: one.text for one in self.withheld.quarantined(task)},
        )

    def protected_digests(self) -> frozenset[str]:
        """Return the SHA-256 of all files that serve, could be gone back to, or are being deployed."""
        busy = {r.artifact_sha256 for r in self._journal.records() if not is_settled(r.phase)}
        return self.store.protected_digests() | {digest for digest in busy if digest is not None}

    def quarantined(self) -> tuple[Failures, ...]:
        """Return the models that failed too often, or were rolled back by hand: no pass may try them again."""
        return self.withheld.quarantined()

    # --- answers without a switch ---

    def _unchanged(
        self, task: str, running: str, document: Deployment, model: Path, golden: Path | None
    ) -> DeploymentStatus:
        damage = self.store.find_damage(task, running)
        if damage is not None:
            self.store.stage(document, model, golden)
        reason = "it runs already" if damage is None else f"it runs already and was repaired ({damage})"
        return msgspec.structs.replace(self.status(task), outcome="unchanged", reason=reason)

    def _is_stepped_down(self, wanted: Deployment, running: Deployment, rungs: Sequence[Deployment]) -> bool:
        """Return whether what is wanted was stepped down from, to what stays a rung of it, and is whole."""
        chosen = self.store.read(wanted.task, self.store.chosen(wanted.task))
        return (
            chosen is not None and is_same_model(wanted, chosen) and any(is_same_model(one, running) for one in rungs)
            and self.store.find_damage(wanted.task, running.release) is None
        )  # fmt: skip

    @contextmanager
    def _alone(self, patience_s: float = _PATIENCE_S) -> Iterator[None]:
        """Hold the lock of whoever switches. Raises: BusyError."""
        with exclusive(self._lock, "a deployment", patience_s):
            yield

    def _gone_back(self, task: str, leaving: str) -> DeploymentStatus:
        """Answer who goes back from a release that was left already, by itself or by hand. Raises: DeploymentError."""
        record = self._journal.read(task)
        by_hand = record is not None and record.release == record.restore_current
        left = None if record is None else record.restore_previous if by_hand else record.release
        if record is None or left != leaving or record.phase != Phase.ROLLED_BACK.value:
            raise DeploymentError(f"release {leaving[:12]} of {task} does not serve any more, so nothing was changed")
        restored = self.store.read(task, self.store.linked(task, CURRENT))
        if record.artifact_sha256 is not None and (restored is None or restored.model.sha256 != record.artifact_sha256):
            self._journal.withdraw(task, record.artifact_sha256, record.candidate or "", WITHDRAWN, self._now())
        return self.status(task)

    def _phase(self, task: str) -> str:
        record = self._journal.read(task)
        return record.phase if record else Phase.IDLE.value

    def _now(self) -> str:
        return now_text(self._clock)
