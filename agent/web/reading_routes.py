"""The addresses under which a browser reads: boards, classes, rollouts, and what changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from agent import __version__
from agent.collector.reading import OptionFigures
from agent.core.topics import check_id
from agent.errors import ConfigError
from agent.fleet.addressing import FIELDS
from agent.web.answers import NotFoundError, answered, event, read
from agent.web.board_page import board_page, board_series, plain_texts
from agent.web.class_page import class_list, class_page
from agent.web.fleet_table import FILTERS, PAGE, Query, table
from agent.web.watching import FleetNow, Hub, Listener, News, Watch

_BEAT_S = 15.0
_KEPT_S = 10.0
_MOST_KEPT = 64
MOST_ROLLOUTS = 100


class ReadingRoutes:
    """Handlers of one console. Args: pen_of: the pen whose news a request may hear, or None."""

    def __init__(self, watch: Watch, hub: Hub, pen_of: Callable[[Request], str | None]) -> None:
        self._watch, self._hub, self._pen_of = watch, hub, pen_of
        self._kept: dict[tuple[str, str, str], tuple[float, list[OptionFigures]]] = {}

    def routes(self) -> list[Route]:
        """Return the addresses."""
        fleet = "/api/fleets/{fleet}"
        return [
            Route("/api/fleets", read(self.fleets)),
            Route(f"{fleet}/boards", read(self.boards)),
            Route(f"{fleet}/boards/{{board}}", read(self.board)),
            Route(f"{fleet}/boards/{{board}}/series", read(self.series)),
            Route(f"{fleet}/classes", read(self.classes)),
            Route(f"{fleet}/classes/{{fingerprint}}", read(self.one_class)),
            Route(f"{fleet}/rollouts", read(self.rollouts)),
            Route(f"{fleet}/rollouts/{{rollout}}", read(self.rollout)),
            Route(f"{fleet}/changes", read(self.changes)),
            Route(f"{fleet}/live", self.live),
        ]

    def fleets(self, _request: Request) -> Any:
        """The fleets, and the words that expressions may use."""
        names = self._watch.read(lambda reader: reader.fleets())
        fields = {name: field.meaning for name, field in FIELDS.items()}
        return {"fleets": names, "version": __version__, "fields": fields}

    def boards(self, request: Request) -> Any:
        """One page of the table."""
        fleet, given = self._fleet(request), request.query_params
        query = Query(
            expression=given.get("filter", ""), sort=given.get("sort", "name"), descending=given.get("order") == "desc",
            columns={name: given[name] for name in FILTERS if name in given},
            page=_whole(given.get("page"), 1), per_page=_whole(given.get("per_page"), PAGE),
        )  # fmt: skip
        made = table(dict(fleet.boards), dict(fleet.lines), query)
        return plain_texts({**made, "cursor": fleet.cursor, "problem": fleet.problem})

    def board(self, request: Request) -> Any:
        """One board."""
        fleet = self._fleet(request)
        view = self._board(fleet, request)
        page = self._watch.read(lambda reader: board_page(reader, fleet.name, view))
        return {**page, "problem": fleet.problem}

    def series(self, request: Request) -> Any:
        """One board's figures over time."""
        fleet = self._fleet(request)
        view = self._board(fleet, request)
        task = request.query_params.get("task") or next(iter(sorted(view.tasks)), None)
        made = self._watch.read(lambda reader: board_series(reader, fleet.name, view, task))
        return {**made, "task": task}

    def classes(self, request: Request) -> Any:
        """The classes of boards."""
        fleet = self._fleet(request)
        return class_list(self._watch.read(lambda reader: reader.classes(fleet.name)))

    def one_class(self, request: Request) -> Any:
        """One class and one of its tasks."""
        fleet, start = self._fleet(request), request.path_params["fingerprint"].lower()
        rows = self._watch.read(lambda reader: reader.classes(fleet.name))
        found = [row for row in rows if row.class_fingerprint.startswith(start)] if start else []
        if len(found) != 1:
            raise NotFoundError(f"there is no class {start[:64]} in {fleet.name}", fix="see the list of classes")
        task = request.query_params.get("task") or next(iter(sorted(found[0].tasks)), None)
        options = []
        if task is not None:
            check_id(task, where="task")
            options = self._options(fleet.name, found[0].class_fingerprint, task)
        return class_page(found[0], task, options, list(fleet.boards.values()))

    def _options(self, fleet: str, fingerprint: str, task: str) -> list[OptionFigures]:
        """Return what a class has measured, of a few seconds ago at most: of thousands of boards it is much to read."""
        key, now = (fleet, fingerprint, task), time.monotonic()
        kept = self._kept.get(key)
        if kept is not None and now - kept[0] < _KEPT_S:
            return kept[1]
        found: list[OptionFigures] = self._watch.read(lambda reader: reader.options(fleet, fingerprint, task))
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[key] = (time.monotonic(), found)
        return found

    def rollouts(self, request: Request) -> Any:
        """The rollouts, without their boards and history."""
        fleet = self._fleet(request)
        found = self._watch.read(lambda reader: reader.rollouts(fleet.name, MOST_ROLLOUTS))
        left_out = ("boards", "transitions")
        return plain_texts({"rollouts": [{k: v for k, v in one.items() if k not in left_out} for one in found]})

    def rollout(self, request: Request) -> Any:
        """One rollout."""
        fleet, wanted = self._fleet(request), request.path_params["rollout"]
        found = self._watch.read(lambda reader: reader.rollouts(fleet.name, MOST_ROLLOUTS))
        one = next((one for one in found if one.get("id") == wanted), None)
        if one is None:
            raise NotFoundError(f"there is no rollout {wanted[:64]} in {fleet.name}", fix="see the list of rollouts")
        return plain_texts({"rollout": one})

    def changes(self, request: Request) -> Any:
        """Whether anything has changed, for a browser that cannot hear events."""
        fleet = self._fleet(request)
        return {"cursor": fleet.cursor, "problem": fleet.problem}

    async def live(self, request: Request) -> Response:
        """What changes, as events."""

        async def open_stream(request: Request) -> Response:
            name = request.path_params["fleet"]
            fleet = await asyncio.to_thread(self._watch.fleet, name)
            listener = Listener(name, self._pen_of(request))
            self._hub.add(listener)
            head = {"cache-control": "no-store", "x-accel-buffering": "no"}
            return StreamingResponse(self._stream(listener, fleet), media_type="text/event-stream", headers=head)

        return await answered(open_stream)(request)

    async def _stream(self, listener: Listener, fleet: FleetNow) -> AsyncIterator[bytes]:
        try:
            yield event("hello", {"cursor": fleet.cursor, "problem": fleet.problem})
            while True:
                try:
                    news: News | None = await asyncio.wait_for(listener.queue.get(), _BEAT_S)
                except asyncio.TimeoutError:
                    yield b": still here\n\n"
                    continue
                if news is None:
                    return
                yield event(news.kind, news.document)
        finally:
            self._hub.remove(listener)

    def _fleet(self, request: Request) -> FleetNow:
        return self._watch.fleet(request.path_params["fleet"])

    @staticmethod
    def _board(fleet: FleetNow, request: Request) -> Any:
        name = request.path_params["board"]
        view = fleet.boards.get(name)
        if view is None:
            raise NotFoundError(f"there is no board {name[:64]} in {fleet.name}", fix="see the table of boards")
        return view


def _whole(text: str | None, usual: int) -> int:
    if text is None:
        return usual
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise ConfigError(f"{text[:32]!r} is not a number of a page")
    return int(text)
