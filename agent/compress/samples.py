"""Labelled samples on the workstation: reading packs, preparing inputs, and what may be used for what.

Rules:
- A pack is an ``.npz`` without pickles: ``inputs`` [N, ...] and ``labels`` int64 [N], as a registry's evaluation pack.
- Training and calibration use the training pack alone. No sample of the evaluation pack may be in it: compared by the
  bytes of each input, so that a copy under another index is found too.
- A search's trials hold a part of the training pack out, the same part for each: of every class the asked share, at
  least one and not all, by the seed; equal inputs stay together.
- What a network sees is made by the board's own preprocessing steps.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
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


class Validation(NamedTuple):
    """A part held out of the training pack, and who looks at a network after each epoch of training without it."""

    share: float
    seed: int
    after_epoch: Callable[[Any], None]


class Samples(NamedTuple):
    """Where the samples are and how a model of each kind wants them; read when used.

    ``preprocessing`` holds no ``layout`` step: images are laid out as the kind of model takes them. Without it the pack
    holds the model's own float32 inputs, and every kind takes them as they are.
    """

    training: Path
    preprocessing: tuple[dict[str, Any], ...] = ()
    calibration: int = 200
    validation: Validation | None = None

    def training_pack(self) -> Pack:
        """Return what may be trained and calibrated on. Raises: ConfigError: see ``read_pack``."""
        return self._part(held_out=False)

    def validation_pack(self) -> Pack:
        """Return the part held out. Raises: ConfigError: no class has two samples, or see ``read_pack``."""
        return self._part(held_out=True)

    def _part(self, *, held_out: bool) -> Pack:
        pack = read_pack(self.training)
        if self.validation is None:
            assert not held_out
            return pack
        chosen = held_out_samples(pack, self.validation.share, self.validation.seed) == held_out
        return Pack(pack.inputs[chosen], pack.labels[chosen])

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
        pack = self.training_pack()
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


def held_out_samples(pack: Pack, share: float, seed: int) -> NDArray[np.bool_]:
    """Return which samples of a pack are held out [N]; see the rules above.

    Raises: ConfigError: no class has two different samples.
    """
    _, first, same = np.unique([_digest(one) for one in pack.inputs], return_index=True, return_inverse=True)
    draw = np.random.default_rng(seed)
    held_out = np.zeros(len(first), dtype=bool)
    for label in np.unique(pack.labels):
        own = np.flatnonzero(pack.labels[first] == label)
        if len(own) > 1:
            count = min(max(1, round(share * len(own))), len(own) - 1)
            held_out[draw.permutation(own)[:count]] = True
    if not held_out.any():
        raise ConfigError("no class has two samples, so none can be held out", fix="add labelled samples")
    return held_out[same.reshape(-1)]


def pack_digest(pack: Pack) -> str:
    """Return the SHA-256 of a pack's content: types, shapes and values, not how the file packs them."""
    digest = hashlib.sha256()
    for array in pack:
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def shared_samples(first: Pack, second: Pack) -> int:
    """Return how many samples of ``second`` are in ``first`` too, by the bytes of their inputs."""
    known = {_digest(sample) for sample in first.inputs}
    return sum(_digest(sample) in known for sample in second.inputs)


def _digest(sample: NDArray[Any]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(sample).tobytes()).digest()
