"""``python -m tests.faults.defects [WORD ...]``: put defects in, one at a time, and print which suite caught which.

Only those with one of the words in their name are tried. Exit code 0: all were caught; 1: one was not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.table import render
from tests.faults.defects.listed import DEFECTS
from tests.faults.defects.trying import Found, UnfitError, try_all

SEED = 7  # pinned: which suites are red is a matter of what they try
HEADS = ("defect", "caught by", "s")


def tell(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()


def caught_by(one: Found) -> str:
    """Return a defect's test, its file first; or why there is none."""
    if one.by is None:
        return f"NOT CAUGHT: {one.said}"
    return f"{one.defect.suite[0].removeprefix('tests/')}: {one.by.partition('[')[0]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.defects", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of what the suites try ({SEED})")
    parser.add_argument("--markdown", action="store_true", help="print the table for docs/figures/faults.md")
    given = parser.parse_args()
    wanted = [one for one in DEFECTS if not given.words or any(word in one.name for word in given.words)]
    if not wanted:
        parser.error("no defect has such a word in its name")
    with tempfile.TemporaryDirectory(prefix="boardfit-defects-", ignore_cleanup_errors=True) as folder:
        try:
            found = try_all(wanted, Path(folder), seed=given.seed, tell=tell)
        except UnfitError as error:
            sys.stderr.write(f"the list is out of date: {error}\n")
            return 1
    rows = [(one.defect.name, caught_by(one), f"{one.took_s:.0f}") for one in found]
    caught = sum(one.by is not None for one in found)
    sys.stdout.write(f"{render(HEADS, rows, markdown=given.markdown, left=2)}\n\n")
    sys.stdout.write(f"{caught} of {len(found)} caught, seed {given.seed}\n")
    return 0 if caught == len(found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
