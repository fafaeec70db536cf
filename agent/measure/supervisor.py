"""One measuring child from outside: spawn, listen, bound in time, and end it with everything it started.

Rules:
- A fresh process in a session of its own per measurement; leaving the ``with`` block kills the whole group.
- The deadline is wall clock: a limit on CPU time does not end a child that waits beside busy neighbours.
- A worker inherits its pipes and its job's files, opened by ``handing``, and no other descriptor.
- A death is classified from its signal, the kernel's count of out-of-memory kills and the last words on standard error.
- Nothing the child writes can block or fill the agent: its output is drained, and only a tail of it is kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec

from agent.confinement import child_environment
from agent.core.measurement import Verdict
from agent.core.ports import Clock, StopRequested, WorkerGroup
from agent.measure.handing import FileRefusedError, close_files, open_files
from agent.measure.protocol import (
    GO,
    MAX_EVENT_BYTES,
    UNANSWERED,
    AnyEvent,
    Block,
    Done,
    Event,
    Failed,
    FirstRun,
    Imported,
    Job,
    Loaded,
    ProtocolError,
    Started,
    Tick,
    Timed,
    Warm,
    WindowClosed,
    WindowOpen,
    decode_event,
    encode_job,
)

_WAKE_S = 0.1  # how soon a stop request is noticed
_TAIL_BYTES = 4096
_GRACE_S = 5.0  # for a child that closed its pipe to be gone
_CPU_SPARE_S = 10  # of CPU time beyond what the deadline allows all cores: for when nobody is left to look at the clock
_DOING: dict[type[Event] | None, str] = {
    None: "starting",
    Started: "importing the engine",
    Imported: "loading the model",
    Loaded: "its first inference",
    FirstRun: "warming up",
    Warm: "being timed",
    Timed: "running after the timed runs",
    WindowOpen: "running in the power window",
    WindowClosed: "evaluating accuracy",
}
_ENTER = '{ echo 0 > "$0"; } 2>/dev/null; exec "$@"'
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ChildEndedError(Exception):
    """The child ended, or was ended, before it was done; carries the verdict and one sentence."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict: Verdict = verdict
        self.reason = reason


class ChildExit(NamedTuple):
    """How a child ended by itself: its signal or exit code, and what the kernel and it said about that."""

    signal_number: int | None
    exit_code: int | None
    oom_kills: int  # by which the kernel's counter rose while the child lived
    output_tail: str


def read_oom_kills() -> int | None:
    """Return how many processes the kernel has killed for memory since boot, cgroup limits included.

    Source: mm/oom_kill.c counts OOM_KILL in /proc/vmstat for global and for memory-cgroup kills (Linux 4.13 on).
    """
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        return None
    return None


def classify(ended: ChildExit, doing: str) -> tuple[Verdict, str]:
    """Give a child's unexpected end its verdict and sentence. Pure."""
    lines = ended.output_tail.strip().splitlines()
    last = " ".join(lines[-1].split())[:300] if lines else ""
    said = f": {last}" if last else ""
    if ended.signal_number is None:
        return "crashed", f"the worker exited with {ended.exit_code} while {doing}{said}"
    name = signal.Signals(ended.signal_number).name
    if ended.signal_number == signal.SIGKILL:
        if ended.oom_kills > 0:
            return "out_of_memory", f"the kernel killed it for memory while {doing}"
        return "crashed", f"it was killed from outside (SIGKILL) while {doing}, and not by the kernel for memory"
    if ended.signal_number == signal.SIGABRT and "bad_alloc" in ended.output_tail:
        return "out_of_memory", f"memory ran out while {doing}{said}"
    return "crashed", f"it died by {name} while {doing}{said}"


