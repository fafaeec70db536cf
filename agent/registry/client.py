"""The board's side of a registry: verified candidates, and their bytes.

Rules:
- Nothing unverified is returned. The root of trust is a file installed with the board, never fetched on first use.
- The last complete verified metadata is kept as one file, so that a refresh that breaks off in the middle, or a
  registry that is away, leaves the candidates as they were until they expire.
- Time has a floor: the newest time of issue in the installed root and in verified metadata, or the time of the last
  successful refresh if that is later. Expiry is judged at the later of floor and clock. Both lie before the expiry of
  what was verified, so a clock that is wildly ahead fails the refresh and never enters the floor, and a stolen key that
  signs a time of issue in the future cannot end what others signed. What it signed counts until its key is replaced.
- An expired registry is an error here; what is deployed does not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from agent.core.manifest import Candidate, TargetRef
from agent.core.ports import Clock, Progress, StopRequested, never_stop, no_progress
from agent.durable import remove_abandoned, storage_error, write_file
from agent.errors import ConfigError, DownloadError, ExpiredError, TrustError
from agent.registry.cache import Cache
from agent.registry.catalogue import Refused, candidate_manifest, data_kind, read_catalogue, target_ref
from agent.registry.download import download
from agent.registry.fetch import StoredFetcher, TransportFetcher
from agent.registry.floor import read_floors, write_floor
from agent.registry.layout import format_time
from agent.registry.packing import unpack
from agent.registry.transport import Transport, open_transport
from agent.registry.trust import VerifiedMetadata, read_files, read_issued, verify_remote, verify_stored

_STORED = "verified.json"
_MAX_ROOT_BYTES = 512_000


class RegistryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the registry.

    ``stale`` says why the registry could not be reached, None when it was; ``expires`` and ``issued`` are UTC text
    (``2026-01-31T00:00:00Z``); ``clock_behind_s`` is by how much this board's clock lies before the floor, seconds.
    """

    url: str
    reachable: bool
    stale: str | None
    versions: dict[str, int]
    expires: dict[str, str]
    issued: str | None
    candidates: int
    refused: tuple[Refused, ...]
    clock_behind_s: float


class _Stored(msgspec.Struct):
    files: dict[str, str]


