"""Rollouts on the operator's disk: their state, and every transition as a row.

Rules:
- A state is on disk before the orders that follow from it are sent: after a kill in between, the stored state asks for
  the same orders again, under the same job ids.
- A change is made from what is stored, in one transaction: another process may pause or abort a rollout meanwhile.
- Of one task of a fleet one rollout is open at a time; a newer one takes its place only when that is said.
- What happened is never rewritten: each change of a board's phase or order, of a wave and of the whole is a row.

Leaves what a transition is to ``agent.fleet.rollout``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from agent.database import Database
from agent.errors import BusyError, ConfigError
from agent.fleet.ledger import FILE_NAME
from agent.fleet.rollout import ENDED, Rollout, Track, supersede
from agent.fleet.rollout_board import Board, Order

_TABLES = (
    """CREATE TABLE IF NOT EXISTS rollout (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
        fleet TEXT NOT NULL, task TEXT NOT NULL, status TEXT NOT NULL, version INTEGER NOT NULL,
        document BLOB NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS rollout_board (rollout TEXT NOT NULL REFERENCES rollout(id) ON DELETE CASCADE,
        board TEXT NOT NULL, document BLOB NOT NULL, PRIMARY KEY (rollout, board)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS rollout_event (number INTEGER PRIMARY KEY AUTOINCREMENT,
        rollout TEXT NOT NULL REFERENCES rollout(id) ON DELETE CASCADE, at REAL NOT NULL, subject TEXT NOT NULL,
        before TEXT, after TEXT NOT NULL, reason TEXT, verb TEXT, job TEXT)""",
    "CREATE INDEX IF NOT EXISTS rollout_event_of ON rollout_event (rollout, number)",
)
#: A change: from the stored state to the next one and the orders that follow from it.
Change = Callable[[Rollout], tuple[Rollout, tuple[Order, ...]]]


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the history. ``subject``: a board, ``track <name>``, or ``rollout``. ``at``: seconds since 1970."""

    at: float
    subject: str
    after: str
    before: str | None = None
    reason: str | None = None
    verb: str | None = None
    job: str | None = None


class RolloutStore:
    """The rollouts of one operator's folder; the file is the ledger's. Raises: StorageError, each method too."""

    def __init__(self, folder: Path) -> None:
        self._database = Database(folder / FILE_NAME)
        self._database.ensure(_TABLES)
        self._cached: dict[str, tuple[int, Rollout]] = {}

    def __enter__(self) -> RolloutStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def create(self, rollout: Rollout, *, in_place: bool = False) -> list[Rollout]:
        """Store a new rollout. Args: in_place: an open one of the task is superseded by it.

        Returns: those superseded. Raises: BusyError: there is an open one and ``in_place`` is not asked for.
        """
        spec, superseded = rollout.spec, []
        with self._database.transaction() as connection:
            rows = connection.execute(
                "SELECT id, status FROM rollout WHERE fleet = ? AND task = ?", (rollout.fleet, spec.task)
            ).fetchall()
            for row in [one for one in rows if one["status"] not in ENDED]:
                if not in_place:
                    raise BusyError(
                        f"{row['id']} of {spec.task} has not ended",
                        fix=f"`boardfit fleet rollout abort {row['id']}`, or start with --supersede",
                    )
                version, older = self._load(connection, row["id"])
                superseded.append(supersede(older, rollout.id))
                self._write(connection, older, superseded[-1], version, rollout.created_at)
            connection.execute(
                "INSERT INTO rollout (id, fleet, task, status, version, document) VALUES (?, ?, ?, ?, 0, ?)",
                (rollout.id, rollout.fleet, spec.task, rollout.status, _header(rollout)),
            )
            self._save_boards(connection, rollout, rollout.boards.values())
            started = Transition(at=rollout.created_at, subject="rollout", after=rollout.status, reason=rollout.reason)
            self._note(connection, rollout.id, [started])
        return superseded

    def load(self, rollout: str) -> Rollout:
        """Return a rollout by its id."""
        with self._database.transaction() as connection:
            return self._load(connection, rollout)[1]

    def change(self, rollout: str, change: Change, at: float) -> tuple[Rollout, tuple[Order, ...]]:
        """Carry out a change on what is stored; on disk on return. Returns: the new state, and the orders to send."""
        with self._database.transaction() as connection:
            version, before = self._load(connection, rollout)
            after, orders = change(before)
            if after == before:
                return before, orders  # the very same one: that nothing has changed is seen by it
            self._write(connection, before, after, version, at)
        return after, orders

    def newest(self, fleet: str, most: int = 20) -> list[Rollout]:
        """Return the rollouts of a fleet, the newest first."""
        rows = self._database.rows("SELECT id FROM rollout WHERE fleet = ? ORDER BY number DESC LIMIT ?", (fleet, most))
        return [self.load(row["id"]) for row in rows]

    def find(self, fleet: str, start: str | None) -> Rollout:
        """Return the rollout whose id begins so; None: the newest one. Raises: ConfigError: none, or several."""
        rows = self._database.rows("SELECT id FROM rollout WHERE fleet = ? ORDER BY number DESC", (fleet,))
        found = [row["id"] for row in rows if start is None or row["id"].startswith(start)]
        if start is None:
            found = found[:1]
        if len(found) == 1:
            return self.load(found[0])
        if start is None:
            raise ConfigError(
                f"no rollout was started for {fleet} from here", fix="see `boardfit fleet rollout --help`"
            )
        problem = f"no rollout begins with {start!r}" if not found else f"{start!r} begins several rollouts"
        raise ConfigError(problem, fix="see `boardfit fleet rollout status`")

    def history(self, rollout: str) -> list[Transition]:
        """Return all that has happened, in its order."""
        rows = self._database.rows(
            "SELECT at, subject, before, after, reason, verb, job FROM rollout_event WHERE rollout = ? ORDER BY number",
            (rollout,),
        )
        return [Transition(**dict(row)) for row in rows]

    def last(self, rollout: str, most: int) -> tuple[list[Transition], int]:
        """Return the newest transitions in their order, and how many came before them."""
        rows = self._database.rows(
            "SELECT at, subject, before, after, reason, verb, job FROM rollout_event WHERE rollout = ?"
            " ORDER BY number DESC LIMIT ?",
            (rollout, most),
        )
        (count,) = self._database.rows("SELECT count(*) AS n FROM rollout_event WHERE rollout = ?", (rollout,))
        return [Transition(**dict(row)) for row in reversed(rows)], int(count["n"]) - len(rows)

    def ids(self, fleet: str) -> list[str]:
        """Return the ids of all rollouts of a fleet that were started from here."""
        return [row["id"] for row in self._database.rows("SELECT id FROM rollout WHERE fleet = ?", (fleet,))]

    def _load(self, connection: sqlite3.Connection, rollout: str) -> tuple[int, Rollout]:
        row = connection.execute("SELECT version, document FROM rollout WHERE id = ?", (rollout,)).fetchone()
        if row is None:
            raise ConfigError(f"there is no rollout {rollout}", fix="see `boardfit fleet rollout status`")
        version = int(row["version"])
        known = self._cached.get(rollout)
        if known is not None and known[0] == version:
            return known
        header = msgspec.json.decode(row["document"], type=Rollout)
        rows = connection.execute("SELECT board, document FROM rollout_board WHERE rollout = ?", (rollout,))
        decoder = msgspec.json.Decoder(Board)
        boards = {one["board"]: decoder.decode(one["document"]) for one in rows}
        self._cached[rollout] = found = (version, msgspec.structs.replace(header, boards=boards))
        return found

    def _write(self, connection: sqlite3.Connection, before: Rollout, after: Rollout, version: int, at: float) -> None:
        old = before.boards
        changed = [b for name, b in after.boards.items() if (was := old.get(name)) is not b and was != b]
        self._save_boards(connection, after, changed)
        connection.execute(
            "UPDATE rollout SET status = ?, version = ?, document = ? WHERE id = ?",
            (after.status, version + 1, _header(after), after.id),
        )
        self._note(connection, after.id, list(_transitions(before, after, changed, at)))
        self._cached[after.id] = (version + 1, after)

    @staticmethod
    def _save_boards(connection: sqlite3.Connection, rollout: Rollout, boards: Iterable[Board]) -> None:
        connection.executemany(
            "INSERT OR REPLACE INTO rollout_board VALUES (?, ?, ?)",
            [(rollout.id, board.name, msgspec.json.encode(board)) for board in boards],
        )

    @staticmethod
    def _note(connection: sqlite3.Connection, rollout: str, made: list[Transition]) -> None:
        connection.executemany(
            "INSERT INTO rollout_event (rollout, at, subject, before, after, reason, verb, job)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(rollout, one.at, one.subject, one.before, one.after, one.reason, one.verb, one.job) for one in made],
        )


def _transitions(before: Rollout, after: Rollout, changed: list[Board], at: float) -> Iterator[Transition]:
    for board in changed:
        old = before.boards[board.name]
        ordered = board.job if board.job != old.job else None
        if (old.phase, old.kind) != (board.phase, board.kind) or ordered is not None:
            yield Transition(
                at=at, subject=board.name, before=old.phase, after=board.phase, reason=board.reason,
                verb=board.verb if ordered else None, job=ordered,
            )  # fmt: skip
    for name, track in after.tracks.items():
        was = before.tracks[name]
        if (was.wave, was.done) != (track.wave, track.done):
            yield Transition(at=at, subject=f"track {name}", before=_wave(was), after=_wave(track))
    if (before.status, before.reason) != (after.status, after.reason):
        yield Transition(at=at, subject="rollout", before=before.status, after=after.status, reason=after.reason)


def _wave(track: Track) -> str:
    return "done" if track.done else f"wave {track.wave + 1}"


def _header(rollout: Rollout) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(rollout, boards={}))
