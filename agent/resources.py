"""Where the files that ship with boardfit lie: beside the package in a source tree, inside it when installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def demo_registry() -> Path | None:
    """Return the folder of the bundled demo registry, or None where it was not installed."""
    for path in (_PACKAGE.parent / "benchmarks" / "zoo" / "registry", _PACKAGE / "_demo_registry"):
        if (path / "root.json").is_file():
            return path
    return None
