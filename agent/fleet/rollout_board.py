"""One board's part in a rollout: what its own documents prove, and what it is to be told next. Pure.

::

    waiting -> measuring -> ordered -> proving -> soaking -> succeeded
                  |            |          |          |           |
                  v            v          v          v           v
               failed     failed | rolled_back | unreachable  (rolled_back, failed: it is watched to the end)
    anything that was switched -> undoing -> undone

Rules:
- Two steps that do not mix: ``observe`` judges by what was heard and orders nothing; ``act`` orders what is due.
- Nothing is switched before the board's own decision says that the candidate fits there. A board that has not measured
  it is told to, and to decide; one where it is over budget or unknown has failed without having been touched.
- Success is the board's word that the candidate serves in a settled deployment: it is entered only past the golden
  check and the probation (``agent.deploy.phases``). A job's answer alone proves nothing; it only says what to wait for.
- A job's id follows from rollout, board, verb and attempt, so that an order sent twice has one effect. There is a
  second attempt only where the first had none, or where it may be done twice without harm (never a rollback).
- What a board has said once may be lost on the way, at a broker that is killed: after a while it is asked again.
- Given back is what this rollout has switched, and only where what served before is what the board would go back to.
- Times are the operator's; a board's clock is compared with nothing.
"""

from __future__ import annotations

import hashlib
from math import inf
from typing import Any, Literal

import msgspec

from agent.fleet.rollout_spec import ANSWER_S, MARGIN_S, Kind, RolloutSpec
from agent.fleet.rollout_view import BoardNow, JobNow, Opinion, Serving

Phase = Literal[
    "waiting", "measuring", "ordered", "proving", "soaking", "succeeded", "failed", "rolled_back", "unreachable",
    "undoing", "undone",
]  # fmt: skip
AT_WORK: tuple[Phase, ...] = ("measuring", "ordered", "proving")
SERVES: tuple[Phase, ...] = ("soaking", "succeeded")
MAX_ATTEMPTS = 3
RESEND_S = 60.0  # an order that nobody has answered is sent again, with the same id
ASK_S = 600.0  # so is one that was taken up: a board answers that with how the job stands
DOCUMENT_S = 30.0  # a job's end and the document of what it did come on two topics


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One command to one board, to be signed and sent. ``epoch`` None: its verb names none.

    ``valid_s``: for how long a board may still take it; one that is sent again ends when the first one did.
    """

    board: str
    verb: str
    job: str
    arguments: dict[str, Any]
    deadline_s: float
    valid_s: float = ANSWER_S
    epoch: str | None = None


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """One board's state; times are seconds since 1970 by the operator's clock.

    ``wave`` None: it was given no work. ``kind``: how it failed. ``due``: the verb to send when the board is there.
    ``touched``: it was told to switch. ``gave_up``: what served before could not be given back. ``first``: what served
    before. ``before``: its deployment at the last order.
    """

    name: str
    track: str
    wave: int | None = None
    phase: Phase = "waiting"
    reason: str | None = None
    kind: Kind | None = None
    target: str | None = None
    due: str | None = None
    verb: str | None = None
    attempt: int = 0
    job: str | None = None
    ordered_at: float | None = None
    sent_at: float | None = None
    deadline_at: float | None = None
    final_at: float | None = None
    served_at: float | None = None
    touched: bool = False
    canceled: bool = False
    gave_up: bool = False
    first: Serving | None = None
    before: Serving | None = None
    decision: str | None = None


def job_id(rollout: str, board: str, verb: str, attempt: int) -> str:
    """Return the id of an order: the rollout's, and a digest that tells boards, verbs and attempts apart."""
    text = "\0".join((rollout, board, verb, str(attempt)))
    return f"{rollout}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def begin(spec: RolloutSpec, board: Board, now: BoardNow, wave: int, at: float) -> Board:
    """Give a board its place in a wave; what is due follows from what it has measured already."""
    board = _to(
        board, "measuring", wave=wave, reason=None, kind=None, before=now.serving,
        target=spec.candidate, decision=None if now.decided is None else now.decided.id,
        deadline_at=at + spec.wait_s, due="bench",
    )  # fmt: skip
    opinion = _opinion(board, now)
    if spec.candidate is None or opinion is None or opinion.standing == "unknown":
        return board
    return _judged(spec, board, now, opinion, at)


