"""Text that came over the network, made fit for a terminal. Pure.

Rules:
- No control, format, surrogate, private or unassigned character passes: what a board says cannot move the cursor, set a
  title or turn the direction of writing. Each becomes a middle dot; line ends and tabs become a space.
- A text is as long as it may be and no longer; a cut shows as an ellipsis.
"""

from __future__ import annotations

import unicodedata
from typing import overload

SHORT = 64
LONG = 300


@overload
def plain(text: str, limit: int = ...) -> str: ...
@overload
def plain(text: None, limit: int = ...) -> None: ...
def plain(text: str | None, limit: int = SHORT) -> str | None:
    """Return a text of at most ``limit`` characters that a terminal shows as it is; None stays None."""
    if text is None:
        return None
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(letter: str) -> str:
    if letter in "\n\r\t":
        return " "
    return "·" if unicodedata.category(letter) in _HIDDEN else letter


_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
