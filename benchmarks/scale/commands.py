"""One signed command to all boards, until the last has answered: ours beside a raw socket and bare paho.

Ours is ``agent.fleet.sending.Sender``, everything included from the moment it is told: its connection and session, the
counters on disk, the signatures, the answers read, followed and stored. The bare consoles are connected and subscribed
before the clock begins, send 200 bytes, and boards send 200 back unread.

One broadcast addresses the fleet; an envelope each goes to boards that an expression addresses. ``judged``: boards
open, verify and judge as boards do. Of an envelope each that is 5,000 verifications, which a fleet does on 5,000
processors and this machine on the one that the simulated boards share: without ``judged`` they answer with a job's
document unjudged.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from agent.clock import SystemClock
from agent.fleet.addressing import parse_selection
from agent.fleet.ledger import Ledger
from agent.fleet.sending import Sender, Wanted
from agent.fleet.view import BoardView, FleetView
from benchmarks.scale.bare import names, paho_commands, raw_commands
from benchmarks.scale.ground import FLEET, Broker, Fleet, Operators
from benchmarks.scale.judging import Figure, over

VERB, EXPRESSION = "status", "status=online"
FLOOR_GOAL, RATE_GOAL = 2.0, 1.0


def told_boards(boards: int) -> list[BoardView]:
    """Return the boards as a console knows them when it begins to send."""
    view = FleetView(FLEET)
    made = []
    for name in names(boards):
        board = view.boards[name] = BoardView(name)
        board.status, board.epoch = "online", f"{name}-start-1"
        made.append(board)
    return made


def our_command(operators: Operators, boards: Sequence[BoardView], address: str) -> float:
    """Send one command by our own code. Returns: seconds until the last answer."""
    with Ledger(operators.folder / "state", SystemClock()) as ledger:
        begin = time.perf_counter()
        sender = Sender(operators.settings, "anna", ledger, SystemClock(), lambda: False)
        following = sender.send(Wanted(verb=VERB), parse_selection([address]), boards, 60.0)
        took = time.perf_counter() - begin
    summary = following.summary()
    if len(summary.succeeded) != len(boards):
        raise SystemExit(f"{address}: {summary.text}")
    return took


def measure(broker: Broker, fleet: Fleet, operators: Operators, boards: int, rounds: int) -> list[Figure]:
    """Interleave all of them."""
    (operators.folder / "state").mkdir(exist_ok=True)
    told = told_boards(boards)
    raw, again, paho, broadcast, each, judged = ([] for _ in range(6))  # type: list[float], ...
    for _ in range(rounds):
        fleet.ask("echo")
        raw.append(raw_commands(broker.port, boards))
        paho.append(paho_commands(broker.port, boards))
        fleet.ask("real")
        broadcast.append(our_command(operators, told, "all"))
        judged.append(our_command(operators, told, EXPRESSION))
        fleet.ask("answer")
        each.append(our_command(operators, told, EXPRESSION))
        fleet.ask("echo")
        again.append(raw_commands(broker.port, boards))
    fleet.ask("real")
    floor = over(again, raw)
    least = [(a + b) / 2 for a, b in zip(raw, again, strict=True)]
    part = "command"
    rows = [
        Figure(part, "raw socket, unsigned", least, unit="s"),
        Figure(part, "bare paho, unsigned", paho, unit="s"),
        Figure(part, "one broadcast, judged", broadcast, unit="s"),
        Figure(part, "an envelope each", each, unit="s"),
        Figure(part, "an envelope each, judged", judged, unit="s"),
    ]
    for name, took in (("one broadcast, judged", broadcast), ("an envelope each", each)):
        rows.append(Figure(part, f"{name}, over raw", over(took, least), FLOOR_GOAL, "x", floor=floor))
        rows.append(Figure(part, f"{name}, rate over paho's", over(paho, took), RATE_GOAL, "x", True, floor))
    rows.append(Figure(part, "an envelope each, judged, over raw", over(judged, least), unit="x", floor=floor))
    return rows
