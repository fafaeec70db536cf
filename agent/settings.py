"""The desired states a board has taken: one per scope, the last refusal, and how often what is in force has changed.

Rules:
- A scope's newest document is kept as it was signed; a refused one never takes its place.
- A stored document that no longer fits agent.yaml is left out, alone, and said; it is not forgotten.

Leaves who may ask to ``agent.orders``, and how settings are laid over agent.yaml to ``agent.config_desired``.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3

import msgspec

from agent.config import Config
from agent.config_desired import with_desired
from agent.core.desired import DesiredSettings, scope_order
from agent.database import Database
from agent.errors import ConfigError

log = logging.getLogger("boardfit")

_TABLES = (
    "CREATE TABLE IF NOT EXISTS desired (scope TEXT PRIMARY KEY, version INTEGER NOT NULL, settings BLOB NOT NULL)",
    """CREATE TABLE IF NOT EXISTS desired_refused (one INTEGER PRIMARY KEY CHECK (one = 1),
        scope TEXT NOT NULL, version INTEGER NOT NULL, reason TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS reported (one INTEGER PRIMARY KEY CHECK (one = 1),
        version INTEGER NOT NULL, digest TEXT NOT NULL)""",
)


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The last desired state that was offered and not taken."""

    scope: str
    version: int
    reason: str


class Settings:
    """The desired states of one state directory. Raises: StorageError, each method too."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.ensure(_TABLES)

    def versions(self) -> dict[str, int]:
        """Return the version taken of each scope."""
        return {row["scope"]: row["version"] for row in self._database.rows("SELECT scope, version FROM desired")}

    def wanted(self, groups: tuple[str, ...]) -> list[tuple[str, DesiredSettings]]:
        """Return what is taken, the widest scope first; groups this board is no longer in are left out."""
        rows = self._database.rows("SELECT scope, settings FROM desired")
        found: dict[str, DesiredSettings] = {}
        for row in rows:
            try:
                found[row["scope"]] = msgspec.json.decode(row["settings"], type=DesiredSettings)
            except msgspec.DecodeError as error:
                log.warning("the desired state of %s cannot be read and is left out: %s", row["scope"], error)
        return [(scope, found[scope]) for scope in scope_order(groups) if scope in found]

    def effective(self, written: Config, groups: tuple[str, ...]) -> Config:
        """Return agent.yaml with what is taken laid over it."""
        config = written
        laid: list[tuple[str, DesiredSettings]] = []
        for wanted in self.wanted(groups):
            try:
                config = with_desired(written, [*laid, wanted])
            except ConfigError as error:
                log.warning("the desired state of %s is left out: %s", wanted[0], error)
                continue
            laid.append(wanted)
        return config

    def preview(self, written: Config, groups: tuple[str, ...], scope: str, settings: DesiredSettings) -> Config:
        """Return what would be in force if a scope's settings were these. Raises: ConfigError: they are not valid."""
        others = {name: one for name, one in self.wanted(groups) if name != scope} | {scope: settings}
        with_desired(written, [(scope, settings)])  # by itself, so that the error is its own
        return with_desired(written, [(name, others[name]) for name in scope_order(groups) if name in others])

    def take(self, connection: sqlite3.Connection, scope: str, version: int, settings: DesiredSettings) -> None:
        """Store a scope's new settings within the caller's transaction."""
        document = msgspec.json.encode(settings)
        connection.execute("INSERT OR REPLACE INTO desired VALUES (?, ?, ?)", (scope, version, document))
        connection.execute("DELETE FROM desired_refused")

    def refuse(self, refusal: Refusal) -> bool:
        """Store why one was not taken. Returns: False when just that is stored already."""
        if self.refused() == refusal:
            return False
        with self._database.transaction() as connection:
            row = (refusal.scope, refusal.version, refusal.reason)
            connection.execute("INSERT OR REPLACE INTO desired_refused VALUES (1, ?, ?, ?)", row)
        return True

    def refused(self) -> Refusal | None:
        """Return the last refusal, None once one was taken after it."""
        rows = self._database.rows("SELECT scope, version, reason FROM desired_refused")
        return Refusal(**{name: rows[0][name] for name in ("scope", "version", "reason")}) if rows else None

    def reported_version(self, document: bytes) -> int:
        """Return the number of a settings document: one more than the last where it is another one."""
        digest = hashlib.sha256(document).hexdigest()
        rows = self._database.rows("SELECT version, digest FROM reported")
        version = int(rows[0]["version"]) if rows else 0
        if rows and rows[0]["digest"] == digest:
            return version
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO reported VALUES (1, ?, ?)", (version + 1, digest))
        return version + 1
