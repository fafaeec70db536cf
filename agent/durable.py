"""Publishing a file so that a power cut leaves the old one or the new one, whole.

Order: temporary file in the same folder, write, fsync(file), rename, fsync(folder). A rename without the first fsync
can leave a new name with zero bytes behind it; without the second, the old content can come back.

Whoever writes holds a lock on its temporary file: one that nobody holds was left by a kill, may contain a key, and is
removed by the next who writes in that folder.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path

from agent.errors import StorageError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def fsync_directory(path: Path) -> None:
    """Make renames and unlinks in a folder durable. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Publish ``data`` at ``path``. Raises: StorageError; the old file is then still there."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        remove_abandoned(path.parent)
        descriptor = _open_locked(temporary, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise storage_error(error, path) from error


def _open_locked(temporary: Path, mode: int) -> int:
    """Make a file that is locked from the first moment in which somebody could take it for abandoned."""
    while True:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with suppress(OSError):  # a file system without locks: nobody gets one, and nobody removes anything
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files whose writer is gone; what cannot be removed stays. Raises: OSError: no such folder."""
    for path in [one for one in folder.iterdir() if _TEMPORARY.fullmatch(one.name)]:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)


def swap_symlink(link: Path, target: str) -> None:
    """Point ``link`` at ``target`` (relative text) by one rename.

    Raises: StorageError; the old link is then still there.
    """
    temporary = link.with_name(f".{link.name}.{os.urandom(4).hex()}.tmp")
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
        fsync_directory(link.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise storage_error(error, link) from error


def storage_error(error: Exception, path: Path) -> StorageError:
    """Say an operating-system or SQLite error on ``path`` as one sentence for whoever looks after the disk."""
    # An OSError's text holds the path, which may well contain these words; SQLite has no number to go by.
    text = "" if isinstance(error, OSError) else str(error).lower()
    number = getattr(error, "errno", None)
    if number in (28, 122) or "full" in text:
        return StorageError(f"no space left for {path}", fix="free some space; nothing stored was lost", errno=28)
    if number == 30 or "readonly" in text or "read-only" in text:
        return StorageError(
            f"{path} cannot be written: read-only", fix="remount the file system read-write or choose --state-dir"
        )
    if number == 13:
        return StorageError(f"no permission for {path}", fix="run as the service's user or choose --state-dir")
    return StorageError(f"{path}: {error}", fix="check the disk and the file's folder", errno=number)
