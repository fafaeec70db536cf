"""Pruning by magnitude and sharing of values against their definitions, on plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from agent.compress.weights import magnitude_masks, shared_values


@pytest.mark.parametrize("overall", [True, False])
def test_exactly_the_smallest_go_and_ties_go_by_position(overall: bool) -> None:
    draw = np.random.default_rng(0)
    weights = [draw.normal(size=(7, 9)), 3 * draw.normal(size=(4, 5, 2))]
    masks = magnitude_masks(weights, 0.4, overall=overall)
    assert [mask.shape for mask in masks] == [(7, 9), (4, 5, 2)]
    zeros = [int((mask == 0).sum()) for mask in masks]
    assert zeros == [25, 16] if not overall else sum(zeros) == 41 and zeros[0] > 25
    groups = [[0, 1]] if overall else [[0], [1]]
    for group in groups:
        kept = min(np.abs(weights[one])[masks[one] == 1].min() for one in group)
        gone = max(np.abs(weights[one])[masks[one] == 0].max() for one in group)
        assert gone <= kept
    (mask,) = magnitude_masks([np.array([1.0, -1.0, 1.0, 1.0])], 0.5, overall=overall)
    assert mask.tolist() == [0, 0, 1, 1]


def test_shared_values_are_means_of_the_weights_nearest_to_them_and_zeros_stay_apart() -> None:
    weight = np.random.default_rng(1).normal(size=(20, 30)).astype(np.float32)
    weight[np.abs(weight) < 0.3] = 0.0
    groups, centroids = shared_values(weight, 8)
    assert np.array_equal(groups == -1, weight == 0)
    alive = groups >= 0
    nearest = np.abs(weight[alive].astype(np.float64)[:, None] - centroids[None]).argmin(axis=1)
    assert np.array_equal(nearest, groups[alive])
    assert len(centroids) == 8
    for number, centroid in enumerate(centroids):
        assert weight[groups == number].mean(dtype=np.float64) == pytest.approx(centroid)


def test_few_zeros_are_values_like_any_and_few_weights_have_few_values() -> None:
    weight = np.linspace(-1.0, 1.0, 201)  # one zero of 201
    groups, centroids = shared_values(weight, 4)
    assert groups.min() == 0
    assert len(centroids) == 4
    groups, centroids = shared_values(np.array([[1.0, 2.0]]), 16)
    assert centroids.tolist() == [1.0, 2.0]
    groups, centroids = shared_values(np.zeros((2, 2)), 16)
    assert (groups.tolist(), len(centroids)) == ([[-1, -1], [-1, -1]], 0)
