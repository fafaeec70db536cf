"""Which weights of a torch model to keep: the largest overall, in each layer, or N of every M in a row.

Magnitude: Han et al. 2015, arXiv:1506.02626. N:M along the inputs of each output: Mishra et al. 2021, arXiv:2104.08378.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agent.compress import weights as arrays
from agent.compress.nets.surgery import weighted


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of linear and convolution layers by parameter name; biases and normalization stay."""
    return {f"{name}.weight": layer.weight for name, layer in weighted(model)}


def magnitude_masks(weights: dict[str, Tensor], share: float, *, overall: bool) -> dict[str, Tensor]:
    """Return ``agent.compress.weights.magnitude_masks`` of tensors by name."""
    masks = arrays.magnitude_masks([weight.detach().numpy() for weight in weights.values()], share, overall=overall)
    return {name: torch.from_numpy(mask) for name, mask in zip(weights, masks, strict=True)}


def n_m_masks(weights: dict[str, Tensor], n: int, m: int) -> dict[str, Tensor]:
    """Return masks that keep the ``n`` largest of every ``m`` neighbouring inputs of an output.

    Layers whose inputs are no multiple of ``m`` are left out.
    """
    masks = {}
    for name, weight in weights.items():
        rows = weight.detach().abs().reshape(weight.shape[0], -1)
        if rows.shape[1] % m == 0:
            groups = rows.view(rows.shape[0], -1, m)
            largest = torch.topk(groups, n, dim=2).indices
            masks[name] = torch.zeros_like(groups).scatter_(2, largest, 1.0).view_as(weight)
    return masks


def gradual_share(final: float, done: float, until: float = 0.75) -> float:
    """Return the share to prune when ``done`` (0..1) of training is over: cubic up to ``until``.

    Source: Zhu & Gupta 2017, arXiv:1710.01878, equation 1.
    """
    progress = min(1.0, done / until)
    return final * (1.0 - (1.0 - progress) ** 3)
