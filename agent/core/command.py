"""Commands: what may be ordered, by whom, and whether a board obeys one. Pure.

Rules:
- ``VERBS`` is the one table: role needed, whether the board's present epoch is needed, who does it, and for how long.
- A verb that switches what serves (deploy, rollback) names the board's epoch, a random number that is new with every
  start of its agent and announced in the retained status: no replay over a restart or onto a restored disk can do
  harm. An epoch belongs to one board, so these verbs go to one device each, never to a group.
- The status is signed by nobody, and a broker may show an operator any epoch it likes. It gains nothing by that: a
  command with a wrong epoch is refused by its board, as if it had never come, which a broker can have anyway. For a
  command to be obeyed later it would have to name an epoch that the board will draw then: one chance in 2^128. Another
  board's epoch serves nobody, as the audience is signed too; a board that lies about its own harms itself.
- Every command has a counter, greater than the issuer's last one on this board: a counter, not time, stops replays.
- Expiry is judged against a floor under the board's clock, so that a board that wakes in 1970 does not obey old orders.
  A board whose clock is not synchronised says so when it refuses.
- ``set-desired`` needs no epoch: its document is versioned, an older one is refused, a repeated one changes nothing.
- ``pardon`` and ``leave-safe-mode`` switch nothing by themselves: they let a later pass or an order do so, which is
  judged as ever. They need no epoch, and may go to a group.

Leaves signatures and bytes to ``agent.core.envelope``, the operator list to ``agent.core.operators``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec

from agent.core.desired import DesiredAudience, DesiredSettings
from agent.core.envelope import read_payload
from agent.core.operators import RANK, Operator, Role, read_time
from agent.errors import OrderError

Verb = Literal[
    "bench", "select", "deploy", "rollback", "pardon", "sync", "leave-safe-mode", "set-desired", "profile", "status",
    "cancel",
]  # fmt: skip

#: A command is for now; what shall hold for boards that are away is a desired state.
MAX_LIFETIME = timedelta(hours=24)
#: How far an issuer's clock may be ahead of a board's whose clock is synchronised.
MAX_AHEAD = timedelta(minutes=5)

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$(?!\n)")]
_Task = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)")]
Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{7,63}$(?!\n)")]
_Counter = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]


class Audience(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom a command is for: one device, the devices of a group, or the whole fleet where both are absent."""

    fleet: str
    device: str | None = None
    group: str | None = None


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The payload of a command's envelope. It claims no role: that is for the operator list.

    ``id`` names the job; ``issuer`` is the operator's name in the list; times are UTC (``2026-01-31T09:30:00Z``).
    """

    id: Id
    verb: Verb
    issuer: str
    audience: Audience
    counter: _Counter
    issued_at: str
    expires_at: str
    schema: Literal["boardfit.command/1"]
    arguments: dict[str, Any] = {}
    epoch: str | None = None
    #: For how long the work itself may go on, seconds; None: the verb's usual time.
    deadline_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


class Nothing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No arguments."""


class BenchArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``again``, ``exhaustive`` and ``sustained`` as on the command line; ``candidates``: only these, and in full.

    ``among``: boards that share the work, each its slice (``agent.core.slices``), ``overlap`` of them each candidate.
    """

    task: _Task | None = None
    candidates: tuple[_Name, ...] = ()
    again: bool = False
    exhaustive: bool = False
    sustained: bool = False
    among: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=150)] = ()
    overlap: Annotated[int, msgspec.Meta(ge=1, le=150)] = 2


class TaskArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``select``: one task; without one every task."""

    task: _Task | None = None


class DeployArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``candidate``: this one instead of the last decision's winner."""

    task: _Task
    candidate: _Name | None = None


class RollbackArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The task whose previous deployment shall serve again."""

    task: _Task


class PardonArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The task whose models may be tried again. ``candidate``: this one only."""

    task: _Task
    candidate: _Name | None = None


class SetDesiredArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new version of this board's desired settings; see ``agent.core.desired``."""

    version: _Counter
    settings: DesiredSettings


class CancelArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The job to end."""

    job: Id


class VerbRule(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ``VERBS``.

    ``epoch``: must name the board's present epoch, and one device. ``child``: done by ``boardfit <verb>`` in a child,
    one at a time; the others are answered at once. ``writes``: its counter and job are on disk before it begins; what
    only asks costs a memory card nothing. ``deadline_s``: for how long it may usually be at work.
    """

    role: Role
    arguments: type[msgspec.Struct]
    epoch: bool = False
    child: bool = True
    writes: bool = True
    deadline_s: float = 60.0


