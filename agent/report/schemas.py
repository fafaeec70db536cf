"""Writes the published JSON Schemas and the AsyncAPI document: ``python -m agent.report.schemas --write schemas/``.

Without ``--write`` it only compares, and says which files differ. The content comes from ``agent.core.asyncapi``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import yaml

from agent import __version__
from agent.core.asyncapi import SIGNED, asyncapi_document, message_schema, schema_file, signed_schema
from agent.core.messages import MESSAGES
from agent.durable import write_file

ASYNCAPI_FILE = "asyncapi.yaml"


def generated_files() -> dict[str, str]:
    """Return every published file's text by its name."""
    schemas = {kind: message_schema(kind) for kind in MESSAGES} | {name: signed_schema(name) for name in SIGNED}
    files = {
        schema_file(name): json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas.items()
    }
    document = asyncapi_document(__version__)
    files[ASYNCAPI_FILE] = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    return files


def differing_files(folder: Path) -> tuple[str, ...]:
    """Return the names of files in ``folder`` that are missing, stale or no longer generated."""
    wanted = generated_files()
    present = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*") if path.is_file()}
    return tuple(sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)))


def main(arguments: list[str] | None = None) -> int:
    """Compare or write. Returns: 0 when the folder holds what is generated, else 1."""
    parser = argparse.ArgumentParser(prog="python -m agent.report.schemas", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("schemas"))
    parser.add_argument("--write", action="store_true", help="write the files instead of comparing them")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    if options.write:
        folder.mkdir(parents=True, exist_ok=True)
        wanted = generated_files()
        for name in differing_files(folder):
            if name in wanted:
                write_file(folder / name, wanted[name].encode())
            else:
                (folder / name).unlink()
    differing = differing_files(folder)
    for name in differing:
        sys.stderr.write(f"{folder / name} differs from what is generated\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
