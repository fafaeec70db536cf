"""The real clock behind the ``Clock`` port."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone, tzinfo


class SystemClock:
    """CLOCK_MONOTONIC for durations, the system's wall time for records."""

    def monotonic_s(self) -> float:
        """Return seconds on CLOCK_MONOTONIC."""
        return time.monotonic()

    def utc(self) -> datetime:
        """Return the wall time, aware, UTC."""
        return datetime.now(timezone.utc)


class LocalZone(tzinfo):
    """The system's local time, with its changes between summer and winter; ``zoneinfo`` would weigh more."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """Return the offset at a local moment; of one that comes twice, the first."""
        return None if moment is None else moment.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, moment: datetime | None) -> timedelta | None:
        """Return None: how much of the offset is summer time is not told."""

    def tzname(self, moment: datetime | None) -> str | None:
        """Return the name at a local moment."""
        return None if moment is None else moment.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, moment: datetime) -> datetime:
        """Return the local time of a moment in UTC."""
        return moment.replace(tzinfo=timezone.utc).astimezone().replace(tzinfo=self)


def iso(moment: datetime) -> str:
    """Write an aware moment as UTC with milliseconds, e.g. ``2026-01-31T09:30:00.125Z``."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_iso(text: str) -> datetime:
    """Read what ``iso`` wrote, or any ISO 8601 time with Z or an offset. Raises: ValueError."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
