"""Which models are kept from being deployed: failed too often, tried too often today, rolled back by hand, or refused.

Rules:
- A model (task and digest) that failed ``MAX_FAILURES`` times in a row is quarantined, whatever its options: no pass
  selects it until it is pardoned or deployed by name with success. A corrected model has another digest.
- A failure that nobody can blame on the model (a full disk, a kill while it was copied) quarantines nothing, and is
  not tried for ever either: each attempt at a model with its options counts before it begins, and ``MAX_ATTEMPTS`` a
  day are enough. One that was asked to stop does not count; who asks for a model by name is always obeyed.
- A model that its shadow run refused is kept out at once: that is a verdict of stated error, and no mishap.
- Whoever is quarantined is told once, when it happens; where the same model serves, that is said too: it goes on.

Leaves counting a failure to the journal, which stores it with the phase it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.core.deployment import Deployment
from agent.core.manifest import Candidate
from agent.core.measurement import OperatingPoint
from agent.deploy.journal import REFUSED, WITHDRAWN, Failures, Journal, Record
from agent.deploy.phases import MAX_ATTEMPTS, MAX_FAILURES
from agent.errors import DeploymentError

Told = Callable[[Failures, str], None]


def tell_nobody(_found: Failures, _text: str) -> None:
    """Stand for whoever is not there to be told."""


class Withheld:
    """The models kept out, of all tasks. Args: told: called with a model that has just been quarantined, and a text."""

    def __init__(self, journal: Journal, now: Callable[[], str], told: Told) -> None:
        self._journal, self._now, self._told = journal, now, told

    def quarantined(self, task: str | None = None) -> tuple[Failures, ...]:
        """Return the models that failed too often, or were rolled back by hand, of one task or of all."""
        found = (one for one in self._journal.failures() if task is None or one.task == task)
        return tuple(one for one in found if one.failures >= MAX_FAILURES)

    def check(self, task: str, candidate: Candidate, point: OperatingPoint) -> None:
        """Raise DeploymentError for a model that no pass may try, or not today."""
        fix = f"publish a corrected model, or `boardfit deploy --task {task} --candidate {candidate.name}`"
        for found in self.quarantined(task):
            if found.artifact_sha256 == candidate.sha256:
                raise DeploymentError(f"{candidate.name} is {found.text}", fix=fix, failures=found.failures)
        tried = self._journal.attempts(task, candidate.sha256, point.label, self._today())
        if tried >= MAX_ATTEMPTS:
            text = f"{candidate.name} ({point.label}) was tried {tried} times today and is left until tomorrow"
            raise DeploymentError(text, fix=f"see `boardfit status`; then {fix.partition('or ')[2]}", attempts=tried)

    def count(self, task: str, candidate: Candidate, point: OperatingPoint, by: int = 1) -> None:
        """Count an attempt before it begins, so that a kill in the middle counts too; -1 takes it back."""
        self._journal.count_attempt(task, candidate.sha256, point.label, self._today(), by)

    def tell(self, record: Record, serving: Deployment | None) -> None:
        """Tell of a model whose failure was counted just now and was the last that is borne."""
        for found in self.quarantined(record.task):
            if found.artifact_sha256 == record.artifact_sha256 and found.failures == MAX_FAILURES:
                serves = serving is not None and serving.model.sha256 == found.artifact_sha256
                also = "; the same model serves at other options and goes on serving" if serves else ""
                self._told(found, f"{found.candidate} is {found.text}{also}")

    def by_hand(self, task: str, *, leaving: Deployment | None, restored: Deployment | None) -> None:
        """Keep a model that a person rolls back from out of later passes, and let the restored one in again."""
        if restored is not None:
            self._journal.pardon(task, restored.model.sha256)
        if leaving is not None and (restored is None or restored.model.sha256 != leaving.model.sha256):
            self._journal.withdraw(task, leaving.model.sha256, leaving.candidate, WITHDRAWN, self._now())

    def by_shadow(self, task: str, candidate: Candidate, reason: str) -> None:
        """Keep a model that was refused beside what serves out of later passes."""
        self._journal.withdraw(task, candidate.sha256, candidate.name, f"{REFUSED}: {reason}", self._now())

    def pardon(self, task: str, candidate: str | None = None) -> tuple[Failures, ...]:
        """Let models of a task be tried again. Args: candidate: this one only. Returns: those that were kept out."""
        found = [one for one in self._journal.failures() if one.task == task and candidate in (None, one.candidate)]
        for one in found:
            self._journal.pardon(task, one.artifact_sha256)
        self._journal.forget_attempts(task)
        return tuple(one for one in found if one.failures >= MAX_FAILURES)

    def _today(self) -> str:
        return self._now().partition("T")[0]
