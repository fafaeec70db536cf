"""One command on a disk that is written down, noting after every commit how far the disk had come and what was stored.

``python -m tests.faults.storage.acknowledging LOG NOTES WORD...``. NOTES gets a line of JSON for each commit:
``[bytes of LOG, what is stored]``; and one at the end. What is noted was acknowledged: no power cut may take it back.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.database import Database
from tests.faults.storage.ground import stand_in

_KEPT = {
    "deployment_journal": "SELECT task, phase, writes, release, restore_current, restore_previous, outcome FROM {}",
    "deployment_failures": "SELECT task, artifact_sha256, failures FROM {}",
    "decision": "SELECT id FROM {} ORDER BY number",
    "measurement": "SELECT id FROM {} ORDER BY rowid",
    "outbox": "SELECT seq, topic, rank FROM {} ORDER BY seq",
    "holder": "SELECT document FROM {}",
}


def stored(connection: sqlite3.Connection) -> str:
    """Return what is stored and may not be lost, as text that can be compared."""
    known = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    found = {
        table: [[_text(one) for one in row] for row in connection.execute(query.format(table))]
        for table, query in _KEPT.items()
        if table in known
    }
    return json.dumps({name: rows for name, rows in found.items() if rows})


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


def acknowledge(notes: Path, passed: Callable[[], int]) -> Callable[[sqlite3.Connection], None]:
    """Note what is stored after every commit of this process. Args: passed: says how far the disk has come.

    Returns: what notes it once more.
    """
    kept = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def note(connection: sqlite3.Connection) -> None:
        os.write(kept, json.dumps([passed(), stored(connection)]).encode() + b"\n")  # one call, which may be counted

    commit = Database.transaction

    @contextmanager
    def acknowledged(self: Database, *, essential: bool = True) -> Iterator[sqlite3.Connection]:
        with commit(self, essential=essential) as connection:
            yield connection
        note(connection)

    Database.transaction = acknowledged  # type: ignore[method-assign]
    return note


def main(log: Path, notes: Path, words: list[str]) -> int:
    note = acknowledge(notes, lambda: os.stat(log).st_size)
    code = stand_in()(words)
    with sqlite3.connect(words[words.index("--state-dir") + 1] + "/boardfit.db") as connection:
        note(connection)
    return code


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
