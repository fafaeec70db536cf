"""systemd's readiness and watchdog protocol: one datagram to ``$NOTIFY_SOCKET``.

Source: sd_notify(3), sd_watchdog_enabled(3). Outside systemd every call does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

_PATIENCE_S = 1.0  # a manager whose queue stays full must not hold up the loop


class Notifier:
    """Sends state lines to the service manager; args: the environment to read the socket and watchdog period from."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = environment.get("WATCHDOG_USEC", "")
        meant_for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_period_s = int(microseconds) / 1e6 if microseconds.isdigit() and meant_for_us else None

    def send(self, *lines: str) -> None:
        """Send lines such as ``READY=1``. A manager that is gone is no reason to stop serving."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(_PATIENCE_S)
            try:
                channel.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return
