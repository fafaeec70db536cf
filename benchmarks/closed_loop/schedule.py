"""Which disturbances come when, and which budget is in force: the same in every run. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

Event = Literal["quiet", "hogs", "hot", "worse", "better", "tighter"]

RATE_HZ = 50.0
PERIOD_S = 1 / RATE_HZ
BUDGET_S, TIGHTER_S = 0.015, 0.006
TELL_S = 0.3  # how often the application tells the agent how it fares


class Phase(NamedTuple):
    """A stretch of time after one event; ``ends``: the event whose end it is, for a phase in which all is well again.

    ``begin_s``: since the first request was due. ``budget_s``: on each request's latency.
    """

    name: str
    event: Event
    begin_s: float
    seconds: float
    budget_s: float
    ends: Event | None = None

    @property
    def end_s(self) -> float:
        return self.begin_s + self.seconds


Schedule = tuple[Phase, ...]

_STORY: tuple[tuple[str, Event, Event | None], ...] = (
    ("quiet", "quiet", None),
    ("CPU hogs", "hogs", None),
    ("hogs gone", "quiet", "hogs"),
    ("hot", "hot", None),
    ("cool again", "quiet", "hot"),
    ("worse one pushed", "worse", None),
    ("better one published", "better", None),
    ("budget tighter", "tighter", None),
)
FULL_S = (4.0, 14.0, 14.0, 14.0, 17.0, 9.0, 11.0, 7.0)
QUICK_S = (2.0, 5.0, 3.0, 5.0, 3.0, 6.0, 6.0, 4.0)
KNOWING_S = (2.5,) * 8


def schedule(seconds: tuple[float, ...]) -> Schedule:
    """Return the phases. Args: seconds: how long each of the eight takes."""
    begin, phases = 0.0, []
    for (name, event, ends), length in zip(_STORY, seconds, strict=True):
        budget = TIGHTER_S if event == "tighter" else BUDGET_S
        phases.append(Phase(name, event, begin, length, budget, ends))
        begin += length
    return tuple(phases)


def phase_at(phases: Schedule, since_s: float) -> Phase:
    """Return the phase of a moment; the last one goes on."""
    return next((one for one in phases if since_s < one.end_s), phases[-1])
