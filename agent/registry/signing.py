"""The signed state of a registry on the author's disk: read it verified, change it, publish it in the safe order.

Rules:
- What is read is verified against the registry's own root before it is changed and signed again: nobody's edit of a
  file on the server gets a signature that way.
- The state is what ``timestamp.json`` leads to. Versions beyond it are left over from a publication that broke off;
  nobody was ever pointed at them, and they are written over.
- Order of publication: target files, targets, snapshot, timestamp. Each is on disk before the next begins, so a board
  sees the old state or the new one.
- ``issued`` never goes back: a board takes it as the least the time can be.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # re-exported without saying so
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # re-exported without saying so
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError

from agent.durable import storage_error, write_file
from agent.errors import BusyError, ConfigError, StorageError, TrustError
from agent.registry import layout
from agent.registry.keys import load_signer

_T = TypeVar("_T", Root, Targets, Snapshot, Timestamp)
DEFAULT_VALIDITY = {
    "root": timedelta(days=5 * 365),
    "targets": timedelta(days=365),
    "snapshot": timedelta(days=90),
    "timestamp": timedelta(days=30),  # chosen: how long a board may be shown an old state; refresh it more often
}


@dataclass
class SignedState:
    """The four signed documents as they are now. ``publish`` is the only function that writes them."""

    directory: Path
    root: Metadata[Root]
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]

    def signed(self, role: str) -> Signed:
        """Return the signed part of one role."""
        document: Metadata[Any] = getattr(self, role)
        signed: Signed = document.signed
        return signed


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a registry's folder for one author.

    Raises: ConfigError: there is no such folder. BusyError: another process is publishing there.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"{directory} is not a folder", fix="make one with `boardfit registry init`") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(f"another process is publishing to {directory}", fix="wait until it is done") from error
        yield
    finally:
        os.close(descriptor)


def load_state(directory: Path) -> SignedState:
    """Read and verify what the registry's timestamp leads to; expired documents are read like others.

    Raises: ConfigError: the folder holds no registry. TrustError: a document is missing, damaged or wrongly signed.
    """
    root = _load_root(directory)
    timestamp = _load(directory, Timestamp, None, root)
    snapshot = _load(directory, Snapshot, timestamp.signed.snapshot_meta, root)
    targets = _load(directory, Targets, snapshot.signed.meta["targets.json"], root)
    return SignedState(directory, root, targets, snapshot, timestamp)


def publish(
    state: SignedState,
    keys_dir: Path,
    roles: tuple[str, ...],
    *,
    now: datetime,
    validity: Mapping[str, timedelta] | None = None,
    former_root: CryptoSigner | None = None,
    new_keys: Mapping[str, CryptoSigner] | None = None,
) -> None:
    """Sign the given roles anew, with what they lead from (targets need a snapshot, a snapshot a timestamp), and write.

    Args:
        roles: among targets, snapshot, timestamp and root.
        now: the time of issue, aware.
        validity: how long each role holds; where it is not given, as long as last time.
        former_root: the key of the root before, which must sign a root with another key too.
        new_keys: role to the key to sign with, where more than one of the root's could.

    Raises: ConfigError: a key is missing or is not the root's, or ``now`` lies before the last issue. StorageError.
    """
    check_issue_time(state, now)
    needed = set(roles)
    if "targets" in needed:
        needed.add("snapshot")
    if "snapshot" in needed:
        needed.add("timestamp")
    signers = {
        role: (new_keys or {}).get(role) or load_signer(keys_dir, role, public_keys(state.root.signed, role))
        for role in DEFAULT_VALIDITY
        if role in needed
    }
    if "root" in needed:
        root_signers = [signers["root"], *([] if former_root is None else [former_root])]
        data = _sign(state, "root", root_signers, now, validity)
        _write(state.directory, layout.metadata_file("root", state.root.signed.version), data)
        _write(state.directory, layout.ROOT_FILE, data)
    if "targets" in needed:
        data = _sign(state, "targets", [signers["targets"]], now, validity)
        _write(state.directory, layout.metadata_file("targets", state.targets.signed.version), data)
        state.snapshot.signed.meta["targets.json"] = MetaFile.from_data(state.targets.signed.version, data, ["sha256"])
    if "snapshot" in needed:
        data = _sign(state, "snapshot", [signers["snapshot"]], now, validity)
        _write(state.directory, layout.metadata_file("snapshot", state.snapshot.signed.version), data)
        state.timestamp.signed.snapshot_meta = MetaFile.from_data(state.snapshot.signed.version, data, ["sha256"])
    if "timestamp" in needed:
        data = _sign(state, "timestamp", [signers["timestamp"]], now, validity)
        _write(state.directory, layout.metadata_file("timestamp", None), data)


def create_state(
    directory: Path, signers: Mapping[str, CryptoSigner], *, now: datetime, validity: Mapping[str, timedelta]
) -> None:
    """Write the first version of an empty registry. Raises: StorageError."""
    root = Root(consistent_snapshot=True)
    for role, signer in signers.items():
        root.add_key(signer.public_key, role)
    state = SignedState(directory, Metadata(root), Metadata(Targets()), Metadata(Snapshot()), Metadata(Timestamp()))
    for role in ("root", "targets", "snapshot", "timestamp"):
        state.signed(role).version = 0
    data = _sign(state, "root", [signers["root"]], now, validity)
    _write(directory, layout.metadata_file("root", 1), data)
    _write(directory, layout.ROOT_FILE, data)
    data = _sign(state, "targets", [signers["targets"]], now, validity)
    _write(directory, layout.metadata_file("targets", 1), data)
    state.snapshot.signed.meta["targets.json"] = MetaFile.from_data(1, data, ["sha256"])
    data = _sign(state, "snapshot", [signers["snapshot"]], now, validity)
    _write(directory, layout.metadata_file("snapshot", 1), data)
    state.timestamp.signed.snapshot_meta = MetaFile.from_data(1, data, ["sha256"])
    data = _sign(state, "timestamp", [signers["timestamp"]], now, validity)
    _write(directory, layout.metadata_file("timestamp", None), data)


def check_issue_time(state: SignedState, now: datetime) -> None:
    """Refuse to sign before the newest issue. Raises: ConfigError."""
    for role in ("root", "targets", "snapshot", "timestamp"):
        issued = layout.parse_time(state.signed(role).unrecognized_fields.get(layout.ISSUED_FIELD))
        if issued is not None and now < issued:
            raise ConfigError(
                f"this machine's clock says {layout.format_time(now)}, but {role} was signed at "
                f"{layout.format_time(issued)}",
                fix="set the clock; boards take the time of signing as the least the time can be",
            )


def public_keys(root: Root, role: str) -> dict[str, SSlibKey]:
    """Return key id to public key of one role, as the root lists them."""
    keys = {keyid: root.keys[keyid] for keyid in root.roles[role].keyids}
    return {keyid: key for keyid, key in keys.items() if isinstance(key, SSlibKey)}


def read_validity(signed: Signed) -> timedelta | None:
    """Return how long a role was signed for, None where it does not say."""
    seconds = signed.unrecognized_fields.get(layout.VALIDITY_FIELD)
    return timedelta(seconds=seconds) if isinstance(seconds, int) and seconds > 0 else None


def _sign(
    state: SignedState,
    role: str,
    signers: list[CryptoSigner],
    now: datetime,
    validity: Mapping[str, timedelta] | None,
) -> bytes:
    document: Metadata[Any] = getattr(state, role)
    signed: Signed = document.signed
    period = (validity or {}).get(role) or read_validity(signed) or DEFAULT_VALIDITY[role]
    signed.version += 1
    signed.expires = now + period
    signed.unrecognized_fields[layout.ISSUED_FIELD] = layout.format_time(now)
    signed.unrecognized_fields[layout.VALIDITY_FIELD] = int(period.total_seconds())
    document.signatures.clear()
    for signer in signers:
        document.sign(signer, append=True)
    return document.to_bytes()


def _write(directory: Path, relative: str, data: bytes) -> None:
    path = directory / relative
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path) from error
    write_file(path, data)


def _load_root(directory: Path) -> Metadata[Root]:
    version = 0
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in (directory / layout.METADATA_FOLDER).iterdir():
            number, _, rest = path.name.partition(".")
            if rest == "root.json" and number.isdigit():
                version = max(version, int(number))
    if version == 0:
        raise ConfigError(f"{directory} holds no registry", fix="make one with `boardfit registry init`")
    root: Metadata[Root] = _parse(directory / layout.metadata_file("root", version), Root)
    try:
        root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    except RepositoryError as error:
        raise TrustError(f"{version}.root.json of {directory} is not signed by its own keys", fix=_RESTORE) from error
    return root


_RESTORE = "restore the registry's folder from its copy"


def _load(directory: Path, kind: type[_T], listed: MetaFile | None, root: Metadata[Root]) -> Metadata[_T]:
    path = directory / layout.metadata_file(kind.type, None if listed is None else listed.version)
    document = _parse(path, kind, listed)
    try:
        root.signed.verify_delegate(kind.type, document.signed_bytes, document.signatures)
    except RepositoryError as error:
        raise TrustError(f"{path} is not signed by the key the root lists", fix=_RESTORE) from error
    if listed is not None and document.signed.version != listed.version:
        raise TrustError(f"{path} says it is version {document.signed.version}", fix=_RESTORE)
    return document


def _parse(path: Path, kind: type[_T], listed: MetaFile | None = None) -> Metadata[_T]:
    try:
        data = path.read_bytes()
        if listed is not None:
            listed.verify_length_and_hashes(data)
        document = Metadata[kind].from_bytes(data)  # type: ignore[valid-type]
    except FileNotFoundError as error:
        raise TrustError(f"{path} is missing", fix=_RESTORE) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}", fix="check the disk and its permissions") from error
    except (RepositoryError, DeserializationError) as error:
        raise TrustError(f"{path} is damaged: {error}", fix=_RESTORE) from error
    if not isinstance(document.signed, kind):
        raise TrustError(f"{path} is not {kind.type} metadata", fix=_RESTORE)
    return document
