"""The fleet as the store has it, kept fresh by the store's cursor; browsers are told what has changed.

Rules:
- The cursor is taken before the boards are read, so that nothing falls between the two.
- A store that is away leaves what is known on the screen, with the reason beside it, and is asked again.
- A browser that does not take its news is told once more that all must be read again; nothing piles up for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from agent.collector.reading import Changes, Reader
from agent.errors import BoardfitError, ConfigError
from agent.fleet.view import BoardView
from agent.web.answers import NotFoundError
from agent.web.fleet_table import Line, line_of

MOST_NAMED = 300
MAX_LISTENERS = 500
_QUEUE = 32


class News(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to tell a browser: the kind of event and its document."""

    kind: str
    document: dict[str, Any]


class Listener:
    """One browser that hears what changes. ``pen``: whose news of wishes it hears too."""

    def __init__(self, fleet: str, pen: str | None) -> None:
        self.fleet, self.pen = fleet, pen
        self.queue: asyncio.Queue[News | None] = asyncio.Queue(_QUEUE)

    def tell(self, news: News | None) -> None:
        """Put one thing into its queue; a full one is emptied, and all is to be read again."""
        if self.queue.full():
            while not self.queue.empty():
                self.queue.get_nowait()
            if news is not None:
                news = News(kind="changed", document={"whole": True})
        self.queue.put_nowait(news)


class Hub:
    """All browsers that listen. Lives in the event loop; ``tell_from_outside`` may be called from any thread."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.closing = False

    def begin(self) -> None:
        """Take hold of the loop that is running."""
        self._loop = asyncio.get_running_loop()

    def add(self, listener: Listener) -> None:
        """Begin to tell one. Raises: ConfigError: too many listen."""
        if len(self._listeners) >= MAX_LISTENERS or self.closing:
            raise ConfigError("too many browsers listen", fix="close some; this one asks now and then instead")
        self._listeners.add(listener)

    def remove(self, listener: Listener) -> None:
        """Tell one no more."""
        self._listeners.discard(listener)

    def tell_fleet(self, fleet: str, news: News) -> None:
        """Tell everybody who looks at a fleet."""
        for listener in self._listeners:
            if listener.fleet == fleet:
                listener.tell(news)

    def tell_pen(self, pen: str) -> None:
        """Tell the browsers of one operator that his wishes have moved."""
        for listener in self._listeners:
            if listener.pen == pen:
                listener.tell(News(kind="wishes", document={}))

    def tell_from_outside(self, fleet: str, news: News) -> None:
        """Tell everybody who looks at a fleet, from another thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self.tell_fleet, fleet, news)

    def close(self) -> None:
        """Let everybody go."""
        self.closing = True
        for listener in self._listeners:
            listener.tell(None)

    def close_from_outside(self) -> None:
        """Let everybody go, from another thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self.close)


class FleetNow:
    """One fleet's boards with their lines for the table. ``problem``: why they are not fresh."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cursor = 0
        self.boards: dict[str, BoardView] = {}
        self.lines: dict[str, Line] = {}
        self.problem: str | None = None

    def put(self, board: BoardView) -> None:
        """Take one board as it is now."""
        self.boards[board.name] = board
        self.lines[board.name] = line_of(board)

    def drop(self, name: str) -> None:
        """Forget one."""
        self.boards.pop(name, None)
        self.lines.pop(name, None)


class Watch:
    """Asks the store what has changed, in a thread of its own; of a fleet from the first time it is asked for."""

    def __init__(self, reader: Reader, tell: Callable[[str, News], None], period_s: float) -> None:
        self._reader, self._tell, self._period_s = reader, tell, period_s
        self._fleets: dict[str, FleetNow] = {}
        self._lock = threading.Lock()  # one reads a fleet for the first time
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="console-watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def fleet(self, name: str) -> FleetNow:
        """Return a fleet as it is known now.

        Raises: ConfigError: the store has no such fleet. StorageError: it was never read, and cannot be.
        """
        found = self._fleets.get(name)
        if found is not None:
            return found
        with self._lock:
            if name not in self._reader.fleets():
                raise NotFoundError(f"nothing is stored of a fleet {name[:64]}", fix="see the list of fleets")
            made = FleetNow(name)
            self._read_all(made)
            return self._fleets.setdefault(name, made)

    def read(self, ask: Callable[[Reader], Any]) -> Any:
        """Ask the store something, from any thread. Raises: StorageError."""
        return ask(self._reader)

    def _run(self) -> None:
        with suppress(BoardfitError):  # whoever asks hears of it
            for name in self._reader.fleets():
                self.fleet(name)
        while not self._stopping.wait(self._period_s):
            for fleet in list(self._fleets.values()):
                self._step(fleet)

    def _step(self, fleet: FleetNow) -> None:
        before = fleet.problem
        try:
            changes = self._reader.changes(fleet.name, fleet.cursor)
            if changes.whole:
                self._read_all(fleet)
            else:
                self._read_some(fleet, changes)
                fleet.cursor = changes.cursor
        except BoardfitError as error:
            fleet.problem = str(error)
        else:
            fleet.problem = None
            if changes.whole or changes.boards or changes.rollouts:
                self._tell(fleet.name, News(kind="changed", document=told(changes)))
        if fleet.problem != before:
            self._tell(fleet.name, News(kind="trouble", document={"problem": fleet.problem}))

    def _read_all(self, fleet: FleetNow) -> None:
        fleet.cursor = self._reader.changes(fleet.name, 0).cursor
        boards = self._reader.boards(fleet.name)
        for name in set(fleet.boards) - {board.name for board in boards}:
            fleet.drop(name)
        for board in boards:
            fleet.put(board)

    def _read_some(self, fleet: FleetNow, changes: Changes) -> None:
        if not changes.boards:
            return
        found = {board.name: board for board in self._reader.boards(fleet.name, changes.boards)}
        for name in changes.boards:
            if name in found:
                fleet.put(found[name])
            else:
                fleet.drop(name)


def told(changes: Changes) -> dict[str, Any]:
    """Return what a browser is told of changes: names, or that there are too many."""
    whole = changes.whole or len(changes.boards) > MOST_NAMED
    return {
        "cursor": changes.cursor,
        "whole": whole,
        "boards": [] if whole else sorted(changes.boards),
        "rollouts": sorted(changes.rollouts),
    }
