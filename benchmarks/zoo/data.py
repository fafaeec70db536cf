"""scikit-learn's digits as uint8 images, split once and for all into the two packs that the recipe names.

Rules:
- The images are 8x8 with values 0..16. Stored value = (value * 255 + 8) // 16, so 0 -> 0, 8 -> 128 and 16 -> 255:
  rounding to the nearest whole number in integer arithmetic, and reversible.
- 540 of the 1797 images (30 %, stratified by class, ``SPLIT_SEED``) are the test split. Training and calibration
  never see them.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
doi 10.24432/C50P49, CC BY 4.0: its test set, as bundled with scikit-learn (``sklearn.datasets.load_digits``). Writers
are not recorded there, so the same writers are in both of our splits.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SPLIT_SEED = 20240
TEST_SAMPLES = 540


class Split(NamedTuple):
    """Images uint8 [N, 8, 8, 1], labels int64 [N], and each image's index in scikit-learn's set, int64 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]


def load_digits_splits() -> tuple[Split, Split]:
    """Return the training and the test split; both keep scikit-learn's order of samples."""
    from sklearn.datasets import load_digits  # needed to make the zoo, not to use it
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = ((digits.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_SAMPLES, stratify=labels, random_state=SPLIT_SEED
    )
    return tuple(Split(images[chosen], labels[chosen], chosen) for chosen in (np.sort(train), np.sort(test)))


def write_packs(directory: Path) -> None:
    """Write ``digits-train.npz`` and ``digits-test.npz``: ``inputs`` uint8 [N, 8, 8, 1], ``labels`` int64 [N]."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, split in zip(("train", "test"), load_digits_splits(), strict=True):
        np.savez_compressed(directory / f"digits-{name}.npz", inputs=split.images, labels=split.labels)


if __name__ == "__main__":
    write_packs(Path(__file__).resolve().parent / "packs")
