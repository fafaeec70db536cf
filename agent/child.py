"""The one child of the daemon that does work: started, watched, asked to stop, ended when it does not.

Rules:
- What a job's verb prints goes into memory that has no name (memfd), and its progress over a pipe: neither touches the
  disk. Work that nobody has ordered prints to nowhere.
- A group of its own: Ctrl-C in a terminal reaches the daemon alone, which then asks the child.
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
        self._kill_at: float | None = None
        environment: dict[str, str] | None = None
        passed: tuple[int, ...] = ()
        writer = -1
        if told:
            self._printed = os.memfd_create("printed", os.MFD_CLOEXEC)
            self.progress, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            environment, passed = {**os.environ, PROGRESS_VARIABLE: f"{writer}:{os.getpid()}"}, (writer,)
        try:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if self._printed is None else self._printed,
                start_new_session=True,
                env=environment,
                pass_fds=passed,
            )
        finally:
            if told:
                os.close(writer)

    def stop(self, now: float) -> None:
        """Ask it to stop; the second and later times change nothing. Args: now: monotonic."""
        self.asked = True
        if self._kill_at is None:
            self.process.terminate()
            self._kill_at = now + STOP_GRACE_S

    def give_way(self) -> None:
        """Ask it to end soon, but for a deployment that has begun; after any other request this changes nothing."""
        if not self.asked:
            self.asked = True
            self.process.send_signal(signal.SIGUSR1)

    def poll(self, now: float) -> int | None:
        """Return the exit code, None while it runs; one that was asked and did not stop is killed."""
        code = self.process.poll()
        if code is None and self._kill_at is not None and now >= self._kill_at:
            self.process.kill()
        return code

    @property
    def deadline(self) -> float | None:
        """When it is killed, monotonic; None: it was not asked to stop."""
        return self._kill_at

    def told(self) -> ProgressEvent | None:
        """Return the newest whole step it has told since the last call."""
        lines = b""
        if self.progress is not None:
            with suppress(BlockingIOError):
                lines = os.read(self.progress, 65536)
        for line in reversed(lines.split(b"\n")[:-1]):
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
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