VERBS: dict[str, VerbRule] = {
    "status": VerbRule(role="viewer", arguments=Nothing, child=False, writes=False),
    "profile": VerbRule(role="viewer", arguments=Nothing, child=False, writes=False),
    "bench": VerbRule(role="operator", arguments=BenchArguments, deadline_s=6 * 3600.0),
    "select": VerbRule(role="operator", arguments=TaskArguments, deadline_s=600.0),
    "deploy": VerbRule(role="operator", arguments=DeployArguments, epoch=True, deadline_s=3600.0),
    "rollback": VerbRule(role="operator", arguments=RollbackArguments, epoch=True, deadline_s=1800.0),
    "pardon": VerbRule(role="operator", arguments=PardonArguments),
    "sync": VerbRule(role="operator", arguments=Nothing, deadline_s=1800.0),
    "leave-safe-mode": VerbRule(role="operator", arguments=Nothing, deadline_s=1800.0),
    "cancel": VerbRule(role="operator", arguments=CancelArguments, child=False),
    "set-desired": VerbRule(role="admin", arguments=SetDesiredArguments, child=False),
}
MAX_DEADLINE_S = 24 * 3600.0


class Recipient(msgspec.Struct, frozen=True, kw_only=True):
    """The board that judges: its names, its epoch, and the time as it knows it.

    ``now`` is the later of wall clock and floor, aware. ``clock_synced`` None is unknown.
    """

    fleet: str
    device: str
    groups: tuple[str, ...]
    epoch: str
    now: datetime
    clock_synced: bool | None = None


def read_command(payload: bytes) -> Command:
    """Read a payload whose signature holds, its arguments too. Raises: OrderError: the text names the field."""
    command = read_payload(payload, Command, "a command")
    arguments_of(command)
    return command


def arguments_of(command: Command) -> msgspec.Struct:
    """Return a command's arguments as its verb's struct. Raises: OrderError."""
    try:
        return msgspec.convert(command.arguments, VERBS[command.verb].arguments)
    except msgspec.ValidationError as error:
        raise OrderError(f"not the arguments of {command.verb}: {str(error)[:300]}") from error


def command_bytes(command: Command) -> bytes:
    """Return the payload to sign. Raises: OrderError: a board would not read it."""
    payload = msgspec.json.encode(command)
    try:
        arguments_of(msgspec.json.decode(payload, type=Command))  # we wrote it: no key is there twice
    except msgspec.ValidationError:
        read_command(payload)
        raise
    return payload


def judge(command: Command, operator: Operator, at: Recipient, last_counter: int) -> None:
    """Return when the board may obey; the signature is ``operator``'s and holds.

    Args: last_counter: the greatest counter of this issuer that was taken here, 0 for none.
    Raises: OrderError: why not, for the job's answer.
    """
    check_issuer(command.issuer, command.issued_at, command.verb, operator, at)
    check_audience(command.audience, at)
    issued, expires = read_time(command.issued_at), read_time(command.expires_at)
    if not timedelta(0) < expires - issued <= MAX_LIFETIME:
        raise OrderError("a command is valid for more than nothing and at most 24 hours after its issue")
    if at.now >= expires:
        raise OrderError(f"it expired at {command.expires_at}{_clock_note(at)}", cause="expired")
    if command.counter <= last_counter:
        raise OrderError(
            f"its counter {command.counter} is not above {last_counter}: it is a replay, or came late", cause="replay"
        )
    rule = VERBS[command.verb]
    if rule.epoch and command.audience.device is None:
        raise OrderError(f"{command.verb} must be addressed to one device", cause="epoch")
    if rule.epoch and command.epoch != at.epoch:
        raise OrderError(
            "it does not name the present epoch of this board",
            fix="read the epoch in the board's status and send it again",
            cause="epoch",
        )
    if command.deadline_s is not None and command.deadline_s > MAX_DEADLINE_S:
        raise OrderError("a deadline is at most 24 hours")


def check_issuer(issuer: str, issued_at: str, verb: str, operator: Operator, at: Recipient) -> None:
    """Raise OrderError unless the key's owner is the issuer named, and may do this now."""
    role = VERBS[verb].role
    if operator.name != issuer:
        raise OrderError(f"the key is not of {issuer[:64]!r} but of {operator.name}", cause="issuer")
    if at.now >= read_time(operator.valid_until):
        raise OrderError(f"{operator.name}'s key was valid until {operator.valid_until}{_clock_note(at)}", cause="key")
    if RANK.get(operator.role, -1) < RANK[role]:
        raise OrderError(f"{operator.name} is {operator.role}; {verb} needs {role}", cause="role")
    if at.clock_synced and read_time(issued_at) > at.now + MAX_AHEAD:
        raise OrderError(f"it was issued at {issued_at}, which is in this board's future", cause="clock")


def check_audience(audience: Audience | DesiredAudience, at: Recipient) -> None:
    """Raise OrderError unless this board is meant."""
    if audience.fleet != at.fleet:
        raise OrderError(f"it is for the fleet {audience.fleet[:64]!r}", cause="audience")
    if audience.device is not None and audience.group is not None:
        raise OrderError("it is for a device and a group at once", cause="audience")
    if audience.device is not None and audience.device != at.device:
        raise OrderError(f"it is for {audience.device[:64]!r}", cause="audience")
    if audience.group is not None and audience.group not in at.groups:
        raise OrderError(f"it is for the group {audience.group[:64]!r}", cause="audience")


def deadline_of(command: Command) -> float:
    """Return for how long the work may go on, seconds."""
    return command.deadline_s or VERBS[command.verb].deadline_s


def _clock_note(at: Recipient) -> str:
    return "" if at.clock_synced else " by this board's clock, which is not known to be synchronised"
