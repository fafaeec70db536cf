"""Where an answer comes from: the environment, a file, whoever sits at the terminal, or what is configured already.

Rules:
- The environment (``BOARDFIT_SETUP_BROKER``) goes before the file; what neither says is asked for on a terminal, with
  what is configured as the default. Without a terminal the default holds, and an answer without one is an error.
- An answer that was tried and found wrong is asked for again where there is a terminal, whoever gave it.
- Nothing is written here.
"""

from __future__ import annotations

import getpass
import select
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.documents import YamlProblemError, parse_yaml
from agent.errors import ConfigError, Interrupted

PREFIX = "BOARDFIT_SETUP_"
#: Every question, and whether its answer is a list; ``tasks`` in a file may also hold the budgets of each.
KEYS = {
    "registry": False, "root": False, "root_sha256": False, "broker": False, "ca": False, "fleet": False, "group": True,
    "device": False, "enroll": False, "certificate": False, "username": False, "password": False,
    "password_file": False, "tasks": True, "budgets": False,
}  # fmt: skip
NONE = "none"


def read_answers(path: Path | None, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what a file and the environment answer. Raises: ConfigError: unreadable, or a question nobody asks."""
    found = {} if path is None else _file(path)
    for name, text in environment.items():
        if name.startswith(PREFIX):
            key = _known(name.removeprefix(PREFIX).lower(), "the environment", shown=name)
            found[key] = [part.strip() for part in text.split(",") if part.strip()] if KEYS[key] else text
    return found


def _file(path: Path) -> dict[str, Any]:
    try:
        (document,) = parse_yaml([path.read_text(encoding="utf-8")])
    except YamlProblemError as error:
        raise ConfigError(f"{path} is not valid YAML: {error.problem}", fix="correct that line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the answers {path} cannot be read: {error}", fix="check the file and its rights") from error
    if document is not None and not isinstance(document, dict):
        raise ConfigError(f"{path} must be a mapping of keys", fix="write it like `registry: https://...`")
    return {_known(str(key), str(path)): value for key, value in (document or {}).items()}


def _known(key: str, where: str, shown: str | None = None) -> str:
    if key not in KEYS:
        raise ConfigError(f"{where} answers {shown or key!r}, which is not asked", fix="known: " + ", ".join(KEYS))
    return key


class Questions:
    """Asks, one thing at a time.

    Args: given: as ``read_answers``. terminal: somebody sits there. say: prints one line.
    """

    def __init__(self, given: dict[str, Any], *, terminal: bool, say: Callable[[str], None]) -> None:
        self._given = given
        self._last: dict[str, str] = {}
        self.terminal = terminal
        self._say = say

    def ask(self, key: str, sentence: str, default: str | None) -> str:
        """Return one answer; ``default`` None: there must be one, "": it may be left out. Raises: ConfigError."""
        if key in self._given:
            return _text(key, self._given[key])
        default = self._last.get(key, default)
        if not self.terminal:
            if default is None:
                raise ConfigError(
                    f"setup was not told the answer to `{key}` ({sentence})",
                    fix=f"give it in the answers file or as {PREFIX}{key.upper()}",
                )
            return default
        self._say("")
        self._say(sentence)
        while not (answer := self._read(f"{key}{f' [{default}]' if default else ''}: ") or default or ""):
            if default is not None:
                break
        self._last[key] = answer
        return answer

    def secret(self, key: str, sentence: str) -> str:
        """Return an answer that is not shown, "" for none."""
        if key in self._given or not self.terminal:
            return _text(key, self._given.get(key, ""))
        self._say("")
        self._say(sentence)
        try:
            return getpass.getpass(f"{key} (not shown): ")
        except EOFError as error:
            raise _ended() from error

    def agree(self, sentence: str) -> bool:
        """Return whether the person at the terminal says yes, which Enter does."""
        return self._read(f"{sentence} [Y/n] ").lower() in ("", "y", "yes")

    def listed(self, key: str) -> Any:
        """Return an answer as it was given, None where it was not."""
        return self._given.get(key)

    def take_back(self, *keys: str) -> None:
        """Forget answers that were found wrong, so that they are asked for; what was said is then the default."""
        for key in keys:
            if key in self._given:
                self._last[key] = _text(key, self._given.pop(key))

    def _read(self, prompt: str) -> str:
        print(prompt, end="", flush=True)  # noqa: T201 - a question to whoever sits there, not a result
        select.select([sys.stdin], [], [])  # input() overlooks a Ctrl-C that comes before it reads
        line = sys.stdin.readline()
        if not line:
            raise _ended()
        return line.strip()


def yes(text: str, where: str) -> bool:
    """Return a yes or no. Raises: ConfigError."""
    if text.lower() in ("yes", "y", "true", "on"):
        return True
    if text.lower() in ("no", "n", "false", "off"):
        return False
    raise ConfigError(f"{where}: {text!r} is neither yes nor no")


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple, dict)):
        if not KEYS[key] and key != "budgets":
            raise ConfigError(f"the answer to `{key}` must be a text", fix="write one value")
        if isinstance(value, dict) and key == "budgets":
            return ", ".join(f"{name}: {limit}" for name, limit in value.items()) or NONE
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _ended() -> Interrupted:
    return Interrupted("the answers ended before all was asked; nothing was written", fix="run `boardfit setup` again")
