"""The work folder: every finished step by its key, whole or not there at all.

A step's folder holds its model file and ``record.json``. It is filled under another name and renamed when it is whole,
so that a kill at any moment leaves nothing that looks finished. What a long step keeps meanwhile lies apart, until the
step is finished. What a step does is for others.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec

from agent.compress.technique import Kind
from agent.durable import write_file
from agent.errors import StorageError

_SUFFIX: dict[Kind, str] = {"torch": "pt", "onnx": "onnx", "tflite": "tflite"}
_TEMPORARY = ".making-"
_KEPT = ".kept-"


class Work:
    """A work folder. Raises: StorageError: it cannot be made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{folder} cannot be made: {error.strerror}", fix="choose another with --work"
            ) from error

    def model(self, key: str, kind: Kind) -> Path:
        """Return where a finished step's model file lies."""
        return self.folder / key / f"model.{_SUFFIX[kind]}"

    def record(self, key: str) -> dict[str, Any] | None:
        """Return what a finished step recorded, None where it is not finished."""
        try:
            data = (self.folder / key / "record.json").read_bytes()
        except OSError:
            return None
        record: dict[str, Any] = msgspec.json.decode(data)
        return record

    def begin(self, key: str) -> Path:
        """Return an empty folder for a step to fill."""
        folder = self.folder / f"{_TEMPORARY}{key}-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def finish(self, key: str, folder: Path, record: dict[str, Any]) -> None:
        """Make a filled folder the step's. Raises: StorageError."""
        write_file(folder / "record.json", msgspec.json.encode(record))
        target = self.folder / key
        shutil.rmtree(target, ignore_errors=True)  # of a step that is made again
        try:
            folder.rename(target)
        except OSError as error:
            raise StorageError(
                f"{target} cannot be written: {error.strerror}", fix="free space and run again"
            ) from error
        shutil.rmtree(self.folder / f"{_KEPT}{key}", ignore_errors=True)

    def kept(self, key: str) -> Path:
        """Return a folder that a step may fill bit by bit and finds again after a kill."""
        folder = self.folder / f"{_KEPT}{key}"
        folder.mkdir(exist_ok=True)
        return folder

    def sweep(self) -> None:
        """Remove what killed runs left unfinished."""
        for folder in self.folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def note(self, key: str, name: str, document: object) -> None:
        """Keep a document beside a finished step. Raises: StorageError."""
        write_file(self.folder / key / f"{name}.json", msgspec.json.encode(document))

    def noted(self, key: str, name: str) -> Any:
        """Return a document kept by ``note``, None where there is none."""
        try:
            return msgspec.json.decode((self.folder / key / f"{name}.json").read_bytes())
        except OSError:
            return None
