"""A small task that is learned in seconds: which quarter of an 8x8 image is bright. Made up, and called so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.compress.samples import Samples

CLASSES = 4


def quarters(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 images [count, 1, 8, 8] of noise with one bright quarter, and which it is."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count)
    images = draw.normal(0.0, 0.6, (count, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        top, left = 4 * (label // 2), 4 * (label % 2)
        image[0, top : top + 4, left : left + 4] += 1.0
    return images, labels.astype(np.int64)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    """The training pack of 600 images."""
    inputs, labels = quarters(600, 1)
    np.savez(tmp_path / "train.npz", inputs=inputs, labels=labels)
    return Samples(tmp_path / "train.npz", calibration=50)
