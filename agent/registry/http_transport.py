"""A registry on a web server, by the standard library's client.

Rules:
- Redirects are off: a registry is where the configuration says, and nowhere else.
- Every request has a limit on connecting and on each read, on the time until the headers are there, and on the least
  rate at which bytes arrive; a server that trickles is given up.
- ``Range`` goes with ``If-Range`` where the server gave a strong ETag. A 200 in answer to a range is the whole file
  again; where a 206 begins elsewhere than asked, or 416 says that there is no such range, the whole file is asked for.
- An error that says that a server is too slow carries ``facts['too_slow']``: asking it again at once would not help.
- No compression: a registry's files are compressed already, and lengths are signed for what lies on disk.

Integrity is not decided here: metadata is signed, targets have digests. TLS is for privacy and against nuisance.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from urllib.parse import quote, urlsplit

import msgspec

from agent import __version__
from agent.errors import ConfigError, DownloadError
from agent.registry.transport import ByteStream, FileStat, chunk_size, most_left, not_found

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_RANGE_NOT_SATISFIABLE = 416


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When a server is given up; all chosen.

    ``read_s``: no byte for so long; ``headers_s``: connecting and headers together; ``rate_bytes_per_s`` over
    ``rate_window_s``: the least rate; ``total_s``: the longest time for one request (None: the rate decides).
    """

    read_s: float = 20.0
    headers_s: float = 40.0
    rate_bytes_per_s: float = 1024.0
    rate_window_s: float = 30.0
    total_s: float | None = 6 * 3600.0


class HttpTransport:
    """A registry below one address.

    Args:
        url: ``http://`` or ``https://``, with a path if there is one; a query is sent with every request.
        limits: when to give up.
        headers: sent with every request, such as an Authorization.
        context: how TLS is verified; the system's authorities when None.
        monotonic_s: the clock for the limits.

    Raises: ConfigError: the address has no host, or carries a user name or a fragment.
    """

    def __init__(
        self,
        url: str,
        *,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ConfigError(f"{url!r} is not an address: {error}", fix="write https://host/path") from error
        if parts.scheme not in ("http", "https") or not self._host or "@" in parts.netloc or parts.fragment:
            raise ConfigError(f"{url!r} is not an address of a registry", fix="write https://host/path, without a user")
        self._tls = parts.scheme == "https"
        self._prefix = parts.path.rstrip("/") + "/"
        self._query = f"?{parts.query}" if parts.query else ""
        self._url = f"{parts.scheme}://{parts.netloc}{self._prefix}"
        self._limits = limits or Limits()
        self._headers = dict(headers or {})
        self._context = context
        self._monotonic_s = monotonic_s

    def __str__(self) -> str:
        return self._url

    def escaped(self, path: str) -> str:
        """Return a path as it stands in an address."""
        return quote(path)

    def stat(self, path: str) -> FileStat:
        """Ask about one file. Raises: DownloadError."""
        connection, response = self._request("HEAD", path, {})
        connection.close()
        if response.status != http.client.OK:
            raise self._refusal(path, response)
        return FileStat(length=_length(response), etag=_strong_etag(response))

    def open_range(
        self, path: str, offset: int = 0, etag: str | None = None, *, length: int | None = None
    ) -> ByteStream:
        """Open a file, as the protocol says. Raises: DownloadError."""
        headers = {}
        if offset > 0:
            headers["Range"] = f"bytes={offset}-"
            if etag is not None:
                headers["If-Range"] = etag
        connection, response = self._request("GET", path, headers)
        try:
            extent = self._read_extent(path, response, offset)
        except BaseException:
            connection.close()
            raise
        if extent is None:
            connection.close()
            return self.open_range(path, length=length)
        url = f"{self._url}{path}"
        stream = _HttpStream(connection, response, url, limits=self._limits, monotonic_s=self._monotonic_s)
        stream.offset, stream.total = extent
        stream.most = most_left(length, stream.offset)
        return stream

    def _read_extent(self, path: str, response: http.client.HTTPResponse, offset: int) -> tuple[int, int | None] | None:
        """Return where the answer begins and the length of the whole file; None: not where it was asked to."""
        if response.status == http.client.OK:
            start, total = 0, _length(response)
        elif response.status == _RANGE_NOT_SATISFIABLE and offset > 0:
            return None
        elif response.status == http.client.PARTIAL_CONTENT and offset > 0:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != offset:
                return None
            start, total = offset, None if match[3] == "*" else int(match[3])
        else:
            raise self._refusal(path, response)
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise DownloadError(
                f"{self._url} sends {path} compressed ({encoding})", fix="switch that off at the server"
            )
        return start, total

    def _request(
        self, method: str, path: str, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connect()
        given_up = threading.Event()
        # Headers that trickle in reset the socket's own limit with every byte.
        timer = threading.Timer(self._limits.headers_s, _break_off, (connection, given_up))
        timer.daemon = True
        timer.start()
        try:
            connection.request(
                method,
                f"{self._prefix}{self.escaped(path)}{self._query}",
                headers={
                    "User-Agent": f"boardfit/{__version__}",
                    "Accept-Encoding": "identity",
                    **self._headers,
                    **headers,
                },
            )
            response = connection.getresponse()
            if given_up.is_set():  # http.client takes headers that end in the middle for whole
                raise TimeoutError(f"no answer within {self._limits.headers_s:g} s")
            return connection, response
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise DownloadError(
                f"{self._url} cannot be reached: {_describe(error)}", fix="check the network and the registry's address"
            ) from error
        except BaseException:
            connection.close()
            raise
        finally:
            timer.cancel()

    def _connect(self) -> http.client.HTTPConnection:
        if not self._tls:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._limits.read_s)
        context = self._context or ssl.create_default_context()
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._limits.read_s, context=context)

    def _refusal(self, path: str, response: http.client.HTTPResponse) -> DownloadError:
        status = response.status
        if status in (404, 410):
            return not_found(path, self._url)
        if 300 <= status < 400:
            return DownloadError(
                f"{self._url} redirects to {response.headers.get('Location', 'nowhere')!r:.200}",
                fix="give the final address in the configuration; redirects are not followed",
                status=status,
            )
        return DownloadError(
            f"{self._url} answered {status} {response.reason} for {path}", fix="look at that server", status=status
        )


