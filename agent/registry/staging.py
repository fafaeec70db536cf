"""Copies of files on their way into a registry: taken once, hashed while they are copied, moved into place durably."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import IO

from agent.core.manifest import TargetRef
from agent.durable import fsync_directory, storage_error
from agent.errors import ModelError
from agent.registry import layout
from agent.registry.plain import open_plain


class Staged:
    """A copy of a file beside the targets, hashed while it was copied, not yet published."""

    def __init__(self, folder: Path, path: Path, sha256: str, length: int) -> None:
        self.path, self.sha256, self.length = path, sha256, length
        self._folder = folder

    def publish(self, target_path: str) -> TargetRef:
        """Move the copy to its place, durably. Raises: StorageError."""
        final = self._folder.parent / layout.target_file(target_path, self.sha256)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            self.path.replace(final)
            for folder in (final.parent, *final.parent.parents):
                fsync_directory(folder)
                if folder == self._folder:
                    break
        except OSError as error:
            raise storage_error(error, final) from error
        return TargetRef(path=target_path, sha256=self.sha256, length=self.length)

    def publish_data(self, task: str, kind: str) -> TargetRef:
        """Publish as shared data of a task, named by its content."""
        return self.publish(layout.data_path(task, kind, self.sha256))


class Staging:
    """Takes copies; what is not published is removed at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: list[Path] = []

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._taken:
            with suppress(OSError):
                path.unlink()

    def take(self, source: Path) -> Staged:
        """Copy a regular file here. Raises: ModelError: it cannot be read. StorageError: it cannot be written."""
        try:
            source_file = open_plain(source)
        except OSError as error:
            raise ModelError(f"{source} cannot be read: {error.strerror}", fix="check the path") from error
        with source_file:
            return self.write(source_file)

    def write(self, source: IO[bytes]) -> Staged:
        """Copy what is left of an open file here. Raises: StorageError: it cannot be read or written."""
        path = self._folder / f".{secrets.token_hex(8)}.tmp"
        digest, length = hashlib.sha256(), 0
        try:
            with path.open("xb") as copy:
                self._taken.append(path)
                while chunk := source.read(1024 * 1024):
                    digest.update(chunk)
                    length += len(chunk)
                    copy.write(chunk)
                copy.flush()
                os.fsync(copy.fileno())
            path.chmod(0o644)
        except OSError as error:
            raise storage_error(error, path) from error
        return Staged(self._folder, path, digest.hexdigest(), length)
