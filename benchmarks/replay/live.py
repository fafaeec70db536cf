"""Three decisions on live models, all by ``boardfit bench``: racing, everything in full, and 50 runs each.

    python benchmarks/replay/live.py [--rounds 1] [--threads 1] [--markdown | --json]

The bundled registry's candidates on this machine. Everything is measured in full once per round
(``bench --exhaustive``: the product's own plan, not MLPerf's minute), and 50 runs each (``measure: {min_runs: 50}``,
sample p95). The budgets of the three cases come from the former, each in a wide gap between two p95s, so that they mean
the same on any machine. Then each case races from an empty state. Device-seconds are what the measurements say they
cost (``duration_s``). The picks are compared under the exhaustive figures: the same, tied with it, or within 5 % of its
objective, which is what two measurements of one point differ by. On a busy machine start it with ``chrt -f 20``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from agent.core.statistics import percentile  # noqa: E402
from agent.resources import demo_registry  # noqa: E402
from agent.site import DEMO_MARKER  # noqa: E402
from benchmarks.table import render  # noqa: E402

SAME_WITHIN = 0.05  # two measurements of one point on one machine differ by as much
FIXED = "{min_runs: 50, min_time: 1 ms, max_time: 60 s, contended: flag, threads: [%s]}"
FULL = "{threads: [%s]}"


class Wish(NamedTuple):
    """One case: which quantile of the p95s is the limit, the other budgets, and the objective."""

    name: str
    quantile: float
    budgets: dict[str, str]
    objective: str


WISHES = (
    Wish("smallest file", 0.35, {}, "minimize size"),
    Wish("most accurate", 0.6, {"size": "512 KiB"}, "maximize accuracy_top1"),
    Wish("fastest", 0.9, {"accuracy_top1": ">= 0.95", "memory_peak": "160 MiB"}, "minimize latency_p95"),
)


class State:
    """A state directory with its configuration."""

    def __init__(self, folder: Path, wish: Wish | None, limit_s: float, measure: str) -> None:
        folder.mkdir()
        (folder / DEMO_MARKER).touch()
        budgets = {"latency_p95": f"{limit_s * 1e3:.4g} ms", **(wish.budgets if wish else {})}
        document = {
            "registry": {"url": str(demo_registry()), "root": f"{demo_registry()}/root.json"},
            "device": {"id": "this-machine"},
            "tasks": {"digits": {"budgets": budgets, "objective": [wish.objective if wish else "minimize size"]}},
        }
        self._folder = folder
        text = json.dumps(document)[:-1] + f', "measure": {measure}}}'  # YAML reads JSON
        (folder / "agent.yaml").write_text(text)

    def run(self, *arguments: str) -> dict[str, Any]:
        """Call a verb and return its document. Raises: SystemExit: it failed."""
        where = ["--config", str(self._folder / "agent.yaml"), "--state-dir", str(self._folder)]
        command = [sys.executable, "-m", "agent", *arguments, *where, "--json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 3):
            raise SystemExit(f"{' '.join(command[1:])}: {done.stderr[-2000:]}")
        document: dict[str, Any] = json.loads(done.stdout)
        return document


def measured(state: State, *arguments: str) -> list[dict[str, Any]]:
    """Let ``bench`` run. Returns: its measurements."""
    document = state.run("bench", *arguments)
    found: list[dict[str, Any]] = document["measurements"]
    return found


def picked(decision: dict[str, Any]) -> str | None:
    decision = decision.get("decisions", [decision])[0]
    winner = decision["winner"]
    return None if winner is None else name_of(winner)


def name_of(thing: dict[str, Any]) -> str:
    point = thing["point"]
    return f"{thing['candidate']} {point['engine']}/{point['provider']} x{point['threads']}"


def seconds(measurements: list[dict[str, Any]]) -> float:
    return sum(float(measurement["duration_s"]) for measurement in measurements)


def clear_limit(p95s: list[float], quantile: float) -> float:
    """Return a limit near a quantile, in the widest gap among its neighbours."""
    ordered = sorted(p95s)
    place = int(quantile * (len(ordered) - 1))
    gaps = range(max(0, place - 4), min(len(ordered) - 1, place + 5))
    widest = max(gaps, key=lambda i: ordered[i + 1] / ordered[i])
    return (ordered[widest] * ordered[widest + 1]) ** 0.5


def by_sample(measurements: list[dict[str, Any]], wish: Wish, limit_s: float) -> str | None:
    """Return what a person would pick who takes 50 runs' p95 for the true one."""
    fit = []
    for m in measurements:
        if m["verdict"] != "ok" or m["latency"] is None:
            continue
        if percentile(list(m["latencies_s"][:50]), 0.95) > limit_s:
            continue
        if "size" in wish.budgets and m["size_bytes"] > 512 * 1024:
            continue
        top1 = m["accuracy"]["top1"]["value"] if m["accuracy"] else 0.0
        if "accuracy_top1" in wish.budgets and top1 < 0.95:
            continue
        if "memory_peak" in wish.budgets and m["memory"]["admission_peak_bytes"] > 160 << 20:
            continue
        worth = {
            "minimize size": m["size_bytes"], "maximize accuracy_top1": -top1,
            "minimize latency_p95": percentile(list(m["latencies_s"][:50]), 0.95),
        }[wish.objective]  # fmt: skip
        fit.append((worth, m["size_bytes"], name_of(m)))
    return min(fit)[2] if fit else None


