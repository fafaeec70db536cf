"""python-tuf's fetchers over our transports: one for the registry, one for metadata that is here already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tuf.api import exceptions
from tuf.ngclient.fetcher import FetcherInterface

from agent.errors import DownloadError
from agent.registry.transport import NOT_FOUND, Transport


class TransportFetcher(FetcherInterface):
    """Fetches metadata by a transport; python-tuf caps the length. Args: transport: where the registry's files are."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _fetch(self, url: str) -> Iterator[bytes]:
        # A generator: python-tuf wraps errors of the call only, so those of each step are translated here.
        try:
            with self._transport.open_range(url) as stream:
                yield from stream
        except DownloadError as error:
            status = error.facts.get("status")
            if isinstance(status, int):
                raise exceptions.DownloadHTTPError(error.problem, status) from error
            raise exceptions.DownloadError(error.problem) from error


class StoredFetcher(FetcherInterface):
    """Answers from metadata already here. Args: files: file name to bytes."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._files.get(url.rpartition("/")[2])
        if data is None:
            raise exceptions.DownloadHTTPError(f"{url} is not stored", NOT_FOUND)
        yield data
