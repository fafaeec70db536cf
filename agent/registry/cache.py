"""The content-addressed store of downloaded files on the board: ``blobs/sha256/ab/<hex>`` and ``parts/<hex>``.

Rules:
- A blob's name is its SHA-256, and it is hashed again each time it is asked for: an SD card may have changed it since.
  One that does not match is removed, and downloaded again by whoever needs it. There is no index that could disagree.
- Blobs are regular files with one link, mode 0444, put in place by one rename after fsync.
- When room is needed, parts of broken-off downloads go first, then the blobs used longest ago; never a protected one
  (the active and the previous deployment's models): a board that cannot go back is worse than one that cannot update.
- Room is made before a download begins, against the quota and against the free space of the disk with a reserve.

Use is remembered as the file's modification time; on a wrong clock the order of eviction suffers, nothing else.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

import msgspec

from agent.durable import fsync_directory, remove_abandoned, storage_error
from agent.errors import StorageError, TrustError
from agent.registry.layout import is_sha256
from agent.registry.plain import open_plain

DEFAULT_QUOTA_BYTES = 1024**3
DEFAULT_RESERVE_BYTES = 128 * 1024**2  # chosen: what the rest of the board needs to go on logging and booting
_HASH_CHUNK = 1024 * 1024


class DiskSpace(Protocol):
    """The part of ``os.statvfs`` that is used."""

    @property
    def f_frsize(self) -> int:
        """Return the size of a block in bytes."""

    @property
    def f_bavail(self) -> int:
        """Return the number of free blocks for this user."""


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    """One stored file."""

    sha256: str
    size_bytes: int
    used_ns: int
    protected: bool


class Cache:
    """The store. One process at a time downloads into it (the state directory's lock sees to that).

    Args:
        directory: made when missing.
        quota_bytes: all blobs and parts together stay below it.
        protected: gives the digests that must not be evicted, asked anew each time.
        reserve_bytes: free disk space that a download must leave.
        disk_space: ``os.statvfs``, or a stand-in.

    Raises: StorageError: the folder cannot be made.
    """

    def __init__(
        self,
        directory: Path,
        *,
        quota_bytes: int = DEFAULT_QUOTA_BYTES,
        protected: Callable[[], Collection[str]] = frozenset,
        reserve_bytes: int = DEFAULT_RESERVE_BYTES,
        disk_space: Callable[[Path], DiskSpace] = os.statvfs,
    ) -> None:
        self.directory = directory
        self.quota_bytes = quota_bytes
        self._protected = protected
        self._reserve_bytes = reserve_bytes
        self._disk_space = disk_space
        self._blobs = directory / "blobs" / "sha256"
        self._parts = directory / "parts"
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._parts.mkdir(exist_ok=True)
        except OSError as error:
            raise storage_error(error, directory) from error

    def lookup(self, sha256: str) -> Path | None:
        """Return the blob's path after hashing it, and remember the use; None where it is absent or damaged.

        Raises: StorageError: the disk cannot be read.
        """
        path = self._path(sha256)
        try:
            file = open_plain(path, follow=False)
        except FileNotFoundError:
            return None
        except OSError:
            _discard(path)  # a link or a folder in a blob's place
            return None
        with file:
            try:
                good = os.fstat(file.fileno()).st_nlink == 1 and hash_file(file) == sha256
            except OSError as error:
                raise storage_error(error, path) from error
        if not good:
            _discard(path)
            return None
        with suppress(OSError):
            os.utime(path, follow_symlinks=False)
        return path

    def part_path(self, sha256: str) -> Path:
        """Return where the part of a broken-off download lies, or will lie."""
        return self._parts / _checked(sha256)

    def new_part(self, sha256: str) -> IO[bytes]:
        """Open a new empty part for writing; whatever lay in its place is gone. Raises: StorageError."""
        path = self.part_path(sha256)
        _discard(path)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error(error, path) from error
        return os.fdopen(descriptor, "wb")

    def drop_part(self, sha256: str) -> None:
        """Remove a part, if it is there. Raises: StorageError."""
        _discard(self.part_path(sha256))

    def tidy(self) -> None:
        """Remove what belongs to no download that could go on; what cannot be removed stays for the next time."""
        with suppress(OSError):
            remove_abandoned(self._parts)
            for path in list(self._parts.glob("*.etag")):
                if not path.with_suffix("").exists():
                    path.unlink()

    def make_room(self, sha256: str, length: int) -> None:
        """Make sure that a file of ``length`` bytes may come, of which its part is here already.

        Raises: StorageError: it does not fit beside what is protected; ``facts`` say needed and available bytes.
        """
        part = self.part_path(sha256)
        with suppress(FileNotFoundError):
            length -= min(part.stat().st_size, length)
        others = [path for path in self._listed(self._parts) if path.name.partition(".")[0] != sha256]
        evictable = sorted((blob for blob in self.blobs() if not blob.protected), key=lambda blob: blob.used_ns)
        while (missing := self._missing_bytes(length)) > 0:
            if others:
                self._unlink(others.pop())
            elif evictable:
                self.remove(evictable.pop(0).sha256)
            else:
                raise StorageError(
                    f"no room for {length} bytes in {self.directory}: {missing} bytes are missing",
                    fix="free disk space or raise the cache's quota",
                    needed_bytes=length,
                    missing_bytes=missing,
                )

    def insert(self, sha256: str, length: int) -> Path:
        """Turn the finished part of a download into a blob, after hashing what is on the disk.

        Raises: TrustError: the bytes are not those of this digest and length; the part is removed. StorageError.
        """
        part, path = self.part_path(sha256), self._path(sha256)
        try:
            with open_plain(part, follow=False) as file:
                os.fsync(file.fileno())
                with suppress(OSError):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read back what the disk holds
                status = os.fstat(file.fileno())
                good = status.st_nlink == 1 and status.st_size == length and hash_file(file) == sha256
                if good:
                    os.fchmod(file.fileno(), 0o444)
                    os.fsync(file.fileno())
            if good:
                path.parent.mkdir(exist_ok=True)
                part.replace(path)
                fsync_directory(path.parent)
                fsync_directory(self._blobs)
                fsync_directory(self._parts)
                return path
        except OSError as error:
            raise storage_error(error, part) from error
        _discard(part)
        raise TrustError(
            f"the bytes received for {sha256[:12]} are not the signed ones",
            fix="tell whoever runs the registry; nothing was used",
            sha256=sha256,
        )

    def blobs(self) -> tuple[Blob, ...]:
        """List what is stored, not hashed. Raises: StorageError."""
        protected = frozenset(self._protected())
        found = []
        try:
            for path in self._blobs.glob("??/*"):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and is_sha256(path.name):
                    found.append(
                        Blob(
                            sha256=path.name,
                            size_bytes=status.st_size,
                            used_ns=status.st_mtime_ns,
                            protected=path.name in protected,
                        )
                    )
        except OSError as error:
            raise storage_error(error, self._blobs) from error
        return tuple(found)

    def size_bytes(self) -> int:
        """Return the size of all blobs and parts. Raises: StorageError."""
        parts = 0
        for path in self._listed(self._parts):
            with suppress(FileNotFoundError):
                parts += path.lstat().st_size
        return parts + sum(blob.size_bytes for blob in self.blobs())

    def remove(self, sha256: str) -> None:
        """Remove one blob, if it is there. Raises: StorageError."""
        self._unlink(self._path(sha256))

    def _missing_bytes(self, length: int) -> int:
        space = self._disk_space(self.directory)
        free = space.f_bavail * space.f_frsize - self._reserve_bytes
        return max(length - free, self.size_bytes() + length - self.quota_bytes)

    def _listed(self, folder: Path) -> list[Path]:
        try:
            return list(folder.iterdir())
        except OSError as error:
            raise storage_error(error, folder) from error

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, path) from error

    def _path(self, sha256: str) -> Path:
        return self._blobs / _checked(sha256)[:2] / sha256


def _checked(sha256: str) -> str:
    if not is_sha256(sha256):
        raise TrustError(f"{sha256!r:.80} is not a SHA-256", fix="tell whoever runs the registry")
    return sha256


def hash_file(file: IO[bytes]) -> str:
    """Return the SHA-256, hex, of what is left of an open file. Raises: OSError."""
    digest = hashlib.sha256()
    while chunk := file.read(_HASH_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _discard(path: Path) -> None:
    """Remove what is no blob of ours, be it a link or a folder."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, path) from error