class Child:
    """A running worker. Use as a context manager; ``next_event`` and ``go`` in turn.

    Raises: ChildEndedError: a file of the job is refused; nothing was started.
    """

    def __init__(
        self, job: Job, *, clock: Clock, stop: StopRequested, deadline_s: float, group: WorkerGroup | None = None
    ) -> None:
        self._group = group
        self._growth_bytes: int | None = None
        if group is not None and group.limits:
            # A group limits what is used, and not what an engine reserves and never touches.
            self._growth_bytes = job.memory_growth_bytes
            job = msgspec.structs.replace(job, memory_growth_bytes=None)
        line, files = _handed(job, deadline_s, group)
        self._clock = clock
        self._stop = stop
        self._deadline_s = deadline_s
        self._end = clock.monotonic_s() + deadline_s
        self._oom_kills = self._read_kills()
        self._previous: AnyEvent | None = None
        self._buffer = bytearray()
        self._tail = b""
        self._events_fd, child_fd = os.pipe()
        try:
            self._process = subprocess.Popen(
                _command(group, child_fd),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                env=child_environment(),
                cwd="/",
                pass_fds=(child_fd, *files),
                start_new_session=True,
            )
        except OSError:
            os.close(self._events_fd)
            if group is not None:
                group.close()
            raise
        finally:
            os.close(child_fd)
            close_files(files)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._output_fd = self._process.stdout.fileno()
        self._selector = selectors.DefaultSelector()
        for descriptor in (self._events_fd, self._output_fd):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ)
        self._write(line)

    @property
    def pid(self) -> int:
        """Process id of the worker, which leads its session and group."""
        return self._process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the group, reap the worker and give back every descriptor. Harmless to repeat."""
        if self._process.returncode is None:
            # The worker is not reaped yet, so its group's number cannot have passed to somebody else.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            self._selector.close()
            os.close(self._events_fd)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            if self._group is not None:
                self._group.close()

    def go(self) -> None:
        """Let the worker pass on from the event it waits at. Raises: ChildEndedError: it cannot be limited."""
        if self._growth_bytes is not None and isinstance(self._previous, Imported):
            assert self._group is not None
            if not self._group.limit(self._growth_bytes):
                raise ChildEndedError("crashed", "its memory group took no limit")
        self._write(GO)

    def next_event(self, tick: Callable[[], None] | None = None, tick_s: float = _WAKE_S) -> AnyEvent:
        """Wait for the worker's next event.

        Args: tick: called about every ``tick_s`` seconds while waiting.
        Raises: ChildEndedError: it failed, died, broke the protocol, passed the deadline, or a stop was asked for.
        """
        next_tick = self._clock.monotonic_s() + tick_s
        while True:
            event = self._buffered_event()
            if event is not None:
                return event
            now = self._look_at_the_clock()
            if tick is not None and now >= next_tick:
                tick()
                now = self._clock.monotonic_s()
                next_tick = max(next_tick + tick_s, now)
            wait_s = min(_WAKE_S, self._end - now, max(0.0, next_tick - now) if tick is not None else _WAKE_S)
            self._receive(max(0.0, wait_s))

    def poll(self, wait_s: float) -> AnyEvent | None:
        """Return the worker's next event, None where none comes within ``wait_s``; for who listens to several.

        Raises: ChildEndedError: as ``next_event``.
        """
        event = self._buffered_event()
        if event is None:
            self._look_at_the_clock()
            self._receive(wait_s)
            event = self._buffered_event()
        return event

    def _look_at_the_clock(self) -> float:
        """Return the time. Raises: ChildEndedError: it is over, or a stop was asked for."""
        now = self._clock.monotonic_s()
        if self._stop():
            raise ChildEndedError("interrupted", "a stop was asked for")
        if now >= self._end:
            raise ChildEndedError("timeout", f"it was still {self._doing} when {self._deadline_s:g} s were over")
        return now

    @property
    def _doing(self) -> str:
        return _DOING.get(None if self._previous is None else type(self._previous), "checking outputs")

    def _receive(self, wait_s: float) -> None:
        for key, _ in self._selector.select(wait_s):
            try:
                data = os.read(key.fd, 1 << 16)
            except BlockingIOError:
                continue
            if key.fd == self._output_fd:
                self._tail = (self._tail + data)[-_TAIL_BYTES:]
                if not data:
                    self._selector.unregister(key.fd)
            elif data:
                self._buffer += data
            elif b"\n" not in self._buffer:
                raise ChildEndedError(*self._autopsy())

    def _buffered_event(self) -> AnyEvent | None:
        if b"\n" not in self._buffer:
            if len(self._buffer) > MAX_EVENT_BYTES:
                raise ChildEndedError("crashed", f"the worker wrote a line of over {MAX_EVENT_BYTES} bytes")
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            event = decode_event(bytes(line), self._previous)
        except ProtocolError as error:
            raise ChildEndedError("crashed", f"the worker broke its protocol: {error}") from error
        if isinstance(event, Failed):
            raise ChildEndedError(event.verdict, event.reason)
        if isinstance(event, Started) and self._group is not None and self._group.holds(self.pid):
            event = msgspec.structs.replace(event, confinement=(*event.confinement, "memory_group"))
        if not isinstance(event, (Tick, Block)):
            self._previous = event
        return event

    def _read_kills(self) -> int | None:
        """Return the count of the worker's own group, of the whole machine where it has none."""
        kills = self._group.oom_kills() if self._group is not None else None
        return read_oom_kills() if kills is None else kills

    def _autopsy(self) -> tuple[Verdict, str]:
        """Find out how a worker ended that closed its event pipe without a word."""
        give_up = time.monotonic() + _GRACE_S
        status = None
        while status is None and time.monotonic() < give_up:
            status = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            self._drain()
            if status is None:
                time.sleep(0.005)
        if status is None:
            return "crashed", f"the worker closed its pipe while {self._doing} and did not end"
        died = status.si_code in {os.CLD_KILLED, os.CLD_DUMPED}
        kills = self._read_kills()
        rise = 0 if kills is None or self._oom_kills is None else kills - self._oom_kills
        ended = ChildExit(
            signal_number=status.si_status if died else None,
            exit_code=None if died else status.si_status,
            oom_kills=rise,
            output_tail=_COLOURS.sub("", self._tail.decode(errors="replace")),
        )
        return classify(ended, self._doing)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._output_fd, 1 << 16):
                self._tail = (self._tail + data)[-_TAIL_BYTES:]

    def _write(self, line: bytes) -> None:
        # A worker that is gone is noticed at its event pipe, where the reason can be found.
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(line)


