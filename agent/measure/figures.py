"""From what a worker said to the figures of a measurement. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from agent.core.autocorrelation import rank_autocorrelation
from agent.core.grouped import GroupedFigure, grouped_mean, grouped_percentile
from agent.core.measurement import AccuracyFigures, Figure, LatencyFigures, MemoryFigures
from agent.core.ports import ProcessMemory
from agent.core.statistics import proportion_interval
from agent.measure.conditions import Contention
from agent.measure.protocol import Evaluated, Warm


def latency_figures(processes_s: Sequence[Sequence[float]], warm: Warm, timed: Contention) -> LatencyFigures | None:
    """Return steady-state latency of clean runs in seconds, None without any.

    Args: processes_s: the runs of each process in the order in which they were timed; the intervals allow for what one
        run says of the next, and for how processes differ. warm: the first process's.
    """
    processes_s = [runs for runs in processes_s if runs]
    if not processes_s:
        return None
    latencies_s = list(chain.from_iterable(processes_s))
    mean = grouped_mean(processes_s)
    p50, p90, p95, p99 = (grouped_percentile(processes_s, q) for q in (0.50, 0.90, 0.95, 0.99))
    correlations = [found for runs in processes_s if (found := rank_autocorrelation(runs)) is not None]
    return LatencyFigures(
        n=len(latencies_s),
        p50_s=_figure(p50),
        p90_s=_figure(p90),
        p95_s=_figure(p95),
        p99_s=_figure(p99),
        mean_s=_figure(mean),
        min_s=min(latencies_s),
        max_s=max(latencies_s),
        warmup_runs=warm.runs,
        warmup_settled=warm.settled,
        throughput_per_s=1.0 / mean.value,
        run_queue_wait_ratio=timed.wait_ratio,
        involuntary_switches=timed.involuntary_switches,
        contended_runs=timed.contended_runs,
        autocorrelation=max(correlations, default=None),
        effective_n=min(figure.effective_n for figure in (p50, p90, p95, p99)),
        process_n=tuple(map(len, processes_s)) if len(processes_s) > 1 else (),
    )


def _figure(found: GroupedFigure) -> Figure:
    return Figure(value=found.value, low=found.interval.low, high=found.interval.high)


def memory_figures(
    imported: ProcessMemory | None,
    after: ProcessMemory | None,
    peak_was_reset: bool,
    *,
    window: ProcessMemory | None = None,
    later: ProcessMemory | None = None,
) -> MemoryFigures | None:
    """Return the worker's memory in bytes.

    Args:
        imported: read with the engine imported and no model open, before the peak was reset.
        after: read after the timed runs.
        peak_was_reset: whether the kernel reset VmHWM in between. Without it the model's peak is known only where it
            is above the import's.
        window: read after the power window, where there was one: its runs count as the timed ones do.
        later: read after evaluation and golden outputs: stated apart.
    """
    if after is None:
        return None
    end = window or after
    peak = max(after.peak_bytes, end.peak_bytes)
    methods = {"admission_peak_bytes": "VmHWM since spawn", "model_steady_bytes": "VmRSS less that of the import"}
    reasons: dict[str, str] = {}
    model_peak: int | None = None
    if imported is None:
        reasons["model_peak_bytes"] = "no reading with the engine alone"
    elif peak_was_reset or peak > imported.peak_bytes:
        model_peak = max(0, peak - imported.rss_bytes)
        how = "reset by clear_refs after import" if peak_was_reset else "above that of the import"
        methods["model_peak_bytes"] = f"VmHWM {how}, less VmRSS of the import"
    else:
        reasons["model_peak_bytes"] = "the kernel does not reset VmHWM, and the model's is below that of the import"
    _note(methods, reasons, "cgroup_peak_bytes", end.group_peak_bytes, end.group_note)
    _note(methods, reasons, "accelerator_bytes", end.accelerator_bytes, end.accelerator_note)
    if later is None:
        reasons["later_peak_bytes"] = "nothing was evaluated or compared"
    else:
        methods["later_peak_bytes"] = "VmHWM with the evaluation's arrays"
    return MemoryFigures(
        admission_peak_bytes=peak if imported is None else max(imported.peak_bytes, peak),
        model_peak_bytes=model_peak,
        model_steady_bytes=None if imported is None else max(0, after.rss_bytes - imported.rss_bytes),
        runtime_baseline_bytes=None if imported is None else imported.rss_bytes,
        model_anonymous_bytes=None if imported is None else _growth(imported.anonymous_bytes, after.anonymous_bytes),
        model_file_bytes=None if imported is None else _growth(imported.file_bytes, after.file_bytes),
        method="VmHWM, reset by clear_refs after import" if peak_was_reset else "VmHWM, not reset",
        swapped_bytes=after.swap_bytes,
        later_peak_bytes=None if later is None else later.peak_bytes,
        cgroup_peak_bytes=end.group_peak_bytes,
        accelerator_bytes=end.accelerator_bytes,
        methods=methods,
        reasons=reasons,
    )


def _note(methods: dict[str, str], reasons: dict[str, str], name: str, value: int | None, note: str | None) -> None:
    kept = reasons if value is None else methods
    kept[name] = note or ("read by the board" if value is not None else "it was not read")


def _growth(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


def accuracy_figures(evaluated: Evaluated, pack_sha256: str) -> AccuracyFigures | None:
    """Return top-1 accuracy with its exact interval, None where the worker gave a reason instead."""
    if evaluated.reason is not None or evaluated.n == 0:
        return None
    interval = proportion_interval(evaluated.correct, evaluated.n)
    return AccuracyFigures(
        top1=Figure(value=evaluated.correct / evaluated.n, low=interval.low, high=interval.high),
        correct=evaluated.correct,
        n=evaluated.n,
        pack_sha256=pack_sha256,
        correct_bits=evaluated.correct_bits,
        pack_n=evaluated.pack_n or None,
    )
