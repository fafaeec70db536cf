"""A restarted operator's process has the whole fleet's state; and a broker that was killed has its boards again.

- state: ``Link.replay`` of all kinds that boards retain, parsed, validated and kept in a ``FleetView``, over a raw
  socket that hears the same messages and does not read them. Both from the subscription to the last message.
- outage: the broker is killed and started at once on its port, with nothing kept. The boards dial again by themselves,
  after the random delays of ``agent.mqtt``; counted are the connections that the broker accepted, and the time from the
  kill until a reader has had a fresh status of every board.
"""

from __future__ import annotations

import time

import msgspec

from agent.core.payloads import Status
from agent.core.topics import fleet_filter
from agent.fleet.link import Link
from agent.fleet.view import FleetView
from agent.verbs.fleet import RETAINED
from benchmarks.scale.bare import RawConsole, raw_replay
from benchmarks.scale.ground import FLEET, Broker, Fleet, Operators
from benchmarks.scale.judging import Figure, over

REPLAY_GOAL, BACK_GOAL_S, CONNECTS_GOAL = 3.0, 10.0, 1.2


def measure_state(broker: Broker, operators: Operators, boards: int, rounds: int) -> list[Figure]:
    """Interleave a raw replay, ours, and a raw one again."""
    filters = [fleet_filter(FLEET, kind) for kind in RETAINED]
    messages = 0
    raw: list[float] = []
    again: list[float] = []
    ours: list[float] = []
    for number in range(rounds + 1):
        view = FleetView(FLEET)
        with Link(operators.settings.broker, FLEET, lambda: False) as link:
            link.connect()
            begin = time.perf_counter()
            link.replay(RETAINED, view.take)
            took = time.perf_counter() - begin
        if len(view.boards) != boards or view.refused:
            raise SystemExit(f"{len(view.boards)} of {boards} boards, {view.refused} refused: {view.last_refusal}")
        messages = view.heard
        if number == 0:
            continue  # it only tells how many messages there are
        ours.append(took)
        raw.append(raw_replay(broker.port, filters, messages))
        again.append(raw_replay(broker.port, filters, messages))
    least = [(a + b) / 2 for a, b in zip(raw, again, strict=True)]
    part = "state"
    return [
        Figure(part, f"raw replay of {messages:,} retained documents", least, unit="s"),
        Figure(part, "ours, parsed, validated and kept", ours, unit="s"),
        Figure(part, "ours over raw", over(ours, least), REPLAY_GOAL, "x", floor=over(again, raw)),
    ]


def measure_outage(broker: Broker, fleet: Fleet, boards: int, rounds: int) -> list[Figure]:
    """Kill the broker again and again."""
    back, connects = [], []
    for _ in range(rounds):
        before = fleet.ask("count")["connects"]
        begin = time.perf_counter()
        broker.kill()
        broker.start()
        console, fresh = RawConsole(broker.port), set()

        def take(topic: bytes, payload: bytes, fresh: set[bytes] = fresh) -> None:
            if msgspec.json.decode(payload, type=Status).state == "online":
                fresh.add(topic)

        console.subscribe(fleet_filter(FLEET, "status"))
        console.until(lambda fresh=fresh: len(fresh) >= boards, take)  # type: ignore[misc]
        back.append(time.perf_counter() - begin)
        console.close()
        connects.append((fleet.ask("count")["connects"] - before) / boards)
    part = "broker killed"
    return [
        Figure(part, f"all {boards:,} boards back, fresh status", back, BACK_GOAL_S, "s"),
        Figure(part, "connections accepted per board", connects, CONNECTS_GOAL),
    ]