class RegistryClient:
    """One registry, as one board sees it.

    Args:
        url: ``https://``, ``http://``, ``file://`` or a path.
        root: the installed ``root.json``.
        state_dir: where verified metadata is kept; made when missing.
        cache: where downloads go.
        clock: wall time.
        transport: instead of the one that fits ``url``.

    Raises: ConfigError: no root of trust, or an address of an unknown kind.
    """

    def __init__(
        self, url: str, root: Path, state_dir: Path, cache: Cache, *, clock: Clock, transport: Transport | None = None
    ) -> None:
        self._url = url
        self._root = _read_root(root)
        self._state_dir = state_dir
        self._cache = cache
        self._clock = clock
        self._transport = transport or open_transport(url)
        self._verified: VerifiedMetadata | None = None
        self._own, self._issued = read_floors(state_dir)
        self._root_issued = read_issued(self._root)

    def refresh(self) -> RegistryStatus:
        """Bring the metadata up to date.

        Returns: the status; ``reachable`` False where the registry is away and what is stored here still holds.
        Raises: ExpiredError: the registry's metadata, or what is stored while it is away, has expired. TrustError: a
            signature, version or digest does not hold. DownloadError: away, and nothing is stored. StorageError.
        """
        metadata = self._state_dir / "metadata"
        try:
            # What stored metadata proves of the time is found there, after the newest root: its key may count no more.
            at = _latest(self._clock.utc(), self._root_issued)
            verified = verify_remote(metadata, self._root, TransportFetcher(self._transport), at, self._own)
        except DownloadError as error:
            return self._stale(error)
        self._store(read_files(metadata))
        self._verified = verified
        self._keep_floor(verified)
        return self._status(verified, None)

    def tidy(self) -> None:
        """Remove what faults and cuts left, beside the metadata and of downloads; for who holds the pass's lock."""
        with suppress(OSError):
            remove_abandoned(self._state_dir)  # what is written there seldom would take them along seldom
        self._cache.tidy()

    def status(self) -> RegistryStatus:
        """Return what is known without asking the registry. Raises: as ``candidates``."""
        return self._status(self._current(), "not asked")

    def candidates(self, task: str | None = None) -> tuple[Candidate, ...]:
        """List the candidates of the last verified metadata, by task and name; the registry is not asked.

        Raises: ExpiredError: it has expired. DownloadError: there is none yet. TrustError: it is damaged or not signed.
        """
        found, _ = read_catalogue(self._current().targets.targets)
        return tuple(candidate for candidate in found if task is None or candidate.task == task)

    def find(self, path: str) -> TargetRef | None:
        """Return a signed target by its path, such as the list of operator keys. Raises: as ``candidates``."""
        target = self._current().targets.targets.get(path)
        return None if target is None else target_ref(target)

    def kind(self, path: str) -> str | None:
        """Return what a signed file that is no model was published as. Raises: as ``candidates``."""
        target = self._current().targets.targets.get(path)
        return None if target is None else data_kind(target)

    def fetch(self, ref: TargetRef, *, progress: Progress = no_progress, stop: StopRequested = never_stop) -> Path:
        """Return a signed file's path in the cache, downloaded if need be.

        Raises: TrustError: it is not signed as ``ref`` says, or its bytes are others. DownloadError. StorageError.
            ExpiredError: the metadata has expired. Interrupted: ``stop`` said so.
        """
        if self.find(ref.path) != ref:
            raise TrustError(
                f"{ref.path} is not signed with that digest and length", fix="refresh, the registry may have changed"
            )
        return download(self._transport, ref, self._cache, progress=progress, stop=stop)

    def fetch_model(
        self, candidate: Candidate, *, progress: Progress = no_progress, stop: StopRequested = never_stop
    ) -> Path:
        """Return the path in the cache of a candidate's model file, downloaded and unpacked if need be.

        Raises: as ``fetch``. ModelError: the packed file does not hold the signed model. DeviceError: this Python
            cannot unpack.
        """
        ref, packing = candidate.target, candidate.manifest.packing
        if packing is None:
            return self.fetch(ref, progress=progress, stop=stop)
        target = self._current().targets.targets.get(ref.path)
        signed = None if target is None else candidate_manifest(target)
        if signed is None or signed.packing != packing:
            raise TrustError(
                f"{ref.path} is not signed as packed like that", fix="refresh, the registry may have changed"
            )
        found = self._cache.lookup(packing.sha256)
        if found is None:
            self._cache.make_room(ref.sha256, ref.length + packing.length)
            packed = self.fetch(ref, progress=progress, stop=stop)
            found = unpack(self._cache, packed, packing, candidate.name, progress=progress, stop=stop)
            self._cache.remove(ref.sha256)
        return found

    def _current(self) -> VerifiedMetadata:
        if self._verified is None:
            self._verified = verify_stored(self._root, StoredFetcher(self._load_stored()), self._now())
        if self._now() >= self._verified.expires():
            raise ExpiredError(
                f"the registry's metadata expired at {format_time(self._verified.expires())}",
                fix="refresh it; what is deployed keeps running",
            )
        return self._verified

    def _stale(self, error: DownloadError) -> RegistryStatus:
        try:
            verified = self._current()
        except ExpiredError as expired:
            raise ExpiredError(
                f"{expired.problem}, and the registry is away: {error.problem}", fix=expired.fix, reachable=False
            ) from error
        except (DownloadError, TrustError):
            raise error from None
        return self._status(verified, error.problem)

    def _status(self, verified: VerifiedMetadata, stale: str | None) -> RegistryStatus:
        found, refused = read_catalogue(verified.targets.targets)
        roles = verified.roles()
        issued = verified.issued()
        behind = (self._now() - self._clock.utc()) / timedelta(seconds=1)
        return RegistryStatus(
            url=self._url,
            reachable=stale is None,
            stale=stale,
            versions={role: signed.version for role, signed in roles.items()},
            expires={role: format_time(signed.expires) for role, signed in roles.items()},
            issued=None if issued is None else format_time(issued),
            candidates=len(found),
            refused=refused,
            clock_behind_s=max(behind, 0.0),
        )

    def _now(self) -> datetime:
        issued = self._issued if self._verified is None else self._verified.issued()
        return _latest(self._clock.utc(), self._own, self._root_issued, issued)

    def _keep_floor(self, verified: VerifiedMetadata) -> None:
        known = None if self._own is None or self._own > verified.judged_at else self._own
        own, issued = _latest(self._clock.utc(), known), verified.issued()
        if (own, issued) != (self._own, self._issued):
            self._own, self._issued = own, issued
            write_floor(self._state_dir, own, issued)

    def _store(self, files: Mapping[str, bytes]) -> None:
        data = msgspec.json.encode(_Stored({name: content.decode() for name, content in sorted(files.items())}))
        path = self._state_dir / _STORED
        try:
            if path.is_file() and path.read_bytes() == data:
                return
        except OSError as error:
            raise storage_error(error, path) from error
        write_file(path, data)

    def _load_stored(self) -> dict[str, bytes]:
        try:
            stored = msgspec.json.decode((self._state_dir / _STORED).read_bytes(), type=_Stored)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DownloadError(
                "no verified metadata of the registry is stored here", fix="run `boardfit sync` while it can be reached"
            ) from error
        files: dict[str, bytes] = {}
        for name, text in stored.files.items():
            files[name] = text.encode()
        # The stored timestamp leads to one version of the others; they are asked for by version.
        return {**files, **_versioned(files)}


def _latest(moment: datetime, *others: datetime | None) -> datetime:
    return max((moment, *(other for other in others if other is not None)))


def _versioned(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Name snapshot and targets as a registry does, by the version inside them; verification is not done here."""
    named = {}
    for role in ("snapshot", "targets"):
        with suppress(KeyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):
            version = msgspec.json.decode(files[f"{role}.json"])["signed"]["version"]
            named[f"{version}.{role}.json"] = files[f"{role}.json"]
    return named


def _read_root(path: Path) -> bytes:
    fix = (
        "copy root.json from the registry's author (`boardfit registry init` writes it) to this board, "
        "by hand or in its image"
    )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"there is no root of trust at {path}: {error.strerror}", fix=fix) from error
    if not 0 < len(data) <= _MAX_ROOT_BYTES:
        raise ConfigError(f"{path} is not a root of trust: it has {len(data)} bytes", fix=fix)
    return data
