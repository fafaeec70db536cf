"""Waiting for neighbours and for heat, on a simulated clock."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone

import msgspec

from agent.core.measurement import Context, ContextReading, Measurement
from agent.core.ports import no_progress
from agent.measure.session import Session
from agent.measure.settings import MeasureSettings
from tests.measure.simulated import Model, SimulatedBoard, budgets, objectives


@dataclasses.dataclass
class SimulatedRoom:
    """A clock that only pauses move, and a zone that falls to 40 °C by 1 °C a second after a run heated it."""

    now: float = 0.0
    heated_to: float | None = None
    heated_at: float = 0.0
    stopped: bool = False
    throttling: bool = False

    def monotonic_s(self) -> float:
        return self.now

    def utc(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=timezone.utc)

    def pause(self, seconds: float) -> None:
        self.now += max(seconds, 1e-3)

    def read(self) -> ContextReading:
        celsius = None
        if self.heated_to is not None:
            celsius = max(40.0, self.heated_to - (self.now - self.heated_at))
        return ContextReading(monotonic_s=self.now, temperature_celsius=celsius)


def session(room: SimulatedRoom) -> Session:
    return Session(
        room.read, 80.0, MeasureSettings(contended_backoff_s=5.0), clock=room, stop=lambda: room.stopped,
        progress=no_progress, pause=room.pause,
    )  # fmt: skip


def measured(verdict: str = "ok", flags: tuple[str, ...] = ()) -> Measurement:
    board = SimulatedBoard([Model("m", 100, 0.9, 0.001)], budgets(), objectives("minimize size"), threads=(1,))
    heat = board.race().next()
    assert heat is not None
    reading = ContextReading(monotonic_s=0.0)
    context = Context(before=reading, after=reading, flags=flags)
    return msgspec.structs.replace(board.measure(heat), verdict=verdict, context=context)


def test_retries_of_contended_options_wait_longer_and_a_minute_in_all() -> None:
    room = SimulatedRoom()
    bench = session(room)
    waited = []
    for tries in (0, 1, 2, 2, 2, 2):
        begin = room.now
        assert bench.take(tries, lambda: measured("contended")).verdict == "contended"
        waited.append(round(room.now - begin, 1))
    assert waited[:3] == [0.0, 5.0, 15.0]
    assert 59.0 < sum(waited) < 61.0


def test_a_calm_measurement_ends_the_waiting() -> None:
    room = SimulatedRoom()
    bench = session(room)
    bench.take(0, lambda: measured("contended"))
    bench.take(0, measured)
    begin = room.now
    bench.take(1, measured)
    assert room.now == begin


def test_a_stop_ends_the_waiting() -> None:
    room = SimulatedRoom()
    bench = session(room)
    bench.take(0, lambda: measured("contended"))
    room.stopped = True
    begin = room.now
    bench.take(2, measured)
    assert room.now == begin


def test_the_next_measurement_waits_until_the_zone_is_back() -> None:
    room = SimulatedRoom(heated_to=40.0)
    bench = session(room)

    def heating() -> Measurement:
        room.heated_to, room.heated_at = 79.0, room.now
        return measured(flags=("hot",))

    begin = room.now
    kept = bench.take(0, heating)
    assert kept.reason is not None
    assert kept.reason.startswith("measured as throttled")
    assert room.now > begin  # it was cooled down and tried again before that
    bench.take(0, measured)
    assert (room.read().temperature_celsius or 0.0) < 65.0  # as fast as at the start, with room below the limit


def test_a_board_without_a_zone_waits_for_nothing() -> None:
    room = SimulatedRoom()
    bench = session(room)
    assert bench.take(0, measured).reason is None
    assert room.now == 0.0
