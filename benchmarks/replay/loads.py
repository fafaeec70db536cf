"""What is made to disturb a recording: one process of a kind, on a core, until its parent ends.

    python -m benchmarks.replay.loads KIND SEED [PID]

- ``spin``: a busy loop.
- ``come_and_go``: busy 0.3 to 1.5 s, then idle as long, drawn anew each time.
- ``two_speeds``: stops and continues process PID every millisecond so that it runs 60 % of the time, for 50 to 300 ms,
  then leaves it alone as long: two loads in turn that no run-queue wait shows.
- ``throttle``: the same without leaving it alone: PID runs 50 % of the time, in pieces of half a millisecond.

Stopping and continuing stands in for a governor that lowers the clock: **simulated**, as this machine has no clock to
lower. Like the real thing it lengthens runs without a run-queue wait; unlike it, it does so in steps of a millisecond.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time

from agent.confinement import die_with_parent

KINDS = ("spin", "come_and_go", "two_speeds", "throttle")


def spin(end: float) -> None:
    while time.monotonic() < end:
        pass


def come_and_go(seed: int) -> None:
    draw = random.Random(seed)
    while True:
        spin(time.monotonic() + draw.uniform(0.3, 1.5))
        time.sleep(draw.uniform(0.3, 1.5))


def slow_down(pid: int, end: float, share: float, period_s: float = 1e-3) -> None:
    """Let PID run for ``share`` of the time until ``end``."""
    while time.monotonic() < end:
        os.kill(pid, signal.SIGSTOP)
        time.sleep((1.0 - share) * period_s)
        os.kill(pid, signal.SIGCONT)
        time.sleep(share * period_s)


def two_speeds(pid: int, seed: int) -> None:
    draw = random.Random(seed)
    while True:
        slow_down(pid, time.monotonic() + draw.uniform(0.05, 0.3), 0.6)
        time.sleep(draw.uniform(0.05, 0.3))


def main() -> None:
    kind, seed = sys.argv[1], int(sys.argv[2])
    die_with_parent()
    with contextlib.suppress(ProcessLookupError):
        if kind == "spin":
            spin(float("inf"))
        elif kind == "come_and_go":
            come_and_go(seed)
        elif kind == "two_speeds":
            two_speeds(int(sys.argv[3]), seed)
        elif kind == "throttle":
            slow_down(int(sys.argv[3]), float("inf"), 0.5)
        else:
            raise SystemExit(f"no such load: {kind}")


if __name__ == "__main__":
    main()
