"""Makes a later version of what an unpacked package holds, for the tests of upgrades: ``later.py SITE-PACKAGES``.

What changes is what a release changes: the number, something that a person sees (``status`` names the version), and the
format of the state: a column gets another name, so that the version before would misread the file and must refuse it.
Every edit must find its place exactly once; prints the new number.
"""

import re
import sys
from pathlib import Path

STEP = '''
def _from_1(connection: sqlite3.Connection) -> None:
    """Made by a test: a column under another name."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'scheduled'").fetchone():
        connection.execute("ALTER TABLE scheduled RENAME COLUMN ran_at TO last_at")


'''


def edits(version: str, later: str) -> list[tuple[str, str, str]]:
    """Return file, what stands there, and what takes its place."""
    return [
        ("__init__.py", f'__version__ = "{version}"', f'__version__ = "{later}"'),
        ("database.py", "\n#: ``STEPS[n]`` takes", STEP + "#: ``STEPS[n]`` takes"),
        ("database.py", "] = (_from_0,)\n", "] = (_from_0, _from_1)\n"),
        (
            "records.py",
            "(name TEXT PRIMARY KEY, ran_at TEXT NOT NULL)",
            "(name TEXT PRIMARY KEY, last_at TEXT NOT NULL)",
        ),
        ("records.py", 'row["ran_at"] for row', 'row["last_at"] for row'),
        ("records.py", "SELECT name, ran_at FROM scheduled", "SELECT name, last_at FROM scheduled"),
        (
            "verbs/views.py",
            '    console.line(f"Board: {',
            '    console.line(f"Version: {__version__}")\n    console.line(f"Board: {',
        ),
    ]


def make(folder: Path) -> str:
    """Edit ``agent`` in this folder. Returns: the new number. Raises: SystemExit: a place is not what it was."""
    package = folder / "agent"
    found = re.search(r'__version__ = "((\d+)\.(\d+)\.\d+)"', (package / "__init__.py").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit("agent/__init__.py names no version")
    version, later = found[1], f"{found[2]}.{int(found[3]) + 1}.0"
    for name, old, new in edits(version, later):
        path = package / name
        text = path.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise SystemExit(f"later.py: {name} holds {text.count(old)} times: {old.strip()}")
        path.write_text(text.replace(old, new), encoding="utf-8")
    return later


if __name__ == "__main__":
    sys.stdout.write(make(Path(sys.argv[1])) + "\n")
