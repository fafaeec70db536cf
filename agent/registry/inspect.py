"""What a model file says about itself, and its golden data, asked of a confined child; nothing is parsed here.

Leaves the confinement to ``agent.registry.child`` and the reading to ``agent.registry.inspect_child``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from agent.core.golden import DEFAULT_SAMPLES, MAX_BYTES
from agent.core.manifest import MAX_IR_VERSION, MAX_OPSET, TensorSpec
from agent.durable import storage_error
from agent.errors import ModelError
from agent.registry.child import DEADLINE_S, copy_in, run_child

_T = TypeVar("_T")
MAX_EVALUATION_BYTES = 1024**3  # chosen: a pack is downloaded by every board that measures


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the file itself says. ``quantized``: it computes with integers inside."""

    format: Literal["onnx", "tflite"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: tuple[str, ...]
    quantized: bool
    opset: int | None = None
    ir_version: int | None = None


class PreparedData(msgspec.Struct, frozen=True, kw_only=True):
    """What the child did with the model. ``golden_file`` lies in a folder that ends with the ``with`` block."""

    engine: str | None  # that ran the model, or its twin; None: neither was run
    golden_samples: int
    evaluation_samples: int | None
    golden_file: Path


class _Report(msgspec.Struct, frozen=True, kw_only=True):
    engine: str | None
    golden_samples: int
    evaluation_samples: int | None


def inspect_model(path: Path, *, compiled: bool = False, deadline_s: float = DEADLINE_S) -> ModelFacts:
    """Read format, operators, inputs and outputs of a model in a fresh confined child.

    Args: compiled: for an accelerator, so that it cannot be prepared here.
    Raises: ModelError: it is not a whole model of a format known here, keeps weights outside, or needs more than boards
        give (opset, IR version). StorageError.
    """
    with _work_folder() as work:
        copy_in(path, work, "model")
        answer = run_child("inspect", work, {"model": "model", "compiled": compiled}, deadline_s=deadline_s)
    facts = _convert(answer, ModelFacts)
    if not facts.inputs or not facts.outputs:
        raise ModelError("the model has no input or no output", fix="export it with both")
    if facts.opset is not None and facts.opset > MAX_OPSET:
        raise ModelError(
            f"the model uses opset {facts.opset}; boards run {MAX_OPSET} at most",
            fix=f"export it with opset {MAX_OPSET}",
        )
    if facts.ir_version is not None and facts.ir_version > MAX_IR_VERSION:
        raise ModelError(
            f"the model has IR version {facts.ir_version}; boards read {MAX_IR_VERSION} at most",
            fix=f"save it with ir_version {MAX_IR_VERSION}",
        )
    return facts


@contextmanager
def prepared_data(
    path: Path | None,
    facts: ModelFacts,
    *,
    evaluation: Path | None = None,
    golden: Path | None = None,
    preprocessing: Sequence[dict[str, Any]] = (),
    label_offset: int = 0,
    label_count: int | None = None,
    samples: int = DEFAULT_SAMPLES,
    deadline_s: float = DEADLINE_S,
) -> Iterator[PreparedData]:
    """Check an evaluation pack and golden data against the model by running it; make golden data where none is given.

    Args: path: the model, or its twin; None: nothing can be run, and what is given is held against ``facts`` alone.
        evaluation, golden: ``.npz`` files or None. label_count: how many labels have names, None for unnamed.
        samples: how many golden samples to make.
    Raises: ModelError: data and model do not fit, or the model cannot be run. StorageError.
    """
    with _work_folder() as work:
        if path is not None:
            copy_in(path, work, "model")
        if evaluation is not None:
            copy_in(evaluation, work, "evaluation.npz", max_bytes=MAX_EVALUATION_BYTES)
        if golden is not None:
            copy_in(golden, work, "golden.npz", max_bytes=MAX_BYTES)
        answer = run_child(
            "prepare",
            work,
            {
                "model": None if path is None else "model",
                "facts": msgspec.to_builtins(facts),
                "evaluation": None if evaluation is None else "evaluation.npz",
                "golden": None if golden is None else "golden.npz",
                "out": "golden.npz",
                "preprocessing": list(preprocessing),
                "label_offset": label_offset,
                "label_count": label_count,
                "samples": samples,
            },
            deadline_s=deadline_s,
        )
        report = _convert(answer, _Report)
        yield PreparedData(
            engine=report.engine,
            golden_samples=report.golden_samples,
            evaluation_samples=report.evaluation_samples,
            golden_file=work / "golden.npz",
        )


def _convert(answer: dict[str, Any], kind: type[_T]) -> _T:
    try:
        return msgspec.convert(answer, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ModelError(
            f"the process that read the model answered nonsense: {error}", fix="do not publish this model"
        ) from error


@contextmanager
def _work_folder() -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix="boardfit-model-"))
    except OSError as error:
        raise storage_error(error, Path(tempfile.gettempdir())) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
