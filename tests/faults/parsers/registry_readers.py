"""What reads a registry: manifests, its catalogue, its metadata."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.faults.parsers import spoil
from tests.faults.parsers.target import JSON, NOW, Target, decoded, encode


def _manifest(data: bytes) -> object:
    from agent.core.manifest import manifest_document, parse_manifest

    return manifest_document(parse_manifest(decoded(data)))


def _catalogue(data: bytes) -> object:
    from tuf.api.metadata import TargetFile

    from agent.registry.catalogue import candidate_of, data_kind, read_catalogue

    custom = decoded(data)
    if not isinstance(custom, dict):
        return None
    targets = {"a/b": TargetFile(10, {"sha256": "0" * 64}, "a/b", {"custom": custom})}
    read_catalogue(targets)
    return candidate_of(targets["a/b"]), data_kind(targets["a/b"])


def _manifest_seeds() -> tuple[tuple[int, bytes], ...]:
    from agent.registry import layout

    customs = list(_published_custom())
    manifests = [custom[layout.MANIFEST_FIELD].encode() for custom in customs if layout.MANIFEST_FIELD in custom]
    assert manifests
    return (*((0, one) for one in manifests), *((1, encode(custom)) for custom in customs))


@lru_cache(maxsize=1)
def _registry() -> dict[str, bytes]:
    """Make a real registry with one candidate; return its files."""
    from agent.registry.author import add, init
    from tests.registry.samples import evaluation_pack, onnx_model

    with tempfile.TemporaryDirectory() as folder:
        place, keys = Path(folder) / "registry", Path(folder) / "keys"
        init(place, keys, now=NOW - timedelta(hours=2))
        model = onnx_model(Path(folder) / "m.onnx", features=4, ir_version=8)
        pack = evaluation_pack(Path(folder) / "eval.npz")
        add(place, model, task="digits", name="float", keys_dir=keys, now=NOW - timedelta(hours=1), evaluation=pack)
        return {str(one.relative_to(place)): one.read_bytes() for one in place.rglob("*.json")}


def _published_custom() -> Iterator[dict[str, Any]]:
    for name, data in _registry().items():
        if name.endswith(".targets.json"):
            for target in json.loads(data)["signed"]["targets"].values():
                yield target.get("custom", {})


_ROLES = ("root.json", "timestamp.json", "snapshot.json", "targets.json")


def _metadata(data: bytes) -> object:
    """One of a registry's four documents is another one; as a root it comes after the one that was installed."""
    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient import FetcherInterface

    from agent.registry.client import _versioned
    from agent.registry.trust import read_issued, verify_stored

    role, content = _ROLES[data[0] % 4] if data else _ROLES[0], data[1:]
    files = dict(_registry())

    class Memory(FetcherInterface):
        def _fetch(self, url: str) -> Iterator[bytes]:
            name = url.removeprefix("metadata/")
            if name not in served:
                raise DownloadHTTPError("not found", 404)
            yield served[name]

    served = {name.rpartition("/")[2]: one for name, one in files.items()}
    root = served["1.root.json"]
    for name in list(served):
        if name == role or name.endswith(f".{role}"):
            served[name] = content
    if role == "root.json":
        read_issued(content)
        served["2.root.json"], served["1.root.json"] = content, root
    _versioned({"snapshot.json": content, "targets.json": content})
    return verify_stored(root, Memory(), NOW).issued()


def _metadata_seeds() -> tuple[tuple[int, bytes], ...]:
    found = []
    for name, data in _registry().items():
        for number, role in enumerate(_ROLES):
            if name.endswith(role):
                found.append((0, bytes([number]) + data))
    return tuple(found)


def _spoiled_metadata(chance: Any, data: bytes) -> bytes:
    return data[:1] + spoil.spoiled_json(chance, data[1:])


MADE = (
    Target("manifest", (_manifest, _catalogue), _manifest_seeds, (JSON, JSON)),
    Target("registry", (_metadata,), _metadata_seeds, (_spoiled_metadata,)),
)
