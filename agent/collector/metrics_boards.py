"""The metrics of single boards: one series a board, or a board and task, for each figure that it told.

Leaves to ``agent.collector.metrics`` whether they are given at all, and the rules they keep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from agent.clock import read_iso
from agent.collector.reading import Document
from agent.fleet.view import BoardView

TASKS = 16  # of one board; a real one has a few
_BOARD = ["fleet", "board"]
_TASK = [*_BOARD, "task"]

#: Figures of a board: name, meaning, which document, which field.
_FIGURES = (
    ("outbox_bytes", "Bytes waiting on the board to be sent.", "status", "outbox_bytes"),
    ("power_watts", "Power the board takes, as its own sensor says.", "telemetry/board", "power_w"),
    ("memory_available_bytes", "Memory that is free for use.", "telemetry/board", "memory_available_bytes"),
    ("clock_hertz", "Clock of the processor.", "telemetry/board", "clock_hz"),
    ("load1", "Load average over one minute.", "telemetry/board", "load_1min"),
    ("supply_ok", "Whether the supply voltage is as it must be.", "telemetry/board", "supply_ok"),
)
#: Limits of a task: name, metric as a budget names it.
_BUDGETS = (
    ("latency_p95_budget_seconds", "latency_p95"),
    ("energy_per_inference_budget_joules", "energy_per_inference"),
)


def board_families(
    fleets: Mapping[str, list[BoardView]],
    documents: Mapping[str, Mapping[str, Mapping[str, Document]]],
    class_shown: int,
) -> Iterator[Metric]:
    """Yield the families. Args: documents: by fleet, board and end of topic. class_shown: digits of a class label."""
    yield from _boards(fleets, class_shown)
    yield from _figures(fleets, documents)
    yield from _tasks(fleets, documents)


def _boards(fleets: Mapping[str, list[BoardView]], class_shown: int) -> Iterator[Metric]:
    up = GaugeMetricFamily("boardfit_board_up", "Whether the board is connected, by the last it said.", labels=_BOARD)
    told = ("class_fingerprint", "profile", "model", "soc", "architecture", "os", "agent_version")
    names = [name.removesuffix("_fingerprint") for name in told]
    info = GaugeMetricFamily("boardfit_board_info", "What the board is.", labels=[*_BOARD, *names])
    seen = GaugeMetricFamily(
        "boardfit_board_last_seen_timestamp_seconds", "When it last said something, by its own clock.", labels=_BOARD
    )
    gauges = {
        "outbox_messages": GaugeMetricFamily(
            "boardfit_board_outbox_messages", "Messages waiting on the board to be sent.", labels=_BOARD
        ),
        "temperature_celsius": GaugeMetricFamily(
            "boardfit_board_temperature_celsius", "Temperature of the board.", labels=_BOARD
        ),
        "memory_bytes": GaugeMetricFamily("boardfit_board_memory_bytes", "Memory the board has.", labels=_BOARD),
        "cores": GaugeMetricFamily("boardfit_board_cores", "Processor cores that may be used.", labels=_BOARD),
    }
    for fleet, board in _all(fleets):
        key = [fleet, board.name]
        if board.status is not None:
            up.add_metric(key, board.reachable)
        texts = [str(getattr(board, name) or "") for name in told]
        info.add_metric([*key, texts[0][:class_shown], *texts[1:]], 1)
        moment = _seconds(board.seen)
        if moment is not None:
            seen.add_metric(key, moment)
        for name, family in gauges.items():
            value = getattr(board, name)
            if value is not None:
                family.add_metric(key, value)
    yield from (up, info, seen, *gauges.values())


def _figures(
    fleets: Mapping[str, list[BoardView]], documents: Mapping[str, Mapping[str, Mapping[str, Document]]]
) -> Iterator[Metric]:
    for name, meaning, document, field in _FIGURES:
        family = GaugeMetricFamily(f"boardfit_board_{name}", meaning, labels=_BOARD)
        for fleet, board in _all(fleets):
            value = documents[fleet].get(board.name, {}).get(document, {}).get(field)
            if value is not None:
                family.add_metric([fleet, board.name], value)
        yield family
    throttled = GaugeMetricFamily("boardfit_board_throttled", "Whether the board slows itself down now.", labels=_BOARD)
    for fleet, board in _all(fleets):
        flags = documents[fleet].get(board.name, {}).get("telemetry/board", {}).get("throttle_now")
        if flags is not None:
            throttled.add_metric([fleet, board.name], flags != "")
    yield throttled
    dropped = CounterMetricFamily(
        "boardfit_board_outbox_dropped", "Messages the board gave up since its outbox was made.", labels=_BOARD
    )
    for fleet, board in _all(fleets):
        count = documents[fleet].get(board.name, {}).get("status", {}).get("outbox_dropped")
        if count is not None:
            dropped.add_metric([fleet, board.name], count)
    yield dropped


def _tasks(
    fleets: Mapping[str, list[BoardView]], documents: Mapping[str, Mapping[str, Mapping[str, Document]]]
) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "boardfit_task_info", "What serves a task, and how its last deployment stands.",
        labels=[*_TASK, "candidate", "phase"],
    )  # fmt: skip
    p95 = GaugeMetricFamily(
        "boardfit_task_latency_p95_seconds",
        "95th percentile of latency of what serves, as measured on that board.",
        labels=_TASK,
    )
    energy = GaugeMetricFamily(
        "boardfit_task_energy_per_inference_joules",
        "Energy of one inference of what serves, as measured on that board.",
        labels=_TASK,
    )
    limits = {
        metric: GaugeMetricFamily(f"boardfit_task_{name}", f"The board's limit for {metric}.", labels=_TASK)
        for name, metric in _BUDGETS
    }
    budgets = GaugeMetricFamily(
        "boardfit_task_budgets", "Limits by how what was decided stands to them.", labels=[*_TASK, "state"]
    )
    for fleet, board in _all(fleets):
        for task, view in sorted(board.tasks.items())[:TASKS]:
            key = [fleet, board.name, task]
            if view.candidate is not None or view.phase is not None:
                info.add_metric([*key, view.candidate or "", view.phase or ""], 1)
            if view.p95_s is not None:
                p95.add_metric(key, view.p95_s)
            joules = energy_j(board, task)
            if joules is not None:
                energy.add_metric(key, joules)
            decided = documents[fleet].get(board.name, {}).get(f"decision/{task}", {})
            states = Counter[str]()
            for budget in decided.get("budgets", ()):
                states[str(budget["state"] or "no_winner")] += 1
                if budget["metric"] in limits:
                    limits[budget["metric"]].add_metric(key, budget["limit"])
            for state, number in sorted(states.items()):
                budgets.add_metric([*key, state], number)
    yield from (info, p95, energy, *limits.values(), budgets)


def energy_j(board: BoardView, task: str) -> float | None:
    """Return joules an inference of what serves; None where the last decision was of another candidate."""
    view = board.tasks[task]
    return view.energy_j if view.candidate is not None and view.candidate == view.decided else None


def _all(fleets: Mapping[str, list[BoardView]]) -> Iterator[tuple[str, BoardView]]:
    return ((fleet, board) for fleet, boards in fleets.items() for board in boards)


def _seconds(text: str | None) -> float | None:
    """Return seconds since 1970 of what a board says is its time; None where it is no time."""
    try:
        return None if text is None else read_iso(text).timestamp()
    except ValueError:
        return None
