"""Which weights of a torch model to keep: the largest overall, in each layer, or N of every M in a row.

Magnitude: Han et al. 2015, arXiv:1506.02626. N:M along the inputs of each output: Mishra et al. 2021, arXiv:2104.08378.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agent.compress.nets.surgery import weighted


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of linear and convolution layers by parameter name; biases and normalization stay."""
    return {f"{name}.weight": layer.weight for name, layer in weighted(model)}


def magnitude_masks(weights: dict[str, Tensor], share: float, *, overall: bool) -> dict[str, Tensor]:
    """Return masks (1 keeps) that zero ``share`` of the weights: exactly floor(share * n), ties by position.

    Args: overall: the smallest of all layers together; otherwise of each layer.
    """
    if not overall:
        return {
            name: _smallest_out(weight.detach().abs().flatten(), share).view_as(weight)
            for name, weight in weights.items()
        }
    together = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    kept = _smallest_out(together, share)
    masks, begin = {}, 0
    for name, weight in weights.items():
        masks[name] = kept[begin : begin + weight.numel()].view_as(weight)
        begin += weight.numel()
    return masks


def _smallest_out(sizes: Tensor, share: float) -> Tensor:
    count = int(share * sizes.numel() + 1e-9)
    kept = torch.ones_like(sizes)
    kept[torch.sort(sizes, stable=True).indices[:count]] = 0.0
    return kept


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
