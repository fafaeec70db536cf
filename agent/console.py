"""How results and progress look to a person: tables and bars on a terminal, plain lines otherwise.

Decides only the looks; what is shown comes from the verbs. ``rich`` is imported when the first line is printed, never
by the daemon. With ``--json`` standard output carries one JSON document and everything else goes to standard error.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from agent.core.ports import Progress, ProgressEvent

if TYPE_CHECKING:
    import rich.console
    import rich.progress
    from rich.table import Table

_PLAIN_WIDTH = 150
_PICTURE_WIDTH = 120
_PICTURE_ROWS = 10  # of one table: a picture of eighty rows is read by nobody
_LIVE_ROWS = 6  # of a live table: its head, a rule, and the lines below it, which may be folded
_GAP = 2
_MOST_DRAWN = 500  # rows of one table that rich draws
_FLEXIBLE_MIN = 40  # less of a reason says little; other columns yield first

Cell = str | tuple[str, str]  # a text, or one with its style


class Column(NamedTuple):
    """A column and how it yields where the terminal is narrow.

    ``narrow``: another heading with shorter cells. ``leave_out``: 0 stays, 1 is the first to go. ``flexible``: takes
    the rest of the line, where its text is cut with an ellipsis.
    """

    name: str
    cells: Sequence[Cell]
    right: bool = False
    narrow: tuple[str, Sequence[Cell]] | None = None
    leave_out: int = 0
    flexible: bool = False

    @property
    def width(self) -> int:
        """Characters of the widest cell."""
        if self.flexible:
            return _FLEXIBLE_MIN
        return self.full_width

    @property
    def full_width(self) -> int:
        """Characters of the widest cell, whether it yields or not."""
        return max(len(self.name), *(len(cell if isinstance(cell, str) else cell[0]) for cell in self.cells), 0)


def fit_columns(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns as they fit into ``width`` characters, as far as they can yield."""
    fitted = list(columns)
    narrowable = [place for place, column in enumerate(columns) if column.narrow is not None]
    for place in reversed(narrowable):
        if line_width(fitted) <= width:
            return fitted
        name, cells = columns[place].narrow or ("", ())
        fitted[place] = columns[place]._replace(name=name, cells=cells)
    for column in sorted((column for column in fitted if column.leave_out), key=lambda column: column.leave_out):
        if line_width(fitted) <= width:
            break
        fitted.remove(column)
    return fitted


