"""The operator list: who may order what, as a signed target of the registry says. Pure.

Rules:
- The list is the only source of roles: a command claims none. Boards read it at each sync, and revocation follows.
- A board without a list, or with one it cannot read, obeys nobody.
- A role includes those below it: viewer < operator < admin.
- Fields this version does not know are left alone; a role it does not know may do nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from agent.core.envelope import PUBLIC_KEY_BYTES, key_id
from agent.core.topics import check_id
from agent.errors import ConfigError, OrderError

#: Where the list lies in the registry, and what it was published as.
OPERATORS_PATH = "_fleet/operators.json"
OPERATORS_KIND = "operators"
MAX_LIST_BYTES = 256 * 1024
MAX_OPERATORS = 1000

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")
RANK: dict[str, int] = {name: number for number, name in enumerate(ROLES)}


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """One person or program that may give commands. ``public_key``: Ed25519, 64 hex digits. ``valid_until``: UTC."""

    name: str
    public_key: str
    role: str
    valid_until: str

    @property
    def keyid(self) -> str:
        """The id of the public key, as envelopes carry it."""
        return key_id(self.public_key)


class OperatorList(msgspec.Struct, frozen=True, kw_only=True):
    """The document at ``OPERATORS_PATH``."""

    operators: tuple[Operator, ...] = ()
    schema: Literal["boardfit.operators/1"] = "boardfit.operators/1"

    def by_key(self) -> dict[str, Operator]:
        """Return key id to operator."""
        return {operator.keyid: operator for operator in self.operators}


def parse_operators(data: bytes) -> OperatorList:
    """Read a list whose bytes the registry has signed. Raises: OrderError: this version cannot read it."""
    if len(data) > MAX_LIST_BYTES:
        raise OrderError(f"an operator list of {len(data)} bytes is over the {MAX_LIST_BYTES} it may have")
    try:
        listed = msgspec.json.decode(data, type=OperatorList)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OrderError(f"the operator list cannot be read: {error}") from error
    check_operators(listed)
    return listed


def check_operators(listed: OperatorList) -> None:
    """Raise OrderError when a list names a person or key twice, or holds what is no key, name or time."""
    if len(listed.operators) > MAX_OPERATORS:
        raise OrderError(f"the operator list has more than {MAX_OPERATORS} entries")
    names: set[str] = set()
    keys: set[str] = set()
    for operator in listed.operators:
        try:
            check_id(operator.name, where="operator")
        except ConfigError as error:
            raise OrderError(error.problem, fix=error.fix) from error
        if operator.name in names or operator.public_key in keys:
            raise OrderError(f"the operator list has {operator.name} or its key twice")
        names.add(operator.name)
        keys.add(operator.public_key)
        check_public_key(operator.public_key)
        read_time(operator.valid_until)


def check_public_key(text: str) -> str:
    """Return an Ed25519 public key in lower-case hex unchanged. Raises: OrderError."""
    if len(text) != 2 * PUBLIC_KEY_BYTES or any(digit not in "0123456789abcdef" for digit in text):
        raise OrderError("a public key must be 64 lower-case hex digits (Ed25519)")
    return text


def read_time(text: str) -> datetime:
    """Read a UTC time like ``2026-01-31T09:30:00Z`` or with milliseconds. Raises: OrderError."""
    if text.endswith("Z") and len(text) in (20, 24):
        try:
            return datetime.fromisoformat(f"{text[:-1]}+00:00")
        except ValueError:
            pass
    raise OrderError(f"{text[:40]!r} is not a UTC time like 2026-01-31T09:30:00Z")
