"""Low-rank factorization of linear and convolution layers.

A linear layer or 1x1 convolution W = U S V becomes two by truncated singular value decomposition (Denton et al. 2014,
arXiv:1404.0736; Eckart & Young 1936: the best approximation of that rank). A k x k convolution becomes 1x1, k x k, 1x1
by Tucker-2 on its two channel modes with a truncated higher-order SVD (Kim et al. 2016, arXiv:1511.06530; Tucker 1966).
Depthwise and grouped convolutions stay: they have no channel matrix to factor.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agent.compress.nets.surgery import parameter_count, replace, weighted


class Factored(NamedTuple):
    """A layer's replacement: ranks (one for SVD; outputs' and inputs' for Tucker-2) and how many weights it has."""

    layer: nn.Module
    ranks: tuple[int, ...]
    weights: int


def factor(layer: nn.Linear | nn.Conv2d, energy: float) -> Factored | None:
    """Return the layer factored so that ``energy`` (0..1) of its squared singular values is kept; None if that is no
    saving, or it cannot be factored.
    """
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1:
            return None
        if layer.kernel_size != (1, 1):
            return _tucker(layer, energy)
    return _svd(layer, energy)


def rank_for(singular_values: Tensor, energy: float) -> int:
    """Return the least rank whose squared singular values sum to ``energy`` of all."""
    squares = singular_values.double() ** 2
    shares = torch.cumsum(squares, 0) / squares.sum().clamp(min=1e-30)
    return min(len(shares), int((shares < energy - 1e-12).sum()) + 1)


def _svd(layer: nn.Linear | nn.Conv2d, energy: float) -> Factored | None:
    weight = layer.weight.detach()
    outputs, inputs = weight.shape[:2]
    u, s, v = torch.linalg.svd(weight.reshape(outputs, inputs), full_matrices=False)
    rank = rank_for(s, energy)
    weights = rank * (inputs + outputs)
    if weights >= inputs * outputs:
        return None
    root = s[:rank].sqrt()
    first, second = root[:, None] * v[:rank], u[:, :rank] * root
    if isinstance(layer, nn.Linear):
        narrow: nn.Module = nn.Linear(inputs, rank, bias=False)
        wide: nn.Module = nn.Linear(rank, outputs, bias=layer.bias is not None)
    else:
        narrow = nn.Conv2d(inputs, rank, 1, stride=layer.stride, padding=layer.padding, bias=False)
        wide = nn.Conv2d(rank, outputs, 1, bias=layer.bias is not None)
        first, second = first[:, :, None, None], second[:, :, None, None]
    _set(narrow, first)
    _set(wide, second, layer.bias)
    return Factored(nn.Sequential(narrow, wide), (rank,), weights)


def _tucker(layer: nn.Conv2d, energy: float) -> Factored | None:
    weight = layer.weight.detach()
    outputs, inputs, height, width = weight.shape
    u_out, s_out, _ = torch.linalg.svd(weight.reshape(outputs, -1), full_matrices=False)
    u_in, s_in, _ = torch.linalg.svd(weight.transpose(0, 1).reshape(inputs, -1), full_matrices=False)
    r_out, r_in = rank_for(s_out, energy), rank_for(s_in, energy)
    weights = inputs * r_in + r_in * r_out * height * width + r_out * outputs
    if weights >= weight.numel():
        return None
    u_out, u_in = u_out[:, :r_out], u_in[:, :r_in]
    core = torch.einsum("oihw,or,is->rshw", weight, u_out, u_in)
    first = nn.Conv2d(inputs, r_in, 1, bias=False)
    middle = nn.Conv2d(
        r_in, r_out, (height, width), stride=layer.stride, padding=layer.padding, dilation=layer.dilation, bias=False
    )  # fmt: skip
    last = nn.Conv2d(r_out, outputs, 1, bias=layer.bias is not None)
    _set(first, u_in.T[:, :, None, None])
    _set(middle, core)
    _set(last, u_out[:, :, None, None], layer.bias)
    return Factored(nn.Sequential(first, middle, last), (r_out, r_in), weights)


def _set(layer: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)


def factored(model: nn.Module, energy: float) -> tuple[nn.Module, dict[str, tuple[int, ...]]]:
    """Return a copy with every layer factored that this saves weights in, and the ranks by layer."""
    result = copy.deepcopy(model)
    ranks = {}
    for name, layer in list(weighted(result)):
        found = factor(layer, energy)
        if found is not None:
            replace(result, name, found.layer)
            ranks[name] = found.ranks
    return result, ranks


def energy_for(model: nn.Module, ratio: float) -> float:
    """Return the greatest energy at which the factored model has at most ``ratio`` of the parameters (bisection).

    Raises: ValueError: rank 1 everywhere is still more.
    """
    most = ratio * parameter_count(model)
    low, high = 0.0, 1.0
    if _size(model, low) > most:
        raise ValueError(f"rank 1 in every layer leaves more than {ratio:.2f} of the parameters")
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if _size(model, middle) <= most else (low, middle)
    return low


def _size(model: nn.Module, energy: float) -> int:
    saved = 0
    for _, layer in weighted(model):
        found = factor(layer, energy)
        if found is not None:
            saved += math.prod(layer.weight.shape) - found.weights
    return parameter_count(model) - saved
