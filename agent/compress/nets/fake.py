"""Quantization-aware training: weights and activations rounded as int8 would, in the forward pass only.

Jacob et al. 2018, arXiv:1712.05877, section 3: gradients pass the rounding as if it were not there (straight-through
estimator, Bengio et al. 2013). Weights per output channel, symmetric; activations per tensor, by a moving average.
The trained model is float again; its weights lie where the quantizer behind it rounds little.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from agent.compress.nets.surgery import weighted

_MOMENTUM = 0.05


class _RoundedWeight(nn.Module):
    """A weight as int8 of ``bits`` bits would hold it."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.most = 2 ** (bits - 1) - 1

    def forward(self, weight: Tensor) -> Tensor:
        largest = weight.detach().abs().flatten(1).max(dim=1).values.clamp(min=1e-8)
        points = torch.zeros(len(largest), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, largest / self.most, points, 0, -self.most, self.most)


class _RoundedInput:
    """Rounds what goes into a layer to 8 bits over the range it has had so far."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0
        self.seen = False

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given = inputs[0]
        if module.training:
            low, high = min(0.0, float(given.detach().min())), max(0.0, float(given.detach().max()))
            share = _MOMENTUM if self.seen else 1.0
            self.low += share * (low - self.low)
            self.high += share * (high - self.high)
            self.seen = True
        scale = max((self.high - self.low) / 255.0, 1e-8)
        point = min(127, max(-128, round(-128 - self.low / scale)))
        return (torch.fake_quantize_per_tensor_affine(given, scale, point, -128, 127), *inputs[1:])


def begin(model: nn.Module, weight_bits: int) -> list[Any]:
    """Make a model round; the result is for ``end``."""
    hooks = []
    for _, layer in weighted(model):
        parametrize.register_parametrization(layer, "weight", _RoundedWeight(weight_bits))
        hooks.append(layer.register_forward_pre_hook(_RoundedInput()))
    return hooks


def end(model: nn.Module, hooks: list[Any]) -> None:
    """Make it a float model again, with its weights as rounded."""
    for hook in hooks:
        hook.remove()
    for _, layer in weighted(model):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
