"""How a command fares on each board: fed with job documents, it says who is done, who failed, who is silent. Pure.

Rules:
- Of a job's documents the greatest revision holds, in whatever order they come.
- A board that was offline when the command went out is not waited for; should it answer yet, its answer counts.
- A board that has said nothing within ``answer_s`` counts as silent and is waited for no longer; likewise.
- All succeeded: every board addressed ended SUCCEEDED.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.core.payloads import Job, Scalar
from agent.fleet.plain import LONG, plain

FINAL = ("SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED")
MAX_RESULT = 16
MAX_ANSWERS = 200_000


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands on one board. ``state``: a job's, or ``offline``, ``silent``, ``waiting`` (nothing heard yet)."""

    board: str
    state: str
    reason: str | None = None
    stage: str | None = None
    done: float | None = None
    total: float | None = None
    exit_code: int | None = None
    started_at: str | None = None
    finished_at: str | None = None
    result: dict[str, Scalar] = {}

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come."""
        return self.state in FINAL


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The end: who succeeded, who failed (refused and cancelled included), who runs still, who did not answer."""

    succeeded: tuple[str, ...]
    failed: tuple[str, ...]
    unfinished: tuple[str, ...]
    silent: tuple[str, ...]

    @property
    def all_succeeded(self) -> bool:
        """Whether every board addressed has done it."""
        return bool(self.succeeded) and not (self.failed or self.unfinished or self.silent)

    @property
    def text(self) -> str:
        """One sentence."""
        parts = [
            f"{len(names)} {word}"
            for names, word in (
                (self.succeeded, "succeeded"),
                (self.failed, "failed"),
                (self.unfinished, "not finished"),
                (self.silent, "did not answer"),
            )
            if names
        ]
        return ", ".join(parts) or "no board"


class Following:
    """One command on many boards.

    Args: command: its id. boards: those addressed. offline: those of them that were away when it went out.
    """

    def __init__(self, command: str, boards: Iterable[str], offline: Iterable[str] = ()) -> None:
        self.command = command
        away = set(offline)
        self.answers = {name: Answer(board=name, state="offline" if name in away else "waiting") for name in boards}
        self._awaited = set(self.answers) - away
        self._revisions: dict[str, int] = {}

    def take(self, device: str, job: Job, *, others: bool = False) -> Answer | None:
        """Take one document. Args: others: a board that was not addressed by name may answer too (a broadcast).

        Returns: the board's new answer, None when nothing has changed.
        """
        if job.id != self.command:
            return None
        if device not in self.answers and not (others and len(self.answers) < MAX_ANSWERS):
            return None
        before = self._revisions.get(device, -1)
        if job.revision < before or (job.revision == before and self.answers[device].ended):
            return None
        self._revisions[device] = job.revision
        answer = Answer(
            board=device,
            state=job.state,
            reason=plain(job.reason, LONG),
            stage=plain(job.stage),
            done=job.done if job.done is not None else job.progress_ratio,
            total=job.total if job.done is not None else None if job.progress_ratio is None else 1.0,
            exit_code=job.exit_code,
            started_at=plain(job.started_at),
            finished_at=plain(job.finished_at),
            result={plain(k): plain(v) if isinstance(v, str) else v for k, v in list(job.result.items())[:MAX_RESULT]},
        )
        if answer == self.answers.get(device):
            return None
        self.answers[device] = answer
        if answer.ended:
            self._awaited.discard(device)
        else:
            self._awaited.add(device)
        return answer

    def give_up_on_silent(self) -> list[str]:
        """Wait no longer for boards that have said nothing. Returns: which."""
        silent = [name for name in self.answers if name in self._awaited and self.answers[name].state == "waiting"]
        self._awaited.difference_update(silent)
        for name in silent:
            self.answers[name] = Answer(board=name, state="silent", reason="nothing was heard of it")
        return silent

    def not_sent(self, names: Iterable[str]) -> None:
        """Note that nothing was sent to some boards."""
        for name in names:
            self._awaited.discard(name)
            self.answers[name] = Answer(board=name, state="silent", reason="stopped before it was sent")

    @property
    def ended(self) -> bool:
        """Whether nobody is waited for any more."""
        return not self._awaited

    def summary(self) -> Summary:
        """Return who ended how."""
        states: dict[str, list[str]] = {"succeeded": [], "failed": [], "unfinished": [], "silent": []}
        for name in sorted(self.answers):
            state = self.answers[name].state
            group = "succeeded" if state == "SUCCEEDED" else "failed" if state in FINAL else "unfinished"
            states["silent" if state in ("offline", "silent", "waiting") else group].append(name)
        return Summary(**{name: tuple(boards) for name, boards in states.items()})
