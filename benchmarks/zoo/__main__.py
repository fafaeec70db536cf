"""Make and publish the bundled candidates from ``recipe.yaml``; see ``README.md`` beside this file."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from benchmarks.zoo.data import write_packs
from benchmarks.zoo.publish import publish
from benchmarks.zoo.table import write_table

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Write the packs, make every candidate of the recipe, publish them, write the table.

    What is finished is kept in ``recipe.work``: another run goes on from there.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=main.__doc__)
    parser.add_argument("--jobs", type=int, metavar="N", help="steps at a time (default: by cores and memory)")
    options = parser.parse_args()
    started = time.monotonic()
    write_packs(HERE / "packs")
    more = () if options.jobs is None else ("--jobs", str(options.jobs))
    results = publish(HERE / "recipe.yaml", HERE / "registry", HERE / "demo-keys", more=more)
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_table(HERE / "README.md", results)
    print(f"{len(results['candidates'])} candidates published ({time.monotonic() - started:.0f} s in all)")


if __name__ == "__main__":
    main()