def _handed(job: Job, deadline_s: float, group: WorkerGroup | None) -> tuple[bytes, tuple[int, ...]]:
    """Open a job's files and bound its CPU time.

    Returns: the job's line and the open files. Raises: ChildEndedError: a file is refused.
    """
    files: tuple[int, ...] = ()
    try:
        opened, files = open_files(job)
        cpu_s = int(deadline_s * (os.cpu_count() or 1)) + _CPU_SPARE_S
        return encode_job(msgspec.structs.replace(opened, cpu_s=cpu_s)), files
    except (FileRefusedError, ProtocolError) as error:
        close_files(files)
        if group is not None:
            group.close()
        raise ChildEndedError("load_failed", str(error)) from error


def _command(group: WorkerGroup | None, event_fd: int) -> list[str]:
    """Return what starts the worker: in its group from before the interpreter's first byte, where it has one."""
    worker = [sys.executable, "-m", "agent.measure.worker", str(event_fd), str(os.getpid())]
    # A shell that becomes the worker: code between fork and exec is not safe in Python, and a process that is moved
    # later leaves behind what it was charged.
    return worker if group is None else ["/bin/sh", "-c", _ENTER, str(group.entry), *worker]


def needs_answer(event: AnyEvent) -> bool:
    """Tell whether the worker waits for ``go`` after this event."""
    return not isinstance(event, UNANSWERED)


def is_last(event: AnyEvent) -> bool:
    """Tell whether the worker is done."""
    return isinstance(event, Done)
