"""Where the files of a registry lie, and what its signed extra fields are called. Pure.

- ``metadata/<version>.<role>.json``, and ``metadata/timestamp.json``, the only file that is ever overwritten.
- ``targets/<folder>/<sha256>.<file name>`` for the target path ``<folder>/<file name>`` (TUF consistent snapshots).
- Target paths: ``<task>/<name>/<file name>`` for a model, ``<task>/_data/<kind>-<digest>.npz`` for evaluation packs and
  golden data, which are shared by content.
- A model's manifest is the text of one JSON document under ``boardfit`` in its target's custom part. It is text
  because TUF signs canonical JSON, which has no floating-point numbers.
- Every role carries ``issued`` (UTC, like TUF's ``expires``): TUF itself signs only when metadata ends, and a board
  that starts with its clock in 1970 needs to know when it began. ``validity_s``: for how long it was signed.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path

METADATA_FOLDER = "metadata"
TARGETS_FOLDER = "targets"
ROOT_FILE = "root.json"
MANIFEST_FIELD = "boardfit"
DATA_FIELD = "boardfit-data"
ISSUED_FIELD = "issued"
VALIDITY_FIELD = "validity_s"
DATA_FOLDER = "_data"
MAX_TARGETS_BYTES = 32 * 1024 * 1024  # signed metadata of all candidates; a manifest is about 2 kB
MAX_TARGET_PATH = 512

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def keys_beside(directory: Path) -> Path:
    """Return where a registry's private keys lie unless it is said otherwise: beside it, never within."""
    return directory.with_name(directory.name + ".keys")


def is_name(text: str) -> bool:
    """Say whether ``text`` may name a task or a candidate: ``[a-z0-9._-]``, at most 64, the first a letter or digit."""
    return _NAME.fullmatch(text) is not None


def is_file_name(text: str) -> bool:
    """Say whether ``text`` may be a target's file name."""
    return _FILE_NAME.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    """Say whether ``text`` is a SHA-256 in lower-case hex."""
    return _SHA256.fullmatch(text) is not None


def is_target_path(text: str) -> bool:
    """Say whether ``text`` is a relative path of plain parts: no empty part, no dot part, no escape."""
    parts = text.split("/")
    return len(text) <= MAX_TARGET_PATH and all(is_file_name(part.removeprefix("_")) for part in parts)


def metadata_file(role: str, version: int | None) -> str:
    """Return the path of a role's metadata below the registry."""
    return f"{METADATA_FOLDER}/{role}.json" if version is None else f"{METADATA_FOLDER}/{version}.{role}.json"


def target_file(target_path: str, sha256: str) -> str:
    """Return the path of a target's bytes below the registry."""
    folder, slash, name = target_path.rpartition("/")
    return f"{TARGETS_FOLDER}/{folder}{slash}{sha256}.{name}"


def data_path(task: str, kind: str, sha256: str) -> str:
    """Return the target path of an evaluation pack or golden data, by its content."""
    return f"{task}/{DATA_FOLDER}/{kind}-{sha256[:16]}.npz"


def format_time(moment: datetime) -> str:
    """Write an aware time as TUF writes ``expires``: UTC, whole seconds."""
    return moment.astimezone(timezone.utc).strftime(_TIME)


def parse_time(text: object) -> datetime | None:
    """Read what ``format_time`` wrote; None where it is anything else."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc)
    except ValueError:
        return None
