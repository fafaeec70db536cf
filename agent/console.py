"""How results and progress look to a person: tables and bars on a terminal, plain lines otherwise.

Decides only the looks; what is shown comes from the verbs. ``rich`` is imported when the first line is printed, never
by the daemon. With ``--json`` standard output carries one JSON document and everything else goes to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agent.core.budget import Estimate
from agent.core.decision import Decision, Option
from agent.core.measurement import Measurement
from agent.core.ports import Progress, ProgressEvent
from agent.core.units import format_quantity

if TYPE_CHECKING:
    import rich.console
    import rich.progress

_PLAIN_WIDTH = 150
_STANDING = {
    "fits": ("fits", "green"),
    "over_budget": ("over budget", "red"),
    "unknown": ("unknown", "yellow"),
    "failed": ("failed", "magenta"),
}


class Console:
    """Prints for one command.

    Args: as_json: stdout is exactly one JSON document. record: keep what is printed, to draw it as a picture.
    """

    def __init__(self, *, as_json: bool = False, record: bool = False) -> None:
        self.as_json = as_json
        self._record = record
        self._made: rich.console.Console | None = None

    @property
    def rich(self) -> rich.console.Console:
        """The underlying rich console, made at first use."""
        if self._made is None:
            import rich.console

            stream = sys.stderr if self.as_json else sys.stdout
            width = _PLAIN_WIDTH if self._record or not stream.isatty() else None
            self._made = rich.console.Console(file=stream, width=width, record=self._record, highlight=False)
        return self._made

    def document(self, value: Any) -> None:
        """Print the one JSON document of a ``--json`` run."""
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
        sys.stdout.flush()

    def line(self, text: str = "", style: str | None = None) -> None:
        """Print one line of prose; square brackets are text, not markup."""
        self.rich.print(text, style=style, markup=False, soft_wrap=not self._record)

    def heading(self, text: str) -> None:
        """Print the name of a part."""
        self.rich.print()
        self.rich.print(text, style="bold", markup=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
        """Print a table; ``right`` names the columns set flush right. A cell may be a (text, style) pair."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_edge=False, pad_edge=False, header_style="bold", box=None if not rows else _box())
        for number, column in enumerate(columns):
            last = number == len(columns) - 1
            table.add_column(column, justify="right" if column in right else "left", no_wrap=not last, overflow="fold")
        for row in rows:
            cells = [Text(cell[0], style=cell[1]) if isinstance(cell, tuple) else Text(str(cell)) for cell in row]
            table.add_row(*cells)
        self.rich.print(table)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Give a progress callback: bars on a terminal, one plain line for each new text otherwise."""
        if not self.rich.is_terminal:
            yield self._plain_progress()
            return
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.fields[stage]:>9}"), BarColumn(32), TextColumn("{task.description}"))
        with Bars(*columns, TimeElapsedColumn(), console=self.rich, transient=True) as bars:
            tasks: dict[str, rich.progress.TaskID] = {}

            def show(event: ProgressEvent) -> None:
                if event.stage not in tasks:
                    tasks[event.stage] = bars.add_task(event.text, total=event.total, stage=event.stage)
                text = event.text if event.total is None else f"{event.done:g}/{event.total:g}  {event.text}"
                if event.unit == "bytes":
                    text = event.text
                bars.update(tasks[event.stage], completed=event.done, total=event.total, description=text)

            yield show

    def _plain_progress(self) -> Progress:
        last: dict[str, str] = {}

        def show(event: ProgressEvent) -> None:
            # The steps inside one measurement and the bytes of a download are for bars; a log wants the big steps.
            if event.stage == "run" or event.unit == "bytes" or last.get(event.stage) == event.text:
                return
            last[event.stage] = event.text
            count = f" {event.done:g}/{event.total:g}" if event.total else ""
            print(f"{event.stage}{count}: {event.text}", file=sys.stderr, flush=True)  # noqa: T201

        return show

    def save_svg(self, path: Path, title: str) -> None:
        """Draw what was printed as an SVG picture of a terminal."""
        self.rich.save_svg(str(path), title=title)


def _box() -> Any:
    from rich import box

    return box.SIMPLE_HEAD


def _figure(estimate: Estimate | None, dimension: Any) -> str:
    return "–" if estimate is None or estimate.value is None else format_quantity(estimate.value, dimension)


def _percent(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "–"
    text = f"{estimate.value * 100:.1f} %"
    if estimate.low is not None and estimate.high is not None:
        text += f" ({estimate.low * 100:.1f}..{estimate.high * 100:.1f})"
    return text


def show_decision(console: Console, decision: Decision) -> None:
    """Print every option of a decision as a table a person understands: best first, then the near misses."""
    order = {"fits": 0, "unknown": 1, "over_budget": 2, "failed": 3}

    def key(option: Option) -> tuple[int, float, str]:
        return (order[option.standing], option.rank if option.rank is not None else 1e9, option.candidate)

    energy = any(
        "energy_per_inference" in o.estimates and o.estimates["energy_per_inference"].value for o in decision.options
    )
    columns = ["", "candidate", "run as", "top-1 (95 %)", "p50", "p95", "memory", "size"]
    columns += ["energy"] if energy else []
    columns += ["verdict", "why"]
    rows = []
    for option in sorted(decision.options, key=key):
        word, style = _STANDING[option.standing]
        figures = option.estimates
        chosen = (
            decision.winner is not None
            and (option.artifact_sha256, option.point) == (decision.winner.artifact_sha256, decision.winner.point)
            and option.standing == "fits"
        )
        row: list[object] = [
            ("▶", "bold green") if chosen else (str(option.rank) if option.rank else ""),
            (option.candidate, "bold" if chosen else ""),
            option.point.label,
            _percent(figures.get("accuracy_top1")),
            _figure(figures.get("latency_p50"), "time"),
            _figure(figures.get("latency_p95"), "time"),
            _figure(figures.get("memory_peak"), "bytes"),
            format_quantity(option.size_bytes, "bytes"),
        ]
        row += [_figure(figures.get("energy_per_inference"), "energy")] if energy else []
        rows.append([*row, (word, style), option.reason])
    console.table(columns, rows, right=("p50", "p95", "memory", "size", "energy"))


def show_measurements(console: Console, measurements: Sequence[Measurement]) -> None:
    """Print measurements with their conditions."""
    rows = []
    for item in measurements:
        latency, memory, accuracy = item.latency, item.memory, item.accuracy
        energy = item.power.energy_per_inference_j if item.power else None
        rows.append(
            [
                item.candidate,
                item.point.label,
                item.verdict,
                format_quantity(latency.p50_s.value, "time") if latency else "–",
                format_quantity(latency.p95_s.value, "time") if latency else "–",
                str(latency.n) if latency else "–",
                format_quantity(item.load_time_s, "time") if item.load_time_s is not None else "–",
                format_quantity(memory.admission_peak_bytes, "bytes") if memory else "–",
                format_quantity(energy.value, "energy") if energy else "–",
                f"{accuracy.top1.value * 100:.1f} % of {accuracy.n}" if accuracy else "–",
                ", ".join(item.context.flags) if item.context and item.context.flags else "",
                item.reason or (item.power_reason if not energy else "") or "",
            ]
        )
    columns = [
        "candidate",
        "run as",
        "verdict",
        "p50",
        "p95",
        "n",
        "load",
        "memory",
        "energy",
        "top-1",
        "flags",
        "note",
    ]
    console.table(columns, rows, right=("p50", "p95", "n", "load", "memory", "energy"))
