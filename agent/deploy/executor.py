"""Carries out the table of ``phases``: every phase is stored in the journal first, then its action is done.

Rules:
- Nothing is switched before a fresh child has loaded the staged release, its golden outputs agreed and it was quick.
- ``previous`` moves first, then ``current``: at every instant ``current`` is the old release or the new one, whole.
- A failure after the switch puts both links back and runs the hook again for what is restored.
- Any error on the way, foreseen or not, settles the attempt before it is passed on; after a cut, ``recover`` does.
- One process at a time works on a state directory; the lock is the caller's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from agent.core.deployment import DeployedFile, Deployment, DeploymentStatus
from agent.core.manifest import Candidate
from agent.core.measurement import Measurement, OperatingPoint
from agent.core.ports import Clock, Probe, ProgressEvent, StopRequested, never_stop, no_progress
from agent.core.ports import Progress as ProgressSink
from agent.database import Database
from agent.deploy.document import GOLDEN_NAME, deployment_for, is_same_model
from agent.deploy.files import describe_file
from agent.deploy.health import watch_probation
from agent.deploy.hook import HookSettings, run_hook
from agent.deploy.journal import WITHDRAWN, Failures, Journal, Record
from agent.deploy.phases import (
    MAX_WRITES,
    RESUMED,
    SUSPECT,
    Action,
    Event,
    Phase,
    Resume,
    advance,
    is_settled,
    resume_for,
)
from agent.deploy.store import CURRENT, PREVIOUS, ReleaseStore
from agent.deploy.withheld import Told, Withheld, tell_nobody
from agent.errors import BoardfitError, DeploymentError, Interrupted, RolledBackError

_OUTCOMES = {Phase.DONE: "deployed", Phase.ROLLED_BACK: "rolled_back", Phase.FAILED: "failed"}


class _Attempt(msgspec.Struct, kw_only=True):
    """What one run of the table knows besides the journal row."""

    deployment: Deployment | None = None  # None when a manual or resumed rollback is carried out
    model: Path | None = None
    golden: Path | None = None
    reason: str | None = None  # why the present action failed
    blame: bool = False  # the model is at fault
    error: BoardfitError | None = None  # what to raise at the end instead of the usual error
    hook_failure: str | None = None  # the hook failed for what was restored


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
        self._journal = Journal(database)
        self.withheld = Withheld(self._journal, self._now, told)
        self._clock, self._probe, self._probation_s = clock, probe, probation_s
        self._hook, self._health = hook, health
        self._progress, self._stop, self._pause = progress, stop, pause

    def deploy(  # noqa: PLR0917 - in the order in which they come about
        self, task: str, candidate: Candidate, point: OperatingPoint, artifact: Path, golden: Path | None,
        measurement: Measurement | None, *, force: bool = False,
    ) -> DeploymentStatus:  # fmt: skip
        """Put a candidate in place; outcome ``deployed``, or ``unchanged`` where it runs already and is whole.

        Args: artifact, golden: verified files of the registry's cache; they are copied. force: even if withheld.
        Raises: RolledBackError: it was switched in and did not hold; what ran before is back.
            DeploymentError: it was not switched in: withheld, not proven, or the cache's file is damaged.
            StorageError: the disk is full or failing. Interrupted: a stop was asked for.
        """
        if candidate.task != task:
            raise DeploymentError(f"candidate {candidate.name} is for task {candidate.task}, not {task}")
        self._settle(task)
        wanted = deployment_for(candidate, point, _golden_file(candidate, golden), measurement)
        running = self.store.linked(task, CURRENT)
        document = self.store.read(task, running)
        if running == wanted.release:
            document = wanted
        if running is not None and document is not None and is_same_model(wanted, document):
            return self._unchanged(task, running, document, artifact, golden)
        if not force:
            self.withheld.check(task, candidate, point)
        self.store.check_space(wanted)
        self.withheld.count(task, candidate, point)
        record = Record(
            task=task, phase=self._phase(task), changed_at="", release=wanted.release, candidate=candidate.name,
            artifact_sha256=candidate.sha256, restore_current=running,
            restore_previous=self.store.linked(task, PREVIOUS),
        )  # fmt: skip
        attempt = _Attempt(deployment=wanted, model=artifact, golden=golden)
        record = self._run(record, Event.DEPLOY, attempt)
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
        self._settle(task)
        current, previous = (self.store.linked(task, name) for name in (CURRENT, PREVIOUS))
        if leaving is not None and current != leaving:
            return self._gone_back(task, leaving)
        if previous is None:
            raise DeploymentError(f"task {task} has no previous deployment to go back to")
        damage = self.store.find_damage(task, previous)
        if damage is not None:
            raise DeploymentError(f"the previous deployment of {task} is damaged: {damage}", fix="deploy a candidate")
        document = self.store.read(task, previous)
        record = Record(
            task=task, phase=self._phase(task), changed_at="", release=previous, reason="a rollback was asked for",
            candidate=document.candidate if document else None, restore_current=previous, restore_previous=current,
        )  # fmt: skip
        self.withheld.by_hand(task, leaving=self.store.read(task, current), restored=document)
        attempt = _Attempt()
        self._run(record, Event.ROLL_BACK, attempt)
        if attempt.hook_failure is not None:
            raise DeploymentError(f"task {task} is back at its previous deployment, but {attempt.hook_failure}")
        return self.status(task)

    def recover(self, task: str | None = None) -> tuple[DeploymentStatus, ...]:
        """Settle what a power cut or kill left in progress, and collect leftovers; call once at start.

        Args: task: this one only (a deployer with a hook serves one task); None: all.
        Returns: the status of every task that was in progress. Raises: StorageError, DeploymentError.
        """
        mine = [record for record in self._journal.records() if task is None or record.task == task]
        found = [record for record in mine if not is_settled(record.phase)]
        failed: BoardfitError | None = None
        for record in found:
            try:
                self._resume(record, f"interrupted in phase {record.phase}", blame=_is_suspect(record.phase))
            except BoardfitError as error:  # the other tasks are settled all the same
                failed = failed or error
        if failed is not None:
            raise failed
        for name in self.store.tasks():
            if task is None or name == task:
                self.store.collect(name, ())
        return tuple(self.status(record.task) for record in found)

    def status(self, task: str) -> DeploymentStatus:
        """Return what serves now and how the last attempt ended. Raises: StorageError, DeploymentError."""
        record = self._journal.read(task)
        return DeploymentStatus(
            task=task,
            phase=record.phase if record else Phase.IDLE.value,
            changed_at=record.changed_at if record else self._now(),
            current=self.store.read(task, self.store.linked(task, CURRENT)),
            previous_release=self.store.linked(task, PREVIOUS),
            outcome=record.outcome if record else "none",
            reason=record.reason if record else None,
            path=str(self.store.link(task)),
            withheld={one.candidate: one.text for one in self.withheld.quarantined(task)},
        )

    def protected_digests(self) -> frozenset[str]:
        """Return the SHA-256 of all files that serve, could be gone back to, or are being deployed."""
        busy = {r.artifact_sha256 for r in self._journal.records() if not is_settled(r.phase)}
        return self.store.protected_digests() | {digest for digest in busy if digest is not None}

    def quarantined(self) -> tuple[Failures, ...]:
        """Return the models that failed too often, or were rolled back by hand: no pass may try them again."""
        return self.withheld.quarantined()

    # --- one run of the table ---

    def _run(self, record: Record, event: Event, attempt: _Attempt) -> Record:
        try:
            row = advance(Phase(record.phase), event)
            return self._continue(self._enter(record, row.to, attempt), row.action, attempt)
        except BaseException as error:
            self._abort(record.task, f"{type(error).__name__}: {error}")
            raise

    def _continue(self, record: Record, action: Action, attempt: _Attempt) -> Record:
        while True:
            event = self._act(action, record, attempt)
            self._tell(record, 1)
            if event is None:
                return record
            row = advance(Phase(record.phase), event)
            record, action = self._enter(record, row.to, attempt), row.action

    def _enter(self, record: Record, phase: Phase, attempt: _Attempt) -> Record:
        """Store a phase, with the reason and blame of the action before it."""
        reason, attempt.reason = attempt.reason, None
        blame, attempt.blame = reason if attempt.blame else None, False
        record = msgspec.structs.replace(
            record, phase=phase.value, changed_at=self._now(), outcome=_OUTCOMES.get(phase),
            reason=reason if reason is not None else record.reason,
        )  # fmt: skip
        record = self._journal.write(record, blame=blame, pardon=phase is Phase.DONE)
        if blame is not None:
            self.withheld.tell(record, self.store.read(record.task, record.restore_current))
        self._tell(record, 0)
        return record

    def _act(self, action: Action, record: Record, attempt: _Attempt) -> Event | None:
        """Do what the row says; None ends the run."""
        if action is Action.COLLECT:
            self.store.collect(record.task, ())
            return None
        if action is Action.RESTORE:
            return self._restore(record, attempt)
        if action is Action.COMMIT:
            return Event.SUCCEEDED
        try:
            self._advance_model(action, record, attempt)
        except Interrupted as stop:
            attempt.error, attempt.reason = stop, stop.problem
        except BoardfitError as error:
            # The disk's, the cache's or the probe's own: the model is not to blame.
            attempt.error, attempt.reason = error, error.problem
        return Event.SUCCEEDED if attempt.reason is None else Event.FAILED

    def _advance_model(self, action: Action, record: Record, attempt: _Attempt) -> None:
        wanted = attempt.deployment
        if wanted is None or attempt.model is None:
            raise DeploymentError(f"action {action.value!r} needs a candidate")
        task = record.task
        if action is Action.STAGE:
            self.store.stage(wanted, attempt.model, attempt.golden)
        elif action is Action.PROVE:
            result = self._probe(self.store.release_folder(task, wanted.release), wanted)
            attempt.blame = not result.passed
            attempt.reason = None if result.passed else f"the proof failed: {result.reason}"
        elif action is Action.SWITCH:
            if record.restore_current is not None:
                self.store.set_link(task, PREVIOUS, record.restore_current)
            self.store.set_link(task, CURRENT, wanted.release)
        elif action is Action.RUN_HOOK:
            attempt.reason = self._run_program(self._hook, task, wanted, "deployed")
            attempt.blame = attempt.reason is not None
        elif action is Action.WATCH:
            result = watch_probation(
                self._probe, self.store.link(task), wanted,
                probation_s=self._probation_s, clock=self._clock, stop=self._stop, pause=self._pause,
                ill=lambda: self._run_program(self._health, task, wanted, "health"),
            )  # fmt: skip
            attempt.blame = not result.passed
            attempt.reason = None if result.passed else f"the probation failed: {result.reason}"
        elif self._stop():
            raise Interrupted(f"a stop was asked for while {_candidate_text(record)} was being deployed")

    def _restore(self, record: Record, attempt: _Attempt) -> Event:
        self._restore_links(record)
        restored = self.store.read(record.task, record.restore_current)
        if record.writes > MAX_WRITES:
            attempt.reason = f"{record.reason}; abandoned after {record.writes} journal writes, the hook was not run"
        elif restored is not None:
            attempt.hook_failure = self._run_program(self._hook, record.task, restored, "rolled_back")
            if attempt.hook_failure is not None:
                attempt.reason = f"{record.reason}; for the restored deployment, {attempt.hook_failure}"
        return Event.SUCCEEDED

    def _restore_links(self, record: Record) -> None:
        self.store.set_link(record.task, CURRENT, record.restore_current)
        self.store.set_link(record.task, PREVIOUS, record.restore_previous)

    def _run_program(self, hook: HookSettings | None, task: str, deployment: Deployment, event: str) -> str | None:
        if hook is None:
            return None
        link = self.store.link(task)
        environment = {
            "BOARDFIT_EVENT": event,
            "BOARDFIT_TASK": task,
            "BOARDFIT_CANDIDATE": deployment.candidate,
            "BOARDFIT_RELEASE": deployment.release,
            "BOARDFIT_PATH": str(link),
            "BOARDFIT_MODEL": str(link / deployment.model.path),
        }
        return run_hook(hook, environment)

    # --- settling ---

    def _settle(self, task: str) -> None:
        """Resume what an earlier run left in progress."""
        record = self._journal.read(task)
        if record is not None and not is_settled(record.phase):
            self._resume(record, f"interrupted in phase {record.phase}", blame=_is_suspect(record.phase))

    def _resume(self, record: Record, reason: str, *, blame: bool) -> None:
        phase, action = RESUMED[resume_for(record.phase)]
        keeps_reason = record.phase == Phase.ROLLING_BACK.value and record.reason is not None
        attempt = _Attempt(reason=record.reason if keeps_reason else reason, blame=blame)
        self._continue(self._enter(record, phase, attempt), action, attempt)

    def _abort(self, task: str, reason: str) -> None:
        """Settle after an error; where the journal cannot be written, put the links back all the same."""
        with suppress(BoardfitError):
            record = self._journal.read(task)
            if record is None or is_settled(record.phase):
                return
            if resume_for(record.phase) is Resume.ROLL_BACK:
                self._restore_links(record)
            self._resume(record, reason, blame=False)

    # --- answers without a switch ---

    def _unchanged(
        self, task: str, running: str, document: Deployment, model: Path, golden: Path | None
    ) -> DeploymentStatus:
        damage = self.store.find_damage(task, running)
        if damage is not None:
            self.store.stage(document, model, golden)
        reason = "it runs already" if damage is None else f"it runs already and was repaired ({damage})"
        return msgspec.structs.replace(self.status(task), outcome="unchanged", reason=reason)

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

    def _tell(self, record: Record, done: int) -> None:
        text = f"{record.task}: {record.phase}"
        self._progress(ProgressEvent(stage="deploy", text=text, done=done, total=1, unit="actions"))

    def _now(self) -> str:
        return self._clock.utc().strftime("%Y-%m-%dT%H:%M:%SZ")


def _candidate_text(record: Record) -> str:
    return record.candidate or f"release {record.release}"


def _is_suspect(phase: str) -> bool:
    return any(suspect.value == phase for suspect in SUSPECT)


def _golden_file(candidate: Candidate, golden: Path | None) -> DeployedFile | None:
    if golden is None:
        return None
    signed = candidate.manifest.golden
    if signed is None:
        return describe_file(golden, GOLDEN_NAME)
    return DeployedFile(path=GOLDEN_NAME, sha256=signed.sha256, length=signed.length)
