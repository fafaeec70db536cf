"""The id and verb of a signed command that cannot be read whole, so that its refusal can be answered. Pure."""

from __future__ import annotations

import msgspec

from agent.core.command import VERBS, Id


class _Loose(msgspec.Struct):
    id: Id
    verb: str = ""


def loosely(payload: bytes) -> tuple[str, str] | None:
    """Return id and verb (``unknown`` for one that is none of ours); None where there is no usable id."""
    try:
        found = msgspec.json.decode(payload, type=_Loose)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found.id, found.verb if found.verb in VERBS else "unknown"
