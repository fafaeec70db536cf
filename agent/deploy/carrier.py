"""Carries out the table of ``phases``: every phase is stored in the journal first, then its action is done.

Rules:
- Nothing is switched before a fresh child has loaded the staged release, its golden outputs agreed and it was quick.
- ``previous`` moves first, then ``current``: at every instant ``current`` is the old release or the new one, whole.
- A failure after the switch puts both links back and runs the hook again for what is restored.
- Any error on the way, foreseen or not, settles the attempt before it is passed on; after a cut, ``resume`` does.

Leaves which attempts there are, and what they are for, to ``agent.deploy.executor``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from agent.core.deployment import Deployment
from agent.core.ports import Clock, Probe, ProgressEvent, StopRequested
from agent.core.ports import Progress as ProgressSink
from agent.deploy.health import watch_probation
from agent.deploy.hook import HookSettings, run_hook_for
from agent.deploy.journal import Journal, Record
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
from agent.deploy.withheld import Withheld
from agent.errors import BoardfitError, DeploymentError, Interrupted

_OUTCOMES = {
    Phase.DONE: "deployed", Phase.ROLLED_BACK: "rolled_back", Phase.FAILED: "failed", Phase.STEPPED: "stepped",
}  # fmt: skip
_TOLD_WHY = (Phase.ROLLING_BACK.value, Phase.STEPPED_OVER.value)


class Attempt(msgspec.Struct, kw_only=True):
    """What one run of the table knows besides the journal row."""

    deployment: Deployment | None = None  # None when a manual or resumed rollback is carried out
    model: Path | None = None
    golden: Path | None = None
    reason: str | None = None  # why the present action failed
    blame: bool = False  # the model is at fault
    error: BoardfitError | None = None  # what to raise at the end instead of the usual error
    hook_failure: str | None = None  # the hook failed for what was restored
    leaves_hook: bool = False  # whoever steps cannot wait for it: ``finish_step`` runs it


class Carrier:
    """Carries out attempts, with the ports and settings of ``agent.deploy.executor.Deployer``."""

    def __init__(
        self, store: ReleaseStore, journal: Journal, withheld: Withheld, *, clock: Clock, probe: Probe,
        hook: HookSettings | None, health: HookSettings | None, probation_s: float, progress: ProgressSink,
        stop: StopRequested, pause: Callable[[float], None],
    ) -> None:  # fmt: skip
        self._store, self._journal, self._withheld = store, journal, withheld
        self._clock, self._probe, self._probation_s = clock, probe, probation_s
        self._hook, self._health = hook, health
        self._progress, self._stop, self._pause = progress, stop, pause

    @property
    def has_hook(self) -> bool:
        """Whether a program is run after every switch."""
        return self._hook is not None

    def run(self, record: Record, event: Event, attempt: Attempt) -> Record:
        """Carry out an attempt from its order to its end; return the row it ended in."""
        try:
            row = advance(Phase(record.phase), event)
            return self._continue(self._enter(record, row.to, attempt), row.action, attempt)
        except BaseException as error:
            self._abort(record.task, f"{type(error).__name__}: {error}")
            raise

    def _continue(self, record: Record, action: Action, attempt: Attempt) -> Record:
        while True:
            event = self._act(action, record, attempt)
            self._tell(record, 1)
            if event is None:
                return record
            row = advance(Phase(record.phase), event)
            record, action = self._enter(record, row.to, attempt), row.action

    def _enter(self, record: Record, phase: Phase, attempt: Attempt) -> Record:
        """Store a phase, with the reason and blame of the action before it."""
        reason, attempt.reason = attempt.reason, None
        blame, attempt.blame = reason if attempt.blame else None, False
        record = msgspec.structs.replace(
            record, phase=phase.value, changed_at=self._now(), outcome=_OUTCOMES.get(phase),
            reason=reason if reason is not None else record.reason,
        )  # fmt: skip
        record = self._journal.write(record, blame=blame, pardon=phase is Phase.DONE)
        if blame is not None:
            self._withheld.tell(record, self._store.read(record.task, record.restore_current))
        self._tell(record, 0)
        return record

    def _act(self, action: Action, record: Record, attempt: Attempt) -> Event | None:
        """Do what the row says; None ends the run."""
        if action is Action.COLLECT:
            self._store.collect(record.task, ())
        if action in {Action.COLLECT, Action.REST} or (action is Action.RUN_HOOK and attempt.leaves_hook):
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

    def _advance_model(self, action: Action, record: Record, attempt: Attempt) -> None:
        task = record.task
        wanted = attempt.deployment or self._store.read(task, record.release)
        if wanted is None:
            raise DeploymentError(f"action {action.value!r} needs a candidate")
        if action is Action.STAGE and attempt.model is not None:
            self._store.stage(wanted, attempt.model, attempt.golden)
        elif action is Action.PROVE:
            result = self._probe(self._store.release_folder(task, wanted.release), wanted)
            attempt.blame = not result.passed
            attempt.reason = None if result.passed else f"the proof failed: {result.reason}"
        elif action is Action.SWITCH:
            if record.restore_current is not None:
                self._store.set_link(task, PREVIOUS, self._store.chosen(task))  # of a rung: what it is a rung of
            self._store.set_link(task, CURRENT, wanted.release)
        elif action is Action.RELINK:
            self._store.set_link(task, CURRENT, wanted.release)
        elif action is Action.RUN_HOOK:
            event = "stepped" if record.phase == Phase.STEPPED_OVER.value else "deployed"
            attempt.reason = self._run_program(self._hook, task, wanted, event)
            attempt.blame = attempt.reason is not None
        elif action is Action.WATCH:
            result = watch_probation(
                self._probe, self._store.link(task), wanted,
                probation_s=self._probation_s, clock=self._clock, stop=self._stop, pause=self._pause,
                ill=lambda: self._run_program(self._health, task, wanted, "health"),
            )  # fmt: skip
            attempt.blame = not result.passed
            attempt.reason = None if result.passed else f"the probation failed: {result.reason}"
        elif self._stop():
            raise Interrupted(f"a stop was asked for while {_candidate_text(record)} was being deployed")

    def _restore(self, record: Record, attempt: Attempt) -> Event:
        self._restore_links(record)
        restored = self._store.read(record.task, record.restore_current)
        if record.writes > MAX_WRITES:
            attempt.reason = f"{record.reason}; abandoned after {record.writes} journal writes, the hook was not run"
        elif restored is not None:
            attempt.hook_failure = self._run_program(self._hook, record.task, restored, "rolled_back")
            if attempt.hook_failure is not None:
                attempt.reason = f"{record.reason}; for the restored deployment, {attempt.hook_failure}"
        return Event.SUCCEEDED

    def _restore_links(self, record: Record) -> None:
        self._store.set_link(record.task, CURRENT, record.restore_current)
        self._store.set_link(record.task, PREVIOUS, record.restore_previous)

    def _run_program(self, hook: HookSettings | None, task: str, deployment: Deployment, event: str) -> str | None:
        return None if hook is None else run_hook_for(hook, deployment, self._store.link(task), event)

    def settle(self, task: str) -> None:
        """Resume what an earlier run left in progress."""
        record = self._journal.read(task)
        if record is not None and not is_settled(record.phase):
            self.resume(record, f"interrupted in phase {record.phase}", blame=is_suspect(record.phase))

    def resume(self, record: Record, reason: str, *, blame: bool) -> None:
        """Go on with an attempt that was cut, as the table says for its phase."""
        resume = resume_for(record.phase)
        if resume is Resume.FINISH_STEP and record.writes > MAX_WRITES:
            resume = Resume.ROLL_BACK
        phase, action = RESUMED[resume]
        keeps_reason = record.phase in _TOLD_WHY and record.reason is not None
        attempt = Attempt(reason=record.reason if keeps_reason else reason, blame=blame)
        self._continue(self._enter(record, phase, attempt), action, attempt)

    def _abort(self, task: str, reason: str) -> None:
        """Settle after an error; where the journal cannot be written, put the links back all the same."""
        with suppress(BoardfitError):
            record = self._journal.read(task)
            if record is None or is_settled(record.phase):
                return
            if resume_for(record.phase) is Resume.ROLL_BACK:
                self._restore_links(record)
            self.resume(record, reason, blame=False)

    def _tell(self, record: Record, done: int) -> None:
        text = f"{record.task}: {record.phase}"
        self._progress(ProgressEvent(stage="deploy", text=text, done=done, total=1, unit="actions"))

    def _now(self) -> str:
        return now_text(self._clock)


def now_text(clock: Clock) -> str:
    """Return the moment as records have it: UTC, ISO 8601 with Z."""
    return clock.utc().strftime("%Y-%m-%dT%H:%M:%SZ")


def _candidate_text(record: Record) -> str:
    return record.candidate or f"release {record.release}"


def is_suspect(phase: str) -> bool:
    """Return whether an interruption in this phase counts as a failure."""
    return any(suspect.value == phase for suspect in SUSPECT)
