"""In the confined child: reads an evaluation pack and checks it against the model and its manifest.

How an evaluation pack's ``inputs`` become what the model takes, in this order (the measuring worker follows it too):

1. uint8 [N, H, W, C], where the manifest lists preprocessing steps: the steps are applied, which gives float32.
2. Values of the model's own input dtype are taken as they are.
3. float32, where the model's input is quantized: ``rint(x / scale) + zero_point``, clipped to the dtype.
4. Each sample has the model's input shape, with or without its batch dimension of 1.

Anything else is a ModelError.
"""

from __future__ import annotations

import importlib
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import ModelError
from agent.registry.inspect_child import first_sentence

_MAX_UNPACKED_BYTES = 4 * 1024**3


def _preprocess() -> Any:
    return importlib.import_module("agent.runtimes.preprocess")  # needs pillow; most models do without


def check_steps(steps: list[dict[str, Any]]) -> None:
    """Refuse preprocessing steps that no board could carry out. Raises: ModelError."""
    _preprocess().check_steps(steps)


def load_arrays(path: Path, what: str) -> dict[str, Any]:
    """Read every array of a ``.npz`` without pickles. Raises: ModelError."""
    fix = f"write the {what} with numpy.savez, without object arrays"
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_UNPACKED_BYTES:
                raise ModelError(
                    f"the {what} unpacks to more than {_MAX_UNPACKED_BYTES} bytes", fix="use fewer samples"
                )
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ModelError(f"the {what} is not a readable .npz: {first_sentence(error)}", fix=fix) from error


def read_pack(path: Path, facts: dict[str, Any], steps: list[dict[str, Any]]) -> tuple[Any, Any]:
    """Read an evaluation pack.

    Returns: inputs as the model takes them [N, *shape], labels int64 [N].
    Raises: ModelError.
    """
    arrays = load_arrays(path, "evaluation pack")
    if "inputs" not in arrays or "labels" not in arrays:
        raise ModelError("the evaluation pack has no arrays `inputs` and `labels`", fix="name them so")
    if len(facts["inputs"]) != 1:
        raise ModelError(
            f"the model has {len(facts['inputs'])} inputs, an evaluation pack feeds one", fix="publish without --eval"
        )
    inputs, labels = arrays["inputs"], arrays["labels"]
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise ModelError(f"labels are {labels.dtype} {list(labels.shape)}, not int64 [N]", fix="convert them")
    if inputs.ndim < 1 or len(inputs) != len(labels) or len(labels) == 0:
        count = len(inputs) if inputs.ndim else 0
        raise ModelError(f"the evaluation pack has {count} inputs and {len(labels)} labels", fix="give one label each")
    return fit_inputs(inputs, facts["inputs"][0], steps), labels


def fit_inputs(inputs: Any, spec: dict[str, Any], steps: list[dict[str, Any]]) -> Any:
    """Turn a pack's inputs into what the model takes, [N, *shape]. Raises: ModelError."""
    if steps and inputs.dtype == np.uint8 and inputs.ndim == 4:
        inputs = _preprocess().apply_steps(steps, inputs)
    wanted = np.dtype(spec["dtype"])
    scale = spec.get("quantization")
    if inputs.dtype != wanted and inputs.dtype == np.float32 and scale is not None and wanted.kind in "iu":
        limits = integer_limits(wanted)
        steps_of = np.rint(inputs.astype(np.float64) / scale["scale"]) + scale["zero_point"]
        inputs = np.clip(steps_of, limits.min, limits.max).astype(wanted)
    if inputs.dtype != wanted:
        raise ModelError(
            f"the evaluation pack holds {inputs.dtype}, the model takes {wanted}",
            fix="store the model's own dtype, or float32 for a quantized input, or give the preprocessing steps",
        )
    if wanted.kind == "f" and not np.isfinite(inputs).all():
        raise ModelError("the evaluation pack holds NaN or infinity", fix="remove those samples")
    shape = spec["shape"]
    given = inputs.shape[1:]
    if fits(given, shape):
        return inputs
    if shape and shape[0] in (1, -1) and fits(given, shape[1:]):
        return inputs[:, np.newaxis]
    raise ModelError(
        f"the evaluation pack's samples have shape {list(given)}, the model takes {shape}",
        fix="store each sample in the model's shape, with or without its batch dimension of 1",
    )


def integer_limits(dtype: Any) -> Any:
    """Return the least and greatest value of an integer dtype."""
    return np.iinfo(dtype)


def fits(given: tuple[int, ...], shape: list[int]) -> bool:
    """Say whether a shape is the model's, -1 being any size."""
    return len(given) == len(shape) and all(want in (-1, got) for got, want in zip(given, shape, strict=True))


def check_labels(labels: Any, classes: int, offset: int, names: int | None) -> None:
    """Refuse labels that the model's output cannot give.

    Args: classes: length of the first output's last dimension, -1 if dynamic. offset: the manifest's ``label_offset``.
        names: how many labels have names, None for unnamed.
    Raises: ModelError.
    """
    low, high = int(labels.min()), int(labels.max())
    if low + offset < 0 or (classes > 0 and high + offset >= classes):
        raise ModelError(
            f"labels run from {low} to {high}, with offset {offset}, but the model has {classes} classes",
            fix="correct the labels or label_offset",
        )
    if names is not None and high >= names:
        raise ModelError(f"label {high} has no name: the manifest lists {names} labels", fix="list every label")