def observe(spec: RolloutSpec, board: Board, now: BoardNow, at: float) -> Board:
    """Judge a board by what was heard of it; orders nothing."""
    if board.phase == "measuring":
        return _measuring(spec, board, now, at)
    if board.phase in ("ordered", "proving"):
        return _deploying(board, now, at)
    if board.phase in SERVES:
        return _serving(board, now)
    if board.phase == "undoing":
        return _undoing(spec, board, now, at)
    late = board.phase in ("unreachable", "failed") and board.touched and not board.gave_up
    if late and _holds(board, now.serving) and _moved(board, now):
        return _to(board, "soaking", kind=None, served_at=at, reason="it answered late")
    return board


def act(spec: RolloutSpec, rollout: str, board: Board, now: BoardNow, at: float) -> tuple[Board, Order | None]:
    """Return the order that is due, and the board as it is once that is stored; none to a board that is away."""
    if not now.orderable:
        return board, None
    if board.due is None:
        if board.sent_at is None or at < board.sent_at + _ask_after_s(board, now):
            return board, None
        return msgspec.structs.replace(board, sent_at=at), _order(spec, board, now, at)
    if board.due == "rollback" and _problem(board, now.serving) is not None:
        return board, None
    attempt = board.attempt + 1 if board.due == board.verb else 1
    phase: Phase = "ordered" if board.due == "deploy" else board.phase
    board = _to(
        board, phase, verb=board.due, due=None, attempt=attempt, job=job_id(rollout, board.name, board.due, attempt),
        ordered_at=at, sent_at=at, final_at=None, deadline_at=at + ANSWER_S + spec.deadline_of(board.due) + MARGIN_S,
        first=now.serving if board.due == "deploy" and not board.touched else board.first,
        touched=board.touched or board.due == "deploy", before=now.serving,
        decision=board.decision if now.decided is None else now.decided.id,
    )  # fmt: skip
    return board, _order(spec, board, now, at)


def next_time(board: Board, at: float) -> float:
    """Return when time alone may change what is said of a board here, in seconds since 1970; infinity: never."""
    begun = ((board.deadline_at, 0.0), (board.final_at, DOCUMENT_S), (board.ordered_at, ANSWER_S),
             (board.sent_at, RESEND_S), (board.sent_at, ASK_S))  # fmt: skip
    return min((since + wait_s for since, wait_s in begun if since is not None and since + wait_s > at), default=inf)


def undo(spec: RolloutSpec, board: Board, now: BoardNow, at: float) -> Board:
    """Let a board of a rollout that is given back do its part, as far as it has settled."""
    if board.phase in AT_WORK and (board.due is not None or board.phase == "measuring"):
        return _to(board, "waiting", due=None, reason="the rollout was stopped before anything was switched there")
    if not board.touched or board.gave_up or board.phase in (*AT_WORK, "undoing", "undone", "rolled_back"):
        return board
    serving = now.serving
    if serving is None or (serving.candidate != board.target and serving.settled):
        return board
    if (problem := _problem(board, serving)) is not None and serving.settled:
        return _to(board, board.phase, gave_up=True, reason=f"{board.target} stays there: {problem}")
    return _to(board, "undoing", due="rollback", deadline_at=at + spec.wait_s, reason=f"to give back {board.target}")


def cancel(rollout: str, board: Board, now: BoardNow) -> tuple[Board, Order | None]:
    """Return the order that ends a board's job when its rollout is stopped, once."""
    job = None if board.job is None else now.jobs.get(board.job)
    if board.canceled or board.job is None or board.verb == "rollback" or (job is not None and job.final):
        return board, None
    if not now.reachable:
        return board, None
    order = Order(
        board=board.name, verb="cancel", job=job_id(rollout, board.name, "cancel", 1), arguments={"job": board.job},
        deadline_s=60.0,
    )  # fmt: skip
    return msgspec.structs.replace(board, canceled=True), order


def _ask_after_s(board: Board, now: BoardNow) -> float:
    """Return how long after an order was sent it is sent again, in seconds; infinity: not at all."""
    if board.job is None or not (board.phase in AT_WORK or board.phase == "undoing"):
        return inf
    job = now.jobs.get(board.job)
    if job is None:
        return inf if _acted(board, now) else RESEND_S
    return inf if job.final or board.verb == "rollback" else ASK_S


