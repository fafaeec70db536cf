"""The least the time can be, as this board's registry has proved it: one small file. Loads nothing heavy."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path

from agent.durable import write_file
from agent.registry.layout import format_time, parse_time

_FILE = "time-floor"


def read_floor(state_dir: Path) -> datetime | None:
    """Return the floor kept in the registry's state folder, None before the first refresh."""
    with suppress(OSError, UnicodeDecodeError):
        return parse_time((state_dir / _FILE).read_text("ascii").strip())
    return None


def write_floor(state_dir: Path, moment: datetime) -> None:
    """Keep a later floor. Raises: StorageError."""
    write_file(state_dir / _FILE, f"{format_time(moment)}\n".encode())
