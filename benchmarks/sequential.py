"""How often the test of a p95 budget is wrong, and how many runs it takes. SYNTHETIC latencies.

    python benchmarks/sequential.py [--candidates 2000] [--markdown | --json]

False acceptance: candidates whose true p95 is 0.01 % above the budget, looked at after every run, until a verdict or
2,000 runs, and a last look then (undecided is no acceptance). Beside it, on the same streams: a p95 of the first 50
runs below the budget (litert-benchmark's default), and the exact binomial table of independent runs (59 without an
exceedance, 93 with one, ...) looked at after every run. Runs to a verdict: candidates whose p95 is 1.5 times and 0.8
times the budget.

Stated and gated are false acceptance under every memory (none, and three of lag-1 correlation 0.5), and the runs of
distributions without stalls: to reject under every memory, to accept without memory, as dependent runs are worth less.
The others are shown. Exit status 1 where false acceptance is above 5 %, the median runs to reject above 5 or to accept
above 80.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.core.sequential import QuantileTest  # noqa: E402
from agent.core.statistics import binomial_cdf, percentile, proportion_interval  # noqa: E402
from benchmarks.synthetic_latencies import MEMORIES, SHAPES, Q, Shape, ranks  # noqa: E402
from benchmarks.table import render  # noqa: E402

RHO = 0.5
JUST_ABOVE = 1.0001
HORIZON_RUNS = 2000
MOST_FALSE, MOST_TO_REJECT, MOST_TO_ACCEPT = 0.05, 5, 80
ALPHA = 0.05


class Wrong(NamedTuple):
    """Which rules accepted one candidate that is just above the budget."""

    tested: bool
    fifty: bool
    table: bool
    runs: int


@cache
def independent_table(most: int = 60) -> tuple[int, ...]:
    """Return the least n at which k exceedances prove the quantile, for independent runs looked at once."""
    needed, n = [], 1
    for k in range(most):
        while binomial_cdf(k, n, 1.0 - Q) > ALPHA:
            n += 1
        needed.append(n)
    return tuple(needed)


def just_above(shape: Shape, memory: str, seed: int, horizon: int = HORIZON_RUNS) -> Wrong:
    """Run all rules on one stream whose true p95 is 0.01 % above the budget."""
    stream = ranks(memory, RHO, random.Random(seed))
    test, limit = QuantileTest(Q, 1.0 / JUST_ABOVE), 1.0 / JUST_ABOVE
    needed = independent_table()
    first: list[float] = []
    exceedances, table = 0, False
    for n, rank in enumerate(islice(stream, horizon), start=1):
        value = shape.quantile(rank)
        if n <= 50:
            first.append(value)
        exceedances += value > limit
        table = table or (exceedances < len(needed) and n >= needed[exceedances])
        if test.add(value) != "open" and table and n >= 50:
            break
        if test.state == "missed" and n >= 50:
            break  # the table's few late acceptances are left out: that is to its favour
    test.close()
    return Wrong(test.state == "met", percentile(first, Q) <= limit, table, test.n)


def verdict_runs(shape: Shape, memory: str, over_budget: float, seed: int) -> tuple[str, int]:
    """Return the verdict on a candidate whose p95 is ``over_budget`` times the budget, and its runs."""
    test = QuantileTest(Q, 1.0 / over_budget)
    for rank in islice(ranks(memory, RHO, random.Random(seed)), HORIZON_RUNS):
        if test.add(shape.quantile(rank)) != "open":
            break
    return test.close(), test.n


def false_acceptance(memory: str, candidates: int, horizon: int = HORIZON_RUNS) -> dict[str, Any]:
    """Return the row of one memory over synthetic candidates of all distributions in turn."""
    seen = [just_above(SHAPES[i % len(SHAPES)], memory, i, horizon) for i in range(candidates)]
    accepted = sum(one.tested for one in seen)
    interval = proportion_interval(accepted, candidates)
    return {
        "memory": memory,
        "rate": accepted / candidates,
        "low": interval.low,
        "high": interval.high,
        "fifty_rate": sum(one.fifty for one in seen) / candidates,
        "table_rate": sum(one.table for one in seen) / candidates,
        "median_runs": median(one.runs for one in seen),
        "candidates": candidates,
    }


def runs_to_verdict(shape: Shape, memory: str, candidates: int) -> dict[str, Any]:
    slow = [verdict_runs(shape, memory, 1.5, i) for i in range(candidates)]
    fast = [verdict_runs(shape, memory, 0.8, i) for i in range(candidates)]
    return {
        "shape": shape.name,
        "memory": memory,
        "stated_to_reject": shape.narrow,
        "stated_to_accept": shape.narrow and memory == "none",
        "to_reject": median(n for _, n in slow),
        "rejected": sum(state == "missed" for state, _ in slow) / candidates,
        "to_accept": median(n for _, n in fast),
        "accepted": sum(state == "met" for state, _ in fast) / candidates,
    }


def misses(wrong: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return what of the stated figures does not hold."""
    found = [f"memory {row['memory']}: false acceptance {row['rate']:.1%}" for row in wrong if row["rate"] > MOST_FALSE]
    for row in runs:
        if row["stated_to_reject"] and (row["to_reject"] > MOST_TO_REJECT or row["rejected"] < 0.5):
            found.append(f"{row['shape']}, memory {row['memory']}: {row['to_reject']:g} runs to reject")
        if row["stated_to_accept"] and (row["to_accept"] > MOST_TO_ACCEPT or row["accepted"] < 0.5):
            found.append(f"{row['shape']}, memory {row['memory']}: {row['to_accept']:g} runs to accept")
    return found


