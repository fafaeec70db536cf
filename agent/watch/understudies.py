"""The worker of a shadow run from outside: started confined, given one request at a time, ended with all it started.

Rules:
- It opens the model at nice 19, so that it comes to that end on a busy board too, and answers at idle priority.
- It gets the model as a descriptor, a pipe in and a pipe out, and nothing else; its words go nowhere.
- Each answer has an end in time, and a stop that is asked for is noticed while it is waited for.

Leaves what it does to ``agent.client.understudy``, and what an answer means to ``agent.core.trial``.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from agent.confinement import child_environment, kill_group
from agent.core.deployment import Deployment
from agent.core.ports import Clock, StopRequested
from agent.core.shadow import Compared, Ready
from agent.measure.handing import FileRefusedError, close_files, open_files
from agent.measure.protocol import Job
from agent.runtimes.table import is_cpu

OPEN_S = 120.0  # chosen: at idle priority, beside an application that is busy
ANSWER_S = 60.0
_SLICE_S = 0.2
_MOST_ANSWER_BYTES = 64 * 1024
_ACCELERATOR_FILE_BYTES = 64 << 20  # compiled kernels, as for a measuring child
_Told = TypeVar("_Told", Ready, Compared)


class UnderstudyEnded(Exception):  # noqa: N818 - an outcome
    """The worker is gone or silent. ``blame``: by what the candidate does, as far as can be told."""

    def __init__(self, reason: str, *, blame: bool) -> None:
        super().__init__(reason)
        self.reason, self.blame = reason, blame


class Stopped(Exception):  # noqa: N818 - somebody asked
    """A stop was asked for."""


class Understudy:
    """A running worker; a context manager.

    Args: also: what it is told besides.   idle: called while it is waited for.
    Raises: UnderstudyEnded: the model's file is refused, or no process can be started.
    """

    def __init__(
        self, document: Deployment, model: Path, also: dict[str, object], *, clock: Clock, stop: StopRequested,
        growth_bytes: int | None, idle: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._clock, self._stop, self._idle = clock, stop, idle
        point = document.point
        on_cpu = is_cpu(point.engine, point.provider)
        job = Job(
            model=str(model), point=point, inputs=document.inputs,
            memory_growth_bytes=growth_bytes if on_cpu else None,
            file_size_bytes=0 if on_cpu else _ACCELERATOR_FILE_BYTES,
        )  # fmt: skip
        try:
            job, files = open_files(job)
        except FileRefusedError as error:
            raise UnderstudyEnded(str(error), blame=False) from error
        self._answers, child_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agent.client.understudy", str(child_end), str(os.getpid())],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, bufsize=0, cwd="/",
                env=child_environment(), pass_fds=(child_end, *files), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            os.close(self._answers)
            raise UnderstudyEnded(f"no process can be started: {error}", blame=False) from error
        finally:
            os.close(child_end)
            close_files(files)
        assert self._process.stdin is not None
        self._given = self._process.stdin.fileno()
        os.set_blocking(self._given, False)
        os.set_blocking(self._answers, False)
        self._buffer = b""
        try:
            self._give(msgspec.json.encode({"job": job, "document": document, **also}) + b"\n", OPEN_S)
            ready = self._told(Ready, OPEN_S)
            if ready.problem is not None:
                raise UnderstudyEnded(ready.problem, blame=True)
            self._to_idle()
        except BaseException:
            self.close()
            raise

    def _to_idle(self) -> None:
        """Put every thread of the worker, the engine's too, at idle priority. Source: sched(7); it is per thread."""
        with suppress(OSError):
            for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
                os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))

    def __enter__(self) -> Understudy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        if self._process.returncode is None:
            kill_group(self._process)
            os.close(self._answers)
            if self._process.stdin is not None:
                self._process.stdin.close()

    def compare(self, frame: bytes) -> Compared:
        """Return what it says of one request. Raises: UnderstudyEnded, Stopped."""
        self._give(frame, ANSWER_S)
        return self._told(Compared, ANSWER_S)

    def _give(self, data: bytes, patience_s: float) -> None:
        left, end_s = memoryview(data), self._clock.monotonic_s() + patience_s
        while left:
            self._wait(end_s, writing=True)
            try:
                left = left[os.write(self._given, left) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._autopsy() from None

    def _told(self, kind: type[_Told], patience_s: float) -> _Told:
        end_s = self._clock.monotonic_s() + patience_s
        while b"\n" not in self._buffer:
            self._wait(end_s, writing=False)
            try:
                part = os.read(self._answers, 65536)
            except BlockingIOError:
                continue
            if not part or len(self._buffer) > _MOST_ANSWER_BYTES:
                raise self._autopsy()
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return msgspec.json.decode(line, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UnderstudyEnded("its worker answered what is no answer", blame=True) from None

    def _wait(self, end_s: float, *, writing: bool) -> None:
        while True:
            if self._stop():
                raise Stopped
            left_s = end_s - self._clock.monotonic_s()
            if left_s <= 0:
                raise UnderstudyEnded("its worker gave no answer in time: the board had no time for it", blame=False)
            ways = ([], [self._given]) if writing else ([self._answers], [])
            if any(select.select(*ways, [], min(left_s, _SLICE_S))):
                return
            self._idle()

    def _autopsy(self) -> UnderstudyEnded:
        """Say how it ended. A kill from outside is memory or a person, and no fault that could be told."""
        try:
            code = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            return UnderstudyEnded("its worker closed its pipe", blame=True)
        os.close(self._answers)
        if self._process.stdin is not None:
            self._process.stdin.close()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return UnderstudyEnded(f"its worker ended by {how}", blame=code != -9)