def _order(spec: RolloutSpec, board: Board, now: BoardNow, at: float) -> Order:
    assert board.verb is not None and board.job is not None
    arguments: dict[str, Any] = {"task": spec.task}
    if board.verb == "bench" and board.target is not None:
        arguments["candidates"] = [board.target]
    left_s = ANSWER_S if board.verb == "rollback" else (board.ordered_at or at) + ANSWER_S - at
    if board.verb == "deploy":
        arguments["candidate"] = board.target
    return Order(
        board=board.name, verb=board.verb, job=board.job, arguments=arguments, deadline_s=spec.deadline_of(board.verb),
        valid_s=max(1.0, left_s), epoch=now.epoch if board.verb in ("deploy", "rollback") else None,
    )  # fmt: skip


def _measuring(spec: RolloutSpec, board: Board, now: BoardNow, at: float) -> Board:
    late = board.deadline_at is not None and at >= board.deadline_at
    if board.due is not None:
        return _silent(board, f"it was away when {board.due} was due") if late else board
    job = None if board.job is None else now.jobs.get(board.job)
    fresh = now.decided is not None and now.decided.id != board.decision
    decided = board.verb == "select" and (fresh or _tells(job, now))
    if decided or (fresh and spec.candidate is not None):
        opinion = _opinion(board, now)
        if spec.candidate is None:
            return _chosen(spec, board, now, at)
        if opinion is not None and (decided or opinion.standing != "unknown"):
            return _judged(spec, board, now, opinion, at)
        if decided:
            return _fail(board, "failed", f"its decision does not tell of {board.target}")
    if job is not None and job.final:
        board = board if board.final_at is not None else msgspec.structs.replace(board, final_at=at)
        if job.state == "SUCCEEDED" and board.verb == "bench":
            return msgspec.structs.replace(board, due="select")
        if job.state in ("SUCCEEDED", "FAILED") and board.verb == "select" and job.exit_code in (0, 3):
            return _unless_told(board, at, "its decision did not come")
        return _again_or(board, job, _fail(board, "failed", f"{board.verb}: {job.reason or job.state.lower()}"))
    return _unanswered(board, job, now, at, late)


def _deploying(board: Board, now: BoardNow, at: float) -> Board:
    job, serving = None if board.job is None else now.jobs.get(board.job), now.serving
    late = board.deadline_at is not None and at >= board.deadline_at
    if board.due is not None:
        return _silent(board, "it was away when deploy was due") if late else board
    moved = _moved(board, now)
    if _holds(board, serving) and (moved or (job is not None and job.state == "SUCCEEDED")):
        return _to(board, "soaking", served_at=at, reason=None)
    if moved and serving is not None and serving.phase == "rolled_back":
        return _fail(board, "rollback", serving.reason or "it went back by itself", phase="rolled_back")
    if moved and serving is not None and serving.phase == "failed":
        return _fail(board, "failed", serving.reason or "it was not deployed")
    if job is not None and job.final:
        board = board if board.final_at is not None else msgspec.structs.replace(board, final_at=at)
        if job.state == "SUCCEEDED":
            return _unless_told(board, at, "it says that it was deployed and does not show it")
        waiting = job.begun and at < (board.final_at or at) + DOCUMENT_S
        if job.exit_code == 5 and not waiting:
            return _fail(board, "rollback", job.reason or "it went back by itself", phase="rolled_back")
        failed = _fail(board, "failed", f"deploy: {job.reason or job.state.lower()}")
        return board if waiting else _again_or(board, job, failed)
    begun = (job is not None and job.begun) or (moved and serving is not None and not serving.settled)
    if begun and board.phase == "ordered":
        return _to(board, "proving")
    return _unanswered(board, job, now, at, late)


def _serving(board: Board, now: BoardNow) -> Board:
    serving = now.serving
    if serving is None or not serving.settled or serving.candidate == board.target:
        return board
    if serving.phase == "rolled_back":
        return _fail(board, "rollback", serving.reason or "it went back", phase="rolled_back")
    return _fail(board, "failed", f"{serving.candidate or 'nothing'} serves there by now")


def _undoing(spec: RolloutSpec, board: Board, now: BoardNow, at: float) -> Board:
    job, serving = None if board.job is None else now.jobs.get(board.job), now.serving
    if serving is not None and serving.settled and serving.candidate != board.target:
        return _to(board, "undone", due=None, reason=f"{serving.candidate or 'nothing'} serves again")
    late = board.deadline_at is not None and at >= board.deadline_at
    gone = f"{board.target} still serves there by the last that was heard"
    if board.due is not None:
        return msgspec.structs.replace(_silent(board, gone), gave_up=True) if late else board
    if job is not None and job.final:
        if not job.begun and job.state != "SUCCEEDED" and board.attempt < MAX_ATTEMPTS:
            return msgspec.structs.replace(board, due="rollback", deadline_at=at + spec.wait_s)
        board = board if board.final_at is not None else msgspec.structs.replace(board, final_at=at)
        if job.state != "SUCCEEDED" and at >= (board.final_at or at) + DOCUMENT_S:
            failed = _fail(board, "failed", f"{gone}; rollback: {job.reason or job.state.lower()}")
            return msgspec.structs.replace(failed, gave_up=True)
    return msgspec.structs.replace(_silent(board, gone), gave_up=True) if late else board


