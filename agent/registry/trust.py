"""python-tuf's client workflow with our storage and our clock: the one place that knows its insides (tuf 7).

Rules:
- The installed root is the anchor each time; roots found later only continue its chain.
- Metadata is on disk before it is relied on (fsync), each file whole. A file that is damaged is fetched again.
- Expiry is judged at a time the caller gives, not at the machine's: a board may start in 1970.
- Foreign errors become ours: expired, not to be trusted, not reached, disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from tuf.api import exceptions
from tuf.api.metadata import (  # type: ignore[attr-defined]  # re-exported without saying so
    Metadata,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from agent.durable import storage_error, write_file
from agent.errors import DownloadError, ExpiredError, TrustError
from agent.registry import layout

_FILES = ("timestamp.json", "snapshot.json", "targets.json")
_HISTORY = "root_history"


@dataclass(frozen=True)
class VerifiedMetadata:
    """The four documents after the whole workflow, and the time at which it judged expiry."""

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    judged_at: datetime

    def roles(self) -> dict[str, Signed]:
        """Return role to document."""
        return {
            "root": self.root,
            "targets": self.targets,
            "snapshot": self.snapshot,
            "timestamp": self.timestamp,
        }

    def expires(self) -> datetime:
        """Return when the first of the documents ends."""
        return min(signed.expires for signed in self.roles().values())

    def issued(self) -> datetime | None:
        """Return the newest signed time of issue; one at which another of the documents has ended proves nothing."""
        return _newest_issue(self.roles().values(), self.expires())


class DurableUpdater(Updater):
    """Writes as ``agent.durable`` does, and keeps no ``root.json`` link: the anchor is given each time."""

    _floor: datetime | None

    def _persist_file(self, filename: str, data: bytes) -> None:
        write_file(Path(filename), data)

    def _update_root_symlink(self) -> None:
        pass

    def _load_timestamp(self) -> None:
        # The newest root is known by now. What is stored here and signed by keys that it still lists proves a time;
        # where the key of the stored timestamp was replaced, the floor that was reached under it does not count.
        documents: list[Signed] = [self._trusted_set.root]
        for role in (Timestamp, Snapshot, Targets):
            with suppress(OSError, exceptions.RepositoryError):
                stored = Metadata[role].from_bytes(self._load_local_metadata(role.type))  # type: ignore[valid-type]
                try:
                    self._trusted_set.root.verify_delegate(role.type, stored.signed_bytes, stored.signatures)
                except exceptions.UnsignedMetadataError:
                    self._floor = None if role is Timestamp else self._floor
                else:
                    documents.append(stored.signed)
        proved = _newest_issue(documents, min(signed.expires for signed in documents))
        at = self._trusted_set.reference_time
        self._trusted_set.reference_time = max(one for one in (at, self._floor, proved) if one is not None)
        super()._load_timestamp()

    def verify(self, at: datetime, floor: datetime | None = None) -> VerifiedMetadata:
        """Run the workflow, expiry judged at ``at``, or at a floor or what stored metadata proves if that is later."""
        self._trusted_set.reference_time, self._floor = at, floor
        self.refresh()
        trusted = self._trusted_set
        return VerifiedMetadata(
            trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets, trusted.reference_time
        )


class _MemoryUpdater(DurableUpdater):
    """Reads nothing from disk and writes nothing."""

    def _persist_file(self, filename: str, data: bytes) -> None:
        pass

    def _persist_root(self, version: int, data: bytes) -> None:
        pass


def verify_remote(
    directory: Path, root: bytes, fetcher: FetcherInterface, at: datetime, floor: datetime | None = None
) -> VerifiedMetadata:
    """Bring the metadata in ``directory`` up to date with the registry and verify it.

    Args: directory: python-tuf's own state, for rollback protection. root: the installed root. at: aware, UTC.
        floor: the least the time can be, as long as the key of the timestamp that is stored here is not replaced.
    Raises: ExpiredError. TrustError. DownloadError. StorageError.
    """
    _mend(directory)
    with translated("the registry"):
        return _updater(DurableUpdater, str(directory), root, fetcher).verify(at, floor)


def verify_stored(root: bytes, fetcher: FetcherInterface, at: datetime) -> VerifiedMetadata:
    """Verify a stored complete set of metadata; nothing is read or written elsewhere.

    Raises: ExpiredError. TrustError: it is not whole or not signed by what follows from this root. DownloadError.
    """
    with translated("the stored metadata"):
        return _updater(_MemoryUpdater, "/nonexistent", root, fetcher).verify(at)


def read_files(directory: Path) -> dict[str, bytes]:
    """Return the metadata in ``directory``, named as a registry names it. Raises: StorageError."""
    try:
        files = {name: (directory / name).read_bytes() for name in _FILES}
        for path in (directory / _HISTORY).glob("*.root.json"):
            files[path.name] = path.read_bytes()
    except OSError as error:
        raise storage_error(error, directory) from error
    return files


def read_issued(root: bytes) -> datetime | None:
    """Return when an installed root, which is trusted as it is, was issued; None where it does not say."""
    try:
        signed = msgspec.json.decode(root)["signed"]
        return layout.parse_time(signed[layout.ISSUED_FIELD])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        return None


def _newest_issue(documents: Iterable[Signed], before: datetime) -> datetime | None:
    issues = (layout.parse_time(signed.unrecognized_fields.get(layout.ISSUED_FIELD)) for signed in documents)
    return max((issued for issued in issues if issued is not None and issued < before), default=None)


def _updater(kind: type[DurableUpdater], directory: str, root: bytes, fetcher: FetcherInterface) -> DurableUpdater:
    config = UpdaterConfig(targets_max_length=layout.MAX_TARGETS_BYTES)
    base = f"{layout.METADATA_FOLDER}/"
    return kind(directory, base, fetcher=fetcher, config=config, bootstrap=root)


def _mend(directory: Path) -> None:
    """Remove what python-tuf could not replace by itself: a folder in a file's place, rests of a killed write."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        history = directory / _HISTORY
        if history.is_symlink() or (history.exists() and not history.is_dir()):
            history.unlink()
        expected = [directory / name for name in _FILES]
        if history.is_dir():
            expected += history.glob("*.root.json")
        for path in expected:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
        for folder in (directory, history):
            for rest in folder.glob(".*.tmp"):
                with suppress(FileNotFoundError):
                    rest.unlink()
    except OSError as error:
        raise storage_error(error, directory) from error


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn python-tuf's errors of the block into ours. Args: what: of which they speak."""
    fix = "tell whoever runs the registry; what is deployed keeps running"
    try:
        yield
    except exceptions.ExpiredMetadataError as error:
        raise ExpiredError(f"{what} has expired: {error}", fix="run `boardfit registry refresh` on it") from error
    except exceptions.RepositoryError as error:
        raise TrustError(f"{what} cannot be trusted: {_text(error)}", fix=fix) from error
    except exceptions.DownloadLengthMismatchError as error:
        raise TrustError(f"{what} sends more than is signed: {error}", fix=fix) from error
    except exceptions.DownloadHTTPError as error:
        raise DownloadError(_text(error), fix="check the registry's address", status=error.status_code) from error
    except exceptions.DownloadError as error:
        raise DownloadError(_text(error), fix="check the network and the registry's address") from error
    except OSError as error:
        raise storage_error(error, Path(error.filename or "temporary files")) from error


def _text(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")
