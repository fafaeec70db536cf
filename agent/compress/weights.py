"""Which weights to keep and which values they may share, on plain arrays: for ONNX files and torch models alike. Pure.

Magnitude: Han et al. 2015, arXiv:1506.02626. Sharing: Han, Mao & Dally 2016, arXiv:1510.00149, section 3: k-means in
one dimension, its centroids evenly spaced over the weights' range at first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 50
_MANY = 0.01  # chosen: share of zeros above which a layer was pruned


def magnitude_masks(weights: Sequence[NDArray[Any]], share: float, *, overall: bool) -> list[NDArray[np.float32]]:
    """Return masks (1 keeps) that zero ``share`` of the weights: exactly floor(share * n), ties by position.

    Args: overall: the smallest of all arrays together; otherwise of each.
    """
    groups = [list(weights)] if overall else [[weight] for weight in weights]
    masks = []
    for group in groups:
        sizes = np.abs(np.concatenate([weight.ravel() for weight in group]))
        kept = np.ones(len(sizes), dtype=np.float32)
        kept[np.argsort(sizes, kind="stable")[: int(share * len(sizes) + 1e-9)]] = 0.0
        parts = np.split(kept, np.cumsum([weight.size for weight in group])[:-1])
        masks += [part.reshape(weight.shape) for part, weight in zip(parts, group, strict=True)]
    return masks


def shared_values(weight: NDArray[Any], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the group of each weight (its shape; -1: a zero kept apart) and the sorted centroids [k <= count].

    Zeros are kept apart where they are many, which says that the layer was pruned.
    """
    flat = weight.ravel()
    member = flat != 0 if np.mean(flat == 0) > _MANY else np.ones(flat.shape, dtype=bool)
    values = flat[member].astype(np.float64)
    groups = np.full(flat.shape, -1, dtype=np.int64)
    if values.size == 0:
        return groups.reshape(weight.shape), np.zeros(0)
    centroids = np.linspace(values.min(), values.max(), min(count, values.size))
    for _ in range(_ROUNDS):
        nearest = _nearest(values, centroids)
        sums = np.bincount(nearest, weights=values, minlength=len(centroids))
        counts = np.bincount(nearest, minlength=len(centroids))
        moved = np.sort(np.where(counts > 0, sums / np.maximum(counts, 1), centroids))
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    groups[member] = _nearest(values, centroids)
    return groups.reshape(weight.shape), centroids


def _nearest(values: NDArray[np.float64], centroids: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the index of the nearest of sorted centroids."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
