"""A registry made and signed with python-tuf itself, whose keys can be stolen and whose files anybody can change.

It is made without boardfit's own author, which would refuse to do most of what an attacker does: thresholds are above
one, roles are signed by the wrong keys, versions jump.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported without saying so
from tuf.api.metadata import (  # type: ignore[attr-defined]  # re-exported without saying so
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from agent.core.manifest import Manifest, manifest_document
from agent.registry import layout
from agent.registry.signing import DEFAULT_VALIDITY

KEYS = {"root": 3, "targets": 3, "snapshot": 1, "timestamp": 1}
THRESHOLDS = {"root": 2, "targets": 2, "snapshot": 1, "timestamp": 1}
Signers = Sequence[CryptoSigner]


class Repository:
    """Its newest state in memory, and every state it published below ``folder``. Args: now: of the first issue."""

    def __init__(self, folder: Path, now: datetime) -> None:
        self.folder, self.now = folder, now
        self.written: set[bytes] = set()
        self.signers = {role: [CryptoSigner.generate_ed25519() for _ in range(n)] for role, n in KEYS.items()}
        root = Root(consistent_snapshot=True)
        for role, signers in self.signers.items():
            for signer in signers:
                root.add_key(signer.public_key, role)
            root.roles[role].threshold = THRESHOLDS[role]
        self.documents: dict[str, Metadata[Any]] = {
            "root": Metadata(root),
            "targets": Metadata(Targets()),
            "snapshot": Metadata(Snapshot()),
            "timestamp": Metadata(Timestamp()),
        }
        for document in self.documents.values():
            document.signed.version = 0
        self.publish("root", "targets")

    def copy(self, folder: Path) -> Repository:
        """Return one that can go its own way, with the same keys."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        other = copy.copy(self)
        other.folder, other.documents = folder, copy.deepcopy(self.documents)
        other.written = set(self.written)
        other.signers = {role: list(signers) for role, signers in self.signers.items()}
        return other

    def add(self, name: str, data: bytes) -> str:
        """Sign one more candidate, and publish it. Returns: its target path."""
        path, sha256 = f"digits/{name}/model.onnx", hashlib.sha256(data).hexdigest()
        manifest = msgspec.json.encode(manifest_document(Manifest(
            task="digits", name=name, format="onnx", inputs=(), outputs=(),
        ))).decode()  # fmt: skip
        custom = {"custom": {layout.MANIFEST_FIELD: manifest}}
        self.documents["targets"].signed.targets[path] = TargetFile(len(data), {"sha256": sha256}, path, custom)
        self.write(layout.target_file(path, sha256), data)
        self.publish("targets")
        return path

    def publish(self, *roles: str, by: Mapping[str, Signers] | None = None, **changed: Any) -> None:
        """Sign roles and what leads to them, one version on, and write them.

        Args: by: who signs a role instead of its holders. changed: ``version``, ``issued``, ``expires`` of the last
            role named, instead of the next ones.
        """
        wanted = set(roles)
        wanted |= {"snapshot"} if "targets" in wanted else set()
        wanted |= {"timestamp"} if "snapshot" in wanted else set()
        for role in [one for one in ("root", "targets", "snapshot", "timestamp") if one in wanted]:
            change = changed if role == roles[-1] else {}
            data = self.sign(role, (by or {}).get(role), **change)
            version = self.documents[role].signed.version
            if role == "targets":
                self.documents["snapshot"].signed.meta["targets.json"] = MetaFile.from_data(version, data, ["sha256"])
            if role == "snapshot":
                self.documents["timestamp"].signed.snapshot_meta = MetaFile.from_data(version, data, ["sha256"])
            self.write(layout.metadata_file(role, None if role == "timestamp" else version), data)

    def sign(self, role: str, signers: Signers | None = None, **changed: Any) -> bytes:
        """Return the next version of a role, signed by its holders or by others."""
        document = self.documents[role]
        signed = document.signed
        signed.version = changed.get("version", signed.version + 1)
        signed.expires = changed.get("expires", self.now + DEFAULT_VALIDITY[role])
        signed.unrecognized_fields[layout.ISSUED_FIELD] = layout.format_time(changed.get("issued", self.now))
        document.signatures.clear()
        for signer in self.signers[role][: THRESHOLDS[role]] if signers is None else signers:
            document.sign(signer, append=True)
        return document.to_bytes()

    def rotate(self, *roles: str) -> None:
        """Give roles new keys, as the specification says to recover; their documents are begun anew, from version 1."""
        root = self.documents["root"].signed
        for role in roles:
            for old in list(root.roles[role].keyids):
                root.revoke_key(old, role)
            self.signers[role] = [CryptoSigner.generate_ed25519() for _ in range(KEYS[role])]
            for signer in self.signers[role]:
                root.add_key(signer.public_key, role)
            self.documents[role].signed.version = 0
        self.publish("root", *roles)

    def read(self, path: str) -> bytes:
        """Return a published file."""
        return (self.folder / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Put a file where it is served, whatever it holds."""
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        self.written.add(data)

    def later(self, by: timedelta) -> None:
        """Let time pass."""
        self.now += by


def edited(data: bytes, **changed: Any) -> bytes:
    """Change the signed part of a document and leave its signatures as they are."""
    document = msgspec.json.decode(data)
    document["signed"].update(changed)
    return msgspec.json.encode(document)
