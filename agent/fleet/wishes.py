"""What is asked for in a browser, on its way to the operator's machine. Unsigned, worth nothing by itself. Pure.

Rules:
- A wish is read strictly at both ends: by the console, and again by the operator's machine, which does not trust it.
- Whom it is for is an address in words; which boards that means is for the operator's machine to find out.

Leaves signing and sending to ``agent.fleet.sending`` and to whoever holds the key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from agent.core.command import VERBS
from agent.errors import OrderError
from agent.fleet.plain import LONG, plain
from agent.fleet.sign_in import WISHES

State = Literal["asked", "shown", "refused", "working", "done", "failed"]
FINAL: tuple[State, ...] = ("refused", "done", "failed")
MAX_ADDRESS = 4000
MAX_BYTES = 16 * 1024
_Id = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$(?!\n)")]


class RolloutArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rollout that this operator has started. ``undo``: only of an abort."""

    rollout: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]{4,32}$(?!\n)")]
    undo: bool = False


class DesiredWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a task shall be held to; the whole document of the scope, as ``fleet desired set --task`` writes it."""

    task: str
    budgets: dict[str, str] = {}
    objective: tuple[str, ...] = ()
    pin: str | None = None


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing asked for. ``address``: as on the command line; empty for a rollout."""

    id: _Id
    fleet: str
    verb: str
    address: Annotated[str, msgspec.Meta(max_length=MAX_ADDRESS)] = ""
    arguments: dict[str, Any] = {}


class Told(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a wish fares, as the operator's machine says. ``command``: the id of the jobs that it became."""

    id: _Id
    state: State
    text: Annotated[str, msgspec.Meta(max_length=2000)] = ""
    command: Annotated[str, msgspec.Meta(max_length=64)] | None = None


def check_wish(wish: Wish) -> Wish:
    """Return a wish that can be carried out. Raises: OrderError: an unknown verb, wrong arguments, no address."""
    if wish.verb not in WISHES:
        raise OrderError(f"nobody can wish for {wish.verb[:32]!r}")
    try:
        msgspec.convert(wish.arguments, _shape(wish.verb))
    except msgspec.ValidationError as error:
        raise OrderError(f"these are not the arguments of {wish.verb}: {str(error)[:300]}") from error
    if not wish.verb.startswith("rollout-") and not wish.address.strip():
        raise OrderError(f"{wish.verb} needs to be told for which boards")
    return wish


def read_wish(data: object) -> Wish:
    """Read a wish that came over the network. Raises: OrderError."""
    try:
        return check_wish(msgspec.convert(data, Wish))
    except msgspec.ValidationError as error:
        raise OrderError(f"not a wish: {str(error)[:300]}") from error


def wish_text(wish: Wish) -> str:
    """Return a wish in one line that a terminal shows as it is: ``deploy to pi5-01 (task digits)``."""
    said = ", ".join(
        f"{name} {_said(value)}" for name, value in sorted(wish.arguments.items()) if value not in (None, False)
    )
    verb = wish.verb.replace("-", " ")
    to = f" for {plain(wish.address, LONG)}" if wish.address else ""
    return plain(f"{verb}{to}", LONG * 2) + (f" ({plain(said, LONG * 2)})" if said else "")


def _said(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _shape(verb: str) -> type[msgspec.Struct]:
    if verb.startswith("rollout-"):
        return RolloutArguments
    return DesiredWish if verb == "set-desired" else VERBS[verb].arguments
