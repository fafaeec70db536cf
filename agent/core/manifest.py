"""What a candidate says about itself: the signed custom part of its registry target. Pure.

Rules:
- Unknown fields at the top survive reading and writing (``Manifest.extra``): an older board loses no newer data there.
- ``task`` and ``name`` become folder names and MQTT topic levels: letters, digits, ``.``, ``_`` and ``-`` only.
- Everything a board needs to open the model is here or in the file; nothing is guessed on the board.
- ``operators``, inputs and outputs are read from the model file by the publisher, in a confined child.
- A candidate is its model file: ``Candidate.sha256`` is of that file whether it travels packed or not, so that a
  measurement, a deployment and a quarantine hold when the same model is published packed later.

History: ``boardfit.manifest/1`` first version. ``boardfit.manifest/2``: the target is packed; a version of its own,
because a board that knows only the first would take the packed bytes for the model.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from agent.errors import ModelError

SCHEMA = "boardfit.manifest/1"
PACKED_SCHEMA = "boardfit.manifest/2"
PACKING_METHODS = ("xz",)
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


class Packing(msgspec.Struct, frozen=True, kw_only=True):
    """How the target is packed, and the SHA-256 (hex) and length in bytes of the model file that comes out of it."""

    method: str
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    length: Annotated[int, msgspec.Meta(ge=1)]


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
    packing: Packing | None = None  # None: the target is the model file itself
    not_run: str | None = None  # why the publisher could not run it, and what its golden data is of; None: it was run
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
        """SHA-256 of the model file as an engine opens it, hex."""
        packing = self.manifest.packing
        return self.target.sha256 if packing is None else packing.sha256

    @property
    def size_bytes(self) -> int:
        """What must be transferred, bytes: the packed file's length where it is packed."""
        return self.target.length

    @property
    def size_unpacked_bytes(self) -> int | None:
        """Length of the model file that comes out of a packed one, bytes; None where it is not packed."""
        packing = self.manifest.packing
        return None if packing is None else packing.length

    @property
    def model_bytes(self) -> int:
        """Length of the model file as an engine opens it, bytes."""
        return self.target.length if self.size_unpacked_bytes is None else self.size_unpacked_bytes


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_KNOWN = frozenset(Manifest.__struct_fields__) - {"extra"}


def is_plain_name(text: str) -> bool:
    """Return whether a task's or candidate's name is safe as a folder name and as an MQTT topic level."""
    return _NAME.fullmatch(text) is not None


def parse_manifest(document: object) -> Manifest:
    """Read a manifest strictly; keep what this version does not know in ``extra``.

    Raises: ModelError: the document is not a mapping, a field has the wrong type, a name is not plain,
        the schema is another version's, or it is packed in a way that is not known here.
    """
    if not isinstance(document, dict):
        raise ModelError("a manifest must be a mapping", fix="see `boardfit registry add --help`")
    schema = document.get("schema", SCHEMA)
    if schema not in (SCHEMA, PACKED_SCHEMA):
        raise ModelError(
            f"manifest schema {schema!r} is not known here: it needs a newer boardfit",
            fix=f"this version reads {SCHEMA} and {PACKED_SCHEMA}",
        )
    _check_packing(document.get("packing"), schema)
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


def _check_packing(packing: object, schema: object) -> None:
    """Refuse a packing that would be half understood, here or on boards that know only the first schema."""
    if packing is None:
        return
    if schema != PACKED_SCHEMA:
        raise ModelError(
            f"the manifest is not valid: it is packed, and its schema is {schema}, whose readers do not unpack",
            fix=f"its schema must be {PACKED_SCHEMA}",
        )
    method = packing.get("method") if isinstance(packing, dict) else None
    if isinstance(method, str) and method not in PACKING_METHODS:
        raise ModelError(
            f"it is packed with {method!r}, which is not known here: it needs a newer boardfit",
            fix=f"update boardfit, or publish it packed with {', '.join(PACKING_METHODS)}",
        )


def manifest_document(manifest: Manifest) -> dict[str, Any]:
    """Return the JSON-ready mapping of a manifest, unknown fields put back where they were."""
    document = msgspec.to_builtins(manifest)
    for name in ("packing", "not_run"):
        if document[name] is None:
            del document[name]
    extra = document.pop("extra")
    return {**extra, **document}
