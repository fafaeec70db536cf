"""The one child of the daemon that does work: started, watched, asked to stop, ended when it does not.

Rules:
- What a job's verb prints goes into memory that has no name (memfd), and its progress over a pipe: neither touches the
  disk. Work that nobody has ordered prints to nowhere.
- A group of its own: Ctrl-C in a terminal reaches the daemon alone, which then asks the child.
- Whatever it is asked has an end: who is asked to give way and does not within the patience given is asked to stop, and
  who does not stop within ``STOP_GRACE_S`` is killed with its whole group. Nothing is asked twice.
- A child ends when its daemon dies (``agent.orders.progress``), whoever ordered it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from agent.core.ports import ProgressEvent

PROGRESS_VARIABLE = "BOARDFIT_PROGRESS"
STOP_GRACE_S = 45.0  # chosen: below the unit's TimeoutStopSec
_MAX_PRINTED_BYTES = 32 * 2**20


class Child:
    """A running child. Args: told: keep what it prints, and let it tell its progress.

    ``asked``: it was asked to give way or to stop, so that its end says nothing of itself.
    """

    def __init__(self, command: Sequence[str], *, told: bool = False) -> None:
        self._printed: int | None = None
        self.progress: int | None = None
        self.asked = False
        self._stop_at: float | None = None
        self._kill_at: float | None = None
        if told:
            self._printed = os.memfd_create("printed", os.MFD_CLOEXEC)
        self.progress, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if self._printed is None else self._printed,
                start_new_session=True,
                env={**os.environ, PROGRESS_VARIABLE: f"{writer}:{os.getpid()}"},
                pass_fds=(writer,),
            )
        finally:
            os.close(writer)

    def stop(self, now: float) -> None:
        """Ask it to stop; the second and later times change nothing. Args: now: monotonic."""
        self.asked = True
        if self._kill_at is None:
            self.process.terminate()
            self._kill_at = now + STOP_GRACE_S

    def give_way(self, now: float, patience_s: float) -> None:
        """Ask it to end soon, but for a deployment that has begun; it is stopped when ``patience_s`` is over.

        Asked again, the earlier end holds; once it was asked to stop this changes nothing. Args: now: monotonic.
        """
        if not self.asked:
            self.asked = True
            self.process.send_signal(signal.SIGUSR1)
        self.limit(now, patience_s)

    def limit(self, now: float, patience_s: float) -> None:
        """Let it be asked to stop when ``patience_s`` is over; the earlier of two ends holds. Args: now: monotonic."""
        end = now + patience_s
        self._stop_at = end if self._stop_at is None else min(self._stop_at, end)

    def poll(self, now: float) -> int | None:
        """Return the exit code, None while it runs; one that was asked and did not end in time is made to."""
        code = self.process.poll()
        if code is not None:
            return code
        if self._stop_at is not None and now >= self._stop_at:
            self.stop(now)
        if self._kill_at is not None and now >= self._kill_at:
            with suppress(ProcessLookupError):  # not reaped yet, so its group's number belongs to nobody else
                os.killpg(self.process.pid, signal.SIGKILL)
        return None

    @property
    def deadline(self) -> float | None:
        """When it is stopped, or killed, monotonic; None: it was asked nothing."""
        return self._kill_at if self._kill_at is not None else self._stop_at

    def told(self) -> ProgressEvent | None:
        """Return the newest whole step it has told since the last call."""
        lines = b""
        if self.progress is not None:
            with suppress(BlockingIOError):
                lines = os.read(self.progress, 65536)
        for line in reversed(lines.split(b"\n")[:-1]):
            with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return msgspec.json.decode(line, type=ProgressEvent)
        return None

    def close(self) -> bytes:
        """Return what it has printed and let go of it; nothing where that was too much."""
        printed = b""
        if self.progress is not None:
            os.close(self.progress)
            self.progress = None
        if self._printed is not None:
            if os.fstat(self._printed).st_size <= _MAX_PRINTED_BYTES:
                os.lseek(self._printed, 0, os.SEEK_SET)
                with os.fdopen(self._printed, "rb") as file:
                    printed = file.read()
            else:
                os.close(self._printed)
            self._printed = None
        return printed
