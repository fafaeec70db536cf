"""Whose a state directory is: which machine holds its identity, and what another machine that finds it may do.

A copied memory card brings a second board to life with the first one's name, counters and unsent records.

Rules:
- The state records the machine that made it (``Hardware``, hashed), its name, and which key it shows the broker.
- On another machine, a name that is derived and no key: the state is taken over under a new name, in one transaction.
  The same where both name and key were changed since. Everything else is a copy that must not speak: ``refusal``.
- What is taken over is what serves, and what makes it serve; all that was said, ordered and measured was another's.
- A machine that cannot be told from the recorded one is that one; two boards then meet at the broker (``mqtt.rivals``).

Leaves reading the hardware to ``agent.device``, and preparing an image to ``agent.setup``.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import Protocol

import msgspec

from agent.config import Config
from agent.core.facts import Hardware
from agent.database import Database
from agent.errors import ConfigError

log = logging.getLogger("boardfit")

_TABLES = ("CREATE TABLE IF NOT EXISTS holder (one INTEGER PRIMARY KEY CHECK (one = 1), document BLOB NOT NULL)",)
#: What belongs to the deployed model rather than to a board. A table that is not named here goes.
KEPT = frozenset({"deployment_journal", "deployment_failures"})
NOT_OURS = (
    "this state and its name {name!r} belong to another machine, from which they were copied: nothing is told the fleet"
)
FIX = (
    "give this board its own name and key: `boardfit enroll --new-key --device NAME` after correcting device.id, or "
    "write `device: auto` where it has no key; where this board replaces that one: `boardfit setup --take-over`"
)


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who a state belongs to: ``name`` in the fleet, whether it was ``given`` rather than derived, and the file of the
    ``key`` shown to the broker, None for none."""

    hardware: Hardware
    name: str
    given: bool = False
    key: str | None = None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine is to a state. ``refusal``: it must not speak; ``taken_from``: whose it was until now."""

    name: str
    refusal: str | None = None
    taken_from: str | None = None

    @property
    def text(self) -> str:
        """A sentence on the name that was taken."""
        return f"this state was copied from {self.taken_from!r}; this board goes on as {self.name!r}"


class _Machine(Protocol):
    @property
    def device_id(self) -> str | None: ...

    def hardware(self) -> Hardware: ...


def stand(database: Database, config: Config, here: _Machine) -> Standing:
    """Settle what this machine is to the state under a configuration, and log where it must not speak.

    Raises: StorageError.
    """
    mqtt = config.mqtt
    key = None if mqtt is None or mqtt.key is None else str(mqtt.key)
    derived = here.device_id or "unnamed"
    standing = settle(database, here.hardware(), given=config.device_id, derived=derived, key=key)
    if standing.refusal is not None and mqtt is not None:
        log.error("%s", objection(standing))
    return standing


def settle(database: Database, hardware: Hardware, *, given: str | None, derived: str, key: str | None) -> Standing:
    """Return what this machine is to the state, which it takes over where it may.

    Args: given: the configured name, None to derive it. derived: the name this machine derives. key: see ``Holder``.
    Raises: StorageError.
    """
    found = read_holder(database)
    if found is None or not hardware.differs(found.hardware):
        name = given or (found.name if found is not None and not found.given else derived)
        now = Holder(hardware=_known(hardware, found), name=name, given=given is not None, key=key)
        if now != found:
            write_holder(database, now)
        return Standing(name=name)
    mine = given or derived
    if mine == found.name or (key is not None and key == found.key):
        return Standing(name=mine, refusal=NOT_OURS.format(name=found.name))
    with database.transaction() as connection:
        forget(connection)
        _put(connection, Holder(hardware=hardware, name=mine, given=given is not None, key=key))
    return Standing(name=mine, taken_from=found.name)


def read_holder(database: Database) -> Holder | None:
    """Return whose the state is, None where nobody has said. Raises: StorageError."""
    database.ensure(_TABLES)
    rows = database.rows("SELECT document FROM holder")
    try:
        return msgspec.json.decode(rows[0]["document"], type=Holder) if rows else None
    except msgspec.DecodeError as error:
        log.warning("whose this state is cannot be read, and is recorded anew: %s", error)
        return None


def write_holder(database: Database, holder: Holder) -> None:
    """Record whose the state is. Raises: StorageError."""
    database.ensure(_TABLES)
    with database.transaction() as connection:
        _put(connection, holder)


def forget(connection: sqlite3.Connection) -> None:
    """Drop within the caller's transaction all that was said, ordered or measured here, and whose it was."""
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    for (name,) in [tuple(row) for row in rows]:
        if name not in KEPT:
            connection.execute(f'DROP TABLE "{name}"')


def _put(connection: sqlite3.Connection, holder: Holder) -> None:
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute("INSERT OR REPLACE INTO holder VALUES (1, ?)", (msgspec.json.encode(holder),))


def _known(hardware: Hardware, found: Holder | None) -> Hardware:
    """Return the hardware with what is not readable now as it was recorded."""
    if found is None:
        return hardware
    return Hardware(serial=hardware.serial or found.hardware.serial, machine=hardware.machine or found.hardware.machine)


def objection(standing: Standing) -> ConfigError | None:
    """Return why this machine must not speak, None where it may."""
    return None if standing.refusal is None else ConfigError(standing.refusal, fix=FIX)
