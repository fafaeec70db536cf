"""Orders that are killed: a fork of one warm process carries out each, as an interpreter costs more than an order.

``python -m tests.deploy.killing`` is that process. It reads a line of JSON for an order, ``[FOLDER, ORDER, *POINT]``
with POINT nothing, PHASE and DONE, or COUNT, forks, tells the fork's id, and later how it ended. The fork waits for a
byte before it begins, so that a tracer can take hold of it first. It kills itself at the progress event of POINT.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.core.ports import ProgressEvent
from tests.deploy.scene import TASK, Scene

REPOSITORY = Path(__file__).parents[2]
KILLED = -int(signal.SIGKILL)
PR_SET_PTRACER = 0x59616D61  # prctl(2): where Yama allows a parent only to trace, this asks for more


class Orders:
    """The warm process, seen from a test."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.deploy.killing"]
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def __call__(self, folder: Path, order: str, *point: str, tracer: Sequence[str] = ()) -> int:
        """Carry out an order; return its exit status, KILLED when it was. ``tracer`` is strace with its options."""
        self._say(json.dumps([str(folder), order, *point]) + "\n")
        child = self._hear()
        tracing = None
        if tracer:
            tracing = subprocess.Popen([*tracer, "-p", str(child)], stderr=subprocess.PIPE, text=True)
            assert tracing.stderr is not None
            said = tracing.stderr.readline()
            assert "attached" in said, said
        self._say("!")
        status = self._hear()
        if tracing is not None:
            tracing.communicate()  # it stays until the last of the order's own children has ended
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
        child = os.fork()
        if child == 0:
            try:
                begin()
                carry_out(Path(folder), order, point)
            except BaseException:  # noqa: BLE001 - it must not come back to the loop
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        tell(child)
        _, ended = os.waitpid(child, 0)
        tell(os.waitstatus_to_exitcode(ended))


def tell(number: int) -> None:
    os.write(1, f"{number}\n".encode())


def begin() -> None:
    """Let anybody trace this process, wait until told to begin, and leave the conversation."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    os.read(0, 1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)


def carry_out(folder: Path, order: str, point: list[str]) -> None:
    scene = Scene(folder, killer=killer_at(point))
    scene.try_to(order)
    scene.close()


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
    serve()
