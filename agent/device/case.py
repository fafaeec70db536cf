"""A board as a folder: a tree of kernel files and what a tree cannot hold, read back as a board.

The form, which ``capture`` writes and ``tests/boards`` holds:
- ``proc/ sys/ etc/ ...``: the files, as they were read.
- ``case.json``: reads that fail, by errno's name (a copied file cannot answer EAGAIN), and where links lead.
- ``host.json``: what the agent's process knew of itself. ``vcgencmd/``: what a Raspberry Pi's firmware answered.
- ``expected.json``: what boardfit made of all that (``observe``). ``ORIGIN.md``: which board, or that it was made up.

All but the tree may be missing. A stranger's folder is data: nothing in it is run, no link in it is followed out.
"""

from __future__ import annotations

import errno
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from agent.core.ports import Clock
from agent.device.board import Board
from agent.device.host import Host
from agent.device.root import SysRoot, unavailable
from agent.device.vcgencmd import Firmware
from agent.errors import DeviceError, SensorUnavailableError

SCHEMA = "boardfit.case/1"
HOST, NOTES, EXPECTED, ORIGIN, FIRMWARE = "host.json", "case.json", "expected.json", "ORIGIN.md", "vcgencmd"


class Notes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tree of plain files cannot hold; names are relative to the case."""

    schema: str = SCHEMA
    errors: dict[str, str] = {}  # file -> errno's name
    links: dict[str, str] = {}  # link -> last component of where it leads
    firmware: dict[str, tuple[str, str]] = {}  # command that failed -> state, why


class StillClock:
    """A clock that stands still: a recorded board has one moment."""

    def monotonic_s(self) -> float:
        """Return the one moment there is."""
        return 100.0

    def utc(self) -> datetime:
        """Return the day of that moment."""
        return datetime(2025, 1, 1, tzinfo=timezone.utc)


class CaseRoot(SysRoot):
    """The tree of a case, which fails where the board failed."""

    def __init__(self, path: Path, notes: Notes) -> None:
        super().__init__(path)
        self._notes = notes

    def read_bytes(self, rel: str) -> bytes:
        """Read a file. Raises: OSError: as on the board, or because a link leads out of the case."""
        name = self._notes.errors.get(rel)
        if name is not None:
            number = getattr(errno, name, errno.EIO)
            raise OSError(number, os.strerror(number), rel)
        if not self.locate(rel).resolve().is_relative_to(self.path.resolve()):
            raise OSError(errno.ENOENT, "leads out of the case", rel)
        return super().read_bytes(rel)

    def link_name(self, rel: str) -> str | None:
        """Return the last component of what a link led to."""
        return self._notes.links.get(rel) or super().link_name(rel)


def open_case(folder: Path, profiles_dir: Path | None = None, clock: Clock | None = None) -> Board:
    """Return the board of a case. Raises: DeviceError: this is no such folder, or its JSON is damaged."""
    if not any((folder / name).is_dir() for name in ("proc", "sys")):
        raise DeviceError(
            f"{folder} holds no board: neither proc/ nor sys/ is there",
            fix="name a folder written by `boardfit profile --capture`; unpack a .tar.gz first",
        )
    notes = _read(folder / NOTES, Notes, Notes())
    host = _read(folder / HOST, Host, Host())
    return Board(
        CaseRoot(folder, notes),
        profiles_dir,
        affinity=host.affinity,
        clock=clock or StillClock(),
        host=host,
        firmware=_firmware(folder / FIRMWARE, notes),
    )


def _read(path: Path, kind: Any, default: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return default
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeviceError(f"{path} cannot be read: {error}", fix="record the board again") from error


def _firmware(folder: Path, notes: Notes) -> Firmware | None:
    if not folder.is_dir() and not notes.firmware:
        return None

    def answer(command: str) -> str:
        name = f"vcgencmd {command}"
        if command in notes.firmware:
            state, why = notes.firmware[command]
            raise unavailable(
                name, "denied" if state == "denied" else "broken" if state == "broken" else "absent", why=why
            )
        try:
            return (folder / command).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise unavailable(name, "absent", why="not recorded") from error

    return answer


def observe(board: Board) -> dict[str, Any]:
    """Return all that boardfit reads of a board, as plain values: facts, condition, meters and why there are none."""
    meters = []
    for meter in board.power_meters():
        seen: dict[str, Any] = {"name": meter.name, "scope": meter.scope, "period_s": meter.period_s}
        try:
            sample = meter.read()
            power_w = None if sample.power_w is None else round(sample.power_w, 6)
            meters.append({**seen, "power_w": power_w, "energy_j": sample.energy_j})
        except SensorUnavailableError as error:
            meters.append({**seen, "failed": error.problem})
    facts, context = msgspec.to_builtins(board.facts()), msgspec.to_builtins(board.read_context())
    seen = {"facts": facts, "context": context, "meters": meters}
    return {**seen, "power_absence": None if meters else board.power_absence()}
