"""What a decision costs in device-seconds, and whether it is right: the product and five baselines on the replay bank.

    python benchmarks/replay/score.py [--markdown | --json] [--case TEXT] [--explain] [--draw N]

A case is one decision over 8 to 25 recorded points; every protocol makes it, on the same recorded runs, and is charged
all that it does on the device (see ``protocols``). Right is the pick of an exhaustive protocol over the whole dumps. A
case's score is exhaustive seconds over a protocol's seconds, and 0 where the pick breaks a budget in truth. Near ties
stand apart and are scored by regret: what the pick is worth less than the best. The exit code is 1 if a goal is missed.
The frozen cases are draw 0; what was tuned while looking at them can be asked of another draw from the same bank.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder, whose modules are imported by their full names

from agent.core.decision import Option  # noqa: E402
from benchmarks.replay import bank as recorded  # noqa: E402
from benchmarks.replay.cases import Case, make  # noqa: E402
from benchmarks.replay.protocols import PROTOCOLS, Outcome, key_in, oracle, truth  # noqa: E402
from benchmarks.table import render  # noqa: E402

GOALS = {"oracle": 0.95, "infeasible": 0, "over_exhaustive": 200.0, "of_fixed": 0.2}
WORST_OF_FIXED = 1.2  # stated, and no reason to fail


class Result(NamedTuple):
    """One protocol in one case."""

    case: Case
    protocol: str
    outcome: Outcome
    exhaustive_s: float
    fixed_s: float
    right: bool  # what the oracle picks, nothing included
    feasible: bool  # meets every budget in truth; so does picking nothing
    regret: float | None  # relative, of the first objective; None where one of both picks is nothing

    @property
    def score(self) -> float:
        """Exhaustive seconds over this protocol's, 0 for an infeasible pick."""
        return self.exhaustive_s / self.outcome.device_s if self.feasible else 0.0


def play(case: Case, protocols: Sequence[str]) -> list[Result]:
    """Let protocols decide one case."""
    outcomes = {name: PROTOCOLS[name](case) for name in {*protocols, "exhaustive", "fixed-50"}}
    best = oracle(case)
    options = {key_in(case, option): option for option in truth(case).options}
    return [
        Result(
            case, name, outcomes[name], outcomes["exhaustive"].device_s, outcomes["fixed-50"].device_s,
            right=outcomes[name].pick == best, feasible=_feasible(outcomes[name].pick, options),
            regret=_regret(case, outcomes[name].pick, best, options),
        )
        for name in protocols
    ]  # fmt: skip


def _feasible(pick: str | None, options: dict[str, Option]) -> bool:
    return pick is None or options[pick].standing == "fits"


def _regret(case: Case, pick: str | None, best: str | None, options: dict[str, Option]) -> float | None:
    """Return how much worse the pick's first objective is, relative to the best's; 0 where both are nothing."""
    if pick == best:
        return 0.0
    if pick is None or best is None:
        return None
    metric = case.objectives[0].metric
    mine, theirs = options[pick].estimates[metric].value, options[best].estimates[metric].value
    if mine is None or theirs is None or theirs == 0:
        return None
    return (theirs - mine if case.objectives[0].direction == "maximize" else mine - theirs) / abs(theirs)


