"""A fleet for the console's pictures and tests: the documents of simulated boards, without boards. All figures made up.

Every name of a board, model, profile and candidate says ``simulated`` or ``sim``; times are relative to the present,
so that the console shows a fleet that is alive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone

from agent.clock import iso
from agent.collector.judging import take
from agent.collector.store import Store
from agent.core.messages import encode
from agent.core.rollout_message import (
    RolloutBoard,
    RolloutMessage,
    RolloutOrder,
    RolloutTrack,
    RolloutTransition,
    RolloutWave,
)
from agent.core.topics import rollout_topic
from benchmarks.simulated_console_board import FLEET, KINDS, NETS, TASK, Message, Teller


def board_messages(teller: Teller, number: int, *, rich: bool) -> Iterator[Message]:
    """Yield what one board has told. Args: rich: with history."""
    draw = teller.random
    away = number % 41 == 7
    busy = number % 29 == 3
    yield teller.profile()
    yield teller.reported(
        **({"desired_error": "tasks.defects.budgets: no metric latency_p59"} if number % 83 == 11 else {})
    )
    if rich:
        for hours in range(36, 0, -4):
            for net in NETS[1:6:2]:
                yield teller.measurement(net, hours * 3600 + draw.uniform(0, 900))
        for minutes in range(36 * 60, 0, -15):
            yield teller.telemetry(minutes * 60)
        yield teller.job("bench", "SUCCEEDED", 86_000, result={"measured": 8})
        yield teller.job("select", "SUCCEEDED", 85_800, result={"decision": f"d-{teller.name}"})
        yield teller.job("deploy", "SUCCEEDED", 85_700)
        yield teller.job("sync", "REJECTED", 9_000, reason="it expired at 2026-01-01T00:00:00Z")
        yield teller.job("bench", "IN_PROGRESS", 95, stage="measure", done=3.0, total=8.0, reason="sim-net-w050-int8")
        yield teller.event("warning", "simulated: the supply sagged for 2 s", 30_000, "use a supply of 5 A")
        yield teller.event("info", "simulated: sim-net-w100-int8 serves now", 85_600)
        yield teller.event("error", "simulated: the registry could not be reached", 50_000, "look at its address")
    for net in NETS:
        yield teller.measurement(net, 82_000 + draw.uniform(0, 4000))
    yield teller.decision(81_000)
    best = teller.options()[0]
    older = number % 3 == 0 and teller.kind.name == "orin"
    serving = best.candidate if best.rank == 1 and not older else "sim-net-w050-int8"
    phase, slow = ("probation" if number % 31 == 5 else "done"), (1.9 if number % 53 == 13 else 1.0)
    yield teller.deployment(serving, 80_500, phase, slow)
    yield teller.telemetry(draw.uniform(3, 55))
    waiting = 340 + number if away else draw.choice((0, 0, 0, 0, 0, 2))
    yield teller.status(
        "offline" if away else "busy" if busy or rich else "online",
        7200 + number if away else draw.uniform(1, 58),
        outbox_messages=waiting,
    )


def rollout_messages(now: datetime, tellers: list[Teller], fleet: str = FLEET) -> Iterator[Message]:
    """Yield a rollout under way and one that was rolled back."""
    yield _told(fleet, running_rollout(now, tellers, fleet))
    order = RolloutOrder(
        address="class:" + KINDS[1].fingerprint[:8],
        waves=("1", "10%", "100%"),
        success_ratio=0.99,
        abort_on=("rollback>1%",),
        soak_s=1800,
        per_class=False,
        on_breach="rollback",
        wait_s=86400,
    )
    first = next(one.name for one in tellers if one.kind.name == "pi4")
    yield _told(
        fleet,
        RolloutMessage(
            fleet=fleet,
            id="r4c1d07aa",
            task=TASK,
            operator="anna",
            machine="sim-laptop",
            status="rolled_back",
            reason="rollback>1%: 1 of 1 boards of wave 1 went back by itself",
            started_at=iso(now - timedelta(days=2)),
            updated_at=iso(now - timedelta(days=2, hours=-1)),
            order=order,
            candidate="sim-net-w100-f32",
            boards_total=40,
            phases={"rolled_back": 1, "waiting": 39},
            tracks=(
                RolloutTrack(
                    name="all",
                    total=40,
                    wave=1,
                    done=False,
                    reason="stopped",
                    waves=(
                        RolloutWave(number=1, text="1", boards=1, phases={"rolled_back": 1}),
                        RolloutWave(number=2, text="10%", boards=3),
                        RolloutWave(number=3, text="100%", boards=36),
                    ),
                ),
            ),
            boards=(
                RolloutBoard(
                    name=first,
                    phase="rolled_back",
                    track="all",
                    wave=1,
                    kind="rollback",
                    reason="the probation failed: p95 41.9 ms",
                ),
            ),
        ),
    )


def running_rollout(now: datetime, tellers: list[Teller], fleet: str) -> RolloutMessage:
    """Return a rollout in its second waves."""
    tracks = []
    phases: dict[str, int] = {}
    for at, kind in enumerate(KINDS):
        total = sum(one.kind is kind for one in tellers)
        sizes = [1, max(1, math.ceil(total * 0.05)), max(1, math.ceil(total * 0.2)), 0]
        sizes[3] = max(0, total - sum(sizes[:3]))
        now_in = (3, 2, 3, 4)[at]
        told = []
        for wave, (text, size) in enumerate(zip(("1", "5%", "25%", "100%"), sizes, strict=True), start=1):
            given: dict[str, int] = {}
            if wave < now_in:
                given = {"succeeded": size}
            elif wave == now_in:
                given = {"succeeded": size // 3, "soaking": size // 3, "proving": size - 2 * (size // 3)}
                if at == 1 and size > 1:
                    given["failed"] = 1
                    given["proving"] = max(0, given["proving"] - 1)
            given = {phase: count for phase, count in given.items() if count}
            for phase, count in given.items():
                phases[phase] = phases.get(phase, 0) + count
            told.append(RolloutWave(number=wave, text=text, boards=size, phases=given))
        idle = {"waiting": total - sum(sum(wave.phases.values()) for wave in told)}
        phases["waiting"] = phases.get("waiting", 0) + idle["waiting"]
        tracks.append(
            RolloutTrack(
                name=kind.fingerprint,
                class_fingerprint=kind.fingerprint,
                total=total,
                wave=now_in,
                done=False,
                reason="soaks for 1800 s since its last success",
                soak_until=iso(now + timedelta(minutes=11)),
                waves=tuple(told),
                idle=idle,
            )
        )
    slow = next(one.name for one in tellers if one.kind.name == "pi4")
    gone = [one.name for one in tellers if one.kind.name == "pi5"][-1]
    order = RolloutOrder(
        address="all",
        waves=("1", "5%", "25%", "100%"),
        success_ratio=0.99,
        abort_on=("rollback>1%", "slower>5%"),
        soak_s=1800,
        per_class=True,
        on_breach="rollback",
        wait_s=86400,
    )
    return RolloutMessage(
        fleet=fleet,
        id="r7f3a91c2",
        task=TASK,
        operator="anna",
        machine="sim-laptop",
        status="running",
        driven=True,
        reason="third waves soak",
        started_at=iso(now - timedelta(hours=3)),
        updated_at=iso(now - timedelta(seconds=4)),
        order=order,
        candidate="sim-net-w050-int8",
        boards_total=len(tellers),
        phases=phases,
        tracks=tuple(tracks),
        boards=(
            RolloutBoard(
                name=slow,
                phase="failed",
                track=KINDS[1].fingerprint,
                wave=2,
                kind="slower",
                reason="over its budget there: latency_p95 10.9 ms of 10 ms",
            ),
            RolloutBoard(name=gone, phase="unreachable", track=KINDS[0].fingerprint, reason="offline for 2 h"),
        ),
        transitions=(
            RolloutTransition(at=iso(now - timedelta(hours=3)), subject="rollout", after="running", reason="started"),
            RolloutTransition(
                at=iso(now - timedelta(hours=2, minutes=20)),
                subject=f"track {KINDS[0].name}",
                before="wave 1",
                after="wave 2",
            ),
            RolloutTransition(
                at=iso(now - timedelta(minutes=41)),
                subject=slow,
                before="measuring",
                after="failed",
                reason="over its budget there: latency_p95 10.9 ms of 10 ms",
            ),
            RolloutTransition(
                at=iso(now - timedelta(minutes=38)),
                subject=gone,
                before="waiting",
                after="ordered",
                verb="deploy",
                job="r7f3a91c2-1",
            ),
        ),
    )


def fleet_messages(
    many: int, now: datetime | None = None, fleet: str = FLEET, rich: Iterable[int] = (0,)
) -> list[Message]:
    """Return what a fleet of so many boards has told. Args: rich: numbers of the boards that have a history."""
    now = now or datetime.now(timezone.utc)
    tellers = [Teller(KINDS[number % len(KINDS)], number, now, fleet) for number in range(many)]
    chosen = set(rich)
    made = [
        message for number, one in enumerate(tellers) for message in board_messages(one, number, rich=number in chosen)
    ]
    return made + list(rollout_messages(now, tellers, fleet))


def store(url: str, messages: Iterable[Message]) -> None:
    """Store messages as a collector does."""
    with Store(url) as writer:
        writer.open()
        heard_s = datetime.now(timezone.utc).timestamp()
        batch = [taken for topic, payload in messages if (taken := take(topic, payload, heard_s)) is not None]
        for start in range(0, len(batch), 2000):
            writer.apply(batch[start : start + 2000])


def _told(fleet: str, message: RolloutMessage) -> Message:
    return rollout_topic(fleet, message.id), encode(message)
