"""A deployment as one table of phases. Pure.

Rules:
- A phase that ends in -ING holds an intent: it is stored before its action is carried out, and may be found half done.
- An event that no row accepts is an error that names both; nothing is ignored.
- ``resume`` says what to do when the agent starts and finds the row's phase. Nothing switched yet: clean up. Proven in
  service and about to be recorded: finish. Anything else, an unknown phase included: roll back.
- Past ``MAX_WRITES`` journal writes an attempt is abandoned: the links go back and nothing else is run. A restored
  application that takes the board down with it would otherwise do so at every start.
- A step along a ladder goes to a release that is staged and proven already: it relinks ``current``, and is settled once
  the hook has run. Cut before that is stored as ``stepped_over`` it goes back; after it the hook is run again.
- A model that failed ``MAX_FAILURES`` times in a row is quarantined. An interruption counts as a failure in a
  ``SUSPECT`` phase only: there the model ran, or the application had it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from agent.errors import DeploymentError

MAX_WRITES = 28  # chosen: a deployment with rollback writes 11, each restart in between adds one or two
MAX_FAILURES = 3  # chosen
MAX_ATTEMPTS = 5  # a day, at one model with its options; chosen: a pass an hour would wear the card with copies


class Phase(Enum):
    """Where a deployment stands."""

    IDLE = "idle"
    STAGING = "staging"
    STAGED = "staged"
    PROVING = "proving"
    PROVED = "proved"
    SWITCHING = "switching"
    SWITCHED = "switched"
    HOOK = "hook"
    PROBATION = "probation"
    COMMITTING = "committing"
    DONE = "done"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    STEPPING = "stepping"
    STEPPED_OVER = "stepped_over"
    STEPPED = "stepped"


class Event(Enum):
    """What moves a deployment on: an order from outside, or how the phase's action ended."""

    DEPLOY = "deploy"
    ROLL_BACK = "roll_back"
    STEP = "step"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Action(Enum):
    """What is carried out once a phase is stored."""

    STAGE = "stage"
    PROVE = "prove"
    SWITCH = "switch"
    RUN_HOOK = "run_hook"
    WATCH = "watch"
    COMMIT = "commit"
    RESTORE = "restore"
    COLLECT = "collect"
    RELINK = "relink"
    REST = "rest"  # nothing, and that was all: what a pass lays out beside us is not ours to collect
    GO_ON = "go_on"  # nothing, unless a stop was asked for


class Resume(Enum):
    """What to do with a phase that is found at start."""

    NOTHING = "nothing"
    CLEAN_UP = "clean_up"
    FINISH = "finish"
    FINISH_STEP = "finish_step"
    ROLL_BACK = "roll_back"


class Row(NamedTuple):
    """In ``phase``, ``event`` leads to ``to``, where ``action`` is carried out; ``resume`` belongs to ``phase``."""

    phase: Phase
    event: Event
    to: Phase
    action: Action
    resume: Resume


_P, _E, _A, _R = Phase, Event, Action, Resume

