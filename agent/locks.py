"""One pass at a time, one publisher at a time: advisory locks on files of the state directory.

A lock ends with its process, however that ends; there is nothing to clean up after a kill.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.durable import storage_error
from agent.errors import BusyError


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file for the block; its folder is made when it is missing.

    Raises: BusyError: another process holds it. StorageError: the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise storage_error(error, path) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"{what} is already running in this state directory", fix="wait for it to end") from error
        yield
    finally:
        os.close(descriptor)
