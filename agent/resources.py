"""Where the files that ship with boardfit lie: beside the package in a source tree, inside it when installed.

Each folder is known by a file that only it has, so that a stranger's folder of the same name is never taken.
``pyproject.toml`` (package-dir) puts the folders of the source tree under the names written here into the wheel.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def demo_registry() -> Path | None:
    """Return the folder of the bundled demo registry, or None where it was not installed."""
    return _first_with("root.json", _PACKAGE.parent / "benchmarks" / "zoo" / "registry", _PACKAGE / "_demo_registry")


def board_profiles() -> Path | None:
    """Return the folder of the board profiles, or None where they were not installed."""
    return _first_with("generic-arm64.yaml", _PACKAGE.parent / "profiles", _PACKAGE / "_profiles")


def _first_with(marker: str, *places: Path) -> Path | None:
    return next((place for place in places if (place / marker).is_file()), None)
