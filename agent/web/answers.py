"""How answers look on the wire: JSON, errors as the sentences that the command line says, and events. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agent.errors import BoardfitError, ConfigError, OrderError, StorageError

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class NotFoundError(ConfigError):
    """Nothing is stored under that name."""


def json(document: Any, status: int = 200) -> Response:
    """Return a JSON answer."""
    return Response(msgspec.json.encode(document), status, media_type="application/json")


def refusal(error: BoardfitError) -> Response:
    """Return an error as its sentence."""
    status = 400
    for kind, code in ((NotFoundError, 404), (OrderError, 403), (StorageError, 503)):
        if isinstance(error, kind):
            status = code
            break
    return json({"problem": error.problem, "fix": error.fix}, status)


def answered(handler: Callable[[Request], Awaitable[Response]]) -> Handler:
    """Turn a handler's errors into answers."""

    @wraps(handler)
    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except BoardfitError as error:
            return refusal(error)

    return handle


def read(handler: Callable[[Request], Any]) -> Handler:
    """Make an address of a function that reads the store and returns a document; it runs in a thread."""

    @wraps(handler)
    async def handle(request: Request) -> Response:
        def work() -> Response:
            return json(handler(request))

        return await run_in_threadpool(work)

    return answered(handle)


async def document(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request. Raises: ConfigError: it is none."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise ConfigError("the request must be JSON")
    try:
        found = msgspec.json.decode(await request.body())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"the request is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError("the request must be a JSON object")
    return found


def event(kind: str, data: Any) -> bytes:
    """Return one server-sent event."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(data))
