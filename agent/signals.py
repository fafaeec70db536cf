"""Signals as bytes on a socket, so that the daemon's one wait sees them."""

from __future__ import annotations

import signal
import socket


class Signals:
    """SIGTERM, SIGINT, SIGHUP and SIGCHLD, for the time of the block; ``receiver`` is what to wait on."""

    _NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

    def __enter__(self) -> Signals:
        self.receiver, self._sender = socket.socketpair()
        self.receiver.setblocking(False)
        self._sender.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, _noticed) for number in self._NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._old_fd)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self.receiver.close()
        self._sender.close()

    def take(self) -> list[int]:
        """Return the signals that came since the last call."""
        try:
            return list(self.receiver.recv(4096))
        except BlockingIOError:
            return []


def _noticed(_number: int, _frame: object) -> None:
    """Let the wake-up descriptor carry the signal; Python only writes to it when a handler is set."""
