"""The whole console as one ASGI application: addresses, the page that all of them open, and its files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from agent.clock import SystemClock
from agent.collector.reading import Reader
from agent.report.html.style import PLOT_STYLE
from agent.web.answers import json
from agent.web.desk import Desk
from agent.web.guard import App, Guard
from agent.web.reading_routes import ReadingRoutes
from agent.web.settings import ConsoleSettings, Page
from agent.web.signing_routes import SigningRoutes
from agent.web.watching import Hub, Watch

STATIC = Path(__file__).parent / "static"
#: What a browser may open or keep as a bookmark; the page itself finds out what to show.
_PAGES = (
    "/", "/sign-in", "/fleets/{fleet}", "/fleets/{fleet}/boards", "/fleets/{fleet}/boards/{board}",
    "/fleets/{fleet}/classes", "/fleets/{fleet}/classes/{fingerprint}", "/fleets/{fleet}/rollouts",
    "/fleets/{fleet}/rollouts/{rollout}",
)  # fmt: skip


class Console:
    """One console: its application, and what must be ended with it."""

    def __init__(self, reader: Reader, settings: ConsoleSettings) -> None:
        self.hub = Hub()
        self.watch = Watch(reader, self.hub.tell_from_outside, settings.period_s)
        self.desk = Desk(SystemClock().utc, self.hub.tell_pen)
        signing = SigningRoutes(self.desk, settings.operators)
        reading = ReadingRoutes(self.watch, self.hub, signing.pen_of)
        routes: list[Route | Mount] = [
            *reading.routes(),
            *signing.routes(),
            *(Route(path, _more(page)) for path, page in settings.more.items()),
            *(Route(path, _shell) for path in _PAGES),
            Route("/static/plots.css", _plots),
            Mount("/static", _Static(directory=STATIC)),
        ]
        inner = Starlette(
            routes=routes, lifespan=self._lifespan, exception_handlers={404: _missing, 405: _missing, 500: _broken}
        )
        self.application: App = Guard(inner, settings.url, settings.tls_cert is not None)

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self.hub.begin()
        self.watch.start()
        yield

    def close(self) -> None:
        """End what runs beside the application."""
        self.watch.close()


class _Static(StaticFiles):
    """The page's files; a browser asks whether they have changed each time, so that an update is seen at once."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return a file."""
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


async def _shell(_request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


async def _plots(_request: Request) -> Response:
    """How plots look: the report's own rules."""
    return Response(PLOT_STYLE, media_type="text/css", headers={"cache-control": "no-cache"})


def _more(page: Page) -> Any:
    async def give(_request: Request) -> Response:
        kind, body = await run_in_threadpool(page)
        return Response(body, media_type=kind)

    return give


async def _missing(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    if request.url.path.startswith(("/api/", "/static/", "/pen/", "/sign-in/")):
        return json({"problem": "there is nothing here", "fix": None}, status)
    return FileResponse(STATIC / "index.html", status)


async def _broken(_request: Request, _error: Exception) -> Response:
    return json({"problem": "the console has failed at this; its log says how", "fix": "tell its author"}, 500)
