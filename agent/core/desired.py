"""The desired state: settings an operator asks for, in place of those in agent.yaml. Pure.

Rules:
- One document holds all that is wanted of its scope: what it leaves out is as agent.yaml says. It is never a patch.
- Scopes are the fleet, each group and the device; each has its own version. They are laid over agent.yaml in that
  order, groups in the order of agent.yaml, task by task; a narrower scope speaks last.
- Only a greater version of a scope is taken. The same or an older one changes nothing and harms nothing, so it may be
  retained, queued and repeated. A refused one leaves the old one in force, and ``reported`` says why.
- ``schedule`` null is agent.yaml's; a list takes its place, an empty one means none. So it is with ``caps``, a mapping.
- What is not asked for is not written, so that a board that does not know it yet takes the rest.
- Signed like a command, by an admin. It does not expire: it is what boards that were away find when they come back.

Laying it over a configuration is for ``agent.config_desired``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from agent.core.envelope import read_payload
from agent.errors import OrderError

_Version = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
_Pin = Annotated[str, msgspec.Meta(pattern=r"^([a-z0-9][a-z0-9._-]{0,63})?$(?!\n)")]


class DesiredTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is wanted of one task; each is written as in agent.yaml, and null leaves what is below.

    ``budgets`` and ``objective`` take the place of the whole mapping and the whole list. ``pin``: this candidate and
    no other is measured, selected and deployed; an empty string lifts a wider scope's pin.
    """

    budgets: dict[str, str | int | float] | None = None
    objective: tuple[str, ...] | None = None
    pin: _Pin | None = None


class DesiredSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The settings themselves; an entry of ``schedule``, and ``caps``, are written as in agent.yaml."""

    tasks: dict[str, DesiredTask] = {}
    schedule: tuple[dict[str, Any], ...] | None = None
    caps: dict[str, str | int | float] | None = None


class DesiredAudience(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scope: one device, a group, or the whole fleet where both are absent."""

    fleet: str
    device: str | None = None
    group: str | None = None

    @property
    def scope(self) -> str:
        """The scope's name on a board: ``device``, ``group:<name>`` or ``all``."""
        return "device" if self.device is not None else "all" if self.group is None else f"group:{self.group}"


class Desired(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The payload of the envelope on a ``desired`` topic."""

    version: _Version
    issuer: str
    audience: DesiredAudience
    issued_at: str
    settings: DesiredSettings
    schema: Literal["boardfit.desired/1"]


def read_desired(payload: bytes) -> Desired:
    """Read a payload whose signature holds. Raises: OrderError: the text names the field."""
    return read_payload(payload, Desired, "a desired state")


def desired_bytes(desired: Desired) -> bytes:
    """Return the payload to sign. Raises: OrderError: a board would not read it."""
    payload = msgspec.json.encode(desired)
    read_desired(payload)
    return payload


def scope_order(groups: tuple[str, ...]) -> tuple[str, ...]:
    """Return a board's scopes, the widest first."""
    return ("all", *(f"group:{name}" for name in groups), "device")


def check_newer(version: int, applied: int | None, scope: str) -> None:
    """Raise OrderError (cause ``stale``) unless a version is greater than the one in force."""
    if applied is not None and version <= applied:
        raise OrderError(f"version {version} of {scope} is not above {applied}, which is in force", cause="stale")
