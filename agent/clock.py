"""The real clock behind the ``Clock`` port."""

from __future__ import annotations

import time
from datetime import datetime, timezone


class SystemClock:
    """CLOCK_MONOTONIC for durations, the system's wall time for records."""

    def monotonic_s(self) -> float:
        """Return seconds on CLOCK_MONOTONIC."""
        return time.monotonic()

    def utc(self) -> datetime:
        """Return the wall time, aware, UTC."""
        return datetime.now(timezone.utc)


def iso(moment: datetime) -> str:
    """Write an aware moment as UTC with milliseconds, e.g. ``2026-01-31T09:30:00.125Z``."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
