"""Reads the outbox for sending: what answers an operator first, then everything else, each in the order it was put.

A job has a topic of its own, so that it overtakes nothing on any topic. Leaves which messages may go now to the caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from agent.report.outbox import Entry, Outbox

_BATCH = 50


class _Stream:
    def __init__(self, *, jobs: bool) -> None:
        self.jobs = jobs
        self.queue: deque[Entry] = deque()
        self.cursor = 0
        self.exhausted = False

    def restart(self) -> None:
        self.queue.clear()
        self.cursor = 0
        self.exhausted = False


class Waiting:
    """What of one outbox was not handed out yet."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._streams = (_Stream(jobs=True), _Stream(jobs=False))
        self.throttled = False

    @property
    def exhausted(self) -> bool:
        """Whether all was handed out, as far as is known."""
        return all(stream.exhausted and not stream.queue for stream in self._streams)

    def poke(self) -> None:
        """Say that something was put."""
        for stream in self._streams:
            stream.exhausted = False

    def restart(self) -> None:
        """Begin anew at the oldest message."""
        for stream in self._streams:
            stream.restart()
        self.throttled = False

    def next(self, skip: Callable[[Entry], bool], may_go: Callable[[], bool]) -> Entry | None:
        """Return the next message to send, None when there is none or it may not go yet (``throttled``).

        Args: skip: says which messages are passed over.   may_go: asked once for each that is no job.
        Raises: StorageError: the outbox cannot be read.
        """
        self.throttled = False
        for stream in self._streams:
            while self._filled(stream):
                if skip(stream.queue[0]):
                    stream.queue.popleft()
                    continue
                if not stream.jobs and not may_go():
                    self.throttled = True
                    return None
                return stream.queue.popleft()
        return None

    def _filled(self, stream: _Stream) -> bool:
        if not stream.queue and not stream.exhausted:
            stream.queue.extend(self._outbox.pending(stream.cursor, _BATCH, jobs=stream.jobs))
            if stream.queue:
                stream.cursor = stream.queue[-1].seq
            else:
                stream.exhausted = True
        return bool(stream.queue)