def geometric_mean(values: Sequence[float]) -> float:
    """Return it; 0 as soon as one value is."""
    return math.exp(sum(math.log(value) for value in values) / len(values)) if values and min(values) > 0 else 0.0


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Return the figures of one protocol over its cases."""
    of_fixed = [result.outcome.device_s / result.fixed_s for result in results]
    worst = max(results, key=lambda result: result.outcome.device_s / result.fixed_s)
    return {
        "cases": len(results),
        "oracle": sum(result.right for result in results) / len(results),
        "infeasible": sum(not result.feasible for result in results),
        "median_s": median(result.outcome.device_s for result in results),
        "over_exhaustive": geometric_mean([result.score for result in results]),
        "of_fixed": geometric_mean(of_fixed),
        "worst_of_fixed": max(of_fixed),
        "worst_case": worst.case.name,
        "measured": sum(result.outcome.measured for result in results) / sum(len(r.case.entries) for r in results),
    }


def near_summary(results: Sequence[Result]) -> dict[str, Any]:
    """Return the figures of one protocol over the near ties."""
    regrets = [result.regret for result in results if result.regret is not None and result.feasible]
    worse = [regret for regret in regrets if regret > 0]
    return {
        "cases": len(results),
        "infeasible": sum(not result.feasible for result in results),
        "right": sum(result.right for result in results),
        "worse": len(worse),
        "worse_regret": median(worse) if worse else 0.0,
        "no_pick": sum(result.outcome.pick is None for result in results),
        "median_s": median(result.outcome.device_s for result in results),
    }


def missed(figures: dict[str, Any]) -> list[str]:
    """Return the goals that the product misses, as sentences."""
    found = []
    if figures["oracle"] < GOALS["oracle"]:
        found.append(f"oracle picks {figures['oracle']:.1%}, goal {GOALS['oracle']:.0%}")
    if figures["infeasible"] > GOALS["infeasible"]:
        found.append(f"{figures['infeasible']} infeasible picks, goal {GOALS['infeasible']}")
    if figures["over_exhaustive"] < GOALS["over_exhaustive"]:
        found.append(f"exhaustive / product {figures['over_exhaustive']:.0f}, goal {GOALS['over_exhaustive']:.0f}")
    if figures["of_fixed"] > GOALS["of_fixed"]:
        found.append(f"product / fixed-50 {figures['of_fixed']:.2f}, goal {GOALS['of_fixed']:.2f}")
    return found


def table(results: dict[str, list[Result]], *, markdown: bool) -> str:
    heads = (
        "protocol", "oracle picks", "infeasible", "median s", "exhaustive / it", "it / fixed-50", "worst / fixed-50",
        "points started", "near ties: infeasible", "near ties: regret (median)",
    )  # fmt: skip
    body = []
    for name, found in results.items():
        main, near = [r for r in found if not r.case.near_tie], [r for r in found if r.case.near_tie]
        row, ties = summary(main), near_summary(near) if near else None
        body.append([
            name, f"{row['oracle']:.1%}", str(row["infeasible"]), f"{row['median_s']:.1f}",
            "0" if row["infeasible"] else f"{row['over_exhaustive']:.0f}", f"{row['of_fixed']:.2f}",
            f"{row['worst_of_fixed']:.2f}", f"{row['measured']:.0%}",
            *(("–", "–") if ties is None else (f"{ties['infeasible']} of {ties['cases']}", _regrets(ties))),
        ])  # fmt: skip
    return render(heads, body, markdown=markdown)


def _regrets(ties: dict[str, Any]) -> str:
    return f"{ties['worse']} worse, by {ties['worse_regret']:.0%}" if ties["worse"] else "none worse"


def kinds_table(results: Sequence[Result], *, markdown: bool) -> str:
    """Return the product's figures by kind of case."""
    heads = (
        "kind of case", "cases", "oracle picks", "infeasible", "median s", "exhaustive / product", "product / fixed-50",
    )  # fmt: skip
    body = []
    for kind in dict.fromkeys(result.case.kind for result in results):
        row = summary([result for result in results if result.case.kind == kind])
        body.append([
            kind, str(row["cases"]), f"{row['oracle']:.0%}", str(row["infeasible"]), f"{row['median_s']:.1f}",
            f"{row['over_exhaustive']:.0f}", f"{row['of_fixed']:.2f}",
        ])  # fmt: skip
    return render(heads, body, markdown=markdown)


def conclusion(figures: dict[str, Any], about: dict[str, Any], spent_s: float) -> str:
    said = "; ".join(missed(figures)) or "all goals met"
    return (
        f"The product against its goals (95 % oracle picks, no infeasible pick, 200, 0.20): {said}.\n"
        f"Worst case: {figures['worst_of_fixed']:.2f} of fixed-50 (goal {WORST_OF_FIXED}), {figures['worst_case']}.\n"
        f"Recorded {about['recorded_on']} on {about['machine']}; power is declared, throttled and bimodal dumps are "
        f"simulated by stopping the process, sizes and accuracies are drawn where the case says so. "
        f"Played in {spent_s:.0f} s; a replay has no noise floor: the same bank gives the same figures."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="device-seconds and right picks on the replay bank")
    parser.add_argument("--bank", type=Path, default=recorded.FOLDER)
    parser.add_argument("--case", help="only cases whose name contains this")
    parser.add_argument("--protocol", action="append", choices=tuple(PROTOCOLS), help="default: all")
    parser.add_argument("--draw", type=int, default=0, metavar="N", help="other cases of the same kinds (default: 0)")
    parser.add_argument("--explain", action="store_true", help="one line for every case that is not right")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true", help="the tables for the README")
    options = parser.parse_args()
    begin = time.monotonic()
    loaded = recorded.load(options.bank)
    cases = [case for case in make(loaded, options.draw) if not options.case or options.case in case.name]
    names = tuple(options.protocol or PROTOCOLS)
    played = [play(case, names) for case in cases]
    results = {name: [row[place] for row in played] for place, name in enumerate(names)}
    first = [result for result in results[names[0]] if not result.case.near_tie]
    if options.explain:
        explain([result for found in results.values() for result in found])
    if not first:
        return 0
    figures = summary(first)
    if options.json:
        rows = {name: summary([r for r in found if not r.case.near_tie]) for name, found in results.items()}
        print(json.dumps({"schema": "boardfit.replay-score/1", "rows": rows}, indent=1))
    else:
        print(table(results, markdown=options.markdown) + "\n")
        print(kinds_table(first, markdown=options.markdown) + "\n")
        print(f"Draw {options.draw} of the cases." + (" It was not looked at while tuning." if options.draw else ""))
        print(conclusion(figures, loaded.about, time.monotonic() - begin))
    return 1 if missed(figures) else 0


def explain(results: Sequence[Result]) -> None:
    """Say of every case that is not right, and of the dear ones, what was picked."""
    for result in results:
        ratio = result.outcome.device_s / result.fixed_s
        if result.right and result.feasible and ratio < 0.5:
            continue
        print(
            f"{result.protocol:14} {result.case.name:28} {'right' if result.right else 'WRONG'}"
            f"{'' if result.feasible else ' INFEASIBLE'}  {result.outcome.device_s:.2f} s, {ratio:.2f} of fixed-50, "
            f"{result.outcome.measured} of {len(result.case.entries)} started\n"
            f"    picked {result.outcome.pick}\n    oracle {oracle(result.case)}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    raise SystemExit(main())
