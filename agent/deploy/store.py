"""The releases of a board on disk: ``<root>/<task>/releases/<release>/`` and the links ``current`` and ``previous``.

Rules:
- A release folder appears under its name by one rename, after everything in it is on the disk.
- The links are relative and move by one rename each; an application opens ``current/deployment.json``.
- A release that is there already is checked file by file, and what is damaged is replaced by a rename of its own.
- ``ladder.json`` names the rungs that may be stepped to; what it names is kept while one of them serves.
- The free space is checked before the first byte is written.

Leaves when to switch, and what may be collected, to the executor.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import msgspec

from agent.core.deployment import DeployedFile, Deployment, StagedLadder
from agent.core.manifest import is_plain_name
from agent.core.units import format_quantity
from agent.deploy.document import DOCUMENT_NAME, release_of
from agent.deploy.files import find_damage, place_file
from agent.durable import fsync_directory, storage_error, swap_symlink, write_file
from agent.errors import DeploymentError, StorageError

CURRENT, PREVIOUS = "current", "previous"
LADDER_NAME = "ladder.json"
_RESERVE_BYTES = 1 << 20  # room for the journal and the links themselves; chosen
_TARGET = re.compile(r"releases/([0-9a-f]{64})")
_LEFTOVER = re.compile(r"\.(current|previous|ladder\.json)\.[0-9a-f]+\.tmp")
_FOLDER_MODE = 0o755


class ReleaseStore:
    """The releases below ``root``; nothing is written before the first ``stage``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, task: str) -> Path:
        """Return a task's folder. Raises: DeploymentError: the name is not plain."""
        if not is_plain_name(task):
            raise DeploymentError(f"task {task!r} is not a plain name", fix="use letters, digits, '.', '_' and '-'")
        return self.root / task

    def link(self, task: str) -> Path:
        """Return the path of a task's ``current`` link, whether it is there or not."""
        return self.folder(task) / CURRENT

    def release_folder(self, task: str, release: str) -> Path:
        """Return the folder of a release, whether it is there or not."""
        return self.folder(task) / "releases" / release

    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that have a folder."""
        if not self.root.is_dir():
            return ()
        return tuple(sorted(path.name for path in self.root.iterdir() if path.is_dir() and is_plain_name(path.name)))

    def linked(self, task: str, name: str) -> str | None:
        """Return the release that ``current`` or ``previous`` points at, or None without such a link.

        Raises: StorageError: the disk does not say; taken for None, the serving release would be collected.
        """
        link = self.folder(task) / name
        try:
            match = _TARGET.fullmatch(str(link.readlink()))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):  # EINVAL: there, but not a link
                return None
            raise storage_error(error, link) from error
        return match[1] if match else None

    def read(self, task: str, release: str | None) -> Deployment | None:
        """Return a release's document, or None where it is absent or not the one its folder is named after."""
        if release is None:
            return None
        try:
            data = (self.release_folder(task, release) / DOCUMENT_NAME).read_bytes()
            document = msgspec.json.decode(data, type=Deployment)
        except (OSError, msgspec.DecodeError):
            return None
        return document if document.release == release == release_of(document) else None

    def find_damage(self, task: str, release: str) -> str | None:
        """Return what is wrong with a release, every file read from the disk; None when it is whole."""
        document = self.read(task, release)
        if document is None:
            return f"{DOCUMENT_NAME} is missing or damaged"
        folder = self.release_folder(task, release)
        for file in _files(document):
            damage = find_damage(folder / file.path, file)
            if damage is not None:
                return f"{file.path}: {damage}"
        return None

    def check_space(self, deployment: Deployment) -> None:
        """Check that a release would fit. Raises: StorageError: it would not; nothing was written."""
        needed = _RESERVE_BYTES + sum(file.length for file in _files(deployment))
        place = next(path for path in (self.root, *self.root.parents) if path.exists())
        try:
            state = os.statvfs(place)
        except OSError as error:
            raise storage_error(error, place) from error
        free = state.f_bavail * state.f_frsize
        if free < needed:
            raise StorageError(
                f"{deployment.candidate} needs {format_quantity(needed, 'bytes')} below {place} "
                f"and {format_quantity(free, 'bytes')} are free",
                fix="free some space; the deployed model keeps serving",
                needed_bytes=needed, free_bytes=free,
            )  # fmt: skip

    def stage(self, deployment: Deployment, model: Path, golden: Path | None) -> None:
        """Make the release folder, whole and durable; an existing one is repaired where it is damaged.

        Raises: DeploymentError: a source is not what the document names. StorageError: the disk.
        """
        sources = {file.path: model if file is deployment.model else golden for file in _files(deployment)}
        task, release = deployment.task, deployment.release
        final = self.release_folder(task, release)
        try:
            _ensure_folder(final.parent)
            if final.is_dir():
                _fill(final, deployment, sources)
                fsync_directory(final.parent)
                return
            staging = self.folder(task) / "staging"
            _remove(staging)
            _ensure_folder(staging)
            _fill(staging, deployment, sources)
            staging.rename(final)
            fsync_directory(final.parent)
            fsync_directory(final.parent.parent)
        except OSError as error:
            raise storage_error(error, final) from error

    def set_link(self, task: str, name: str, release: str | None) -> None:
        """Point ``current`` or ``previous`` at a release, or take it away; durable. Raises: StorageError."""
        link = self.folder(task) / name
        if release is None and not link.parent.is_dir():
            return
        differs = link.is_symlink() if release is None else self.linked(task, name) != release
        if differs and release is not None:
            swap_symlink(link, f"releases/{release}")
            return
        try:
            if differs:
                link.unlink()
            # Also where nothing is to do: whoever moved it may have been killed before it was durable.
            fsync_directory(link.parent)
        except OSError as error:
            raise storage_error(error, link) from error

    def collect(self, task: str, keep: Collection[str | None]) -> None:
        """Remove every release but those that are linked or in ``keep``, and what a cut left half made.

        What cannot be removed now stays for the next time: it is in nobody's way.
        """
        folder = self.folder(task)
        kept = {*keep, *self._named(task)}
        _remove(folder / "staging")
        with suppress(OSError):
            for release in (folder / "releases").iterdir():
                if release.name not in kept:
                    _remove(release)
            for entry in folder.iterdir():
                if _LEFTOVER.fullmatch(entry.name):
                    entry.unlink()

    def ladder(self, task: str) -> StagedLadder | None:
        """Return the ladder of what serves; None without one, or where something else serves than one of its rungs."""
        try:
            data = (self.folder(task) / LADDER_NAME).read_bytes()
            ladder = msgspec.json.decode(data, type=StagedLadder)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        there = tuple(one for one in ladder.rungs if self.release_folder(task, one.release).is_dir())
        ladder = msgspec.structs.replace(ladder, rungs=there)
        return None if ladder.index(self.linked(task, CURRENT)) is None else ladder

    def keep_ladder(self, task: str, ladder: StagedLadder | None) -> None:
        """Name the rungs from now on, durable; None: there is no ladder. Raises: StorageError."""
        path = self.folder(task) / LADDER_NAME
        if ladder is not None:
            write_file(path, msgspec.json.format(msgspec.json.encode(ladder), indent=2))
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, path) from error

    def chosen(self, task: str) -> str | None:
        """Return the release that was chosen: the one that serves, or the first of the ladder that it is a rung of."""
        ladder = self.ladder(task)
        return self.linked(task, CURRENT) if ladder is None else ladder.rungs[0].release

    def _named(self, task: str) -> set[str]:
        """Return the releases that serve, may be gone back or stepped to, or are being laid as rungs."""
        ladder = self.ladder(task)
        rungs = () if ladder is None else (*(one.release for one in ladder.rungs), *ladder.laying)
        return {one for one in (self.linked(task, CURRENT), self.linked(task, PREVIOUS), *rungs) if one is not None}

    def protected_digests(self) -> frozenset[str]:
        """Return the SHA-256 of every model and golden file of what is named, for the cache's eviction."""
        found: set[str] = set()
        for task in self.tasks():
            for release in self._named(task):
                document = self.read(task, release)
                if document is not None:
                    found.update(file.sha256 for file in _files(document))
        return frozenset(found)