def line_width(columns: Sequence[Column]) -> int:
    """Return how wide a line of these columns is."""
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


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
            width = _PICTURE_WIDTH if self._record else None if stream.isatty() else _PLAIN_WIDTH
            self._made = rich.console.Console(file=stream, width=width, record=self._record, highlight=False)
        return self._made

    def document(self, value: Any) -> None:
        """Print the one JSON document of a ``--json`` run."""
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
        sys.stdout.flush()

    def line(self, text: str = "", style: str | None = None) -> None:
        """Print prose, folded between words on a terminal; square brackets are text, not markup."""
        if self._record or self.rich.is_terminal:
            text = "\n".join(_fold(line, self.rich.width) for line in text.splitlines())
        self.rich.print(text, style=style, markup=False, soft_wrap=not self._record)

    def heading(self, text: str) -> None:
        """Print the name of a part."""
        self.rich.print()
        self.rich.print(text, style="bold", markup=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
        """Print a table whose last column is prose, folded between words; ``right`` names columns set flush right."""
        last = len(columns) - 1
        self._print_table(
            [
                Column(name, [_cell(row[place]) for row in rows], right=name in right, flexible=place == last)
                for place, name in enumerate(columns)
            ],
            cut=False,
        )

    def columns(self, columns: Sequence[Column], *, more: str = "more", most: int = _PICTURE_ROWS) -> None:
        """Print a table of one line per row: what fits on a terminal or picture, everything otherwise.

        Args: most: rows of a picture. more: ends the sentence that counts the others.
        """
        if not self._record and not self.rich.is_terminal:
            self._write_plain(columns)
            return
        if not self._record and len(columns[0].cells) > _MOST_DRAWN:
            self._write_plain(fit_columns(columns, self.rich.width), self.rich.width)
            return
        total, limit = len(columns[0].cells), most if self._record else None
        shown = [column._replace(cells=column.cells[:limit]) for column in fit_columns(columns, self.rich.width)]
        self._print_table(shown, cut=True)
        if limit is not None and total > limit:
            self.rich.print(f"… {total - limit} more {more}", style="dim")

    @property
    def room(self) -> int:
        """How many rows of a live table there is room for."""
        return max(1, self.rich.height - _LIVE_ROWS)

    @contextmanager
    def live(self, *, transient: bool = False) -> Iterator[Callable[[Sequence[Column], str], None]]:
        """Give a callback that shows a table with a line below it in place of what it showed before; for terminals.

        Args: transient: nothing of it stays.
        """
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        with Live(console=self.rich, auto_refresh=False, transient=transient) as screen:

            def show(columns: Sequence[Column], line: str) -> None:
                fitted = fit_columns(columns, self.rich.width)
                cut = [column._replace(cells=column.cells[: self.room]) for column in fitted]
                table = self._table(cut, cut=True)
                screen.update(Group(table, Text(line)), refresh=True)

            yield show

    def _write_plain(self, columns: Sequence[Column], width: int | None = None) -> None:
        """Write a table without rich, which takes a millisecond per row. Args: width: lines are cut there."""
        shown = [column for column in columns if column.name or any(column.cells)]
        texts = [
            [cell if isinstance(cell, str) else cell[0] for cell in (column.name, *column.cells)] for column in shown
        ]
        different = [set(cells) for cells in texts]  # most cells of a long column are like others
        widths = [max(map(_wide, cells)) for cells in different]
        for place, column in enumerate(shown):
            if width is not None and column.flexible:
                widths[place] = max(1, width - (sum(widths) - widths[place]) - _GAP * (len(shown) - 1))
        padded = []
        for column, cells, each, room in zip(shown, texts, different, widths, strict=True):
            made = {cell: _fill(cell, room, right=column.right) for cell in each}
            padded.append([made[cell] for cell in cells])
        head, *rows = ((" " * _GAP).join(row).rstrip() for row in zip(*padded, strict=True))
        rule = "─" * (sum(widths) + _GAP * (len(shown) - 1))
        heads = [head, rule] if any(column.name for column in shown) else []
        self.rich.file.write("\n".join([*heads, *rows]) + "\n")

    def _print_table(self, columns: Sequence[Column], *, cut: bool) -> None:
        self.rich.print(self._table(columns, cut=cut))

    def _table(self, columns: Sequence[Column], *, cut: bool) -> Table:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(
            show_edge=False, pad_edge=False, header_style="bold", box=SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0)
        )
        rest = self.rich.width - line_width([column for column in columns if not column.flexible]) - _GAP
        table.show_header = any(column.name for column in columns)
        for column in columns:
            table.add_column(
                column.name,
                justify="right" if column.right else "left",
                no_wrap=cut or not column.flexible,
                overflow="ellipsis" if cut else "fold",
                width=None if column.flexible else min(column.width, self.rich.width // 2),
                max_width=max(rest, 1) if column.flexible else None,
            )
        for row in zip(*(column.cells for column in columns), strict=True):
            table.add_row(*(Text(cell) if isinstance(cell, str) else Text(cell[0], style=cell[1]) for cell in row))
        return table

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
        """Draw what was printed as an SVG picture of a terminal; it refers to nothing outside itself."""
        drawn = self.rich.export_svg(title=title)
        path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL), encoding="utf-8")


def _wide(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _fill(text: str, room: int, *, right: bool) -> str:
    """Return a text as wide as its column, cut with an ellipsis where it is wider."""
    if text.isascii():
        if len(text) > room:
            text = text[: room - 1] + "…"
        return text.rjust(room) if right else text.ljust(room)
    from rich.cells import cell_len, set_cell_size

    missing = room - cell_len(text)
    if missing < 0:
        return set_cell_size(text, room - 1) + "…"
    return " " * missing + text if right else text + " " * missing


def _fold(line: str, width: int) -> str:
    """Fold one line at its own indentation; a path stays whole, so that it can be copied."""
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _cell(value: object) -> Cell:
    return value if isinstance(value, tuple) else str(value)
