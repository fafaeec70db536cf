"""What every request must satisfy and every answer must carry, whatever it is about.

Rules:
- A request must name this console in its Host header: an address, localhost, this machine's name, or what the settings
  say. A page of a foreign name that was pointed here afterwards (DNS rebinding) is refused.
- A request that changes something and says where it comes from must come from this console itself.
- The page may load nothing from elsewhere, run no script of its own text, and stand in no frame.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from agent.fleet.sign_in import origin_of

MAX_BODY_BYTES = 64 * 1024
_SAFE = ("GET", "HEAD", "OPTIONS")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types boardfit-plot"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), usb=()",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Stands before the application. Args: url: how people reach the console; None: as they address it."""

    def __init__(self, application: App, url: str | None, tls: bool) -> None:
        self._application = application
        self._origin = None if url is None else origin_of(url)
        self._tls = tls
        self._names = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
        if self._origin is not None:
            self._names.add(urlsplit(self._origin).hostname or "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        origin = self.origin(host)
        if origin is None:
            await _refuse(send, 421, "this console is not known by that name; say its name with --url")
            return
        said = headers.get(b"origin")
        if scope["method"] not in _SAFE and said is not None and said != origin:
            await _refuse(send, 403, "this request comes from another page")
            return
        length = headers.get(b"content-length", "0")
        if headers.get(b"transfer-encoding") or not length.isdigit() or int(length) > MAX_BODY_BYTES:
            await _refuse(send, 413, "the request is too long, or does not say how long it is")
            return
        scope.setdefault("state", {})["origin"] = origin
        await self._application(scope, receive, _with_headers(send, self._secure(origin)))

    def origin(self, host: str) -> str | None:
        """Return the console's origin for a Host header; None where the header names something else."""
        try:
            parts = urlsplit(f"//{host}")
            name, _ = (parts.hostname or "").lower(), parts.port
        except ValueError:
            return None
        if not name or parts.username is not None or parts.path:
            return None
        if name not in self._names and not _is_address(name):
            return None
        if self._origin is not None and name == urlsplit(self._origin).hostname:
            return self._origin
        return origin_of(f"{'https' if self._tls else 'http'}://{host}")

    @staticmethod
    def _secure(origin: str) -> bool:
        return origin.startswith("https:")


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _with_headers(send: Send, secure: bool) -> Send:
    more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    if secure:
        more.append((b"strict-transport-security", b"max-age=31536000"))

    async def passed(message: Any) -> None:
        if message["type"] == "http.response.start":
            given = {name for name, _ in message["headers"]}
            if b"cache-control" not in given:
                more.append((b"cache-control", b"no-store"))
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return passed


async def _refuse(send: Send, status: int, text: str) -> None:
    body = text.encode()
    head = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    head += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