def _files(deployment: Deployment) -> tuple[DeployedFile, ...]:
    return (deployment.model,) if deployment.golden is None else (deployment.model, deployment.golden)


def _fill(folder: Path, deployment: Deployment, sources: dict[str, Path | None]) -> None:
    """Bring every file of a release into ``folder``; whole ones are left alone, damaged ones replaced at once."""
    for file in _files(deployment):
        target, source = folder / file.path, sources[file.path]
        if find_damage(target, file) is None:
            continue
        if source is None:
            raise DeploymentError(f"no source for {file.path}", fix="run `boardfit sync`")
        arriving = folder / f".{file.path}.tmp"
        arriving.unlink(missing_ok=True)
        place_file(source, arriving, file)
        arriving.replace(target)
    document = msgspec.json.format(msgspec.json.encode(deployment), indent=2)
    if not (folder / DOCUMENT_NAME).is_file() or (folder / DOCUMENT_NAME).read_bytes() != document:
        write_file(folder / DOCUMENT_NAME, document)
        (folder / DOCUMENT_NAME).chmod(0o644)
    fsync_directory(folder)


def _remove(folder: Path) -> None:
    if not folder.exists():
        return
    import shutil  # the idle daemon has nothing to remove, and goes without the compressors it loads

    shutil.rmtree(folder, ignore_errors=True)


def _ensure_folder(path: Path) -> None:
    """Make a folder and those above it, readable for applications; the new entries are durable."""
    if path.is_dir():
        return
    _ensure_folder(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(_FOLDER_MODE)
    fsync_directory(path.parent)
