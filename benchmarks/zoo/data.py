"""scikit-learn's digits as uint8 images, split once and for all; what the nets see is made by the board's own code.

Rules:
- The images are 8x8 with values 0..16. Stored value = (value * 255 + 8) // 16, so 0 -> 0, 8 -> 128 and 16 -> 255:
  rounding to the nearest whole number in integer arithmetic, and reversible.
- 540 of the 1797 images (30 %, stratified by class, ``SPLIT_SEED``) are the test split. Training and calibration
  never see them.
- Training, calibration and evaluation call ``agent.runtimes.preprocess.apply_steps`` with the manifest's own steps.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
doi 10.24432/C50P49, CC BY 4.0: its test set, as bundled with scikit-learn (``sklearn.datasets.load_digits``). Writers
are not recorded there, so the same writers are in both of our splits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.runtimes.preprocess import apply_steps
from benchmarks.zoo.catalog import CALIBRATION_SAMPLES, IMAGE_SIDE, ONNX, PACK_NAME, SEED

SPLIT_SEED = 20240
TEST_SAMPLES = 540
REFERENCE_DATA = (
    f"{TEST_SAMPLES} images: the 30 % stratified test split (seed {SPLIT_SEED}) of scikit-learn's digits, which is the "
    "test set of UCI Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak; CC BY 4.0)"
)


class Split(NamedTuple):
    """Images uint8 [N, 8, 8, 1], labels int64 [N], and each image's index in scikit-learn's set, int64 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]


def load_digits_splits() -> tuple[Split, Split]:
    """Return the training and the test split; both keep scikit-learn's order of samples."""
    from sklearn.datasets import load_digits  # needed to make the zoo, not to publish it
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = ((digits.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_SAMPLES, stratify=labels, random_state=SPLIT_SEED
    )
    return tuple(Split(images[chosen], labels[chosen], chosen) for chosen in (np.sort(train), np.sort(test)))


def preprocessing_steps(format_: str) -> list[dict[str, Any]]:
    """Return the manifest's steps: 8x8 uint8 to 32x32 float32 in -1..1, laid out as the format's converter wants."""
    return [
        {"op": "resize", "height": IMAGE_SIDE, "width": IMAGE_SIDE, "method": "bilinear"},
        {"op": "scale", "factor": 1 / 127.5, "offset": -1.0},
        {"op": "layout", "to": "nchw" if format_ == ONNX else "nhwc"},
    ]


def calibration_inputs(train: Split, format_: str) -> NDArray[np.float32]:
    """Return float32 inputs of a random choice of training images, for choosing activation ranges."""
    chosen = np.random.default_rng(SEED).choice(len(train.labels), size=CALIBRATION_SAMPLES, replace=False)
    return apply_steps(preprocessing_steps(format_), train.images[np.sort(chosen)])


def write_pack(test: Split, directory: Path) -> Path:
    """Write the test split as an evaluation pack: ``inputs`` uint8 [540, 8, 8, 1], ``labels`` int64 [540]."""
    path = directory / PACK_NAME
    np.savez_compressed(path, inputs=test.images, labels=test.labels)
    return path


def write_training_pack(train: Split, directory: Path) -> Path:
    """Write the training split as a pack for `boardfit compress`: ``inputs`` uint8 [1257, 8, 8, 1], ``labels``."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "digits-train.npz"
    np.savez_compressed(path, inputs=train.images, labels=train.labels)
    return path


if __name__ == "__main__":
    write_training_pack(load_digits_splits()[0], Path(__file__).resolve().parent / "packs")
