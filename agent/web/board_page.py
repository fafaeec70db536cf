"""One board's page: what it is, what runs and why, what happened. Everything is read from its own documents.

Rules:
- Every text is made plain: what a board says can neither move the cursor nor turn the direction of writing.
- What was not told is None; what cannot be read is said to be so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from agent.clock import read_iso
from agent.collector.reading import Document, Reader
from agent.core.units import format_quantity
from agent.fleet.plain import LONG, plain
from agent.fleet.view import BoardView
from agent.web.fleet_table import line_of
from agent.web.plots import MAX_SERIES, Series, decision_plot, time_plot
from agent.web.words import decision_of, explained, read_decision

MOST_JOBS = 30
MOST_EVENTS = 50
MOST_MEASUREMENTS = 400
MOST_TELEMETRY = 2000
_TEXT = 1000
_DEEP = 8


def board_page(reader: Reader, fleet: str, board: BoardView) -> dict[str, Any]:
    """Return what the page shows at once. Raises: StorageError."""
    documents = reader.documents(fleet, board.name)
    tasks = sorted({*board.tasks, *_parameters(documents, "decision"), *_parameters(documents, "deployment")})
    return plain_texts(
        {
            "board": line_of(board),
            "facts": facts(board),
            "traps": board.traps,
            "tasks": [_task(name, documents) for name in tasks],
            "telemetry": documents.get("telemetry/board"),
            "reported": _reported(board, documents),
            "jobs": reader.history(fleet, "job", board=board.name, limit=MOST_JOBS),
            "events": reader.history(fleet, "event", board=board.name, limit=MOST_EVENTS),
        }
    )


def board_series(reader: Reader, fleet: str, board: BoardView, task: str | None) -> dict[str, Any]:
    """Return latency, energy and temperature over time, each as a plot and as the figures it shows."""
    name, held = board.name, board.tasks.get(task or "")
    budget_p95_s, serves = (None, None) if held is None else (held.budget_p95_s, held.candidate)
    measured = []
    if task is not None:
        measured = [
            one for one in reader.history(fleet, "measurement", board=name, task=task, limit=MOST_MEASUREMENTS)
            if one.get("verdict") == "ok" and _time_of(one) is not None
        ]  # fmt: skip
    telemetry = reader.history(fleet, "telemetry", board=name, limit=MOST_TELEMETRY)
    by_candidate: dict[str, list[Document]] = {}
    for one in measured:
        by_candidate.setdefault(str(one.get("candidate")), []).append(one)
    most = sorted(by_candidate, key=lambda said: (said != serves, -len(by_candidate[said]), said))
    by_candidate = {said: by_candidate[said] for said in most}

    def lines(figure: str) -> list[Series]:
        return [
            Series(plain(said), [(at, v) for one in found if (v := _number(one.get(figure))) is not None
                                 and (at := _time_of(one)) is not None])
            for said, found in by_candidate.items()
        ]  # fmt: skip

    heat = [(at, v) for one in telemetry if (v := _number(one.get("temperature_celsius"))) is not None
            and (at := _time_of(one)) is not None]  # fmt: skip
    latency, energy = lines("latency_p95_s"), lines("energy_per_inference_j")
    return plain_texts(
        {
            "plots": [
                _plot("latency", "Latency p95, as measured", "latency_p95", latency, budget_p95_s),
                _plot("energy", "Energy per inference, as measured", "energy_per_inference", energy, None),
                _plot("temperature", "Temperature", "temperature", [Series("temperature", _thinned(heat))], None),
            ],
        }
    )


def _plot(name: str, title: str, metric: str, lines: list[Series], limit: float | None) -> dict[str, Any]:
    known = [line for line in lines if line.points]
    lines = known[:MAX_SERIES]
    newest = [
        {"name": line.name, "time": at, "value": value, "metric": metric}
        for line in lines
        for at, value in sorted(line.points, reverse=True)[:12]
    ]
    svg = time_plot(f"plot-{name}", title, metric, lines, limit)
    return {"name": name, "title": title, "svg": Markup(svg) if svg else None, "metric": metric, "values": newest,
            "series": [line.name for line in lines], "left_out": len(known) - len(lines)}  # fmt: skip


class Markup(str):
    """Markup that this program has made: its texts are escaped, and it is passed on as it is."""

    __slots__ = ()


def plain_texts(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document whose every text is plain and of a length that can be shown."""
    return {name: _plain(value, 0) for name, value in document.items()}


def _plain(value: Any, deep: int) -> Any:
    if isinstance(value, Markup):
        return str(value)
    if isinstance(value, str):
        return "\n".join(plain(line, _TEXT) for line in value.split("\n")[:400])
    if isinstance(value, msgspec.Struct):
        return _plain(msgspec.structs.asdict(value), deep)
    if deep > _DEEP:
        return None
    if isinstance(value, dict):
        return {plain(str(name), LONG): _plain(item, deep + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, deep + 1) for item in value]
    return value


def facts(board: BoardView) -> list[tuple[str, str]]:
    """Return what a board is, as pairs of a name and a text; what it has not told is left out."""
    cores = None if board.cores is None else f"{board.cores} usable cores, {board.architecture or 'unknown'}"
    memory = None if board.memory_bytes is None else format_quantity(board.memory_bytes, "bytes")
    rows = (
        ("Model", board.model), ("Profile", board.profile), ("System on chip", board.soc), ("Processor", cores),
        ("Memory", memory), ("Accelerators", ", ".join(board.accelerators)), ("Engines", ", ".join(_engines(board))),
        ("Power mode", board.power_mode), ("Operating system", board.os), ("Python", board.python),
        ("boardfit", board.agent_version), ("Groups", ", ".join(board.groups or ())),
    )  # fmt: skip
    return [(name, said) for name, said in rows if said]


def _engines(board: BoardView) -> list[str]:
    """Return engines with their providers; of an engine with none its name."""
    whole = {name.partition("/")[0] for name in board.engines if "/" in name}
    return [name.removesuffix("ExecutionProvider") for name in board.engines if name not in whole]


def _task(name: str, documents: dict[str, Document]) -> dict[str, Any]:
    document = documents.get(f"decision/{name}")
    message = None if document is None else read_decision(document)
    made: dict[str, Any] = {"task": name, "deployment": documents.get(f"deployment/{name}"), "decision": document}
    if message is not None:
        plot = decision_plot(f"plot-{name}", decision_of(message))
        made |= {"text": explained(message), "plot": Markup(plot) if plot else None}
    return made


def _reported(board: BoardView, documents: dict[str, Document]) -> dict[str, Any]:
    return {
        "settings": documents.get("reported"),
        "desired": documents.get("desired"),
        "taken": board.desired_versions,
        "refused": board.desired_error,
    }


def _parameters(documents: Iterable[str], kind: str) -> set[str]:
    return {name.partition("/")[2] for name in documents if name.startswith(f"{kind}/")}


def _time_of(document: Document) -> str | None:
    for name in ("started_at", "time"):
        at = document.get(name)
        if isinstance(at, str):
            try:
                read_iso(at)
            except (ValueError, OverflowError):
                continue
            return at
    return None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _thinned(points: list[tuple[str, float]], most: int = 300) -> list[tuple[str, float]]:
    step = max(1, -(-len(points) // most))
    return points[::step]
