"""What a candidate says about itself: the signed custom part of its registry target. Pure.

Rules:
- Unknown fields at the top survive reading and writing (``Manifest.extra``): an older board loses no newer data there.
- ``task`` and ``name`` become folder names and MQTT topic levels: letters, digits, ``.``, ``_`` and ``-`` only.
- Everything a board needs to open the model is here or in the file; nothing is guessed on the board.
- ``operators``, inputs and outputs are read from the model file by the publisher, in a confined child.

History: ``boardfit.manifest/1`` first version.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from agent.errors import ModelError

SCHEMA = "boardfit.manifest/1"
MAX_OPSET = 20  # onnxruntime 1.23, the last on Python 3.10, is the oldest runtime supported
MAX_IR_VERSION = 10


class CompressionStep(msgspec.Struct, frozen=True, kw_only=True):
    """One technique of the chain that made this candidate, with its parameters."""

    technique: str
    parameters: dict[str, Any] = {}


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """Affine quantization of a tensor: real = scale * (stored - zero_point)."""

    scale: float
    zero_point: int


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output.

    ``shape`` holds -1 for a dynamic dimension; ``dtype`` is numpy's name (float32, int8, uint8, int64 ...).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: str | None = None
    quantization: Quantization | None = None


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a board must have to run this model at all."""

    opset: int | None = None
    ir_version: int | None = None
    operators: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()  # empty: any engine for the format
    isa: tuple[str, ...] = ()  # /proc/cpuinfo feature names, all needed
    memory_bytes: int | None = None


class ReferenceAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy measured by the publisher: the ratio in 0..1, on ``n`` samples of ``data``."""

    value: float
    n: int
    data: str
    metric: str = "top1"


class TargetRef(msgspec.Struct, frozen=True, kw_only=True):
    """Another signed target of the same registry, by path, SHA-256 (hex) and length in bytes."""

    path: str
    sha256: str
    length: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole manifest of one candidate."""

    task: str
    name: str
    format: Literal["onnx", "tflite"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    schema: str = SCHEMA
    family: str | None = None
    compression: tuple[CompressionStep, ...] = ()
    parent: str | None = None
    needs: Needs = Needs()
    preprocessing: tuple[dict[str, Any], ...] = ()
    labels: tuple[str, ...] = ()
    label_offset: int = 0
    reference: ReferenceAccuracy | None = None
    golden: TargetRef | None = None
    evaluation: TargetRef | None = None
    licence: str | None = None
    description: str | None = None
    extra: dict[str, Any] = {}


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One model artifact for a task as the verified registry lists it."""

    manifest: Manifest
    target: TargetRef

    @property
    def name(self) -> str:
        """The candidate's name, unique within its task."""
        return self.manifest.name

    @property
    def task(self) -> str:
        """The task this candidate is for."""
        return self.manifest.task

    @property
    def sha256(self) -> str:
        """SHA-256 of the model file, hex."""
        return self.target.sha256

    @property
    def size_bytes(self) -> int:
        """Length of the model file in bytes."""
        return self.target.length


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_KNOWN = frozenset(Manifest.__struct_fields__) - {"extra"}


def is_plain_name(text: str) -> bool:
    """Return whether a task's or candidate's name is safe as a folder name and as an MQTT topic level."""
    return _NAME.fullmatch(text) is not None


def parse_manifest(document: object) -> Manifest:
    """Read a manifest strictly; keep what this version does not know in ``extra``.

    Raises: ModelError: the document is not a mapping, a field has the wrong type, a name is not plain,
        or the schema is another version's.
    """
    if not isinstance(document, dict):
        raise ModelError("a manifest must be a mapping", fix="see `boardfit registry add --help`")
    schema = document.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise ModelError(f"manifest schema {schema!r} is not known here", fix=f"this version reads {SCHEMA}")
    for field in ("task", "name"):
        value = document.get(field)
        if isinstance(value, str) and not is_plain_name(value):
            raise ModelError(
                f"the manifest is not valid: {field} {value!r}",
                fix="use letters, digits, '.', '_' and '-', starting with none of '.' and '-'",
            )
    known = {key: value for key, value in document.items() if key in _KNOWN}
    known["extra"] = {str(key): value for key, value in document.items() if key not in _KNOWN}
    try:
        return msgspec.convert(known, Manifest)
    except msgspec.ValidationError as error:
        raise ModelError(f"the manifest is not valid: {error}", fix="correct that field and publish again") from error


def manifest_document(manifest: Manifest) -> dict[str, Any]:
    """Return the JSON-ready mapping of a manifest, unknown fields put back where they were."""
    document = msgspec.to_builtins(manifest)
    extra = document.pop("extra")
    return {**extra, **document}
