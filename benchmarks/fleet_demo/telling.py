"""How the fleet demo looks: chapters, what happens in them, the commands that do it. Plain lines, a little colour."""

from __future__ import annotations

import os
import re
import sys
import textwrap
import time
from collections.abc import Mapping

WIDTH = 100
_BOLD, _DIM, _GREEN, _RED, _CYAN, _END = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[31m", "\x1b[36m", "\x1b[0m"


class Telling:
    """Writes to standard output. Args: names: what is written for what, such as a class's name for its fingerprint."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self.names = dict(names or {})
        self.address: str | None = None  # of the console
        self._chapter = 0
        self._since = time.monotonic()
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    @property
    def seconds(self) -> float:
        """How long it has been told."""
        return time.monotonic() - self._since

    def title(self, text: str, about: str) -> None:
        """Begin."""
        self._write(self._in(_BOLD, text))
        for line in textwrap.wrap(about, WIDTH):
            self._write(line)

    def chapter(self, text: str, why: str) -> None:
        """Begin a chapter. Args: why: what it is good for, in a sentence or two."""
        self._chapter += 1
        self._write("")
        self._write(self._in(_BOLD, f"{self._chapter}. {text}"))
        for line in textwrap.wrap(why, WIDTH - 3):
            self._write("   " + self._in(_DIM, line))

    def line(self, text: str, *, good: bool | None = None) -> None:
        """Say what happens. Args: good: True in green, False in red."""
        colour = "" if good is None else _GREEN if good else _RED
        for one in textwrap.wrap(self.plain(text), WIDTH - 5, subsequent_indent="  ") or [""]:
            self._write("     " + self._in(colour, one))

    def raw(self, text: str) -> None:
        """Show a line of a table as it is."""
        self._write("     " + text)

    def command(self, words: str) -> None:
        """Show what the operator types."""
        for place, one in enumerate(textwrap.wrap(words, WIDTH - 8, break_on_hyphens=False)):
            self._write("   " + self._in(_CYAN, ("$ " if place == 0 else "    ") + one))

    def plain(self, text: str) -> str:
        """Put names where fingerprints stand."""
        for what, name in self.names.items():
            text = re.sub(rf"\b{re.escape(what)}\b", name, text)
        return text

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_END}" if self._colour and colour else text

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
