"""Weights of a layer that share few values: k-means in one dimension, zeros of a pruned layer left alone.

Source: Han, Mao & Dally 2016, arXiv:1510.00149, section 3: centroids begin evenly spaced over the weights' range.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 50


def cluster(weight: Tensor, count: int, *, zeros_apart: bool) -> tuple[Tensor, Tensor]:
    """Return the group of each weight (int64, of its shape; -1: a zero kept apart) and the centroids [k <= count]."""
    flat = weight.detach().flatten()
    member = flat != 0 if zeros_apart else torch.ones_like(flat, dtype=torch.bool)
    values = flat[member]
    groups = torch.full(flat.shape, -1, dtype=torch.int64)
    if values.numel() == 0:
        return groups.view_as(weight), torch.zeros(0)
    centroids = torch.linspace(float(values.min()), float(values.max()), min(count, values.numel()))
    for _ in range(_ROUNDS):
        nearest = _nearest(values, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, values)
        counts = torch.zeros_like(centroids).index_add_(0, nearest, torch.ones_like(values))
        moved = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
        if torch.equal(moved, centroids):
            break
        centroids = torch.sort(moved).values
    groups[member] = _nearest(values, centroids)
    return groups.view_as(weight), centroids


def _nearest(values: Tensor, centroids: Tensor) -> Tensor:
    """Return the index of the nearest of sorted centroids."""
    borders = (centroids[1:] + centroids[:-1]) / 2
    return torch.bucketize(values, borders)
