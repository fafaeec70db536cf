"""How bytes of a registry are reached: a protocol of two calls, and files in a folder.

Rules for every transport:
- A path is relative to the registry and made of plain parts; no transport leaves its folder or its host.
- ``open_range`` may answer from zero although an offset was asked for: the reader looks at ``offset`` of the stream.
- Of a file whose length is known no more is read than one byte beyond it, which shows that there is more.
- Foreign errors become DownloadError where they happen, in the call and in every step of the iteration; one that says
  "there is no such file" carries ``facts['status'] == 404``.

Leaves HTTP to ``http_transport``, and what the bytes should be to whoever reads them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

import msgspec

from agent.errors import ConfigError, DownloadError
from agent.registry.plain import open_plain

CHUNK_BYTES = 64 * 1024
NOT_FOUND = 404


class FileStat(msgspec.Struct, frozen=True, kw_only=True):
    """What a registry says about one file; None is "not said".

    ``length`` in bytes; ``etag`` changes when the content does.
    """

    length: int | None
    etag: str | None


class ByteStream(Protocol):
    """An open file of a registry.

    ``offset`` is where its first byte lies; ``total`` the length of the whole file in bytes, None where it is not said.
    """

    offset: int
    total: int | None
    etag: str | None

    def __iter__(self) -> Iterator[bytes]:
        """Give the bytes in pieces. Raises: DownloadError."""

    def __enter__(self) -> ByteStream:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file or connection."""


class Transport(Protocol):
    """Where a registry's files come from."""

    def stat(self, path: str) -> FileStat:
        """Ask about one file. Raises: DownloadError."""

    def open_range(
        self, path: str, offset: int = 0, etag: str | None = None, *, length: int | None = None
    ) -> ByteStream:
        """Open a file from byte ``offset`` on; from zero where it is not the file with this ``etag`` any more.

        Args: length: what the whole file should have, bytes.
        Raises: DownloadError.
        """


def most_left(length: int | None, offset: int) -> int | None:
    """Return how many bytes are read from ``offset`` on at most, where the file's length is known."""
    return None if length is None else max(length - offset, 0) + 1


def chunk_size(left: int | None) -> int:
    """Return how many bytes to read at a time where so many are left to be read."""
    return CHUNK_BYTES if left is None else max(min(CHUNK_BYTES, left), 0)


def not_found(path: str, where: str) -> DownloadError:
    """Say that a registry has no such file."""
    return DownloadError(f"{where} has no {path}", fix="check the registry's address", status=NOT_FOUND, path=path)


class FileTransport:
    """A registry in a folder: a mounted share, a USB stick, a bundled one. Args: directory: the registry's folder."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __str__(self) -> str:
        return str(self._directory)

    def stat(self, path: str) -> FileStat:
        """Ask about one file. Raises: DownloadError."""
        with self._open(path) as file:
            status = os.fstat(file.fileno())
            return FileStat(length=status.st_size, etag=_etag(status))

    def open_range(
        self, path: str, offset: int = 0, etag: str | None = None, *, length: int | None = None
    ) -> ByteStream:
        """Open a file, as the protocol says. Raises: DownloadError."""
        file = self._open(path)
        status = os.fstat(file.fileno())
        current = _etag(status)
        if offset > status.st_size or (etag is not None and etag != current):
            offset = 0
        file.seek(offset)
        stream = _FileStream(file, path, offset, status.st_size, current)
        stream.most = most_left(length, offset)
        return stream

    def _open(self, path: str) -> IO[bytes]:
        if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
            raise not_found(path, str(self))
        try:
            return open_plain(self._directory / path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise not_found(path, str(self)) from error
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise not_found(path, str(self)) from error
            raise _unreadable(self._directory / path, error) from error


class _FileStream:
    def __init__(self, file: IO[bytes], path: str, offset: int, total: int, etag: str) -> None:
        self._file, self._path = file, path
        self.most: int | None = None
        self.offset = offset
        self.total: int | None = total
        self.etag: str | None = etag

    def __iter__(self) -> Iterator[bytes]:
        left = self.most
        while True:
            try:
                chunk = self._file.read(chunk_size(left))
            except OSError as error:
                raise _unreadable(self._path, error) from error
            if not chunk:
                return
            left = None if left is None else left - len(chunk)
            yield chunk

    def __enter__(self) -> _FileStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _etag(status: os.stat_result) -> str:
    return f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'


def _unreadable(path: object, error: OSError) -> DownloadError:
    return DownloadError(f"{path} cannot be read: {error.strerror}", fix="check the disk or the mount")


def open_transport(url: str) -> Transport:
    """Return the transport for an address: ``https://``, ``http://``, ``file://`` or a plain path.

    Raises: ConfigError: the address is of another kind.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return FileTransport(Path(url))
    if scheme == "file":
        from urllib.parse import unquote

        if not rest.startswith("/"):
            raise ConfigError(f"{url} is not a file address", fix="write it as file:///absolute/path")
        return FileTransport(Path(unquote(rest)))
    if scheme in ("http", "https"):
        from agent.registry.http_transport import HttpTransport

        return HttpTransport(url)
    raise ConfigError(f"a registry cannot be reached by {scheme}://", fix="use https://, http://, file:// or a path")
