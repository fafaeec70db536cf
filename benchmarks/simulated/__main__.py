"""Simulated boards at a broker, until SIGTERM or Ctrl-C.

    python -m benchmarks.simulated mqtt://127.0.0.1:1883 --boards 20 --operators operators.json
        [--fleet plant] [--candidate net-new --ends rolled_back --class pi4]

Boards are of four classes in turn. ``--operators``: a registry's operator list; without one nobody may order anything.
``--ends`` is how ``--candidate`` fares on boards of ``--class``; elsewhere it deploys. ``simulated boards are online``
on standard output says that all are there.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from agent.core.operators import parse_operators
from agent.mqtt import parse_broker_url
from benchmarks.simulated.attached import AttachedBoards
from benchmarks.simulated.board import Ways
from benchmarks.simulated.documents import CANDIDATES, CLASSES, NEW, TASK

ONLINE = "simulated boards are online"


def main() -> int:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(description="simulated boards at a broker")
    parser.add_argument("broker", help="mqtt://host[:port]")
    parser.add_argument("--fleet", default="plant")
    parser.add_argument("--boards", type=int, default=20)
    parser.add_argument("--operators", type=Path, help="a registry's operator list")
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--candidate", default=NEW, help="which candidate does not fare well on boards of one class")
    parser.add_argument("--ends", default="deployed", choices=("deployed", "rolled_back", "failed", "silent"))
    parser.add_argument("--standing", default="fits", choices=("fits", "over_budget", "unknown"))
    parser.add_argument("--class", dest="of", choices=[one.name for one in CLASSES], help="default: every class")
    parser.add_argument("--work", type=float, default=2.0, metavar="S", help="how long a job takes, about")
    options = parser.parse_args()
    operators = () if options.operators is None else parse_operators(options.operators.read_bytes()).operators
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: stopped.append(got))
    with AttachedBoards(parse_broker_url(options.broker), work_s=options.work) as boards:
        for number in range(options.boards):
            of = CLASSES[number % len(CLASSES)]
            odd = options.of in (None, of.name)
            ways = Ways(
                candidate=options.candidate,
                ends=options.ends if odd else "deployed",
                standing=options.standing if odd else "fits",
            )
            boards.add(
                f"simulated-{of.name}-{number // len(CLASSES) + 1}", of, ways, fleet=options.fleet,
                groups=(f"line-{number % 2 + 1}",), operators=operators, task=options.task, candidates=CANDIDATES,
            )  # fmt: skip
        boards.connect()
        print(ONLINE, flush=True)
        boards.run(lambda: bool(stopped))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
