"""The least the time can be, as this board's registry has proved it: one small file. Loads nothing heavy.

Two lines, each a UTC time: the latest that this board's own clock said at a refresh, and the newest time of issue that
its verified metadata carries. Both go back only when the registry has replaced the key of its timestamp: a stolen key
can sign any time of issue and any end, and what it signed counts no more.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path

from agent.durable import write_file
from agent.registry.layout import format_time, parse_time

_FILE = "time-floor"


def read_floors(state_dir: Path) -> tuple[datetime | None, datetime | None]:
    """Return what the own clock said and the time of issue, as kept in the registry's state folder."""
    with suppress(OSError, UnicodeDecodeError):
        own, _, issued = (state_dir / _FILE).read_text("ascii").partition("\n")
        return parse_time(own.strip()), parse_time(issued.strip())
    return None, None


def read_floor(state_dir: Path) -> datetime | None:
    """Return the floor kept in the registry's state folder, None before the first refresh."""
    return max((moment for moment in read_floors(state_dir) if moment is not None), default=None)


def write_floor(state_dir: Path, own: datetime, issued: datetime | None = None) -> None:
    """Keep another floor. Raises: StorageError."""
    lines = [format_time(own), *([] if issued is None else [format_time(issued)]), ""]
    write_file(state_dir / _FILE, "\n".join(lines).encode())
