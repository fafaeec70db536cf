"""The service of this machine: whether there is one, how it is put into service, and who it runs as.

Rules: systemd and a unit called boardfit, or none. What is not run is said, so that it can be run by hand.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

from agent.enrolment.names import SERVICE_USER
from agent.errors import ConfigError

UNIT = "boardfit.service"
RUNNING = Path("/run/systemd/system")  # sd_booted(3)


def is_installed() -> bool:
    """Return whether systemd runs here and knows our unit."""
    return RUNNING.is_dir() and _systemctl("cat", UNIT).returncode == 0


def to_start() -> list[list[str]]:
    """Return the commands that put it into service with a new configuration."""
    if RUNNING.is_dir() and _systemctl("is-active", "--quiet", UNIT).returncode == 0:
        return [["systemctl", "enable", UNIT], ["systemctl", "reload", UNIT]]
    return [["systemctl", "enable", "--now", UNIT]]


def start() -> None:
    """Put it into service. Raises: ConfigError: it did not start."""
    for command in to_start():
        done = _systemctl(*command[1:])
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["no reason given"]
            raise ConfigError(f"`{' '.join(command)}` failed: {said[-1]}", fix="look into `journalctl -u boardfit`")


def its_user() -> pwd.struct_passwd | None:
    """Return whom it runs as, where we may act as that user, else None."""
    try:
        return pwd.getpwnam(SERVICE_USER) if os.geteuid() == 0 else None
    except KeyError:
        return None


def _systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(["systemctl", *words], 127, "", str(error))