# fmt: off
TABLE: tuple[Row, ...] = (
    #   in this phase     on this event  enter this phase  and do           found at start
    Row(_P.IDLE,          _E.DEPLOY,     _P.STAGING,       _A.STAGE,        _R.NOTHING),
    Row(_P.IDLE,          _E.ROLL_BACK,  _P.ROLLING_BACK,  _A.RESTORE,      _R.NOTHING),
    Row(_P.STAGING,       _E.SUCCEEDED,  _P.STAGED,        _A.GO_ON,        _R.CLEAN_UP),
    Row(_P.STAGING,       _E.FAILED,     _P.FAILED,        _A.COLLECT,      _R.CLEAN_UP),
    Row(_P.STAGED,        _E.SUCCEEDED,  _P.PROVING,       _A.PROVE,        _R.CLEAN_UP),
    Row(_P.STAGED,        _E.FAILED,     _P.FAILED,        _A.COLLECT,      _R.CLEAN_UP),
    Row(_P.PROVING,       _E.SUCCEEDED,  _P.PROVED,        _A.GO_ON,        _R.CLEAN_UP),
    Row(_P.PROVING,       _E.FAILED,     _P.FAILED,        _A.COLLECT,      _R.CLEAN_UP),
    Row(_P.PROVED,        _E.SUCCEEDED,  _P.SWITCHING,     _A.SWITCH,       _R.CLEAN_UP),
    Row(_P.PROVED,        _E.FAILED,     _P.FAILED,        _A.COLLECT,      _R.CLEAN_UP),
    Row(_P.SWITCHING,     _E.SUCCEEDED,  _P.SWITCHED,      _A.GO_ON,        _R.ROLL_BACK),
    Row(_P.SWITCHING,     _E.FAILED,     _P.ROLLING_BACK,  _A.RESTORE,      _R.ROLL_BACK),
    Row(_P.SWITCHED,      _E.SUCCEEDED,  _P.HOOK,          _A.RUN_HOOK,     _R.ROLL_BACK),
    Row(_P.SWITCHED,      _E.FAILED,     _P.ROLLING_BACK,  _A.RESTORE,      _R.ROLL_BACK),
    Row(_P.HOOK,          _E.SUCCEEDED,  _P.PROBATION,     _A.WATCH,        _R.ROLL_BACK),
    Row(_P.HOOK,          _E.FAILED,     _P.ROLLING_BACK,  _A.RESTORE,      _R.ROLL_BACK),
    Row(_P.PROBATION,     _E.SUCCEEDED,  _P.COMMITTING,    _A.COMMIT,       _R.ROLL_BACK),
    Row(_P.PROBATION,     _E.FAILED,     _P.ROLLING_BACK,  _A.RESTORE,      _R.ROLL_BACK),
    Row(_P.COMMITTING,    _E.SUCCEEDED,  _P.DONE,          _A.COLLECT,      _R.FINISH),
    Row(_P.DONE,          _E.DEPLOY,     _P.STAGING,       _A.STAGE,        _R.NOTHING),
    Row(_P.DONE,          _E.ROLL_BACK,  _P.ROLLING_BACK,  _A.RESTORE,      _R.NOTHING),
    Row(_P.ROLLING_BACK,  _E.SUCCEEDED,  _P.ROLLED_BACK,   _A.COLLECT,      _R.ROLL_BACK),
    Row(_P.ROLLED_BACK,   _E.DEPLOY,     _P.STAGING,       _A.STAGE,        _R.NOTHING),
    Row(_P.ROLLED_BACK,   _E.ROLL_BACK,  _P.ROLLING_BACK,  _A.RESTORE,      _R.NOTHING),
    Row(_P.FAILED,        _E.DEPLOY,     _P.STAGING,       _A.STAGE,        _R.NOTHING),
    Row(_P.FAILED,        _E.ROLL_BACK,  _P.ROLLING_BACK,  _A.RESTORE,      _R.NOTHING),
    Row(_P.IDLE,          _E.STEP,       _P.STEPPING,      _A.RELINK,       _R.NOTHING),
    Row(_P.DONE,          _E.STEP,       _P.STEPPING,      _A.RELINK,       _R.NOTHING),
    Row(_P.ROLLED_BACK,   _E.STEP,       _P.STEPPING,      _A.RELINK,       _R.NOTHING),
    Row(_P.FAILED,        _E.STEP,       _P.STEPPING,      _A.RELINK,       _R.NOTHING),
    Row(_P.STEPPING,      _E.SUCCEEDED,  _P.STEPPED_OVER,  _A.RUN_HOOK,     _R.ROLL_BACK),
    Row(_P.STEPPING,      _E.FAILED,     _P.ROLLING_BACK,  _A.RESTORE,      _R.ROLL_BACK),
    Row(_P.STEPPED_OVER,  _E.SUCCEEDED,  _P.STEPPED,       _A.REST,         _R.FINISH_STEP),
    Row(_P.STEPPED_OVER,  _E.FAILED,     _P.ROLLING_BACK,  _A.RESTORE,      _R.FINISH_STEP),
    Row(_P.STEPPED,       _E.STEP,       _P.STEPPING,      _A.RELINK,       _R.NOTHING),
    Row(_P.STEPPED,       _E.DEPLOY,     _P.STAGING,       _A.STAGE,        _R.NOTHING),
    Row(_P.STEPPED,       _E.ROLL_BACK,  _P.ROLLING_BACK,  _A.RESTORE,      _R.NOTHING),
)

# How a resumed attempt goes on: the phase it enters and what is carried out there.
RESUMED: dict[Resume, tuple[Phase, Action]] = {
    Resume.CLEAN_UP:    (Phase.FAILED,       Action.COLLECT),
    Resume.FINISH:      (Phase.COMMITTING,   Action.COMMIT),
    Resume.FINISH_STEP: (Phase.STEPPED_OVER, Action.RUN_HOOK),
    Resume.ROLL_BACK:   (Phase.ROLLING_BACK, Action.RESTORE),
}
# fmt: on

# Phases in which the new release serves, or may, and a rollback goes back from it. By name, as the journal has them.
UNCONFIRMED = frozenset({phase.value for phase in (Phase.SWITCHING, Phase.SWITCHED, Phase.HOOK, Phase.PROBATION)})

SUSPECT = frozenset({Phase.PROVING, Phase.SWITCHED, Phase.HOOK, Phase.PROBATION})


def advance(phase: Phase, event: Event) -> Row:
    """Return the row for an event in a phase. Raises: DeploymentError: no row accepts it; both are named."""
    for row in TABLE:
        if row.phase is phase and row.event is event:
            return row
    raise DeploymentError(
        f"event {event.value!r} cannot happen in phase {phase.value!r}", phase=phase.value, event=event.value
    )


def resume_for(phase: str) -> Resume:
    """Return what to do with a phase found at start; roll back where this version does not know the phase."""
    return next((row.resume for row in TABLE if row.phase.value == phase), Resume.ROLL_BACK)


def is_settled(phase: str) -> bool:
    """Return whether nothing is in progress in this phase."""
    return resume_for(phase) is Resume.NOTHING
