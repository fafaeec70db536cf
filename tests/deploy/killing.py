"""Orders that are killed: a fork of one warm process carries out each, as an interpreter costs more than an order.

``python -m tests.deploy.killing [MODULE ...]`` is that process; what it imports no fork needs to. It reads a line of
JSON for an order, ``[FOLDER, ORDER, *POINT]`` with POINT nothing, PHASE and DONE, or COUNT, forks, tells the fork's id,
and later how it ended. The fork waits for a byte before it begins, so that a tracer can take hold of it first. It kills
itself at the progress event of POINT. With HERE as its POINT an order is carried out in the warm process. An order of
the scene is a word; ``boardfit VERB ...`` is the command line's, and ``python MODULE ...`` runs a module as a program.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import select
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from agent.core.ports import ProgressEvent
from tests.deploy.scene import TASK, Scene

REPOSITORY = Path(__file__).parents[2]
KILLED = -int(signal.SIGKILL)
HERE = "here"
PR_SET_PTRACER = 0x59616D61  # prctl(2): where Yama allows a parent only to trace, this asks for more


class Orders:
    """The warm process, seen from a test. Args: modules: what it imports. errors: where it and its forks complain."""

    def __init__(self, *modules: str, errors: int | None = None) -> None:
        command = [sys.executable, "-m", "tests.deploy.killing", *modules]
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        self._tracing: subprocess.Popen[str] | None = None

    def __call__(self, folder: Path, order: str, *point: str, tracer: Sequence[str] = ()) -> int:
        """Carry out an order; return its exit status, KILLED when it was. ``tracer`` is strace with its options."""
        self.begin(folder, order, *point, tracer=tracer)
        return self.end()

    def begin(self, folder: Path, order: str, *point: str, tracer: Sequence[str] = ()) -> int:
        """Begin an order; return the id of its process."""
        self._say(json.dumps([str(folder), order, *point]) + "\n")
        child = self._hear()
        if tracer:
            self._tracing = subprocess.Popen([*tracer, "-p", str(child)], stderr=subprocess.PIPE, text=True)
            assert self._tracing.stderr is not None
            said = self._tracing.stderr.readline()
            assert "attached" in said, said
        self._say("!")
        return child

    def ended(self) -> bool:
        """Return whether the order that was begun has ended; ``end`` does not wait then."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def end(self) -> int:
        """Wait for the end of the order that was begun; return its exit status."""
        status = self._hear()
        if self._tracing is not None:
            self._tracing.communicate()  # it stays until the last of the order's own children has ended
            self._tracing = None
        return status

    def _say(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())

    def _hear(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the warm process has ended"
        return int(line)

    def close(self) -> None:
        self._process.communicate()


def serve() -> None:
    """Carry out orders until standard input ends."""
    while line := os.read(0, 1 << 16):
        folder, order, *point = json.loads(line)
        if point == [HERE]:
            tell(os.getpid())
            os.read(0, 1)
            tell(carried_out_here(Path(folder), order))
            continue
        gc.freeze()
        child = os.fork()
        if child == 0:
            try:
                begin()
                code = carry_out(Path(folder), order, point)
            except BaseException:  # noqa: BLE001 - it must not come back to the loop
                traceback.print_exc()
                os._exit(1)
            os._exit(code)
        tell(child)
        _, ended = os.waitpid(child, 0)
        tell(os.waitstatus_to_exitcode(ended))


def carried_out_here(folder: Path, order: str) -> int:
    """Carry out an order in this process, its standard output thrown away: ours is a conversation."""
    ours, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        return carry_out(folder, order, [])
    finally:
        sys.stdout.flush()
        os.dup2(ours, 1)
        os.close(ours)
        os.close(nowhere)


def tell(number: int) -> None:
    os.write(1, f"{number}\n".encode())


def begin() -> None:
    """Let anybody trace this process, wait until told to begin, and leave the conversation."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    os.read(0, 1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)


def carry_out(folder: Path, order: str, point: list[str]) -> int:
    program, *words = shlex.split(order)
    if program == "boardfit":
        from agent.cli import main

        return main(words)
    if program == "python":
        sys.argv = words
        try:
            runpy.run_module(words[0], run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        return 0
    scene = Scene(folder, killer=killer_at(point))
    scene.try_to(order)
    scene.close()
    return 0


def killer_at(point: list[str]) -> Callable[[ProgressEvent], None]:
    seen = 0

    def kill(event: ProgressEvent) -> None:
        nonlocal seen
        seen += 1
        here = [event.text.removeprefix(f"{TASK}: "), str(int(event.done))]
        if point and (here == point or [str(seen)] == point):
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


if __name__ == "__main__":
    for name in sys.argv[1:]:
        import_module(name)
    serve()
