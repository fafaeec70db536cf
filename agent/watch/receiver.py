"""The socket that applications tell on: who is listened to, and how much of it.

Rules:
- A Unix datagram socket in the state directory, for the agent's user and group alone (mode 0660): whoever is in the
  group may tell, and what is told can at most move a task among the rungs that its decision staged.
- The kernel says which process sent a datagram (SO_PASSCRED, unix(7)); a sender cannot choose it. Each process has
  ``BURST`` at once and ``PER_S`` a second; ``MOST_SENDERS`` are known at a time.
- All together have ``MOST_AT_ONCE`` at once and ``MOST_PER_S`` a second; past that the socket rests for ``REST_S``: a
  flood costs the agent a bounded share of its time, and the senders their datagrams, since theirs never wait.
- What is refused is counted by its reason.

Leaves what a datagram means to ``agent.core.live``.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agent.core.deployment import SOCKET_NAME
from agent.core.rate import Bucket

if TYPE_CHECKING:
    from agent.core.live import LiveReport
    from agent.core.ports import Clock

log = logging.getLogger("boardfit")

BURST, PER_S = 8.0, 4.0  # chosen: an application tells once a second, and twice where a model is swapped
MOST_SENDERS = 64
MOST_AT_ONCE, MOST_PER_S = 128.0, 64.0
REST_S = 0.5
_MODE = 0o660
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_SO_PASSCRED = 16  # asm-generic/socket.h; Python names it on Linux only
_MOST_ANSWER_BYTES = 128 * 1024


class Told(NamedTuple):
    """A report and the process that sent it; ``asked``: a question to be answered to this address instead."""

    sender: int
    report: LiveReport | None = None
    asked: bytes | None = None


class Receiver:
    """The agent's end. ``refused`` counts by reason."""

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        self.refused: dict[str, int] = {}
        self._state_dir = state_dir
        self._clock = clock
        self._socket: socket.socket | None = None
        self._buckets: dict[int, Bucket] = {}
        self._all = Bucket(clock.monotonic_s, capacity=MOST_AT_ONCE, per_s=MOST_PER_S)

    def open(self) -> int | None:
        """Listen, in the place of whoever did before. Returns: the descriptor; None where it cannot be, said once."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            end.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)
            folder = os.open(self._state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._bind(end, folder)
            finally:
                os.close(folder)
        except OSError as error:
            end.close()
            log.warning("applications cannot tell how their model fares: %s", error)
            return None
        self._socket = end
        return end.fileno()

    @staticmethod
    def _bind(end: socket.socket, folder: int) -> None:
        with suppress(FileNotFoundError):
            os.unlink(SOCKET_NAME, dir_fd=folder)
        end.bind(f"/proc/self/fd/{folder}/{SOCKET_NAME}")  # a path of its own may be too long for the address
        os.chmod(SOCKET_NAME, _MODE, dir_fd=folder)  # until here 0755 or less: nobody else may write

    def close(self) -> None:
        """Stop listening, and take the socket away."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with suppress(OSError):
                (self._state_dir / SOCKET_NAME).unlink()

    def take(self) -> tuple[list[Told], bool]:
        """Return what may be listened to, and whether the socket must rest now."""
        taken: list[Told] = []
        while True:
            try:
                one = self._next()
            except BlockingIOError:
                return taken, False
            except OSError as error:
                log.warning("an application's report could not be read: %s", error)
                return taken, True
            if one is not None:
                taken.append(one)
            if not self._all.take():
                return taken, True

    def answer(self, address: bytes, data: bytes) -> None:
        """Send an answer without waiting; whoever asked may be gone."""
        if self._socket is not None and len(data) <= _MOST_ANSWER_BYTES:
            with suppress(OSError):
                self._socket.sendto(data, address)

    def _next(self) -> Told | None:
        from agent.core.live import MAX_REPORT_BYTES, LiveQuestion, read_datagram  # not before somebody tells

        assert self._socket is not None
        space = socket.CMSG_SPACE(_CREDENTIALS.size)
        data, ancillary, _, address = self._socket.recvmsg(MAX_REPORT_BYTES + 1, space)
        sender = _sender(ancillary)
        if sender is None or not self._may_tell(sender):
            self._refuse("too often" if sender is not None else "from nobody")
            return None
        found = read_datagram(data)
        if isinstance(found, str):
            self._refuse(found)
            return None
        if isinstance(found, LiveQuestion):
            return Told(sender, asked=address) if address else None
        return Told(sender, found)

    def _may_tell(self, sender: int) -> bool:
        bucket = self._buckets.get(sender)
        if bucket is None:
            if len(self._buckets) >= MOST_SENDERS:
                self._buckets.pop(next(iter(self._buckets)))  # the one that was heard of first
            bucket = Bucket(self._clock.monotonic_s, capacity=BURST, per_s=PER_S)
        else:
            del self._buckets[sender]
        self._buckets[sender] = bucket  # last again: who tells on is not forgotten
        return bucket.take()

    def _refuse(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, getattr(socket, "SCM_CREDENTIALS", 2)) and len(
            data
        ) >= _CREDENTIALS.size:
            pid: int = _CREDENTIALS.unpack_from(data)[0]
            return pid
    return None
