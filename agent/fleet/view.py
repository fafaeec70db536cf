"""What an operator's machine knows of a fleet, from the boards' own documents. Pure: it is fed messages.

Rules:
- Of a document only what is shown or asked for is kept, so that a board takes a few KiB; equal texts are kept once.
- The topic says whose a document is, not its payload: the broker's access rules hold for topics.
- What cannot be read or goes beyond a bound is counted in ``refused`` and changes nothing.
- Every text is made plain before it is kept.
- A board was last seen at the latest time that a document of its own says.
- What was never told is None; an emptied retained status takes the board out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from agent.core.messages import decode
from agent.core.payloads import DecisionMessage, DeploymentMessage, Job, Origin, Profile, Reported, Status, Telemetry
from agent.core.topics import Topic, parse_topic
from agent.errors import ReportError
from agent.fleet.plain import LONG, SHORT, plain

_T = TypeVar("_T")

MAX_BOARDS = 200_000
MAX_TASKS = 64  # of one board
MAX_WORDS = 32  # engines, accelerators, groups of one board


class TaskView:
    """One task of a board: what serves it, and the last decision."""

    __slots__ = (
        "budgets",
        "candidate",
        "decided",
        "decided_p95_s",
        "energy_j",
        "expected_p95_s",
        "outcome",
        "phase",
        "reason",
        "release",
        "withheld",
    )

    def __init__(self) -> None:
        self.candidate: str | None = None  # what serves
        self.phase: str | None = None
        self.release: str | None = None
        self.decided: str | None = None  # what the last decision chose
        self.outcome: str | None = None
        self.reason: str | None = None
        self.decided_p95_s: float | None = None
        self.energy_j: float | None = None
        self.expected_p95_s: float | None = None  # of what serves, as measured before it was deployed
        self.budgets: tuple[tuple[str, float], ...] = ()  # metric and limit, of the last decision
        self.withheld: tuple[tuple[str, str], ...] = ()  # candidate and why that board may not try it

    @property
    def p95_s(self) -> float | None:
        """The 95th percentile of latency of what serves, as measured on that board; None when that is not known."""
        if self.expected_p95_s is not None:
            return self.expected_p95_s
        return self.decided_p95_s if self.candidate is not None and self.candidate == self.decided else None

    @property
    def budget_p95_s(self) -> float | None:
        """The limit of the 95th percentile of latency; None where there is none."""
        return next((limit for metric, limit in self.budgets if metric == "latency_p95"), None)


class BoardView:
    """One board. ``states`` is what ``status=`` compares with: a busy board is online too."""

    __slots__ = (
        "accelerators", "agent_version", "architecture", "boot_id", "class_fingerprint", "cores", "desired_error",
        "desired_versions", "doing", "engines", "epoch", "groups", "job", "job_state", "memory_bytes", "model", "name",
        "os", "outbox_messages", "power_mode", "profile", "python", "reason", "seen", "soc", "status", "tasks",
        "temperature_celsius", "traps",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.status: str | None = None
        self.reason: str | None = None
        self.epoch: str | None = None
        self.boot_id: str | None = None
        self.seen: str | None = None
        self.agent_version: str | None = None
        self.outbox_messages: int | None = None
        self.class_fingerprint: str | None = None
        self.profile: str | None = None
        self.model: str | None = None
        self.soc: str | None = None
        self.architecture: str | None = None
        self.cores: int | None = None
        self.memory_bytes: int | None = None
        self.power_mode: str | None = None
        self.os: str | None = None
        self.python: str | None = None
        self.engines: tuple[str, ...] = ()
        self.accelerators: tuple[str, ...] = ()
        self.traps: tuple[str, ...] = ()
        self.groups: tuple[str, ...] | None = None
        self.desired_versions: dict[str, int] = {}
        self.desired_error: str | None = None
        self.tasks: dict[str, TaskView] = {}
        self.temperature_celsius: float | None = None
        self.doing: str | None = None  # as of its last telemetry; None: nothing, or none was heard
        self.job: str | None = None
        self.job_state: str | None = None

    @property
    def states(self) -> tuple[str, ...]:
        """The words its status answers to; none where it never told one."""
        return () if self.status is None else ("busy", "online") if self.status == "busy" else (self.status,)

    @property
    def reachable(self) -> bool:
        """Whether it was connected by the last that was heard."""
        return self.status in ("online", "busy")


def as_document(board: BoardView) -> dict[str, object]:
    """Return a board as a JSON document."""
    made = {name: getattr(board, name) for name in BoardView.__slots__ if name != "tasks"}
    told = (*TaskView.__slots__, "p95_s")
    tasks = {name: {slot: getattr(task, slot) for slot in told} for name, task in board.tasks.items()}
    return {**made, "tasks": tasks}


class FleetView:
    """All boards of one fleet. ``heard`` counts the messages taken, ``refused`` those left out."""

    def __init__(self, fleet: str) -> None:
        self.fleet = fleet
        self.boards: dict[str, BoardView] = {}
        self.heard = 0
        self.refused = 0
        self.last_refusal: str | None = None
        self.changed: set[str] | None = None  # boards heard of since whoever watches has emptied it; None: nobody does

    def sorted(self) -> list[BoardView]:
        """Return the boards by name."""
        return [self.boards[name] for name in sorted(self.boards)]

    def take(self, topic: str, payload: bytes) -> BoardView | None:
        """Take one message. Returns: the board it changed, None when it was left out."""
        try:
            place = parse_topic(topic)
            if place.fleet != self.fleet or place.device is None or place.kind in ("cmd", "desired"):
                return None
            if not payload:
                self._emptied(place)
                return None
            message = decode(topic, payload, place.kind)
            board = self._board(place.device)
            take_document(board, place, message)
            if isinstance(message, Origin) and message.time is not None:  # a last will has none
                time = plain(message.time)
                if board.seen is None or time > board.seen:
                    board.seen = time
            if self.changed is not None:
                self.changed.add(board.name)
        except (ReportError, KeyError) as error:
            self.refused += 1
            self.last_refusal = plain(str(error), LONG)
            return None
        self.heard += 1
        return board

    def _board(self, name: str) -> BoardView:
        board = self.boards.get(name)
        if board is None:
            if len(self.boards) >= MAX_BOARDS:
                raise ReportError(f"more than {MAX_BOARDS} boards")
            board = self.boards[name] = BoardView(name)
        return board

    def _emptied(self, place: Topic) -> None:
        if place.kind == "status" and place.device is not None:
            self.boards.pop(place.device, None)
            if self.changed is not None:
                self.changed.add(place.device)


def take_document(board: BoardView, place: Topic, message: Any) -> None:
    """Put what a document says into a board's view. Raises: ReportError. KeyError: no board sends that kind."""
    _TAKE[place.kind](board, place, message)


