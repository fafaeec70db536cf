"""Placing one file so that it is known to be on the disk, whole, and nobody else's.

Rules:
- Copied, never linked: a runtime may follow a hard link to bytes that nobody checked. The copy has one name.
- Hashed while copying (is the source what was asked for?) and again from the disk, its cache dropped, after fsync
  (did the disk keep what was written?).
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from agent.core.deployment import DeployedFile
from agent.durable import storage_error
from agent.errors import DeploymentError, StorageError

_CHUNK_BYTES = 1 << 20
_MODE = 0o644  # applications run as other users; set outright, whatever the service's umask


def place_file(source: Path, target: Path, file: DeployedFile) -> None:
    """Copy ``source`` to the new name ``target``, durable but for the folder's entry.

    Raises: DeploymentError: the source is missing, a link, or not the bytes that ``file`` names.
        StorageError: the disk is full, or gave back other bytes than were written.
    """
    reader = _open_source(source)
    try:
        _copy(reader, source, target, file)
    finally:
        os.close(reader)
    damage = find_damage(target, file)
    if damage is not None:
        raise StorageError(f"the disk did not keep {target}: {damage}", fix="replace the disk or card")


def find_damage(path: Path, file: DeployedFile) -> str | None:
    """Return what is wrong with a placed file, read from the disk rather than from the cache; None when it is whole."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return error.strerror or str(error)
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
            return "not a file with one name"
        if state.st_size != file.length:
            return f"{state.st_size} bytes instead of {file.length}"
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        digest, _ = _digest(descriptor)
        return None if digest == file.sha256 else "its SHA-256 differs"
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(descriptor)


def describe_file(source: Path, name: str) -> DeployedFile:
    """Return length and digest of a file that no manifest describes. Raises: DeploymentError."""
    descriptor = _open_source(source)
    try:
        digest, length = _digest(descriptor)
    except OSError as error:
        raise _unreadable(source, error) from error
    finally:
        os.close(descriptor)
    return DeployedFile(path=name, sha256=digest, length=length)


def _open_source(source: Path) -> int:
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(source, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DeploymentError(f"{source} is not a file", fix="run `boardfit sync`")
    return descriptor


def _unreadable(source: Path, error: OSError) -> DeploymentError:
    return DeploymentError(f"{source} cannot be read: {error.strerror}", fix="run `boardfit sync`")


def _copy(reader: int, source: Path, target: Path, file: DeployedFile) -> None:
    digest, length = hashlib.sha256(), 0
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(target, flags, _MODE), "wb") as writer:
            os.fchmod(writer.fileno(), _MODE)
            while length <= file.length and (chunk := os.read(reader, _CHUNK_BYTES)):
                digest.update(chunk)
                length += len(chunk)
                writer.write(chunk)
            writer.flush()
            os.fsync(writer.fileno())
    except OSError as error:
        raise storage_error(error, target) from error
    if length != file.length or digest.hexdigest() != file.sha256:
        raise DeploymentError(f"{source} is not the file that was signed", fix="run `boardfit sync` to fetch it again")


def _digest(descriptor: int) -> tuple[str, int]:
    digest, length = hashlib.sha256(), 0
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        digest.update(chunk)
        length += len(chunk)
    return digest.hexdigest(), length
