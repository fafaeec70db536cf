"""A network as a list of layers and of who reads whom: what a model of another library becomes here.

Its layers are torch's own, under their old names, so that every technique finds and replaces them as in any module. A
softmax at the end is kept apart: training wants logits, the exported file what the model gave before. Pickles and
copies whole.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Call(NamedTuple):
    """One use of a layer: what it reads, as numbers of values (0 is the input), in order."""

    layer: str
    reads: tuple[int, ...]


class Graph(nn.Module):
    """Layers called one after another; the last call's result is the output. ``softmax``: taken off its end."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self.calls: list[Call] = []
        self.output = 0
        self.softmax = False

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output."""
        values = [inputs]
        for call in self.calls:
            values.append(self.layers[call.layer](*(values[number] for number in call.reads)))
        return values[self.output]


def as_given(model: nn.Module) -> nn.Module:
    """Return a model with the ending that was kept apart from it, in eval mode."""
    return nn.Sequential(model, nn.Softmax(dim=-1)).eval() if getattr(model, "softmax", False) else model.eval()


class Sum(nn.Module):
    """The sum of its inputs."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return it."""
        total = inputs[0]
        for one in inputs[1:]:
            total = total + one
        return total


class Product(nn.Module):
    """The product of its inputs."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return it."""
        total = inputs[0]
        for one in inputs[1:]:
            total = total * one
        return total


class Difference(nn.Module):
    """The first input less the second."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return it."""
        return first - second


class Join(nn.Module):
    """Inputs side by side along one axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return them as one."""
        return torch.cat(inputs, dim=self.axis)


class Scaled(nn.Module):
    """x * factor + offset, each a number or one for each channel, shaped to spread over the input."""

    factor: Tensor
    offset: Tensor

    def __init__(self, factor: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)
        self.register_buffer("offset", offset)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return it."""
        return inputs * self.factor + self.offset


class Turned(nn.Module):
    """The axes in another order."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, inputs: Tensor) -> Tensor:
        """Return it."""
        return inputs.permute(*self.axes)


class Shaped(nn.Module):
    """Another shape, the batch apart."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, inputs: Tensor) -> Tensor:
        """Return it."""
        return inputs.reshape(inputs.shape[0], *self.sizes)


class Mean(nn.Module):
    """The mean over height and width of [N, C, H, W]."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, inputs: Tensor) -> Tensor:
        """Return it."""
        return inputs.mean(dim=(2, 3), keepdim=self.keep)


class Largest(nn.Module):
    """The largest over height and width of [N, C, H, W]."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, inputs: Tensor) -> Tensor:
        """Return it."""
        return inputs.amax(dim=(2, 3), keepdim=self.keep)
