"""A fleet as Prometheus metrics: which names and labels there are, and how many series at most.

Rules:
- What was never told is absent, never 0. Counts that are known to be nothing (no board is busy) are 0.
- Names follow Prometheus: base units in the name, ``_total`` for counters only, texts as labels of ``_info`` series.
- The number of series is bounded whatever boards say. Figures of classes are always given, of at most ``CLASSES`` and
  ``CLASS_ROWS`` rows a family; figures of single boards up to ``boards_at_most`` boards in all, beyond that none unless
  they are asked for. What was left out is counted in ``boardfit_metrics_left_out``.
- A store that cannot be read gives ``boardfit_store_up 0`` and the collector's own counters; nothing of before.
- Documents of single boards are read again only where the store says that something changed.

Leaves to the web part: serving them at ``/metrics``, and who may read them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from statistics import median

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent import __version__
from agent.collector.intake import Counts
from agent.collector.metrics_boards import board_families, energy_j
from agent.collector.reading import Document, Reader
from agent.core.payloads import StatusState
from agent.errors import StorageError
from agent.fleet.plain import plain
from agent.fleet.view import BoardView

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOARDS_AT_MOST = (
    1000  # chosen: about 15 series a board; Prometheus' own advice is to stay in the ten thousands a target
)
CLASSES = 200
CLASS_ROWS = 2000
ROLLOUTS = 20
CLASS_SHOWN = 12  # digits of a class fingerprint in a label; ``class:`` addresses take them
STATES: tuple[StatusState, ...] = ("online", "busy", "offline")


class FleetMetrics(Collector):
    """The metrics of one store. Keep one, and ask it at each scrape.

    Args:
        reader: the store.
        own: what this collector counts of itself; None: there is no collector here.
        fleets: which fleets; None: all that are stored.
        per_board: whether figures of single boards are given; None: up to ``boards_at_most`` boards.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        own: Counts | None = None,
        fleets: Collection[str] | None = None,
        per_board: bool | None = None,
        boards_at_most: int = BOARDS_AT_MOST,
    ) -> None:
        self._reader = reader
        self._own = own
        self._fleets = fleets
        self._per_board = per_board
        self._boards_at_most = boards_at_most
        self._one_at_a_time = threading.Lock()
        self._cursors: dict[str, int] = {}
        self._documents: dict[tuple[str, str], dict[str, Document]] = {}

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format 0.0.4; ``CONTENT_TYPE`` says so. Any thread may ask."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        with self._one_at_a_time:
            return generate_latest(registry)

    def page(self) -> tuple[str, bytes]:
        """Return what an address answers with: the content type and the metrics."""
        return CONTENT_TYPE, self.exposition()

    def describe(self) -> Iterable[Metric]:
        """Return nothing: which families there are depends on what was told."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the families, each once."""
        info = GaugeMetricFamily("boardfit_collector_info", "The version of this collector.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        if self._own is not None:
            yield from _own_families(self._own)
        try:
            names = sorted(self._reader.fleets() if self._fleets is None else self._fleets)
            fleets = {name: self._reader.boards(name) for name in names}
            rollouts = {name: self._reader.rollouts(name, limit=ROLLOUTS) for name in names}
            listed = self._listed(sum(map(len, fleets.values())))
            documents = {name: self._read(name, boards) for name, boards in fleets.items()} if listed else {}
        except StorageError:
            yield GaugeMetricFamily("boardfit_store_up", "Whether the store could be read.", value=0)
            return
        yield GaugeMetricFamily("boardfit_store_up", "Whether the store could be read.", value=1)
        left_out = Counter[str]()
        yield from _fleet_families(fleets)
        yield from _class_families(fleets, left_out)
        yield from _rollout_families(rollouts)
        if listed:
            yield from board_families(fleets, documents, CLASS_SHOWN)
        else:
            left_out["board"] = sum(map(len, fleets.values()))
        told = GaugeMetricFamily(
            "boardfit_metrics_left_out", "Rows not given, to bound the number of series.", labels=["of"]
        )
        for of in ("board", "class", "class_task"):
            told.add_metric([of], left_out[of])
        yield told

    def _listed(self, boards: int) -> bool:
        return boards <= self._boards_at_most if self._per_board is None else self._per_board

    def _read(self, fleet: str, boards: list[BoardView]) -> dict[str, dict[str, Document]]:
        """Return the newest documents of the boards, read from the store where they changed since the last time."""
        before = self._cursors.get(fleet)
        changes = self._reader.changes(fleet, before or 0)
        names = {board.name for board in boards}
        for key in [key for key in self._documents if key[0] == fleet and key[1] not in names]:
            del self._documents[key]
        for name in names:
            if not before or changes.whole or name in changes.boards or (fleet, name) not in self._documents:
                self._documents[fleet, name] = self._reader.documents(fleet, name)
        self._cursors[fleet] = changes.cursor
        return {name: self._documents[fleet, name] for name in names}


def exposition(reader: Reader, own: Counts | None = None) -> bytes:
    """Return the metrics of all fleets once, in Prometheus' text format."""
    return FleetMetrics(reader, own=own).exposition()


def _own_families(own: Counts) -> Iterator[Metric]:
    for name, meaning, trouble in (
        ("connected", "Whether the broker can be used.", own.broker),
        ("storing", "Whether the database takes what is to be stored.", own.database),
    ):
        yield GaugeMetricFamily(f"boardfit_collector_{name}", meaning, value=trouble is None)
    for name, meaning, value in (
        ("messages_received", "Messages heard.", own.received),
        ("messages_stored", "Documents stored, also those that changed nothing.", own.stored),
        ("messages_refused", "Messages that were not what their topic says.", own.refused),
        ("messages_left_out", "Messages of boards that told of more topics than are kept.", own.left_out),
        ("receipts", "Records confirmed to boards.", own.receipts),
        ("batches", "Transactions.", own.batches),
    ):
        yield CounterMetricFamily(f"boardfit_collector_{name}", meaning, value=value)


def _fleet_families(fleets: dict[str, list[BoardView]]) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "boardfit_boards", "Boards by what they last said of themselves.", labels=["fleet", "state"]
    )
    jobs = GaugeMetricFamily(
        "boardfit_jobs", "Boards by the state of their last job.", labels=["fleet", "verb", "state"]
    )
    for fleet, boards in fleets.items():
        count = Counter(board.status if board.status in STATES else "unknown" for board in boards)
        for state in (*STATES, "unknown"):
            states.add_metric([fleet, state], count[state])
        last = Counter((board.job, board.job_state) for board in boards if board.job and board.job_state)
        for (verb, state), number in last.most_common(CLASSES):
            jobs.add_metric([fleet, str(verb), str(state)], number)
    yield states
    yield jobs


