"""One pass at a time, one publisher at a time: advisory locks on files of the state directory.

A lock ends with its process, however that ends; there is nothing to clean up after a kill.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.durable import storage_error
from agent.errors import BusyError

_LOOK_EVERY_S = 0.1


@contextmanager
def exclusive(path: Path, what: str, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the lock file for the block; its folder is made when it is missing.

    Args: patience_s: how long to wait for another process to let go of it.

    Raises: BusyError: another process holds it. StorageError: the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise storage_error(error, path) from error
    try:
        end = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= end:
                    text = f"{what} is already running in this state directory"
                    raise BusyError(text, fix="wait for it to end") from error
                time.sleep(_LOOK_EVERY_S)
        yield
    finally:
        os.close(descriptor)
