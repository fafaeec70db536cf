"""Counts the bytes that come from a registry, over any transport; what the count is good for is left to others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType

from agent.registry.transport import ByteStream, FileStat, Transport

_TELL_EVERY_BYTES = 4 * 1024 * 1024  # chosen: what a power cut may leave uncounted; each telling is one disk write


class CountedTransport:
    """A transport whose bytes are told to ``count`` every few MiB and when a file is closed."""

    def __init__(self, transport: Transport, count: Callable[[int], None]) -> None:
        self._transport = transport
        self._count = count

    def stat(self, path: str) -> FileStat:
        """Ask about one file. Raises: DownloadError."""
        return self._transport.stat(path)

    def open_range(
        self, path: str, offset: int = 0, etag: str | None = None, *, length: int | None = None
    ) -> ByteStream:
        """Open a file as the transport below does. Raises: DownloadError."""
        return _CountedStream(self._transport.open_range(path, offset, etag, length=length), self._count)


class _CountedStream:
    def __init__(self, stream: ByteStream, count: Callable[[int], None]) -> None:
        self._stream = stream
        self._count = count
        self._untold = 0
        self.offset, self.total, self.etag = stream.offset, stream.total, stream.etag

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._untold += len(chunk)
            if self._untold >= _TELL_EVERY_BYTES:
                self._tell()
            yield chunk

    def __enter__(self) -> ByteStream:
        self._stream.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.__exit__(kind, error, trace)
        self._tell()

    def _tell(self) -> None:
        untold, self._untold = self._untold, 0
        if untold:
            self._count(untold)
