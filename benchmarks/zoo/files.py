"""The bundled registry by candidate: where its files lie and what its manifest says. Standard library only.

For what needs one file and no registry: benchmarks and tests. Nothing here is verified; a board's client does that.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

REGISTRY = Path(__file__).resolve().parent / "registry"
#: What `registry add` reads from the file or makes itself.
_ADDED = ("schema", "task", "name", "format", "inputs", "outputs", "needs", "golden", "evaluation", "packing")


class Bundled(NamedTuple):
    """One candidate: its manifest's fields, its target's path, digest and length, and its files."""

    manifest: dict[str, Any]
    target: dict[str, Any]
    model: Path
    golden: Path | None
    evaluation: Path | None

    @property
    def extra(self) -> dict[str, Any]:
        """What a publisher gives as ``--manifest``."""
        return {key: value for key, value in self.manifest.items() if key not in _ADDED}


@cache
def bundled() -> dict[str, Bundled]:
    """Return every candidate by its name, from the registry's own list."""
    listed = max(REGISTRY.glob("metadata/*.targets.json"), key=lambda path: int(path.name.partition(".")[0]))
    found = {}
    for path, target in json.loads(listed.read_text())["signed"]["targets"].items():
        text = target.get("custom", {}).get("boardfit")
        if not text or "format" not in (fields := json.loads(text)):
            continue
        own = {"path": path, "sha256": target["hashes"]["sha256"], "length": target["length"]}
        files = [_file(ref) if ref else None for ref in (own, fields.get("golden"), fields.get("evaluation"))]
        assert files[0] is not None
        found[fields["name"]] = Bundled(fields, own, files[0], files[1], files[2])
    return dict(sorted(found.items()))


def _file(reference: dict[str, Any]) -> Path:
    place = Path(reference["path"])
    return REGISTRY / "targets" / place.parent / f"{reference['sha256']}.{place.name}"


def artifact(name: str) -> Path:
    """Return a candidate's file, packed if it is published packed. Raises: KeyError: there is none of that name."""
    return bundled()[name].model


def evaluation_pack() -> Path:
    """Return the pack of the digits' test split."""
    (path,) = {one.evaluation for one in bundled().values() if one.evaluation is not None}
    return path
