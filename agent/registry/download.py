"""Bringing one signed file into the cache: resumable, capped, checked.

Rules:
- Length and digest come from signed metadata; a server that says or sends another length is refused.
- A part that is there already is hashed again from the disk: after a power cut it may hold anything.
- Going on uses the ETag the part began with; where the server has none, or another file, it starts from zero.
- A file that came in one go and does not match is a TrustError. One that was put together from an older part is
  fetched once more from zero first: the part may have been damaged here.
- As long as each attempt brings new bytes, a connection that breaks off is taken up again, without waiting. What one
  call may cost is bounded all the same: so many attempts, thrice the file's bytes, a time. A server that is too slow
  is not asked again by the same call. What came is kept for the next pass.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent.core.manifest import TargetRef
from agent.core.ports import Progress, ProgressEvent, StopRequested, never_stop, no_progress
from agent.durable import storage_error, write_file
from agent.errors import DownloadError, Interrupted, TrustError
from agent.registry.cache import Cache
from agent.registry.layout import target_file
from agent.registry.transport import Transport

MAX_ATTEMPTS = 20  # chosen: a link that breaks off more often is left for the next pass, which goes on from there
MAX_TIMES_LENGTH = 3  # chosen: a part that proves damaged and one start from zero; a metered link pays for the rest
MAX_S = 6 * 3600.0  # chosen: as long as the night that a maintenance window may have


def download(
    transport: Transport,
    ref: TargetRef,
    cache: Cache,
    *,
    progress: Progress = no_progress,
    stop: StopRequested = never_stop,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> Path:
    """Return the path of a signed file in the cache, fetched if it is not there.

    Args: ref: as verified metadata gives it. monotonic_s: the clock of the time limit.
    Raises: DownloadError: unreachable or broke off; what came is kept. TrustError: the bytes are not the signed ones.
        StorageError: no room, or a disk fault. Interrupted: ``stop`` said so; what came is kept.
    """
    found = cache.lookup(ref.sha256)
    if found is not None:
        return found
    cache.make_room(ref.sha256, ref.length)
    resumed = _Part(cache.part_path(ref.sha256), ref.length).size > 0
    effort = _Effort(ref, progress, stop, monotonic_s)
    try:
        return _complete(transport, ref, cache, effort)
    except TrustError:
        if not resumed:
            raise
        return _complete(transport, ref, cache, effort)


class _Effort:
    """What one call has cost, and when that is enough."""

    def __init__(
        self, ref: TargetRef, progress: Progress, stop: StopRequested, monotonic_s: Callable[[], float]
    ) -> None:
        self._ref, self._progress, self._stop, self._monotonic_s = ref, progress, stop, monotonic_s
        self._began_s = monotonic_s()
        self._received = 0

    def show(self, done: int) -> None:
        """Tell how far it is."""
        ref = self._ref
        self._progress(ProgressEvent(stage="registry", text=ref.path, done=done, total=ref.length, unit="bytes"))

    def receive(self, count: int) -> None:
        """Add what came. Raises: Interrupted."""
        self._received += count
        if self._stop():
            raise Interrupted(f"stopped while fetching {self._ref.path}; what came is kept")

    def check(self) -> None:
        """Raises: DownloadError: it has cost enough for now."""
        if self._received > MAX_TIMES_LENGTH * self._ref.length:
            raise DownloadError(
                f"the registry begins {self._ref.path} anew each time: {self._received} bytes came for nothing",
                fix="use a server that answers ranges, or a better link; what is here is kept",
                spent=True,
            )
        if self._monotonic_s() - self._began_s > MAX_S:
            raise DownloadError(
                f"{self._ref.path} took longer than {MAX_S:.0f} s",
                fix="try again later; what is here is kept",
                spent=True,
            )


def _complete(transport: Transport, ref: TargetRef, cache: Cache, effort: _Effort) -> Path:
    """Fetch what is missing of a part and insert it. On a TrustError nothing of the part is left."""
    part = _Part(cache.part_path(ref.sha256), ref.length)
    try:
        for attempt in range(MAX_ATTEMPTS):
            before = part.size
            if before == ref.length:
                break
            try:
                _receive(transport, ref, part, effort)
            except DownloadError as error:
                enough = error.facts.get("spent") or error.facts.get("too_slow") or attempt == MAX_ATTEMPTS - 1
                if part.size <= before or enough:
                    raise
        part.forget_etag()  # before the part has gone: nobody would look for it any more
        return cache.insert(ref.sha256, ref.length)
    except TrustError as error:
        part.discard()
        if ref.path in error.problem:
            raise
        raise TrustError(f"{ref.path}: {error.problem}", fix=error.fix, **error.facts) from error


def _receive(transport: Transport, ref: TargetRef, part: _Part, effort: _Effort) -> None:
    path = target_file(ref.path, ref.sha256)
    with transport.open_range(path, part.size, part.read_etag(), length=ref.length) as stream:
        if stream.total is not None and stream.total != ref.length:
            raise TrustError(
                f"the registry has {stream.total} bytes for {ref.path}, {ref.length} are signed",
                fix="tell whoever runs the registry",
                signed_bytes=ref.length,
                served_bytes=stream.total,
            )
        with part.open_at(stream.offset, stream.etag) as sink:
            effort.show(part.size)
            for chunk in stream:
                effort.receive(len(chunk))
                if part.size + len(chunk) > ref.length:
                    raise TrustError(
                        f"the registry sends more than the {ref.length} signed bytes of {ref.path}",
                        fix="tell whoever runs the registry",
                    )
                sink.write(chunk)
                effort.show(part.size)
                if part.size < ref.length:
                    effort.check()
    if part.size < ref.length:
        raise DownloadError(
            f"the registry sent {part.size} of {ref.length} bytes of {ref.path}", fix="try again; what is here is kept"
        )


class _Part:
    """The file of an unfinished download, and beside it the ETag it began with."""

    def __init__(self, path: Path, length: int) -> None:
        self._path = path
        self._etag_path = path.with_name(f"{path.name}.etag")
        self.size = 0
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(error, path) from error
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size <= length:
            self.size = status.st_size
        else:
            self.discard()

    def read_etag(self) -> str | None:
        """Return the ETag the part began with, None where there is none."""
        with suppress(OSError, ValueError):
            text = self._etag_path.read_text("ascii")
            return text if text.startswith('"') and text.isprintable() and len(text) < 256 else None
        return None

    def open_at(self, offset: int, etag: str | None) -> _Sink:
        """Open the part for writing from ``offset``, where its bytes go on. Raises: StorageError."""
        if offset == 0:
            self.discard()
            if etag is not None:
                write_file(self._etag_path, etag.encode("ascii", "replace"))
        flags = os.O_WRONLY | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if offset == 0 else 0)
        try:
            descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise storage_error(error, self._path) from error
        return _Sink(self, descriptor, self._path, offset)

    def discard(self) -> None:
        """Remove the part. Raises: StorageError."""
        self.size = 0
        self.forget_etag()
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, self._path) from error

    def forget_etag(self) -> None:
        """Remove the ETag; one left over without its part does no harm."""
        with suppress(OSError):
            self._etag_path.unlink(missing_ok=True)


class _Sink:
    def __init__(self, part: _Part, descriptor: int, path: Path, offset: int) -> None:
        self._part, self._descriptor, self._path = part, descriptor, path
        os.lseek(descriptor, offset, os.SEEK_SET)
        part.size = offset

    def write(self, chunk: bytes) -> None:
        """Append. Raises: StorageError."""
        view = memoryview(chunk)
        try:
            while view:
                written = os.write(self._descriptor, view)
                view = view[written:]
                self._part.size += written
        except OSError as error:
            raise storage_error(error, self._path) from error

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
