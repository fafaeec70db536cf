"""What setup writes, and where: two files of conf.d, each whole or not at all; agent.yaml itself stays the user's.

Rules:
- ``conf.d/setup.yaml`` has the registry and the tasks; ``conf.d/mqtt.yaml`` the broker and the device's name, where
  ``boardfit enroll`` keeps them, too. A new root of trust lies beside agent.yaml.
- A section may stand in one file only: where another file has one of ours, it is taken out there.
- All is worked out and judged before the first byte is written. A file that is there and would change is shown as a
  difference first; who asks for consent is the caller.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import msgspec

from agent.config import parse_config
from agent.config_files import FOLDER
from agent.documents import parse_yaml, written_yaml
from agent.durable import storage_error, write_file
from agent.errors import ConfigError

SETUP_PART, MQTT_PART = "setup.yaml", "mqtt.yaml"
_HEAD = "# Written by `boardfit setup`, which keeps what is added here. Paths start at agent.yaml's folder.\n"
_AGENT = (
    "# The configuration of boardfit on this board. `boardfit setup` writes its sections to conf.d/*.yaml beside this\n"
    "# file; every other section may stand here. Every key is explained in systemd/agent.yaml of the sources.\n"
)
_COMMENTS = {
    "registry": "Where signed candidates come from, and the root of trust that they are judged by.",
    "tasks": "Hard limits of each task; a figure that is unknown on this board never passes one.",
    "mqtt": "The broker, and this board's place in the fleet.",
    "device": "auto: a name derived from this machine. A board with this memory card's copy takes another one.",
}


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """One file to be written: what it holds now (None: it is not there), and what it will hold."""

    path: Path
    before: bytes | None
    after: bytes
    mode: int = 0o644

    @property
    def replaces(self) -> bool:
        """Whether a line that is there would go; what is only added to takes nothing from anybody."""
        return bool({*(self.before or b"").splitlines()} - {*self.after.splitlines()})

    def difference(self) -> str:
        """Return a unified diff."""
        old, new = ((text or b"").decode(errors="replace").splitlines() for text in (self.before, self.after))
        return "\n".join(difflib.unified_diff(old, new, str(self.path), f"{self.path} (new)", lineterm=""))


def work_out(agent_yaml: Path, sections: dict[str, Any], root: bytes | None) -> list[Written]:
    """Return the files that change. Args: root: to lie at root.json beside agent.yaml; None: it is there.

    Raises: ConfigError: what would come out is not valid.
    """
    folder = agent_yaml.parent / FOLDER
    parts = {folder / SETUP_PART: ("registry", "tasks"), folder / MQTT_PART: ("mqtt", "device")}
    found: list[Written] = []
    merged: dict[str, Any] = {}
    for path in [agent_yaml, *sorted(folder.glob("*.yaml"))]:
        if path in parts or (before := _read(path)) is None:
            continue
        (document,) = parse_yaml([before.decode()])
        others = {key: value for key, value in (document or {}).items() if key not in _COMMENTS}
        merged |= others
        if others != (document or {}):
            found.append(Written(path=path, before=before, after=without(before.decode(), set(_COMMENTS)).encode()))
    if _read(agent_yaml) is None:
        found.append(Written(path=agent_yaml, before=None, after=_AGENT.encode()))
    for path, names in parts.items():
        before = _read(path)
        (document,) = parse_yaml([before.decode()]) if before is not None else (None,)
        kept = {key: value for key, value in (document or {}).items() if key not in (*sections, *names)}
        wanted = {**kept, **{name: sections[name] for name in names if name in sections}}
        merged |= wanted
        if wanted != (document or {}):
            found.append(Written(path=path, before=before, after=_text(wanted).encode()))
    parse_config(merged, path=agent_yaml)
    if root is not None:
        found.insert(0, Written(path=agent_yaml.parent / "root.json", before=_read(found_root(agent_yaml)), after=root))
    return [one for one in found if one.before != one.after]


def found_root(agent_yaml: Path) -> Path:
    """Return where setup puts the root of trust."""
    return agent_yaml.parent / "root.json"


def write_all(files: list[Written]) -> None:
    """Write each file whole, what adds sections after what takes them out. Raises: StorageError."""
    for one in files:
        try:
            one.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, one.path) from error
        write_file(one.path, one.after, one.mode)


def without(text: str, names: set[str]) -> str:
    """Return YAML text without these top-level sections; every other line stays as it is."""
    kept, cutting = [], False
    for line in text.splitlines(keepends=True):
        if line[0] not in " \t\r\n-":
            cutting = not line.startswith("#") and line.split(":")[0].strip("'\" ") in names
        if not cutting:
            kept.append(line)
    left = "".join(kept)
    (document,) = parse_yaml([left])
    if names & set(document or {}):
        raise ConfigError(
            f"{', '.join(sorted(names))}: written in a way that setup cannot take out", fix="take it out by hand"
        )
    return left


def _text(document: dict[str, Any]) -> str:
    lines = [_HEAD]
    for name, section in document.items():
        comment = f"# {_COMMENTS[name]}\n" if name in _COMMENTS else ""
        lines.append(f"\n{comment}{written_yaml({name: section})}")
    return "".join(lines)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", fix="run setup as root") from error
