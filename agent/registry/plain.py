"""Opening a file that must be a regular one: a FIFO would hang its reader, a folder or link is not what was meant."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO


def open_plain(path: Path, *, follow: bool = True) -> IO[bytes]:
    """Open a regular file for reading, without ever waiting for a writer.

    Args: follow: whether a symbolic link as the last part is followed.
    Raises: OSError: as ``os.open``, or EINVAL where it is no regular file.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
