"""Layers that several families share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

Activation = Callable[[], nn.Module]


def channels(count: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor``, never below 90 % of what was asked for (MobileNetV2's rule)."""
    rounded = max(divisor, int(count + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * count else rounded


def convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, act: Activation | None
) -> nn.Sequential:
    """Return convolution, batch normalization and the activation, if any; 'same' padding for odd kernels."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class Pooled(nn.Module):
    """Global average instead of a dense head over positions (Lin et al. 2014), dropout, one linear layer: logits."""

    def __init__(self, inputs: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [N, classes] of features [N, C, H, W]."""
        logits: Tensor = self.linear(self.dropout(features.mean(dim=(2, 3))))
        return logits


class SqueezeExcite(nn.Module):
    """Scale each channel by what a two-layer net makes of the channels' averages (Hu et al. 2018)."""

    def __init__(self, count: int, middle: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(count, middle, 1)
        self.excite = nn.Conv2d(middle, count, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the scaled features."""
        averages = features.mean(dim=(2, 3), keepdim=True)
        return features * functional.hardsigmoid(self.excite(functional.relu(self.squeeze(averages))))


class InvertedResidual(nn.Module):
    """Expand, depthwise, optional squeeze-and-excite, project; the input added where shapes allow."""

    def __init__(
        self, inputs: int, expanded: int, outputs: int, *, kernel: int, stride: int, act: Activation, squeeze: bool
    ) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(convolution(inputs, expanded, 1, act=act))
        layers.append(convolution(expanded, expanded, kernel, stride=stride, groups=expanded, act=act))
        if squeeze:
            layers.append(SqueezeExcite(expanded, channels(expanded / 4)))
        layers.append(convolution(expanded, outputs, 1, act=None))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's features."""
        result: Tensor = self.layers(features)
        return features + result if self.residual else result
