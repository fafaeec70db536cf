"""A real HTTP server on loopback that answers as it is told, and counts what it sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = 64 * 1024


class Web(ThreadingHTTPServer):
    """Its ``answer`` is called for every request; ``over`` is set when the test is done with it."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answer: Callable[[Exchange], None] = lambda exchange: exchange.send_error(404)
        self.over = threading.Event()
        self.sent_bytes = 0
        self.asked: list[tuple[str, str | None]] = []
        super().__init__(("127.0.0.1", 0), Exchange)

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up are what is tested."""


class Exchange(BaseHTTPRequestHandler):
    """One request and how it is answered."""

    server: Web
    protocol_version = "HTTP/1.1"
    timeout = 10.0

    def do_GET(self) -> None:
        """Answer as the test says."""
        self.server.asked.append((self.path, self.headers.get("Range")))
        try:
            self.server.answer(self)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def head(self, status: int, length: int | None, **headers: str) -> None:
        """Send the first lines; without a length the end of the connection is the end of the body."""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.close_connection = True

    def body(self, data: bytes) -> None:
        """Send bytes, counted."""
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self.wfile.write(piece)
            self.server.sent_bytes += len(piece)

    def endless(self) -> None:
        """Send blanks until the other side has had enough."""
        while not self.server.over.is_set():
            self.body(b" " * PIECE)

    def trickle(self, data: bytes, every_s: float) -> None:
        """Send a byte at a time until it is over or the other side has had enough."""
        for place in range(len(data)):
            if self.server.over.wait(every_s):
                return
            self.body(data[place : place + 1])


@contextmanager
def serving() -> Iterator[Web]:
    """Run one in a thread."""
    server = Web()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
