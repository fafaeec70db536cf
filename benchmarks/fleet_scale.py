"""The operator's side with thousands of boards, beside a raw socket and bare paho on the same broker in the same run.

    python benchmarks/fleet_scale.py [--boards 5000] [--rounds 10] [--only command,list] [--json | --markdown]

On one Debian mosquitto with a configuration of its own (``set_tcp_nodelay``, no limit of queued messages). The boards
are simulated: their documents, topics, connections and judging of commands are real, what they measure is made up
(``benchmarks/simulated``). Parts, each alone with ``--only``:

- command: one signed command to all, until the last has answered (``benchmarks/scale/commands.py``)
- state: a restarted operator's process has the whole fleet's state (``state.py``)
- outage: the broker is killed and started again (``state.py``)
- ingest: a collector parses, validates and stores what boards send (``ingest.py``)
- agent: one real agent's answers, and the messages of its pass (``answers.py``)
- list: ``fleet list`` with ``--listed`` boards, and memory per board (``listing.py``)

Figures over a baseline are medians of ratios within interleaved rounds. Exits with 1 when a figure is missed; a verdict
is withheld where the noise is above half the margin.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.scale import answers, commands, ingest, listing, state  # noqa: E402
from benchmarks.scale.ground import Broker, Operators, simulated_fleet  # noqa: E402
from benchmarks.scale.judging import Figure  # noqa: E402
from benchmarks.table import render  # noqa: E402

PARTS = ("command", "state", "outage", "ingest", "agent", "list")
WITH_BOARDS = ("command", "state", "outage")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description="the operator's side with thousands of simulated boards")
    made.add_argument("--boards", type=int, default=5000, help="connected ones (default: %(default)s)")
    made.add_argument("--listed", type=int, default=50_000, help="retained ones of `list` (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=10, help="interleaved rounds (default: %(default)s)")
    made.add_argument("--outages", type=int, default=3, help="how often the broker is killed (default: %(default)s)")
    made.add_argument("--only", default=",".join(PARTS), help="parts, with commas (default: all)")
    form = made.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true", help="the tables for docs/figures")
    return made


def measure(options: argparse.Namespace, wanted: list[str], folder: Path) -> list[Figure]:
    found: list[Figure] = []
    with Broker(folder) as broker:
        operators = Operators(folder, broker)
        if any(part in wanted for part in WITH_BOARDS):
            with simulated_fleet(broker, operators, options.boards) as fleet:
                said(f"{options.boards} simulated boards are online")
                if "command" in wanted:
                    found += commands.measure(broker, fleet, operators, options.boards, options.rounds)
                    said("command")
                if "state" in wanted:
                    found += state.measure_state(broker, operators, options.boards, options.rounds)
                    said("state")
                if "outage" in wanted:
                    found += state.measure_outage(broker, fleet, options.boards, options.outages)
                    said("outage")
            broker.kill()  # and with it what the boards have retained
            broker.start()
        if "ingest" in wanted:
            found += ingest.measure(broker, operators, options.boards, max(3, options.rounds // 3))
            said("ingest")
        if "agent" in wanted:
            broker.kill()  # and the collectors that have told of themselves: a board would wait for their receipts
            broker.start()
            found += answers.measure(broker, operators)
            said("agent")
        if "list" in wanted:
            broker.kill()
            broker.start()
            found += listing.measure(broker, operators, options.listed, max(3, options.rounds // 2))
            said("list")
    return found


BEGAN = time.monotonic()


def said(text: str) -> None:
    sys.stderr.write(f"{time.monotonic() - BEGAN:6.1f} s  {text}\n")


def main() -> int:
    options = parser().parse_args()
    wanted = options.only.split(",")
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        raise SystemExit(f"there is no part {unknown[0]}: take some of {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="boardfit-scale-") as name:
        found = measure(options, wanted, Path(name))
    missed = any(one.verdict == "missed" for one in found)
    if options.json:
        rows = [{**one._asdict(), "median": one.value, "noise": one.noise, "verdict": one.verdict} for one in found]
        print(json.dumps({"schema": "boardfit.fleet-scale/1", "boards": options.boards, "figures": rows}, indent=1))
        return int(missed)
    heads = ("figure", "median", "unit", "least to most", "goal", "noise", "verdict")
    print(render(heads, [one.row() for one in found], markdown=options.markdown))
    where = (
        f"Python {platform.python_version()}, mosquitto on loopback, Linux {platform.release()}, {os.cpu_count()} CPUs"
    )
    print(f"\n{where}; {options.boards:,} simulated boards, {options.rounds} interleaved rounds.")
    print("Noise: the median's standard error, or how far one raw floor is from the other in the same rounds.")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
