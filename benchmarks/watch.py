"""How soon the watch sees a slowdown, and how often it is wrong: synthetic calls, seeded, and said to be synthetic.

    python benchmarks/watch.py [--runs 200] [--hours 24] [--rate 50] [--seed 2026] [--json | --markdown]

Calls are lognormal around 1 ms with the stated spread; the measured p95 is that of 2,000 such calls, a new draw for
each run, as a bench would have it. Reports hold what ended in a second at the stated rate. What is fed is the rule of
`agent.core.watch` itself.

- Slowdowns: from the first call on every call takes 1.2 (1.1, 1.5) times as long. Shown is after how many inferences
  the alarm came: median and 95th percentile over the runs, and how many runs had none in 20,000 inferences.
- Noise: nothing is slower for so many hours at so many calls a second; false alarms are counted. Independent calls,
  those with a lag-1 correlation of 0.5 of their logarithms, and those of which one second in a hundred is 3 times as
  slow.

Exit status 1 where a slowdown of 20 % takes more than `MOST` inferences (95th percentile) at a spread of 0.2 or less,
or independent noise alarms.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent.core.histogram import bucket_of  # noqa: E402
from agent.core.live import LiveReport  # noqa: E402
from agent.core.watch import Watch  # noqa: E402
from benchmarks.table import render  # noqa: E402

MOST = 1500
SPREADS = (0.03, 0.1, 0.2)
SLOWER = (1.1, 1.2, 1.5)
SEEN = 1.2
GIVEN_UP = 20_000
_CALL_NS = 1e6
Draw = np.random.Generator


def calls(draw: Draw, n: int, spread: float, correlation: float = 0.0) -> Any:
    """Return synthetic latencies in nanoseconds; lognormal, logarithms a first-order process."""
    steps = draw.standard_normal(n)
    if correlation:
        root = math.sqrt(1 - correlation**2)
        for index in range(1, n):
            steps[index] = correlation * steps[index - 1] + root * steps[index]
    return _CALL_NS * np.exp(spread * steps)


def measured_p95_s(draw: Draw, spread: float) -> float:
    """Return what a bench would have measured."""
    return float(np.quantile(calls(draw, 2_000, spread), 0.95)) / 1e9


def report(latencies_ns: Any, errors: int = 0) -> LiveReport:
    """Return a second's report of these."""
    counts: dict[int, int] = {}
    for one in latencies_ns:
        index = bucket_of(int(one))
        counts[index] = counts.get(index, 0) + 1
    return LiveReport(
        task="synthetic", release="0" * 64, period_s=1.0, requests=len(latencies_ns), errors=errors,
        latency=tuple(sorted(counts.items())),
    )  # fmt: skip


def seen_after(draw: Draw, spread: float, slower: float, rate: int) -> int | None:
    """Return after how many inferences a slowdown is an alarm, None where it is none."""
    watch = Watch(measured_p95_s(draw, spread), None)
    for number in range(GIVEN_UP // rate):
        change = watch.add(report(calls(draw, rate, spread) * slower))
        if change is not None and change.degraded:
            return (number + 1) * rate
    return None


def false_alarms(draw: Draw, hours: float, rate: int, kind: str) -> int:
    """Return how often nothing is an alarm."""
    spread, found = 0.2, 0
    watch = Watch(measured_p95_s(draw, spread), None)
    for _ in range(int(hours * 3600)):
        some = calls(draw, rate, spread, 0.5 if kind == "correlated" else 0.0)
        if kind == "bursts" and draw.random() < 0.01:
            some = some * 3
        change = watch.add(report(some))
        found += change is not None and change.degraded
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--rate", type=int, default=50)
    parser.add_argument("--seed", type=int, default=2026)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    draw = np.random.default_rng(arguments.seed)
    good = True
    rows: list[tuple[str, ...]] = []
    found: dict[str, Any] = {"seed": arguments.seed}
    for slower in SLOWER:
        for spread in SPREADS:
            taken = [seen_after(draw, spread, slower, arguments.rate) for _ in range(arguments.runs)]
            known = sorted(one if one is not None else GIVEN_UP + 1 for one in taken)
            p50, p95 = known[len(known) // 2], known[math.ceil(0.95 * len(known)) - 1]
            missed = taken.count(None)
            good = good and (slower != SEEN or p95 <= MOST)
            shown = [f"{one}" if one <= GIVEN_UP else "none" for one in (p50, p95)]
            rows.append((f"{slower} times, spread {spread}", *shown, f"{missed} of {len(taken)}"))
            found[f"slower {slower}, spread {spread}"] = {"p50": p50, "p95": p95, "missed": missed}
    print_rows = [(*row, "") for row in rows]
    for kind in ("independent", "correlated", "bursts"):
        count = false_alarms(draw, arguments.hours, arguments.rate, kind)
        good = good and (kind != "independent" or count == 0)
        print_rows.append((f"nothing, {kind}, {arguments.hours:g} h", "", "", "", f"{count}"))
        found[f"false alarms, {kind}"] = count
    if arguments.json:
        print(json.dumps(found))
    else:
        heads = ("synthetic calls", "inferences to the alarm, p50", "p95", "never in 20,000", "false alarms")
        print(render(heads, print_rows, markdown=arguments.markdown))
        print(
            f"\nSYNTHETIC calls, seed {arguments.seed}, {arguments.rate} a second in a report each second; whatever "
            f"the machine. Python {platform.python_version()}.\n{'met' if good else 'missed'}: a slowdown of a fifth "
            f"within {MOST:,} inferences (p95) at a spread of 0.2 or less, no alarm from independent noise."
        )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
