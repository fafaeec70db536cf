"""Signing in at a console: what an operator signs, and whether a console believes it. Pure.

Rules:
- The operator's machine signs a statement; the console never holds a private key, and signs nothing itself.
- A statement names the console's address as the operator has typed it, so that one made for another console is worth
  nothing here, and a nonce that this console gave out, which counts once and for ``VALID_S`` only.
- Who may is in the operator list alone; the statement claims a name, never a role.
- What is asked for in the browser is a wish: nothing happens before the operator's machine has signed a command.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from agent.core.command import MAX_AHEAD, VERBS
from agent.core.envelope import read_payload
from agent.core.operators import RANK, Operator, Role, read_time
from agent.errors import ConfigError, OrderError

VALID_S = 60.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_Nonce = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32,64}$(?!\n)")]
#: What may be wished for in a browser, and the role it needs.
WISHES: dict[str, Role] = {
    **{verb: rule.role for verb, rule in VERBS.items()},
    "rollout-pause": "operator",
    "rollout-resume": "operator",
    "rollout-abort": "operator",
}


class SignIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed. ``console``: its origin, like ``https://console.example.org``. Times are UTC."""

    console: str
    nonce: _Nonce
    issuer: str
    issued_at: str
    schema: Literal["boardfit.sign-in/1"]


def sign_in_bytes(statement: SignIn) -> bytes:
    """Return the payload to sign. Raises: OrderError: a console would not read it."""
    payload = msgspec.json.encode(statement)
    read_sign_in(payload)
    return payload


def read_sign_in(payload: bytes) -> SignIn:
    """Read a payload whose signature holds. Raises: OrderError."""
    return read_payload(payload, SignIn, "a sign-in")


def judge_sign_in(statement: SignIn, operator: Operator, console: str, nonce: str, now: datetime) -> None:
    """Return when the console may believe it; the signature is ``operator``'s and holds.

    Raises: OrderError: made for another console or challenge, too old, the key has ended, or an unknown role.
    """
    if statement.console != console:
        raise OrderError(f"it was signed for {statement.console[:200]}, and this is {console}", cause="console")
    if statement.nonce != nonce:
        raise OrderError("it answers another challenge", cause="replay")
    if statement.issuer != operator.name:
        raise OrderError(f"the key is not of {statement.issuer[:64]!r} but of {operator.name}", cause="issuer")
    if abs((now - read_time(statement.issued_at)).total_seconds()) > MAX_AHEAD.total_seconds():
        raise OrderError(f"it was signed at {statement.issued_at}, and here it is not", fix="set the clocks right")
    check_operator(operator, now)


def check_operator(operator: Operator, now: datetime) -> None:
    """Raise OrderError where an operator may do nothing: his key has ended, or his role is unknown."""
    if now >= read_time(operator.valid_until):
        raise OrderError(f"{operator.name}'s key was valid until {operator.valid_until}", cause="key")
    if operator.role not in RANK:
        raise OrderError(f"{operator.name}'s role {operator.role[:32]!r} is not known here", cause="role")


def why_not(wish: str, role: str) -> str | None:
    """Return why a role may not wish for something; None where it may."""
    needed = WISHES.get(wish)
    if needed is None:
        return f"there is no {wish[:32]}"
    return None if RANK.get(role, -1) >= RANK[needed] else f"it needs the role {needed}, and yours is {role}"


def origin_of(url: str) -> str:
    """Return scheme, host and port of a console's address, without what follows. Raises: ConfigError."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise ConfigError(f"{url!r} is not a console's address", fix="write it like https://console.example.org")
    name = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{name}" + ("" if port in (None, usual) else f":{port}")


def check_secrecy(origin: str) -> None:
    """Raise ConfigError where a session could be read on the way: http that leaves this machine."""
    parts = urlsplit(origin)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ConfigError(
            f"{origin} is not protected on the way", fix="serve the console with https, or reach it through a tunnel"
        )
