"""How much of the time somebody waited for memory, or for a processor: pressure stall information.

Source: proc/pressure/{cpu,memory} (torvalds/linux Documentation/accounting/psi.rst): the line ``some`` says in percent
of the last 10, 60 and 300 seconds how long at least one task was stalled.
"""

from __future__ import annotations

import re
from typing import Literal

from agent.device.root import SysRoot

_SOME = re.compile(r"^some avg10=(\d+(?:\.\d+)?) ", re.MULTILINE)


def read_pressure(root: SysRoot, of: Literal["cpu", "memory"]) -> float | None:
    """Return the share of the last ten seconds, 0..1; None where the kernel does not say (older than 4.20, or off)."""
    match = _SOME.search(root.try_text(f"proc/pressure/{of}") or "")
    return None if match is None else min(1.0, float(match[1]) / 100.0)