def round_of(folder: Path, threads: str) -> list[dict[str, Any]]:
    """Play all three cases once. Returns: a row for each."""
    everything = State(folder / "exhaustive", None, 1.0, FULL % threads)
    full = measured(everything, "--exhaustive")
    fifty = measured(State(folder / "fifty", None, 1.0, FIXED % threads), "--exhaustive")
    p95s = [m["latency"]["p95_s"]["value"] for m in full if m["verdict"] == "ok" and m["latency"]]
    if len(p95s) < len(full) // 2:
        raise SystemExit(f"withheld: {len(p95s)} of {len(full)} points gave a figure; this machine is too busy")
    mlperf_s = sum(max(0.0, 60.0 - 0.5) for m in full if m["verdict"] == "ok")
    rows = []
    for wish in WISHES:
        limit_s = clear_limit(p95s, wish.quantile)
        raced = State(folder / wish.name.replace(" ", "-"), wish, limit_s, FULL % threads)
        ours = measured(raced)
        own = picked(raced.run("select"))
        budgets = {"latency_p95": f"{limit_s * 1e3:.4g} ms", **wish.budgets}
        arguments = [f"--budget={name}{value if value[0] == '>' else '<=' + value}" for name, value in budgets.items()]
        reference = everything.run("select", *arguments, f"--objective={wish.objective}")
        rows.append({
            "case": wish.name, "limit_s": limit_s, "pick": own, "exhaustive_pick": picked(reference),
            "fixed_pick": by_sample(fifty, wish, limit_s), "started": len(ours), "points": len(full),
            "standing": standing(reference, own), "product_s": seconds(ours), "exhaustive_s": seconds(full),
            "fixed_s": seconds(fifty), "mlperf_s": seconds(full) + mlperf_s,
        })  # fmt: skip
    return rows


def standing(reference: dict[str, Any], pick: str | None) -> str:
    """Say how the exhaustive figures see a pick: the same, tied with it, or what keeps it out."""
    reference = reference.get("decisions", [reference])[0]
    if pick == picked(reference):
        return "the same"
    option = next((o for o in reference["options"] if name_of(o) == pick), None)
    if option is None:
        return "not measured"
    if option["tied_with_winner"]:
        return "tied with it"
    if option["standing"] != "fits":
        return str(option["standing"])
    metric = reference["objectives"][0]["metric"]
    best = next(o for o in reference["options"] if o["rank"] == 1)
    off = abs(option["estimates"][metric]["value"] / best["estimates"][metric]["value"] - 1.0)
    return f"{metric} within {SAME_WITHIN:.0%}" if off <= SAME_WITHIN else f"{metric} off by {off:.0%}"


def main() -> int:
    parser = argparse.ArgumentParser(description="racing on live models beside everything in full and 50 runs each")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", default="1", help="thread counts, as in the configuration (default: %(default)s)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true", help="the table for the README")
    options = parser.parse_args()
    begin, load = time.monotonic(), os.getloadavg()[0]
    rows = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="boardfit-live-") as folder:
            rows += round_of(Path(folder), options.threads)
    if options.json:
        print(json.dumps({"schema": "boardfit.live-racing/1", "load_1min": load, "rows": rows}, indent=1))
        return 0
    heads = (
        "case",
        "racing s",
        "in full s",
        "fixed-50 s",
        "60 s each, s",
        "measurements",
        "its pick",
        "fixed-50's pick",
    )
    body = [
        [
            row["case"], f"{row['product_s']:.1f}", f"{row['exhaustive_s']:.1f}", f"{row['fixed_s']:.1f}",
            f"{row['mlperf_s']:.0f}", f"{row['started']} for {row['points']} points", row["standing"],
            "the same" if row["fixed_pick"] == row["exhaustive_pick"] else "another",
        ]
        for row in rows
    ]  # fmt: skip
    print(render(heads, body, markdown=options.markdown))
    good = sum(row["standing"] in ("the same", "tied with it") or "within" in row["standing"] for row in rows)
    ratio = median(row["product_s"] / row["fixed_s"] for row in rows)
    print(
        f"\n{good} of {len(rows)} picks are the same as, or not to be told from, those of everything in full; "
        f"racing took {ratio:.2f} of fixed-50 (median). '60 s each' is computed from the measured starts, not run.\n"
        f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} before, {time.monotonic() - begin:.0f} s."
    )
    return 0 if good == len(rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