def _class_families(fleets: dict[str, list[BoardView]], left_out: Counter[str]) -> Iterator[Metric]:
    labels = ["fleet", "class"]
    boards_of = GaugeMetricFamily(
        "boardfit_class_boards", "Boards of a class.", labels=[*labels, "profile", "model", "state"]
    )
    warm = GaugeMetricFamily(
        "boardfit_class_temperature_celsius", "Temperature over the boards of a class.", labels=[*labels, "statistic"]
    )
    waiting = GaugeMetricFamily("boardfit_class_outbox_messages", "Messages waiting on the boards.", labels=labels)
    task_labels = [*labels, "task", "candidate"]
    serving = GaugeMetricFamily("boardfit_class_task_boards", "Boards that serve a candidate.", labels=task_labels)
    p95 = GaugeMetricFamily(
        "boardfit_class_task_latency_p95_seconds",
        "95th percentile of latency of what serves, as measured on each board, over the boards of a class.",
        labels=[*task_labels, "statistic"],
    )
    energy = GaugeMetricFamily(
        "boardfit_class_task_energy_per_inference_joules",
        "Energy of one inference of what serves, as measured on each board, over the boards of a class.",
        labels=[*task_labels, "statistic"],
    )
    rows = 0
    for fleet, boards in fleets.items():
        for name, members in _classes(boards, left_out):
            about = (plain(members[0].profile) or "", plain(members[0].model) or "") if name != "other" else ("", "")
            count = Counter(board.status or "unknown" for board in members)
            for state, number in sorted(count.items()):
                boards_of.add_metric([fleet, name, *about, state], number)
            _spread(warm, [fleet, name], [board.temperature_celsius for board in members])
            fill = [board.outbox_messages for board in members if board.outbox_messages is not None]
            if fill:
                waiting.add_metric([fleet, name], sum(fill))
            for (task, candidate), those in _serving(members).items():
                rows += 1
                if rows > CLASS_ROWS:
                    left_out["class_task"] += 1
                    continue
                key = [fleet, name, task, candidate]
                serving.add_metric(key, len(those))
                _spread(p95, key, [board.tasks[task].p95_s for board in those])
                _spread(energy, key, [energy_j(board, task) for board in those])
    yield from (boards_of, warm, waiting, serving, p95, energy)


def _classes(boards: list[BoardView], left_out: Counter[str]) -> list[tuple[str, list[BoardView]]]:
    """Return the most frequent classes and their boards, the rest together as ``other``."""
    found: dict[str, list[BoardView]] = {}
    for board in boards:
        found.setdefault((board.class_fingerprint or "unknown")[:CLASS_SHOWN], []).append(board)
    ordered = sorted(found.items(), key=lambda one: (-len(one[1]), one[0]))
    rest = [board for _, members in ordered[CLASSES:] for board in members]
    left_out["class"] += len(ordered[CLASSES:])
    return [*ordered[:CLASSES], *([("other", rest)] if rest else [])]


def _serving(boards: list[BoardView]) -> dict[tuple[str, str], list[BoardView]]:
    found: dict[tuple[str, str], list[BoardView]] = {}
    for board in boards:
        for task, view in board.tasks.items():
            if view.candidate is not None:
                found.setdefault((task, view.candidate), []).append(board)
    return found


def _spread(family: GaugeMetricFamily, labels: list[str], values: list[float | None]) -> None:
    known = [value for value in values if value is not None]
    if known:
        for statistic, value in (("least", min(known)), ("median", median(known)), ("most", max(known))):
            family.add_metric([*labels, statistic], value)


def _rollout_families(rollouts: dict[str, list[Document]]) -> Iterator[Metric]:
    labels = ["fleet", "rollout", "task"]
    info = GaugeMetricFamily(
        "boardfit_rollout_info", "A rollout, the newest ones.", labels=[*labels, "candidate", "status"]
    )
    phases = GaugeMetricFamily("boardfit_rollout_boards", "Boards of a rollout by phase.", labels=[*labels, "phase"])
    for fleet, documents in rollouts.items():
        for one in documents[:ROLLOUTS]:
            key = [fleet, plain(str(one["id"])), plain(str(one["task"]))]
            info.add_metric([*key, plain(one.get("candidate")) or "", plain(str(one["status"]))], 1)
            for phase, number in sorted(one.get("phases", {}).items())[:ROLLOUTS]:
                phases.add_metric([*key, plain(phase)], number)
    yield from (info, phases)
