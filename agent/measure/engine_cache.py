"""Where accelerators keep the engines they build for a model: a bounded folder, and how long each took to build.

A TensorRT engine takes seconds to minutes to build and a moment to load, and holds for one board, one runtime, one
driver and one model only.

Rules:
- A model of which a provider takes some is the same entry under either name: what it builds is the same.
- An entry is named after all of that: board class (which covers runtimes, drivers and power mode), engine, version,
  provider, threads, and the model's digest. When one of them changes, what was built before is removed.
- The worker writes into the entry's folder and nowhere else. What the agent knows of the entry lies beside that folder:
  a model cannot say how long it took, nor reach another model's engine.
- Used by whatever the agent runs in a confined child: measuring, the proof before a switch, a sustained run. Not by an
  application: a worker that a model took over could have written it, and a provider trusts the engines it finds.
- An entry whose build did not end is emptied and built again. The least lately used go first when all are too large.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from agent.core.facts import DeviceFacts
from agent.core.measurement import OperatingPoint
from agent.durable import write_file
from agent.runtimes.providers import provider_row
from agent.runtimes.table import split_provider

QUOTA_BYTES = 1 << 30  # chosen: a TensorRT engine is about as large as its model
DRIVER_CACHE = "cuda"  # within an entry's folder: what CUDA's driver compiles, whose index it writes as it likes
_RECORD = "built.json"
_FILES = "files"
_NAME_CHARACTERS = 32


class _Built(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a built engine."""

    build_s: float
    schema: str = "boardfit.engine/1"


class Entry:
    """One model's engine at one point on this board. ``folder`` is the worker's to write."""

    def __init__(self, home: Path, cache: EngineCache) -> None:
        self._home, self._cache = home, cache
        self.folder = home / _FILES

    @property
    def build_s(self) -> float | None:
        """How long it took to build, None while it is not built."""
        try:
            return msgspec.json.decode((self._home / _RECORD).read_bytes(), type=_Built).build_s
        except (OSError, msgspec.MsgspecError):
            return None

    def built(self, build_s: float) -> None:
        """Keep what the worker left in the folder, and make room. Raises: StorageError."""
        write_file(self._home / _RECORD, msgspec.json.encode(_Built(build_s=build_s)))
        self.touch()
        self._cache.trim(self._home)

    def files(self) -> frozenset[tuple[str, int, int]]:
        """Return each file's path, size in bytes and time of change, the driver's own cache of kernels left out."""
        found = set()
        for where, folders, names in os.walk(self.folder):
            if Path(where) == self.folder and DRIVER_CACHE in folders:
                folders.remove(DRIVER_CACHE)
            for name in names:
                state = (Path(where) / name).lstat()
                found.add((str(Path(where, name).relative_to(self.folder)), state.st_size, state.st_mtime_ns))
        return frozenset(found)

    def touch(self) -> None:
        """Remember that it was used now: finer than the kernel's own stamps, which a fast pass makes equal."""
        now = time.time_ns()
        with suppress(OSError):
            os.utime(self._home, ns=(now, now))

    def drop(self) -> None:
        """Forget it."""
        shutil.rmtree(self._home, ignore_errors=True)


class EngineCache:
    """A folder of built engines. Args: quota_bytes: of all of them together; also the most that one file may take."""

    def __init__(self, folder: Path, quota_bytes: int = QUOTA_BYTES) -> None:
        self._folder = folder
        self.quota_bytes = quota_bytes

    def entry(self, facts: DeviceFacts, point: OperatingPoint, artifact_sha256: str) -> Entry:
        """Return the entry for a model at a point on this board, empty unless it is built. Raises: OSError."""
        provider = split_provider(point.provider)[0]
        slot = self._folder / _digest("slot", artifact_sha256, point.engine, provider, point.threads, point.batch)
        key = _digest(facts.class_fingerprint, point.engine_version, *_drivers(facts, point))
        for other in _folders(slot):
            if other.name != key:
                shutil.rmtree(other, ignore_errors=True)
        entry = Entry(slot / key, self)
        if entry.build_s is None:
            entry.drop()
        entry.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        entry.touch()
        return entry

    def trim(self, keeping: Path) -> None:
        """Remove the least lately used until all fit; ``keeping`` too where it alone is too large."""
        homes = [home for slot in _folders(self._folder) for home in _folders(slot)]
        sizes = {home: size_bytes(home) for home in homes}
        total = sum(sizes.values())
        for home in sorted(homes, key=lambda one: (one == keeping, one.stat().st_mtime)):
            if total <= self.quota_bytes:
                return
            shutil.rmtree(home, ignore_errors=True)
            total -= sizes[home]


def size_bytes(folder: Path) -> int:
    """Return what the files in a folder take; links are not followed."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(where) / name).lstat().st_size
    return total


def built_entry(
    engines: EngineCache | None, facts: DeviceFacts | None, point: OperatingPoint, artifact_sha256: str
) -> Entry | None:
    """Return the entry of what is built for a model already; None where nothing is, or is ever kept."""
    if engines is None or facts is None or not provider_row(split_provider(point.provider)[0]).cache_options:
        return None
    try:
        entry = engines.entry(facts, point, artifact_sha256)
    except OSError:
        return None
    return None if entry.build_s is None else entry


def _drivers(facts: DeviceFacts, point: OperatingPoint) -> tuple[str, ...]:
    engine = facts.engine(point.engine)
    found = () if engine is None else engine.beyond
    return next((one.drivers for one in found if one.name == point.provider.partition("+")[0]), ())


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(one for one in parent.iterdir() if one.is_dir() and not one.is_symlink())
    except OSError:
        return []


def _digest(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode([str(part) for part in parts])).hexdigest()[:_NAME_CHARACTERS]
