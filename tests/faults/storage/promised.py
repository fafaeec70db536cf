"""What a power cut may leave of a folder, going by what the command asked the disk to keep and by nothing else.

A real ext4 (``disk``) is kinder than it has to be: it writes out a file whose pages are dropped or which is renamed
over another, and what it writes first is mostly there first. So a missing fsync may never show on it. Here each call
that changes the folder is seen before it is made (``refusing``), and what a cut then may leave is put together:

- names, as they were after any call so far, but not before the last one in a folder that was fsynced since: they change
  in the order of the calls, as in every journal, and how far that has come nobody knows;
- a file's bytes as of its last fsync, or as they are now, or some blocks of each; of one that was never synced, none.

So do ext4 with ``data=writeback,noauto_da_alloc``, XFS and F2FS behave at their worst. SQLite's ``-shm``, which is made
anew at every start, is left out.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

BLOCK = 4096
# SQLite's own, of which the log is folded in at the end; room, and no bytes; held while it is open.
_NO_PROMISE = ("boardfit.db-shm", "boardfit.db-wal", "reserve", "daemon.lock")


class Entry(NamedTuple):
    """One name. ``file``: a number of its own, which a rename keeps; ``target``: of a link."""

    file: int
    mode: int
    target: str | None


class Promises:
    """Watches one command, in the place of ``refusing.Refusals``.

    Args: below: the folder. notes: what is written there says that a commit is done. at: before which calls, counted
    from 1, to put together what a cut leaves, in ``into/CALL-WAY``.
    """

    refused, first = 0, None

    def __init__(self, below: Path, notes: Path, at: Collection[int], into: Path, chance: random.Random) -> None:
        self.calls = 0
        self.commits: list[int] = []  # how many calls had been made when each was done
        self._below, self._notes, self._at, self._into, self._chance = below, notes, frozenset(at), into, chance
        self._numbers: dict[int, int] = {}
        self._next = 0
        self._moments = [self._names()]
        self._durable = 0  # moment: names do not fall back behind it
        self._synced = {entry.file: self._now(path) for path, entry in self._moments[0].items() if _is_file(entry)}

    def answer(self, name: str, paths: list[str]) -> None:
        """See a call, and let it through."""
        if name == "write" and str(self._notes) in paths:
            self.commits.append(self.calls)
            return
        mine = [path for path in paths if path.startswith(f"{self._below}/") or path == str(self._below)]
        if not mine:
            return
        self.calls += 1
        names = self._names()
        if names != self._moments[-1]:
            self._moments.append(names)
        if self.calls in self._at:
            self.cut(str(self.calls))
        if name in ("fsync", "fdatasync"):
            self._sync(os.path.relpath(mine[0], self._below))

    def end(self) -> list[str]:
        """Look at what the ended command left, and put together what a cut then leaves.

        Returns: files and links that it has made and that need not be there, or need not be whole.
        """
        self.calls += 1
        self._moments.append(self._names())
        self.cut("end")
        promised, found = self._moments[self._durable], []
        for path, entry in self._moments[-1].items():
            if stat.S_ISDIR(entry.mode) or path in _NO_PROMISE:
                continue
            if promised.get(path, entry._replace(file=-1)).file != entry.file:
                found.append(f"{path}: its name need not last")
            elif _is_file(entry) and self._synced.get(entry.file, b"") != self._now(path):
                found.append(f"{path}: its bytes need not last")
        return found

    def cut(self, name: str) -> None:
        """Put together what may be left now: of names and bytes the least; names only; and something in between."""
        last = len(self._moments) - 1
        self._lay_out(self._into / f"{name}-least", self._durable, 0.0)
        self._lay_out(self._into / f"{name}-names", last, 0.0)
        self._lay_out(self._into / f"{name}-some", self._chance.randint(self._durable, last), self._chance.random())

    def _sync(self, path: str) -> None:
        entry = self._moments[-1].get(path)
        if path == "." or (entry is not None and stat.S_ISDIR(entry.mode)):
            for moment in range(len(self._moments) - 1, self._durable, -1):
                if self._listed(moment, path) != self._listed(moment - 1, path):
                    self._durable = moment
                    break
        elif entry is not None:
            self._synced[entry.file] = self._now(path)

    def _listed(self, moment: int, folder: str) -> dict[str, int]:
        parent = "" if folder == "." else folder
        return {path: one.file for path, one in self._moments[moment].items() if os.path.dirname(path) == parent}

    def _names(self) -> dict[str, Entry]:
        """Return every name below the folder, parents first."""
        found: dict[str, os.stat_result] = {}
        for folder, folders, files in os.walk(self._below):
            for name in sorted((*folders, *files)):
                path = os.path.join(folder, name)
                found[os.path.relpath(path, self._below)] = os.lstat(path)
        here = {state.st_ino for state in found.values()}
        self._numbers = {inode: number for inode, number in self._numbers.items() if inode in here}
        names = {}
        for path, state in found.items():
            if state.st_ino not in self._numbers:
                self._numbers[state.st_ino] = self._next = self._next + 1
            target = os.readlink(self._below / path) if stat.S_ISLNK(state.st_mode) else None
            names[path] = Entry(self._numbers[state.st_ino], state.st_mode, target)
        return names

    def _now(self, path: str) -> bytes:
        return (self._below / path).read_bytes()

    def _lay_out(self, place: Path, moment: int, share: float) -> None:
        """Make the folder as it was named at a moment. Args: share: of the blocks that nobody synced, those there."""
        current = {entry.file: path for path, entry in self._moments[-1].items() if _is_file(entry)}
        place.mkdir(parents=True)
        for path, entry in self._moments[moment].items():
            if path.endswith("-shm"):
                continue
            if entry.target is not None:
                (place / path).symlink_to(entry.target)
                continue
            if stat.S_ISDIR(entry.mode):
                (place / path).mkdir()
            elif stat.S_ISREG(entry.mode):
                synced = self._synced.get(entry.file, b"")
                now = self._now(current[entry.file]) if entry.file in current and share else synced
                (place / path).write_bytes(self._mixed(synced, now, share))
            (place / path).chmod(stat.S_IMODE(entry.mode))

    def _mixed(self, synced: bytes, now: bytes, share: float) -> bytes:
        if synced == now:
            return synced
        made = bytearray(synced[: len(now)].ljust(len(now), b"\0") if self._chance.random() < share else synced)
        for begin in range(0, min(len(made), len(now)), BLOCK):
            if self._chance.random() < share:
                made[begin : begin + BLOCK] = now[begin : begin + BLOCK][: len(made) - begin]
        return bytes(made)


def _is_file(entry: Entry) -> bool:
    return stat.S_ISREG(entry.mode)
