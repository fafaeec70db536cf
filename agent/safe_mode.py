"""Safe mode: an agent that died again and again serves what it has, takes commands and reports, and does nothing else.

Rules:
- A start is stored before anything else is done, and taken out when it ends well; the rule is ``agent.core.safety``'s.
- In safe mode no pass, bench or deployment is begun, by nobody; an unfinished deployment is settled, a rollback obeyed.
- It is left after a quiet time, by a new version, and by ``boardfit recover --leave-safe-mode``, by hand or ordered as
  ``leave-safe-mode``, which takes the starts out; a daemon that runs sees that within ``_LOOK_EVERY_S``, and at once
  where a child of its own did it. A restart that was asked for leaves it as it is.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent import __version__
from agent.core.safety import QUIET_S, REFUSED, STARTS, STEADY_S, is_unsafe
from agent.database import Database
from agent.errors import StorageError
from agent.site import Site

if TYPE_CHECKING:
    from agent.orders.jobs import JobRecord

log = logging.getLogger("boardfit")

SAFE = b"safe mode"
REASON = f"safe mode: the agent died {STARTS} times in a row; it serves what it has, and measures and deploys nothing"
_LOOK_EVERY_S = 30.0
_TABLES = (
    "CREATE TABLE IF NOT EXISTS agent_start (key TEXT PRIMARY KEY, version TEXT NOT NULL, safe INTEGER NOT NULL)",
)


def is_active(database: Database) -> bool:
    """Return whether a daemon of this version is in safe mode, or died in it."""
    database.ensure(_TABLES)
    return bool(database.rows("SELECT 1 FROM agent_start WHERE safe AND version = ? LIMIT 1", (__version__,)))


def _is_due(database: Database, but: str) -> bool:
    database.ensure(_TABLES)
    rows = database.rows("SELECT version FROM agent_start WHERE key != ?", (but,))
    return is_unsafe([row["version"] for row in rows], __version__)


def forget_starts(database: Database) -> None:
    """Begin to count anew."""
    database.ensure(_TABLES)
    with database.transaction() as connection:
        connection.execute("DELETE FROM agent_start")


class SafeMode:
    """The daemon's. Args: site: its own; the database is opened by ``enter``."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._key = os.urandom(8).hex()
        self.active = False
        self._steady = False
        self._began_s = self._look_s = site.clock.monotonic_s()

    def begin(self, site: Site) -> bool:
        """Store this start, on a site of its own. Returns: whether it is in safe mode, which has been told then."""
        try:
            safe = _is_due(site.database, self._key)
            with site.database.transaction() as connection:
                connection.execute(
                    "INSERT OR REPLACE INTO agent_start VALUES (?, ?, ?)", (self._key, __version__, safe)
                )
        except StorageError as error:
            log.warning("this start is not counted: %s", error)
            return False
        if safe:
            fix = (
                "look into the agent's log; then `boardfit recover --leave-safe-mode`, "
                "from afar `boardfit fleet leave-safe-mode BOARD`, or install another version"
            )
            site.report.event("safe_mode", REASON, level="error", fix=fix)
        return safe

    def enter(self, *, safe: bool) -> None:
        """Go on as ``begin`` said."""
        self.active = safe

    @property
    def reason(self) -> str | None:
        """What the status says, None in ordinary work."""
        return REASON if self.active else None

    def before(self, objection: Callable[[JobRecord], str | None]) -> Callable[[JobRecord], str | None]:
        """Return what says why an order is not obeyed now: safe mode first, then ``objection``."""

        def judged(record: JobRecord) -> str | None:
            refused = self.active and record.verb in REFUSED
            return f"{record.verb} is not done in {REASON}" if refused else objection(record)

        return judged

    def deadline(self) -> float:
        """Return the monotonic time at which ``tend`` has work."""
        return math.inf if self._steady else self._look_s

    def look_soon(self) -> None:
        """Have ``tend`` look now: a child that has ended may have taken the starts out."""
        if self.active:
            self._look_s = self._site.clock.monotonic_s()

    def tend(self) -> bool:
        """Note that this start has lasted. Returns: whether safe mode has been left just now."""
        now = self._site.clock.monotonic_s()
        if self._steady or now < self._look_s:
            return False
        self._look_s = now + _LOOK_EVERY_S if self.active else self._began_s + STEADY_S
        try:
            lasted = now - self._began_s >= (QUIET_S if self.active else STEADY_S)
            over = self.active and not _is_due(self._site.database, self._key)
            if lasted:
                forget_starts(self._site.database)
        except StorageError as error:
            log.warning("%s", error)
            self._look_s = now + _LOOK_EVERY_S
            return False
        self._steady = lasted or over
        if not self.active or not self._steady:
            return False
        self.active = False
        how = "after a quiet time" if lasted else "because somebody said so"
        self._site.report.event("safe_mode_left", f"safe mode was left {how}", level="info")
        return True

    def end(self) -> None:
        """Take this start out: it has ended well."""
        try:
            with self._site.database.transaction() as connection:
                connection.execute("DELETE FROM agent_start WHERE key = ?", (self._key,))
        except StorageError as error:
            log.warning("%s", error)
