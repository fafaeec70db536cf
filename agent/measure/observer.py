"""What the agent reads of the board and the worker while one measurement goes on, event by event."""

from __future__ import annotations

from agent.core.budget import METRICS
from agent.core.measurement import ContextReading, GoldenResult, Placement
from agent.core.ports import BoardReadings, PowerMeter, ProcessMemory, Progress, ProgressEvent, SchedulerCounters
from agent.core.units import format_quantity
from agent.measure.conditions import Contention, contention
from agent.measure.protocol import (
    AnyEvent,
    Evaluated,
    FirstRun,
    GoldenChecked,
    Imported,
    Loaded,
    Started,
    Tick,
    Timed,
    Warm,
    WindowClosed,
    WindowOpen,
)
from agent.measure.sampler import PowerSeries
from agent.measure.settings import Stakes

_NEXT: dict[type[object], str] = {
    Started: "importing the engine",
    Imported: "loading",
    Loaded: "first inference",
    FirstRun: "warming up",
    Warm: "timing",
    WindowOpen: "measuring power",
    GoldenChecked: "evaluating accuracy",
}
_STEPS = len(_NEXT)
SPOT = "it was only held against the figures of its class"


class Observer:
    """Takes a worker's events; what they carried and what was read at them are its attributes."""

    def __init__(self, board: BoardReadings, label: str, progress: Progress) -> None:
        self._board = board
        self.label = label
        self._progress = progress
        self.contexts: list[ContextReading] = []
        self.confinement: tuple[str, ...] = ()
        self.load_time_s: float | None = None
        self.first_inference_s: float | None = None
        self.placement: Placement | None = None
        self.memory_imported: ProcessMemory | None = None
        self.memory_after: ProcessMemory | None = None
        self.memory_window: ProcessMemory | None = None  # after the power window
        self.memory_later: ProcessMemory | None = None  # after evaluation and golden outputs
        self.peak_was_reset = False
        self.warm: Warm | None = None
        self.timed: Timed | None = None
        self.contention: Contention | None = None
        self.power: PowerSeries | None = None
        self.window: WindowClosed | None = None
        self.evaluated: Evaluated | None = None
        self.golden: GoldenResult | None = None
        self._counters: SchedulerCounters | None = None

    def read_context(self) -> None:
        """Take a reading of the machine's state."""
        self.contexts.append(self._board.read_context())

    def sample_power(self) -> None:
        """Read the power meter if its window is open."""
        if self.power is not None and self.window is None:
            self.power.read()

    def take(self, event: AnyEvent, pid: int, meter: PowerMeter | None) -> None:
        """Take one event; the worker stands still until the caller says go, so what is read here disturbs nothing."""
        match event:
            case Started():
                self.confinement = event.confinement
            case Imported():
                self.memory_imported = self._board.process_memory(pid)
                self.peak_was_reset = self._board.reset_peak_memory(pid)
            case Loaded():
                self.load_time_s, self.placement = event.load_time_s, event.placement
            case FirstRun():
                self.first_inference_s = event.first_inference_s
                self.memory_after = self._board.process_memory(pid)
            case Warm():
                self.warm = event
                self._counters = self._board.scheduler_counters(pid)
            case Timed():
                self._take_timed(event, pid)
            case WindowOpen() if meter is not None:
                self.power = PowerSeries(meter)
                self.power.read()
            case WindowClosed():
                self.sample_power()
                self.window = event
                self.memory_window = self._board.process_memory(pid)
                self.read_context()
            case Evaluated():
                self.evaluated = event
                self.memory_later = self._board.process_memory(pid)
            case GoldenChecked():
                self.golden = event.result
                self.memory_later = self._board.process_memory(pid)
            case Tick():
                self._say("evaluating accuracy", event.done, event.total, "samples")
            case _:
                pass
        upcoming = _NEXT.get(type(event))
        if upcoming is not None:
            self._say(upcoming, list(_NEXT).index(type(event)), _STEPS, "steps")

    def missed(self, stakes: Stakes) -> str | None:
        """Return which of the limits what was seen so far misses, as a sentence; None while none does."""
        readings = (self.memory_imported, self.memory_after, self.memory_window)
        memory = max((float(reading.peak_bytes) for reading in readings if reading is not None), default=None)
        seen = {
            "load_time": self.load_time_s,
            "first_inference": self.first_inference_s,
            "memory_peak": memory,
        }
        for metric, limit in stakes.observed.items():
            value = seen[metric]
            if value is not None and value > limit:
                return f"{metric} is over {format_quantity(limit, METRICS[metric].dimension)}"
        proofs = [*(self.timed.proofs if self.timed is not None else ())]
        if self.evaluated is not None and self.evaluated.proof is not None:
            proofs.append(self.evaluated.proof)
        for proof in proofs:
            if proof.state == "missed":
                side = "under" if proof.metric == "accuracy_top1" else "over"
                dimension = METRICS[proof.metric].dimension
                unit = "samples" if side == "under" else "runs"
                text = format_quantity(proof.limit, dimension)
                return f"{proof.metric} is {side} {text}, which {proof.n} {unit} show"
        return SPOT if stakes.spot and self.timed is not None else None

    def _take_timed(self, event: Timed, pid: int) -> None:
        counters = self._board.scheduler_counters(pid)
        self.timed = event
        self.contention = contention(self._counters, counters, event.elapsed_s, event.wait_ratio, event.contended_runs)
        self.memory_after = self._board.process_memory(pid)
        self.read_context()

    def _say(self, text: str, done: float, total: float, unit: str) -> None:
        self._progress(ProgressEvent(stage="run", text=f"{self.label}: {text}", done=done, total=total, unit=unit))
