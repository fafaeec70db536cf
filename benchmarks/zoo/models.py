"""The networks, in torch, for 32x32x1 images and 10 classes.

All are cut down from the published ones in two ways, the same for each family: strides are 1 until the image is worth
halving (three halvings, 32 -> 4), and repeated blocks and the widest last stage are left out, as 10 classes of small
images do not feed them. The kinds of layer, their order within a block and the ratios between widths are the papers'.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


def channels(count: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor``, never below 90 % of what was asked for (MobileNetV2's rule)."""
    rounded = max(divisor, int(count + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * count else rounded


def _convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, act: Callable[[], nn.Module] | None
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class _Classifier(nn.Module):
    """Global average, dropout, one linear layer: logits [N, 10]."""

    def __init__(self, inputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(inputs, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.dropout(features.mean(dim=(2, 3))))


def mobilenet_v1(width: float) -> nn.Module:
    """MobileNetV1: depthwise separable convolutions with ReLU6.

    Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
    arXiv:1704.04861, table 1. Here without four of the five 512-wide repeats and without the 1024-wide stage.
    """
    plan = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))
    current = channels(32 * width)
    layers: list[nn.Module] = [_convolution(1, current, 3, act=nn.ReLU6)]
    for wide, stride in plan:
        following = channels(wide * width)
        layers.append(_convolution(current, current, 3, stride=stride, groups=current, act=nn.ReLU6))
        layers.append(_convolution(current, following, 1, act=nn.ReLU6))
        current = following
    return nn.Sequential(*layers, _Classifier(current))


class _InvertedResidual(nn.Module):
    """Expand, depthwise, optional squeeze-and-excite, project; the input added where shapes allow."""

    def __init__(
        self,
        inputs: int,
        expanded: int,
        outputs: int,
        *,
        kernel: int,
        stride: int,
        act: Callable[[], nn.Module],
        squeeze: bool,
    ) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(_convolution(inputs, expanded, 1, act=act))
        layers.append(_convolution(expanded, expanded, kernel, stride=stride, groups=expanded, act=act))
        if squeeze:
            layers.append(_SqueezeExcite(expanded))
        layers.append(_convolution(expanded, outputs, 1, act=None))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        result = self.layers(features)
        return features + result if self.residual else result


def mobilenet_v2(width: float) -> nn.Module:
    """MobileNetV2: inverted residuals with linear bottlenecks.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381, table 2. Here
    with fewer repeats, without the 160- and 320-wide stages, and with a last convolution of 384 instead of 1280.
    """
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 2), (6, 64, 2, 2), (6, 96, 2, 1))
    current = channels(32 * width)
    layers: list[nn.Module] = [_convolution(1, current, 3, act=nn.ReLU6)]
    for expansion, wide, repeats, first_stride in plan:
        following = channels(wide * width)
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            layers.append(
                _InvertedResidual(
                    current, current * expansion, following, kernel=3, stride=stride, act=nn.ReLU6, squeeze=False
                )
            )
            current = following
    last = channels(384 * width)
    return nn.Sequential(*layers, _convolution(current, last, 1, act=nn.ReLU6), _Classifier(last))


class _SqueezeExcite(nn.Module):
    """Scale each channel by what a two-layer net makes of the channels' averages (a quarter of them in between)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        middle = channels(count / 4)
        self.squeeze = nn.Conv2d(count, middle, 1)
        self.excite = nn.Conv2d(middle, count, 1)

    def forward(self, features: Tensor) -> Tensor:
        averages = features.mean(dim=(2, 3), keepdim=True)
        return features * functional.hardsigmoid(self.excite(functional.relu(self.squeeze(averages))))


def mobilenet_v3_small(width: float) -> nn.Module:
    """MobileNetV3-Small: inverted residuals with squeeze-and-excite and h-swish.

    Source: Howard et al., "Searching for MobileNetV3", arXiv:1905.02244, table 2. Here the stem keeps the resolution,
    the last two 96-wide blocks are left out, and the 1024-wide layer of the head is dropped.
    """
    plan = (
        (3, 16, 16, True, nn.ReLU, 1),
        (3, 72, 24, False, nn.ReLU, 2),
        (3, 88, 24, False, nn.ReLU, 1),
        (5, 96, 40, True, nn.Hardswish, 2),
        (5, 240, 40, True, nn.Hardswish, 1),
        (5, 240, 40, True, nn.Hardswish, 1),
        (5, 120, 48, True, nn.Hardswish, 1),
        (5, 144, 48, True, nn.Hardswish, 1),
        (5, 288, 96, True, nn.Hardswish, 2),
    )
    current = channels(16 * width)
    layers: list[nn.Module] = [_convolution(1, current, 3, act=nn.Hardswish)]
    for kernel, expanded, wide, squeeze, act, stride in plan:
        following = channels(wide * width)
        layers.append(
            _InvertedResidual(
                current, channels(expanded * width), following, kernel=kernel, stride=stride, act=act, squeeze=squeeze
            )
        )
        current = following
    last = channels(576 * width)
    return nn.Sequential(*layers, _convolution(current, last, 1, act=nn.Hardswish), _Classifier(last))


class _DenseLayer(nn.Module):
    """BN, ReLU, 1x1 to 4k, BN, ReLU, 3x3 to k; the result stands beside the input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat((features, self.layers(features)), dim=1)


def densenet_bc(growth: int, blocks: tuple[int, ...], compression: float, stem_stride: int) -> nn.Module:
    """DenseNet-BC: every layer reads all before it; bottlenecks, and transitions that keep ``compression``.

    Source: Huang et al., "Densely Connected Convolutional Networks", arXiv:1608.06993, sections 3 and 4.2 (the variant
    for 32x32 images: a 3x3 stem of 2k channels, transitions with 2x2 average pooling). Theirs has stem stride 1.
    """
    current = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(1, current, 3, stem_stride, padding=1, bias=False)]
    for number, depth in enumerate(blocks):
        for _ in range(depth):
            layers.append(_DenseLayer(current, growth))
            current += growth
        layers += [nn.BatchNorm2d(current), nn.ReLU()]
        if number < len(blocks) - 1:
            kept = int(current * compression)
            layers += [nn.Conv2d(current, kept, 1, bias=False), nn.AvgPool2d(2)]
            current = kept
    return nn.Sequential(*layers, _Classifier(current))


FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_small": mobilenet_v3_small,
    "densenet_bc": densenet_bc,
}


def build(family: str, **settings: object) -> nn.Module:
    """Return a fresh network of the family; its input is float32 [N, 1, 32, 32], its output logits [N, 10]."""
    return FAMILIES[family](**settings)