@lru_cache(maxsize=8192)  # what boards say is mostly what others say
def _kept(text: str | None, limit: int = SHORT) -> str | None:
    return None if text is None else sys.intern(plain(text, limit))


@lru_cache(maxsize=8192)
def _words(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first few texts, each once, in order."""
    return tuple(dict.fromkeys(sys.intern(plain(text)) for text in texts[:MAX_WORDS]))


def _take_status(board: BoardView, _place: Topic, message: Status) -> None:
    board.status = _kept(message.state)
    board.reason = plain(message.reason, LONG)
    if message.class_fingerprint is not None:
        board.class_fingerprint = _kept(message.class_fingerprint)
        board.soc, board.memory_bytes = _kept(message.soc), message.memory_total_bytes
    if message.groups is not None:
        board.groups = _words(message.groups)
    if message.state != "offline":  # a last will was written before, and knows less
        board.epoch = plain(message.epoch)
        board.boot_id = plain(message.boot_id)
        board.agent_version = _kept(message.agent_version)
        board.outbox_messages = message.outbox_messages


def _take_profile(board: BoardView, _place: Topic, message: Profile) -> None:
    facts = message.facts
    board.class_fingerprint = _kept(message.class_fingerprint)
    board.profile, board.model, board.soc = _kept(message.profile), _kept(message.model), _kept(message.soc)
    board.architecture, board.power_mode = _kept(message.architecture), _kept(message.power_mode)
    board.cores, board.memory_bytes = message.cores_usable, message.memory_total_bytes
    board.os, board.python = _kept(facts.os.name), _kept(facts.os.python)
    proven = [engine for engine in facts.engines if engine.proven]
    board.engines = _words(
        tuple(name for engine in proven for name in (engine.name, *(f"{engine.name}/{p}" for p in engine.providers)))
    )
    board.accelerators = _words(tuple(name for one in facts.accelerators for name in (one.kind, one.name)))
    board.traps = tuple(plain(text, LONG) for text in facts.traps[:MAX_WORDS])


def _task(board: BoardView, name: str | None) -> TaskView:
    found = board.tasks.get(name or "")
    if found is None:
        if len(board.tasks) >= MAX_TASKS:
            raise ReportError(f"{board.name} tells of more than {MAX_TASKS} tasks")
        found = board.tasks[sys.intern(name or "")] = TaskView()
    return found


@lru_cache(maxsize=1024)
def _shared(pairs: tuple[tuple[str, _T], ...]) -> tuple[tuple[str, _T], ...]:
    """Return equal budgets, or equal reasons, as one value: most boards of a fleet have the same."""
    return pairs


def _take_decision(board: BoardView, place: Topic, message: DecisionMessage) -> None:
    if message.what_if:
        return
    task = _task(board, place.parameter)
    task.decided, task.outcome = _kept(message.candidate), _kept(message.outcome)
    task.reason = plain(message.reason, LONG)
    task.decided_p95_s, task.energy_j = message.latency_p95_s, message.energy_per_inference_j
    task.budgets = _shared(tuple((plain(budget.metric), budget.limit) for budget in message.budgets[:MAX_WORDS]))


def _take_deployment(board: BoardView, place: Topic, message: DeploymentMessage) -> None:
    task = _task(board, place.parameter)
    task.candidate, task.phase, task.release = _kept(message.candidate), _kept(message.phase), plain(message.release)
    task.expected_p95_s = message.expected_latency_p95_s
    kept_out = list(message.withheld.items())[:MAX_WORDS]
    task.withheld = _shared(tuple((plain(name), plain(text, LONG)) for name, text in kept_out))


def _take_reported(board: BoardView, _place: Topic, message: Reported) -> None:
    board.groups = _words(message.groups)
    board.desired_versions = {
        sys.intern(plain(scope)): version for scope, version in list(message.desired_versions.items())[:MAX_WORDS]
    }
    board.desired_error = plain(message.desired_error, LONG)


def _take_telemetry(board: BoardView, place: Topic, message: Telemetry) -> None:
    if place.parameter == "board":
        board.temperature_celsius, board.doing = message.temperature_celsius, plain(message.doing)
        if message.outbox_messages is not None:
            board.outbox_messages = message.outbox_messages


def _take_job(board: BoardView, _place: Topic, message: Job) -> None:
    board.job, board.job_state = _kept(message.verb), _kept(message.state)


def _take_nothing(_board: BoardView, _place: Topic, _message: Origin) -> None:
    return None


_TAKE: dict[str, Callable[[BoardView, Topic, Any], None]] = {
    "status": _take_status,
    "profile": _take_profile,
    "decision": _take_decision,
    "deployment": _take_deployment,
    "reported": _take_reported,
    "telemetry": _take_telemetry,
    "job": _take_job,
    "measurement": _take_nothing,
    "event": _take_nothing,
}
