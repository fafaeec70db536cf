"""Opens a job's files for its worker, which gets them as descriptors: what is measured is what was looked at here.

Rules:
- No link is followed, and a file with a second name is refused: through a hard link an engine was made to read another
  program's file from within a folder that it may read.
- A worker names its files by descriptor (/proc/self/fd/N): who exchanges the path afterwards exchanges nothing.
- Nothing is read here: what is in a file is looked at in the worker.

Source: open(2) O_NOFOLLOW, proc(5).
"""

from __future__ import annotations

import os
import stat

import msgspec

from agent.measure.protocol import Job

_FILES = ("model", "golden", "evaluation")


class FileRefusedError(Exception):
    """A file of the job is not one that a worker gets; the text is one sentence."""


def open_files(job: Job) -> tuple[Job, tuple[int, ...]]:
    """Open every file of a job.

    Returns: the job with descriptors in the place of paths, and those descriptors, the caller's to close.
    Raises: FileRefusedError: one is missing, no regular file, a link, or has more than one name.
    """
    opened: dict[str, int] = {}
    try:
        for field in _FILES:
            path = getattr(job, field)
            if path is not None:
                opened[field] = _open(path)
    except FileRefusedError:
        close_files(tuple(opened.values()))
        raise
    names = {field: f"/proc/self/fd/{descriptor}" for field, descriptor in opened.items()}
    return msgspec.structs.replace(job, **names), tuple(opened.values())


def close_files(descriptors: tuple[int, ...]) -> None:
    """Give descriptors back."""
    for descriptor in descriptors:
        os.close(descriptor)


def _open(path: str) -> int:
    name = path.rpartition("/")[2]
    try:
        # Without O_NONBLOCK a FIFO would hang the agent.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FileRefusedError(f"{name} cannot be opened: {os.strerror(error.errno or 0)}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        problem = "is no regular file"
    elif found.st_nlink != 1:
        problem = f"has {found.st_nlink} names (hard links): copy it, so that nobody else can change it"
    else:
        return descriptor
    os.close(descriptor)
    raise FileRefusedError(f"{name} {problem}")
