"""What an application tells of the model it runs, and the window of it that is kept for each task. Pure.

Rules:
- A report is of one period of one process: what ended in it, once. Reports that are lost are gone; the next says how
  many. Nothing in one is believed beyond what ``read_report`` checks: a sender can be mistaken, or lie.
- Latencies are those of the engine's call alone, as a measurement times it, counted by ``agent.core.histogram``.
- The window holds the newest ``WINDOW_S`` seconds in slots, of one release: a model that was swapped in begins anew.

Leaves who may send, and how often, to the receiver (``agent.watch``).

History: ``boardfit.live/1`` first version.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated, Literal

import msgspec

from agent.core.histogram import BUCKETS, quantile_s

SCHEMA = "boardfit.live/1"
MAX_REPORT_BYTES = 32 * 1024  # 1,888 buckets of sixteen characters
WINDOW_S = 60.0  # chosen: long enough for a p95 at a few requests per second, short enough to be called live
SLOT_S = 5.0
LONGEST_PERIOD_S = 60.0
NEWEST = 20  # chosen: the least requests that a p95 is made of

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Text = Annotated[str, msgspec.Meta(max_length=240)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
_Bucket = Annotated[int, msgspec.Meta(ge=0, lt=BUCKETS)]


class LiveReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one process did with a task's model in one period. ``latency``: (bucket, count), buckets rising."""

    task: _Name
    release: _Digest  # of the document it opened
    period_s: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_PERIOD_S)]
    requests: _Count  # inferences that ended well
    schema: Literal["boardfit.live/1"] = "boardfit.live/1"
    errors: _Count = 0  # inferences that the engine failed; input that was refused is none
    latency: Annotated[tuple[tuple[_Bucket, _Count], ...], msgspec.Meta(max_length=BUCKETS)] = ()
    lost_reports: _Count = 0  # since the process began: could not be sent
    engine_version: Annotated[str, msgspec.Meta(max_length=64)] | None = None  # the one that really runs
    refused_release: _Digest | None = None  # newer than ``release``, and could not be opened
    refused_reason: _Text | None = None


class LiveQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Asks the agent for its windows; answered to the address that it came from."""

    schema: Literal["boardfit.live-question/1"] = "boardfit.live-question/1"


class LiveFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One task's window. Latencies have the error of the histogram; None without requests."""

    task: str
    release: str
    window_s: float
    requests: int
    errors: int
    senders: int
    idle_s: float  # since the last report that told of a request
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    latency_p99_s: float | None = None
    expected_latency_p95_s: float | None = None  # of the measurement that decided
    budget_latency_p95_s: float | None = None
    degraded: str | None = None  # why the watch says so; None: it does not
    rung: int | None = None  # of the task's ladder: 0 is what was chosen; None: it has none
    rungs: int | None = None


class LiveAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of all tasks that anybody told of."""

    tasks: tuple[LiveFigures, ...] = ()
    refused: dict[str, int] = {}  # datagrams that were not taken, by reason
    schema: Literal["boardfit.live-answer/1"] = "boardfit.live-answer/1"


def read_datagram(data: bytes) -> LiveReport | LiveQuestion | str:
    """Read one datagram; a text says why it is not taken."""
    if len(data) > MAX_REPORT_BYTES:
        return "too long"
    try:
        kind = msgspec.json.decode(data, type=_Kind).schema
        if kind == "boardfit.live-question/1":
            return LiveQuestion()
        if kind != SCHEMA:
            return "not a report"
        report = msgspec.json.decode(data, type=LiveReport)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return "not a report"
    indices = [index for index, _ in report.latency]
    if indices != sorted(set(indices)) or sum(count for _, count in report.latency) != report.requests:
        return "counts that contradict each other"
    return report


class _Kind(msgspec.Struct):
    schema: str


class _Slot:
    __slots__ = ("begin_s", "counts", "errors", "requests")

    def __init__(self, begin_s: float) -> None:
        self.begin_s = begin_s
        self.requests = self.errors = 0
        self.counts: dict[int, int] = {}


class LiveWindow:
    """The newest ``WINDOW_S`` of one task's reports; times are those of one monotonic clock."""

    def __init__(self, task: str, release: str) -> None:
        self.task, self.release = task, release
        self._slots: deque[_Slot] = deque()
        self._served_s: float | None = None
        self._senders: dict[int, float] = {}

    def add(self, report: LiveReport, sender: int, now_s: float) -> None:
        """Take one report. Args: sender: tells processes apart."""
        if not self._slots or now_s - self._slots[-1].begin_s >= SLOT_S:
            self._slots.append(_Slot(now_s))
        slot = self._slots[-1]
        slot.requests += report.requests
        slot.errors += report.errors
        for index, count in report.latency:
            slot.counts[index] = slot.counts.get(index, 0) + count
        if report.requests or report.errors:
            self._served_s = now_s
            self._senders[sender] = now_s
        self._forget(now_s)

    def idle_s(self, now_s: float) -> float | None:
        """Return how long ago the last request was told; None: never."""
        return None if self._served_s is None else now_s - self._served_s

    def figures(self, now_s: float) -> LiveFigures | None:
        """Return the window at this moment; None where no request was ever told."""
        self._forget(now_s)
        idle = self.idle_s(now_s)
        if idle is None:
            return None
        counts: dict[int, int] = {}
        for slot in self._slots:
            for index, count in slot.counts.items():
                counts[index] = counts.get(index, 0) + count
        return LiveFigures(
            task=self.task, release=self.release, window_s=WINDOW_S, idle_s=idle, senders=len(self._senders),
            requests=sum(slot.requests for slot in self._slots), errors=sum(slot.errors for slot in self._slots),
            latency_p50_s=quantile_s(counts, 0.5), latency_p95_s=quantile_s(counts, 0.95),
            latency_p99_s=quantile_s(counts, 0.99),
        )  # fmt: skip

    def newest_p95_s(self, now_s: float) -> float | None:
        """Return the p95 of the newest ``NEWEST`` requests or more, over two slots at least; None of fewer."""
        self._forget(now_s)
        counts: dict[int, int] = {}
        found = 0
        for slot in reversed(self._slots):
            if found >= NEWEST and now_s - slot.begin_s > 2 * SLOT_S:
                break
            for index, count in slot.counts.items():
                counts[index] = counts.get(index, 0) + count
                found += count
        return quantile_s(counts, 0.95) if found >= NEWEST else None

    def _forget(self, now_s: float) -> None:
        while self._slots and now_s - self._slots[0].begin_s > WINDOW_S:
            self._slots.popleft()
        for sender in [one for one, at in self._senders.items() if now_s - at > WINDOW_S]:
            del self._senders[sender]
