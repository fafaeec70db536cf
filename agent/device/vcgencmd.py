"""Asking a Raspberry Pi's firmware through ``vcgencmd``, where no kernel file carries the answer.

Rules: only on the running machine (a copied tree has no firmware), only where the binary exists, with a deadline.
Source: raspberrypi/documentation os/graphics-utilities.adoc (vcgencmd).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from agent.device.root import SysRoot, unavailable

Firmware = Callable[[str], str]
_TIMEOUT_S = 2.0  # chosen: a call takes about 14 ms on a Pi 5; a firmware that hangs must not hang a pass


def run_vcgencmd(*arguments: str) -> str:
    """Run vcgencmd once. Raises: SensorUnavailableError."""
    name = f"vcgencmd {' '.join(arguments)}"
    try:
        result = subprocess.run(
            ("vcgencmd", *arguments), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise unavailable(name, "broken", why=f"no answer within {_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise unavailable(name, "absent", why=str(error)) from error
    said = f"{result.stdout} {result.stderr}".strip()
    if "permission" in said.lower() or "can't open device file" in said.lower():
        raise unavailable(name, "denied", why=said[:120], fix="add the user to group video")
    if result.returncode != 0 or "error=" in result.stdout:
        raise unavailable(name, "broken", why=said[:120] or f"exit status {result.returncode}")
    return result.stdout


def firmware_of(root: SysRoot) -> Firmware | None:
    """Return the way to ask this machine's firmware; None for a copied tree or without the binary."""
    # shutil.which does this too, and would load three compressors into the idle daemon
    found = root.is_real and any((Path(folder) / "vcgencmd").is_file() for folder in os.get_exec_path())
    return run_vcgencmd if found else None
