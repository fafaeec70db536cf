"""``fleet list``, the whole process, with the retained documents of a large fleet; and what a board costs its console.

Nobody is connected but the console: what boards have retained was put there beforehand, document for document.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.fleet.link import Link
from agent.fleet.view import FleetView
from agent.verbs.fleet import RETAINED
from benchmarks.scale.bare import RawConsole
from benchmarks.scale.ground import FLEET, ROOT, Broker, Operators
from benchmarks.scale.judging import Figure
from benchmarks.simulated.board import SimulatedBoard, Ways
from benchmarks.simulated.documents import CLASSES

LIST_GOAL_S, MEMORY_GOAL_KIB = 3.0, 20.0


def retained(boards: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield what boards have retained: topic and payload."""
    told: list[tuple[bytes, bytes]] = []

    def tell(topic: str, payload: bytes, _retain: bool) -> None:
        told.append((topic.encode(), payload))

    for number in range(boards):
        ways = Ways(measured=True)
        SimulatedBoard(
            f"simulated-{number:05}", CLASSES[number % len(CLASSES)], ways, tell, fleet=FLEET,
            groups=(f"line-{number % 10}",),
        ).hello()  # fmt: skip
        yield from told
        told.clear()


def listed(operators: Operators, to: Path) -> tuple[float, int]:
    """Run ``fleet list`` into a file. Returns: seconds, and the process's peak of resident memory in bytes."""
    begin = time.perf_counter()
    with to.open("wb") as out:
        process = subprocess.Popen(operators.words("list"), cwd=ROOT, stdout=out)
        _, status, used = os.wait4(process.pid, 0)
    took = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit("fleet list failed")
    return took, used.ru_maxrss * 1024


def resident_bytes() -> int:
    """Return this process's resident memory. Source: proc(5), statm, in pages."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held_bytes(operators: Operators) -> tuple[int, int]:
    """Take the whole fleet's state in. Returns: by how many bytes this process has grown, and boards."""
    view: Any = FleetView(FLEET)
    before = resident_bytes()
    with Link(operators.settings.broker, FLEET, lambda: False) as link:
        link.connect()
        link.replay(RETAINED, view.take)
        return resident_bytes() - before, len(view.boards)


def measure(broker: Broker, operators: Operators, boards: int, rounds: int) -> list[Figure]:
    """Retain a fleet, list it again and again, and take it away."""
    console = RawConsole(broker.port)
    begin = time.perf_counter()
    messages = console.publish(retained(boards), retain=True)
    filled_s = time.perf_counter() - begin
    took, peaks = [], []
    for _ in range(rounds):
        seconds, peak = listed(operators, operators.folder / "list.txt")
        took.append(seconds)
        peaks.append(peak / boards / 1024)
    lines = sum(1 for _ in (operators.folder / "list.txt").open("rb"))
    if lines < boards:
        raise SystemExit(f"fleet list wrote {lines} lines for {boards} boards")
    grown, held = held_bytes(operators)
    console.close()
    part = f"{boards:,} boards"
    return [
        Figure(part, f"retained by a raw socket, {messages:,} documents", [filled_s], unit="s"),
        Figure(part, "fleet list, the whole process", took, LIST_GOAL_S, "s"),
        Figure(part, "all documents in memory, per board", [grown / held / 1024], MEMORY_GOAL_KIB, "KiB"),
        Figure(part, "peak of fleet list, per board", peaks, MEMORY_GOAL_KIB, "KiB"),
    ]
