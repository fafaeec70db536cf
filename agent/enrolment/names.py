"""The name in a certificate: which names there are, and what each may be. Pure.

A broker takes a certificate's common name for the user's, and boardfit's access rules put it into topics as it stands:

- ``<fleet>/<device>`` is a board, whose topics are ``boardfit/v1/<fleet>/<device>/...``;
- ``operator/<name>`` gives orders, ``collector/<name>`` stores what boards say. No fleet may have these two names.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agent.core.topics import Address, check_id
from agent.errors import ConfigError

SERVICE_USER = "boardfit"  # of systemd/boardfit.service
MAX_CHARS = 64  # ub-common-name of RFC 5280, appendix A.1
Role = Literal["board", "operator", "collector"]
_ROLES: dict[str, Role] = {"operator": "operator", "collector": "collector"}
TRUSTED = tuple(_ROLES)


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Whose certificate it is. ``fleet`` is None for operators and collectors; ``name`` is the device's or theirs."""

    role: Role
    name: str
    fleet: str | None = None

    def __str__(self) -> str:
        """Return the common name."""
        return f"{self.fleet or self.role}/{self.name}"

    @property
    def address(self) -> Address:
        """A board's place in the topics."""
        assert self.fleet is not None, "only a board has an address"
        return Address(fleet=self.fleet, device=self.name)


def parse_name(text: str, *, where: str = "the name") -> Member:
    """Take a common name apart. Raises: ConfigError: it is none of ours, or too long for a certificate."""
    first, slash, last = text.partition("/")
    if not slash:
        raise ConfigError(
            f"{where}: {text!r} names nobody", fix="write <fleet>/<device>, operator/<name> or collector/<name>"
        )
    check_id(first, where=where)
    check_id(last, where=where)
    if len(text) > MAX_CHARS:
        raise ConfigError(
            f"{where}: {text!r} has {len(text)} characters, and a certificate's name at most {MAX_CHARS}",
            fix="shorten the fleet's name or the device's",
        )
    role = _ROLES.get(first, "board")
    return Member(role=role, name=last, fleet=first if role == "board" else None)


def board_name(fleet: str, device: str) -> Member:
    """Return a board's name. Raises: ConfigError: a name that cannot stand in topics, is reserved, or too long."""
    if fleet in TRUSTED:
        raise ConfigError(
            f"no fleet may be called {fleet!r}: a broker would take its boards for {fleet}s",
            fix="name the fleet otherwise",
        )
    return parse_name(f"{fleet}/{device}", where="fleet and device")
