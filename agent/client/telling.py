"""Telling the agent how the model fares: one datagram for each period, never waited for, never an error.

Rules:
- Sent without blocking; what cannot be sent is dropped and counted, with the reason, and the next report says how many.
- A period without a request is told every ``STILL_S`` only, so that an idle application is quiet.
- The socket is found anew for each datagram, so that a restarted agent is found at once.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec

from agent.client.loaded import Loaded
from agent.core.deployment import SOCKET_NAME
from agent.core.live import LONGEST_PERIOD_S, LiveReport

STILL_S = 30.0
_PATH_BYTES = 107  # of sockaddr_un.sun_path, less its end; unix(7)


class Telling(msgspec.Struct):
    """What became of the reports. ``reason``: why the last one was lost; None: it was not."""

    sent: int = 0
    lost: int = 0
    reason: str | None = None


class Teller:
    """One process's way to the agent of a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.state = Telling()
        self._state_dir = state_dir
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, report: LiveReport) -> bool:
        """Send one report; False where it was lost."""
        report = msgspec.structs.replace(report, lost_reports=self.state.lost)
        try:
            self._send(msgspec.json.encode(report))
        except OSError as error:
            self.state.lost += 1
            absent = isinstance(error, (FileNotFoundError, ConnectionRefusedError))
            full = isinstance(error, BlockingIOError)
            self.state.reason = (
                "the agent is not running" if absent else "the agent does not keep up" if full
                else f"the agent's socket takes nothing from us: {error.strerror}"
            )  # fmt: skip
            return False
        self.state.sent += 1
        self.state.reason = None
        return True

    def _send(self, data: bytes) -> None:
        path = os.fsencode(self._state_dir / SOCKET_NAME)
        if len(path) <= _PATH_BYTES:
            self._socket.sendto(data, path)
            return
        folder = os.open(self._state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.sendto(data, f"/proc/self/fd/{folder}/{SOCKET_NAME}")
        finally:
            os.close(folder)


class Tally:
    """What of a loaded model's counts was not told yet."""

    def __init__(self, loaded: Loaded, now_s: float) -> None:
        self._loaded = loaded
        self._since_s = now_s
        self._counts = list(loaded.counts)
        self._errors = loaded.errors

    def report(self, now_s: float, refused: tuple[str, str] | None) -> LiveReport | None:
        """Return what happened since the last one; None while nothing did, for as long as ``STILL_S``."""
        loaded, period = self._loaded, now_s - self._since_s
        counts = list(loaded.counts)  # one step under the interpreter's lock
        errors = loaded.errors
        latency = tuple(
            (index, now - before)
            for index, (now, before) in enumerate(zip(counts, self._counts, strict=True))
            if now != before
        )
        if not latency and errors == self._errors and refused is None and period < STILL_S:
            return None
        report = LiveReport(
            task=loaded.document.task,
            release=loaded.document.release,
            period_s=min(max(period, 1e-3), LONGEST_PERIOD_S),
            requests=sum(count for _, count in latency),
            errors=errors - self._errors,
            latency=latency,
            engine_version=loaded.engine_version,
            refused_release=refused[0] if refused else None,
            refused_reason=refused[1][:240] if refused else None,
        )
        self._since_s, self._counts, self._errors = now_s, counts, errors
        return report