def stated(row: dict[str, Any]) -> str:
    """Say which figures of a row are held to."""
    if not row["stated_to_reject"]:
        return "shown only"
    return f"<= {MOST_TO_REJECT}, <= {MOST_TO_ACCEPT}" if row["stated_to_accept"] else f"<= {MOST_TO_REJECT}, shown"


def tables(wrong: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]], *, markdown: bool) -> str:
    first = render(
        ("memory", "false acceptance", "95 % interval", "p95 of 50 runs", "table, peeked at", "median runs"),
        [
            [
                row["memory"], f"{row['rate']:.1%}",
                f"{row['low']:.1%} to {row['high']:.1%}", f"{row['fifty_rate']:.0%}", f"{row['table_rate']:.1%}",
                f"{row['median_runs']:g}",
            ]
            for row in wrong
        ],
        markdown=markdown,
    )  # fmt: skip
    second = render(
        ("distribution", "memory", "stated", "runs to reject 1.5x", "rejected", "runs to accept 0.8x", "accepted"),
        [
            [
                row["shape"], row["memory"], stated(row),
                f"{row['to_reject']:g}", f"{row['rejected']:.0%}", f"{row['to_accept']:g}", f"{row['accepted']:.0%}",
            ]
            for row in runs
        ],
        markdown=markdown,
        left=3,
    )  # fmt: skip
    return f"{first}\n\n{second}"


def main() -> int:
    parser = argparse.ArgumentParser(description="errors and runs of the sequential test of a p95")
    parser.add_argument("--candidates", type=int, default=2000, help="just above the budget, a memory (default: 2000)")
    parser.add_argument("--verdicts", type=int, default=100, help="candidates a row of the second table (default: 100)")
    parser.add_argument("--memory", action="append", choices=MEMORIES, help="only this one; may be repeated")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true", help="the tables for the README")
    options = parser.parse_args()
    memories = options.memory or MEMORIES
    wrong = []
    for memory in memories:
        print(f"{options.candidates} candidates, memory {memory} ...", file=sys.stderr, flush=True)
        wrong.append(false_acceptance(memory, options.candidates))
    runs = [runs_to_verdict(shape, memory, options.verdicts) for shape in SHAPES for memory in memories]
    missed = misses(wrong, runs)
    if options.json:
        document = {"schema": "boardfit.sequential/1", "synthetic": True, "wrong": wrong, "runs": runs}
        print(json.dumps({**document, "missed": missed}, indent=1))
        return 1 if missed else 0
    print("SYNTHETIC latencies, seeded.\n")
    print(tables(wrong, runs, markdown=options.markdown))
    print(f"\nLag-1 correlation {RHO}; looked at after every run. Python {platform.python_version()}.")
    print("\n".join(["missed:", *missed]) if missed else "met.")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
