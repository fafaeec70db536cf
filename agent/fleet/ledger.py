"""What an operator's machine must remember: the last counter used, and the commands sent with what became of them.

Rules:
- A counter is on disk before the command that carries it is sent, so that none is used twice, by two consoles either.
- A counter is at least the present time in milliseconds: a machine that lost this file, or a second one with the same
  key, goes on above what boards have seen.
- Of the commands sent the newest ``KEPT`` are remembered.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from agent.core.payloads import Job
from agent.core.ports import Clock
from agent.database import Database
from agent.locks import exclusive

FILE_NAME = "fleet.db"
KEPT = 500
_TABLES = (
    "CREATE TABLE IF NOT EXISTS counter (issuer TEXT PRIMARY KEY, last INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS sent (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
        fleet TEXT NOT NULL, document BLOB NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS answer (id TEXT NOT NULL REFERENCES sent(id) ON DELETE CASCADE, board TEXT NOT NULL,
        revision INTEGER NOT NULL, document BLOB NOT NULL, PRIMARY KEY (id, board))""",
)


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """One command as it went out, to one board or many under one id.

    ``offline``: those of the boards that were away then. ``listening``: answers may still come.
    """

    id: str
    fleet: str
    verb: str
    issuer: str
    address: str
    boards: tuple[str, ...]
    sent_at: str
    until: str
    task: str | None = None
    offline: tuple[str, ...] = ()
    listening: bool = True


class Ledger:
    """The open file of one operator. Raises: StorageError, each method too."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._clock = clock
        self._folder = folder
        self._database = Database(folder / FILE_NAME)
        self._database.ensure(_TABLES)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def turn(self) -> AbstractContextManager[None]:
        """Return a lock that one console holds while it takes counters and sends. Raises, entered: BusyError."""
        return exclusive(self._folder / "fleet.lock", "a console")

    def counters(self, issuer: str, many: int) -> range:
        """Take counters that nobody has used before, all greater than those taken before; on disk on return."""
        now_ms = int(self._clock.utc().timestamp() * 1000)
        with self._database.transaction() as connection:
            row = connection.execute("SELECT last FROM counter WHERE issuer = ?", (issuer,)).fetchone()
            first = max(now_ms, 1 if row is None else int(row["last"]) + 1)
            connection.execute("INSERT OR REPLACE INTO counter VALUES (?, ?)", (issuer, first + many - 1))
        return range(first, first + many)

    def keep(self, sent: Sent) -> None:
        """Remember a command before it goes out; again, to change what is remembered."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO sent (id, fleet, document) VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET document = excluded.document",
                (sent.id, sent.fleet, msgspec.json.encode(sent)),
            )
            connection.execute(
                "DELETE FROM sent WHERE number <= (SELECT MAX(number) FROM sent) - ? AND fleet = ?", (KEPT, sent.fleet)
            )

    def keep_answers(self, jobs: list[Job]) -> None:
        """Remember how jobs stand; an older document of a job changes nothing."""
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO answer VALUES (?, ?, ?, ?) ON CONFLICT (id, board) DO UPDATE SET"
                " revision = excluded.revision, document = excluded.document WHERE excluded.revision > revision",
                [(job.id, job.device, job.revision, msgspec.json.encode(job)) for job in jobs],
            )

    def sent(self, fleet: str, most: int = 20) -> list[Sent]:
        """Return the commands sent to a fleet, the newest first."""
        rows = self._database.rows(
            "SELECT document FROM sent WHERE fleet = ? ORDER BY number DESC LIMIT ?", (fleet, most)
        )
        return [msgspec.json.decode(row["document"], type=Sent) for row in rows]

    def find(self, fleet: str, start: str) -> list[Sent]:
        """Return the commands whose id begins so."""
        pattern = start.replace("_", "").replace("%", "") + "%"
        rows = self._database.rows("SELECT document FROM sent WHERE fleet = ? AND id LIKE ?", (fleet, pattern))
        return [msgspec.json.decode(row["document"], type=Sent) for row in rows]

    def answers(self, command: str) -> list[Job]:
        """Return what boards said last about a command."""
        rows = self._database.rows("SELECT document FROM answer WHERE id = ? ORDER BY board", (command,))
        return [msgspec.json.decode(row["document"], type=Job) for row in rows]