class _HttpStream:
    def __init__(
        self,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        url: str,
        *,
        limits: Limits,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._connection, self._response, self._url = connection, response, url
        self._limits, self._monotonic_s = limits, monotonic_s
        self.offset = 0
        self.total: int | None = None
        self.most: int | None = None
        self.etag = _strong_etag(response)

    def __iter__(self) -> Iterator[bytes]:
        limits = self._limits
        began = window_began = self._monotonic_s()
        window_bytes = 0
        expected = None if self.total is None else self.total - self.offset
        got = 0
        while True:
            try:
                chunk = self._response.read1(chunk_size(None if self.most is None else self.most - got))
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise DownloadError(
                    f"{self._url} broke off: {_describe(error)}", fix="try again; what is here already is kept"
                ) from error
            if not chunk:
                if expected is not None and got < min(expected, expected if self.most is None else self.most):
                    raise DownloadError(
                        f"{self._url} broke off after {got} of {expected} bytes", fix="try again; what is here is kept"
                    )
                return
            got += len(chunk)
            window_bytes += len(chunk)
            now = self._monotonic_s()
            if limits.total_s is not None and now - began > limits.total_s:
                raise DownloadError(
                    f"{self._url} took longer than {limits.total_s:.0f} s", fix="try again later", too_slow=True
                )
            if now - window_began >= limits.rate_window_s:
                rate = window_bytes / (now - window_began)
                if rate < limits.rate_bytes_per_s:
                    raise DownloadError(
                        f"{self._url} sends {rate:.0f} bytes/s, less than {limits.rate_bytes_per_s:.0f}",
                        fix="try again later; what is here already is kept",
                        too_slow=True,
                    )
                window_began, window_bytes = now, 0
            yield chunk

    def __enter__(self) -> _HttpStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()
        self._connection.close()


def _break_off(connection: http.client.HTTPConnection, given_up: threading.Event) -> None:
    given_up.set()
    open_socket: socket.socket | None = connection.sock
    if open_socket is not None:
        with suppress(OSError):
            open_socket.shutdown(socket.SHUT_RDWR)


def _length(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _strong_etag(response: http.client.HTTPResponse) -> str | None:
    etag: str | None = response.headers.get("ETag")
    # RFC 9110 13.1.5: a weak one must not be used with If-Range.
    return etag if etag is not None and etag.startswith('"') and len(etag) < 256 else None


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
