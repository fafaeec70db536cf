"""Labelled samples on the workstation: reading packs, preparing inputs, and what may be used for what.

Rules:
- A pack is an ``.npz`` without pickles: ``inputs`` [N, ...] and ``labels`` int64 [N], as a registry's evaluation pack.
- Training and calibration use the training pack alone. No sample of the evaluation pack may be in it: compared by the
  bytes of each input, so that a copy under another index is found too.
- What a network sees is made by the board's own preprocessing steps.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from agent.errors import ConfigError
from agent.runtimes.preprocess import apply_steps


class Pack(NamedTuple):
    """Inputs [N, ...] of any dtype and labels int64 [N]."""

    inputs: NDArray[Any]
    labels: NDArray[np.int64]


class Samples(NamedTuple):
    """Where the samples are and how a model of each kind wants them; read when used.

    ``preprocessing`` holds no ``layout`` step: images are laid out as the kind of model takes them. Without it the pack
    holds the model's own float32 inputs, and every kind takes them as they are.
    """

    training: Path
    preprocessing: tuple[dict[str, Any], ...] = ()
    calibration: int = 200

    def inputs(self, pack: Pack, kind: str) -> NDArray[np.float32]:
        """Return prepared float32 inputs; with preprocessing channels last for tflite, channels first otherwise."""
        if not self.preprocessing:
            return pack.inputs.astype(np.float32, copy=False)
        return cast("NDArray[np.float32]", apply_steps(self.steps(kind), pack.inputs))

    def steps(self, kind: str) -> list[dict[str, Any]]:
        """Return the manifest's preprocessing steps for a model of this kind."""
        return (
            [*self.preprocessing, {"op": "layout", "to": "nhwc" if kind == "tflite" else "nchw"}]
            if (self.preprocessing)
            else []
        )

    def calibration_inputs(self, kind: str, seed: int) -> NDArray[np.float32]:
        """Return prepared inputs of a seeded choice of training samples, in the pack's order."""
        pack = read_pack(self.training)
        count = min(self.calibration, len(pack.labels))
        chosen = np.sort(np.random.default_rng(seed).choice(len(pack.labels), size=count, replace=False))
        return self.inputs(Pack(pack.inputs[chosen], pack.labels[chosen]), kind)


def read_pack(path: Path) -> Pack:
    """Return a pack. Raises: ConfigError: it is absent, no ``.npz`` of plain arrays, or its arrays do not fit."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            inputs, labels = arrays["inputs"], arrays["labels"]
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}", fix="correct the recipe's data section") from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{path} is not a pack of samples: {error}", fix="save it with np.savez(path, inputs=..., labels=...)"
        ) from error
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) != len(inputs):
        raise ConfigError(
            f"{path}: labels must be one whole number for each of the {len(inputs)} inputs",
            fix="save labels as int64 [N]",
        )
    if len(labels) == 0:
        raise ConfigError(f"{path} holds no samples", fix="add labelled samples")
    return Pack(inputs, labels.astype(np.int64))


def shared_samples(first: Pack, second: Pack) -> int:
    """Return how many samples of ``second`` are in ``first`` too, by the bytes of their inputs."""
    known = {_digest(sample) for sample in first.inputs}
    return sum(_digest(sample) in known for sample in second.inputs)


def _digest(sample: NDArray[Any]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(sample).tobytes()).digest()
