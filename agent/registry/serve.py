"""A small static file server for a registry, for trying things and for tests: Range, If-Range, ETag; read only.

It serves regular files below ``metadata/`` and ``targets/`` and ``root.json``, nothing else, and follows no symbolic
link out of the folder. For a fleet, use a web server or an object store.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from agent.errors import ConfigError, DownloadError
from agent.registry.layout import METADATA_FOLDER, ROOT_FILE, TARGETS_FOLDER
from agent.registry.transport import FileTransport

_LOG = logging.getLogger(__name__)
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
_IDLE_S = 30.0


class RegistryServer(ThreadingHTTPServer):
    """Serves one folder.

    Args: directory: the registry. address: host and port (0: any free one). handler: what answers.
    """

    daemon_threads = True

    def __init__(
        self, directory: Path, address: tuple[str, int], handler: type[BaseHTTPRequestHandler] | None = None
    ) -> None:
        self.directory = directory.resolve()
        super().__init__(address, handler or RegistryHandler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log instead of printing: most often the other side has gone."""
        _LOG.debug("request %s of %s failed", request, client_address, exc_info=True)

    @property
    def url(self) -> str:
        """Return the address to give to a client."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"


class RegistryHandler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    server: RegistryServer
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """Send a file or a part of it."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Send the headers of a file."""
        self._answer(with_body=False)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        """Log instead of printing."""
        _LOG.debug("%s %s", self.address_string(), format % arguments)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path).removeprefix("/")
        if not self._is_published(path):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        transport = FileTransport(self.server.directory)
        try:
            status = transport.stat(path)
            length = status.length or 0
            first, last = self._range(length, status.etag)
            if first > last and length > 0:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{length}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            partial = (first, last) != (0, length - 1)
            self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
            if partial:
                self.send_header("Content-Range", f"bytes {first}-{last}/{length}")
            self.send_header("Content-Length", str(last - first + 1))
            self.send_header(
                "Content-Type", "application/json" if path.endswith(".json") else "application/octet-stream"
            )
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", status.etag or '""')
            self.send_header(
                "Cache-Control",
                "no-cache" if path.endswith("timestamp.json") else "public, max-age=31536000, immutable",
            )
            self.end_headers()
            if with_body:
                self._send(transport, path, first, last - first + 1)
        except DownloadError:
            self.send_error(HTTPStatus.NOT_FOUND)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _is_published(self, path: str) -> bool:
        top = path.partition("/")[0]
        if "\0" in path or (top not in (METADATA_FOLDER, TARGETS_FOLDER) and path != ROOT_FILE):
            return False
        return (self.server.directory / path).resolve().is_relative_to(self.server.directory)

    def _range(self, length: int, etag: str | None) -> tuple[int, int]:
        whole = (0, length - 1)
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if match is None or (condition is not None and condition != etag):
            return whole
        last = int(match[2]) if match[2] else length - 1
        return int(match[1]), min(last, length - 1)

    def _send(self, transport: FileTransport, path: str, offset: int, count: int) -> None:
        with transport.open_range(path, offset) as stream:
            for chunk in stream:
                piece = chunk[:count]
                self.wfile.write(piece)
                count -= len(piece)
                if count <= 0:
                    return
        self.close_connection = True  # the file shrank: fewer bytes than announced, and only closing says so


@contextmanager
def open_server(directory: Path, host: str = "127.0.0.1", port: int = 0) -> Iterator[RegistryServer]:
    """Bind a server; the caller runs ``serve_forever``.

    Raises: ConfigError: there is no such folder, or the address cannot be bound.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory} is not a folder", fix="make a registry with `boardfit registry init`")
    try:
        server = RegistryServer(directory, (host, port))
    except OSError as error:
        raise ConfigError(f"{host}:{port} cannot be bound: {error.strerror}", fix="choose another port") from error
    try:
        yield server
    finally:
        server.server_close()


def serve(directory: Path, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve a registry until interrupted by Ctrl-C. Raises: ConfigError."""
    with open_server(directory, host, port) as server, suppress(KeyboardInterrupt):
        _LOG.info("serving %s at %s", directory, server.url)
        server.serve_forever()
