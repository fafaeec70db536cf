"""Decides when disk space that a file holds is given up for the writes that must not fail, and when it is held again.

Rules:
- Looked at before every transaction (two system calls). When there is hardly room for one more, the file is cut to
  nothing: a rollback, a decision, how a command fared, and an event that says so still find room.
- While it is given up the disk is ``scarce``: what can be had again, readings and measurements, is not stored.
- Once there is room for it several times over it is held anew; an event says that too. Nobody need do anything.
- The file itself is the memory of this: of its full length, or empty. Several processes may look.

Leaves which writes are essential to their owners.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

FILE_NAME = "reserve"
SIZE_BYTES = 2 << 20  # chosen: a rollback, its events and some hundred results take a quarter of it
LOW_BYTES = 512 << 10  # chosen: what one transaction and the checkpoint after it may take, twice over
_AGAIN = 4  # so many times its size must be free beside it, or it would come and go


class DiskSpace(Protocol):
    """The part of ``os.statvfs`` that is used."""

    @property
    def f_frsize(self) -> int:
        """Return the size of a block in bytes."""

    @property
    def f_bavail(self) -> int:
        """Return the number of free blocks for this user."""


class Reserve:
    """The reserve of one folder. Never raises: a reserve that cannot be had is none."""

    def __init__(self, folder: Path, disk_space: Callable[[Path], DiskSpace] = os.statvfs) -> None:
        self._path = folder / FILE_NAME
        self._disk_space = disk_space
        self._on_change: Callable[[bool], None] | None = None
        self._untold: bool | None = None
        self.scarce = False

    def listen(self, on_change: Callable[[bool], None]) -> None:
        """Have somebody told from now on, and of what came before: True, we gave it up; False, we hold it anew."""
        self._on_change = on_change
        if self._untold is not None:
            self._tell(self._untold)

    def tend(self) -> bool:
        """Give up or hold what the free space asks for. Returns: whether space is scarce."""
        with suppress(OSError):
            space = self._disk_space(self._path.parent)
            free, length = space.f_bavail * space.f_frsize, self._length()
            if length == SIZE_BYTES:
                self.scarce = False
                if free < LOW_BYTES:
                    self.give_up()
            elif free >= SIZE_BYTES * (1 + _AGAIN):
                self._hold(anew=length is not None)
            else:
                self.scarce = free < LOW_BYTES or length == 0
        return self.scarce

    def give_up(self) -> None:
        """Free the space."""
        with suppress(OSError):
            if self._length() != SIZE_BYTES:
                return
            os.truncate(self._path, 0)
            self.scarce = True
            self._tell(True)

    def _hold(self, *, anew: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SIZE_BYTES)
        except OSError:
            if not anew:  # empty, it would say that it was given up
                self._path.unlink()
            raise
        finally:
            os.close(descriptor)
        was_scarce, self.scarce = self.scarce, False
        if anew or was_scarce:
            self._tell(False)

    def _length(self) -> int | None:
        try:
            return self._path.lstat().st_size
        except FileNotFoundError:
            return None

    def _tell(self, given_up: bool) -> None:
        if self._on_change is None:
            self._untold = given_up
        else:
            self._untold = None
            self._on_change(given_up)
