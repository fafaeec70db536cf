"""A fixed piece of work whose CPU time follows the core's clock: hashing one buffer. The agent's own, without numpy.

It measures; ``agent.measure.heat`` judges. What it sees: a lower clock of the core it runs on (a throttled or capped
core, a governor that has not ramped up), and code that shares that core's execution units (SMT). What it cannot see: a
GPU's or NPU's clock, memory bandwidth (the buffer lies in the first-level cache), a hot board that has not slowed down
yet. Cores differ on big.LITTLE: the fastest of its tries counts, and start and end are compared on the same board.

Spread of one reading on two virtual cores shared with others, at a load of 6 to 7: coefficient of variation of CPU time
2 to 7 %, 18 of 100 readings more than 3 % above the median; of wall time 20 to 200 %, so wall time is not used. A
reading too high makes a wait longer and a figure no worse. ``benchmarks/heat.py --kernel`` takes the spread anew.
"""

from __future__ import annotations

import hashlib
import time

_BUFFER = bytes(16 * 1024)
_TRY_S = 2e-3  # chosen: a thousand steps of the clock; a governor's ramp is waited out by the untimed start
_RAMP_S = 20e-3  # chosen: ondemand and schedutil look at load every 10 ms and less
_TRIES = 7


class ClockKernel:
    """Callable; the number of passes is fixed at the first call, so that all readings of one are of the same work."""

    def __init__(self) -> None:
        self._passes = 0

    def __call__(self) -> float:
        """Return CPU seconds of the fixed work, the least of seven tries; takes some 35 ms."""
        self._ramp_up()
        return min(self._once() for _ in range(_TRIES)) / 1e9

    def _ramp_up(self) -> None:
        passes, begin = 0, time.thread_time_ns()
        while (spent := time.thread_time_ns() - begin) < _RAMP_S * 1e9:
            hashlib.sha256(_BUFFER).digest()
            passes += 1
        if self._passes == 0:
            self._passes = max(1, round(passes * _TRY_S * 1e9 / spent))

    def _once(self) -> int:
        begin = time.thread_time_ns()
        for _ in range(self._passes):
            hashlib.sha256(_BUFFER).digest()
        return time.thread_time_ns() - begin