def _judged(spec: RolloutSpec, board: Board, now: BoardNow, opinion: Opinion, at: float) -> Board:
    if opinion.standing == "fits":
        return _deploy_or_keep(spec, board, now, at)
    kind: Kind = "slower" if opinion.slow else "failed"
    word = {"over_budget": "over budget", "unknown": "not known to fit"}.get(opinion.standing, "no use")
    return _fail(board, kind, f"{word} there: {opinion.reason}")


def _chosen(spec: RolloutSpec, board: Board, now: BoardNow, at: float) -> Board:
    assert now.decided is not None
    if now.decided.candidate is None:
        return _fail(board, "failed", f"nothing fits there: {now.decided.reason}")
    return _deploy_or_keep(spec, msgspec.structs.replace(board, target=now.decided.candidate), now, at)


def _deploy_or_keep(spec: RolloutSpec, board: Board, now: BoardNow, at: float) -> Board:
    if _holds(board, now.serving):
        return _to(board, "soaking", due=None, served_at=at, reason="it served there already")
    return msgspec.structs.replace(board, due="deploy", deadline_at=at + spec.wait_s)


def _opinion(board: Board, now: BoardNow) -> Opinion | None:
    return None if now.decided is None or board.target is None else now.decided.opinions.get(board.target)


def _tells(job: JobNow | None, now: BoardNow) -> bool:
    """Whether a finished ``select`` names the decision that is there."""
    return job is not None and job.final and now.decided is not None and job.result.get("decision") == now.decided.id


def _holds(board: Board, serving: Serving | None) -> bool:
    return (
        serving is not None and serving.settled and serving.candidate is not None and serving.candidate == board.target
    )


def _moved(board: Board, now: BoardNow) -> bool:
    return now.serving is not None and now.serving.differs(board.before)


def _acted(board: Board, now: BoardNow) -> bool:
    """Whether the deployment shows that an order to switch has arrived."""
    return board.verb in ("deploy", "rollback") and _moved(board, now)


def _problem(board: Board, serving: Serving | None) -> str | None:
    """Return why what served before cannot be given back by a rollback, None where it can."""
    if serving is None or not _holds(board, serving):
        return "it is not known what serves"
    if board.first is None or board.first.release is None:
        return "nothing served there before"
    if serving.previous != board.first.release:
        return "what served before is no longer what the board would go back to"
    return None


def _again_or(board: Board, job: JobNow, failed: Board) -> Board:
    """Another attempt where the job had no effect, or was cut off and may be done twice; not if ended on purpose."""
    cut_off = board.verb in ("bench", "select") and job.state == "FAILED" and job.exit_code is None
    if (job.begun and not cut_off) or job.state == "CANCELED" or board.attempt >= MAX_ATTEMPTS:
        return failed
    return msgspec.structs.replace(board, due=board.verb)


def _unanswered(board: Board, job: JobNow | None, now: BoardNow, at: float, late: bool) -> Board:
    if late:
        return _silent(board, f"{board.verb} did not end in its time" if job else f"{board.verb}: no answer")
    silent = job is None and not _acted(board, now) and board.ordered_at is not None
    if silent and now.reachable and at >= (board.ordered_at or 0.0) + ANSWER_S:
        if board.attempt >= MAX_ATTEMPTS:
            return _silent(board, f"{board.verb}: no answer")
        return msgspec.structs.replace(board, due=board.verb)
    return board


def _unless_told(board: Board, at: float, problem: str) -> Board:
    late = board.deadline_at is not None and at >= board.deadline_at
    return _silent(board, problem) if late else board


def _silent(board: Board, reason: str) -> Board:
    return _fail(board, "no_answer", reason, phase="unreachable")


def _fail(board: Board, kind: Kind, reason: str, phase: Phase = "failed") -> Board:
    return _to(board, phase, kind=kind, reason=reason, due=None)


def _to(board: Board, phase: Phase, **more: Any) -> Board:
    return msgspec.structs.replace(board, phase=phase, **more)
