"""When an agent that keeps dying does no more than serve what it has. Pure.

Rules:
- A start counts until it has ended well or has lasted for ``STEADY_S``. ``STARTS`` of them in a row, of one version,
  and the next is in safe mode. No wall clock is asked: a board that starts anew each time may not know the time.
- A board whose power comes and goes may get there too: it serves what it has, and is back to work after ``QUIET_S``.
"""

from __future__ import annotations

from collections.abc import Sequence

STARTS = 5  # chosen: five crashes, each within ten minutes
STEADY_S = 600.0
QUIET_S = 3600.0  # chosen: in safe mode for so long without dying, it is tried again
#: Orders that are not obeyed then: what measures, and what puts something new in place. A rollback is.
REFUSED = frozenset({"bench", "deploy"})


def is_unsafe(earlier: Sequence[str], version: str) -> bool:
    """Return whether the next start is in safe mode. Args: earlier: the version of each start that counts."""
    return sum(one == version for one in earlier) >= STARTS
