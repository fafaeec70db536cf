"""Reference architectures, each a factory whose settings a recipe gives; input [N, in_channels, H, W], output logits.

``small`` (the default) cuts a published network down for images of 32 pixels in two ways, the same for each family:
strides are 1 until the image is worth halving, and repeated blocks and the widest last stage are left out. ``small:
false`` is the paper's own plan. The kinds of layer, their order and the ratios between widths are the papers'.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agent.compress.nets.blocks import InvertedResidual, Pooled, channels, convolution

_V1_SMALL = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))
_V1 = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip
_V2_SMALL = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 2), (6, 64, 2, 2), (6, 96, 2, 1))
_V2 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
_V3_SMALL: tuple[tuple[int, int, int, bool, type[nn.Module], int], ...] = (
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
)


def mobilenet_v1(width: float = 1.0, classes: int = 10, in_channels: int = 1, *, small: bool = True) -> nn.Module:
    """MobileNetV1: depthwise separable convolutions with ReLU6. Howard et al. 2017, arXiv:1704.04861, table 1."""
    current = channels(32 * width)
    layers: list[nn.Module] = [convolution(in_channels, current, 3, stride=1 if small else 2, act=nn.ReLU6)]
    for wide, stride in _V1_SMALL if small else _V1:
        following = channels(wide * width)
        layers.append(convolution(current, current, 3, stride=stride, groups=current, act=nn.ReLU6))
        layers.append(convolution(current, following, 1, act=nn.ReLU6))
        current = following
    return nn.Sequential(*layers, Pooled(current, classes))


def mobilenet_v2(width: float = 1.0, classes: int = 10, in_channels: int = 1, *, small: bool = True) -> nn.Module:
    """MobileNetV2: inverted residuals with linear bottlenecks. Sandler et al. 2018, arXiv:1801.04381, table 2."""
    current = channels(32 * width)
    layers: list[nn.Module] = [convolution(in_channels, current, 3, stride=1 if small else 2, act=nn.ReLU6)]
    for expansion, wide, repeats, first_stride in _V2_SMALL if small else _V2:
        following = channels(wide * width)
        for repeat in range(repeats):
            layers.append(
                InvertedResidual(
                    current, current * expansion, following, kernel=3, stride=first_stride if repeat == 0 else 1,
                    act=nn.ReLU6, squeeze=False,
                )
            )  # fmt: skip
            current = following
    last = channels(384 * width) if small else channels(1280 * max(1.0, width))
    return nn.Sequential(*layers, convolution(current, last, 1, act=nn.ReLU6), Pooled(last, classes))


def mobilenet_v3_small(width: float = 1.0, classes: int = 10, in_channels: int = 1, *, small: bool = True) -> nn.Module:
    """MobileNetV3-Small: squeeze-and-excite and h-swish. Howard et al. 2019, arXiv:1905.02244, table 2.

    The head's 1024-wide layer is dropped; ``small`` leaves out the last two blocks too, and the first halvings.
    """
    current = channels(16 * width)
    layers: list[nn.Module] = [convolution(in_channels, current, 3, stride=1 if small else 2, act=nn.Hardswish)]
    for number, (kernel, expanded, wide, squeeze, act, stride) in enumerate(_V3_SMALL[:-2] if small else _V3_SMALL):
        following = channels(wide * width)
        layers.append(
            InvertedResidual(
                current, channels(expanded * width), following, kernel=kernel,
                stride=1 if small and number == 0 else stride, act=act, squeeze=squeeze,
            )
        )  # fmt: skip
        current = following
    last = channels(576 * width)
    return nn.Sequential(*layers, convolution(current, last, 1, act=nn.Hardswish), Pooled(last, classes))


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


def densenet_bc(
    growth: int = 12,
    blocks: tuple[int, ...] = (16, 16, 16),
    compression: float = 0.5,
    *,
    stem_stride: int = 1,
    classes: int = 10,
    in_channels: int = 1,
) -> nn.Module:
    """DenseNet-BC: every layer reads all before it; bottlenecks, and transitions that keep ``compression``.

    Huang et al. 2017, arXiv:1608.06993, sections 3 and 4.2 (the variant for 32x32 images: a 3x3 stem of 2k channels,
    transitions with 2x2 average pooling; the paper's stem stride is 1).
    """
    current = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(in_channels, current, 3, stem_stride, padding=1, bias=False)]
    for number, depth in enumerate(blocks):
        for _ in range(depth):
            layers.append(_DenseLayer(current, growth))
            current += growth
        layers += [nn.BatchNorm2d(current), nn.ReLU()]
        if number < len(blocks) - 1:
            kept = int(current * compression)
            layers += [nn.Conv2d(current, kept, 1, bias=False), nn.AvgPool2d(2)]
            current = kept
    return nn.Sequential(*layers, Pooled(current, classes))


class _Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and 3x3 beside each other."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(inputs, squeezed, 1), nn.ReLU())
        self.narrow = nn.Sequential(nn.Conv2d(squeezed, expanded, 1), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(squeezed, expanded, 3, padding=1), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        squeezed = self.squeeze(features)
        return torch.cat((self.narrow(squeezed), self.wide(squeezed)), dim=1)


def squeezenet(width: float = 1.0, classes: int = 10, in_channels: int = 1, *, small: bool = True) -> nn.Module:
    """SqueezeNet 1.1: fire modules and a convolution as classifier, averaged. Iandola et al. 2016, arXiv:1602.07360.

    ``small``: stem stride 1 and the last two fire modules left out.
    """
    plan = [(16, 64), (16, 64), None, (32, 128), (32, 128), None, (48, 192), (48, 192), (64, 256), (64, 256)]
    current = channels(64 * width)
    layers: list[nn.Module] = [nn.Conv2d(in_channels, current, 3, 1 if small else 2, padding=1), nn.ReLU(), _halve()]
    for step in plan[:-2] if small else plan:
        if step is None:
            layers.append(_halve())
            continue
        squeezed, expanded = channels(step[0] * width), channels(step[1] * width)
        layers.append(_Fire(current, squeezed, expanded))
        current = 2 * expanded
    made = nn.Sequential(
        *layers, nn.Dropout(0.1), nn.Conv2d(current, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    _keep_variance(made)
    return made


def _keep_variance(model: nn.Module) -> None:
    """Begin with weights that keep a signal's variance through ReLUs (He et al. 2015): nothing here normalizes it."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)


def _halve() -> nn.Module:
    return nn.MaxPool2d(3, 2, padding=1)


def efficientnet_lite(
    compound: float = 0.0, classes: int = 10, in_channels: int = 1, *, small: bool = True
) -> nn.Module:
    """EfficientNet-Lite: EfficientNet without squeeze-and-excite and with ReLU6, scaled by one number.

    Tan & Le 2019, arXiv:1905.11946: depth 1.2^phi and width 1.1^phi of table 1 (the resolution, 1.15^phi, is the
    data's). The Lite changes: github.com/tensorflow/tpu, efficientnet/lite: also a stem and a head of fixed width.
    """
    plan = (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )  # fmt: skip
    wider, deeper = 1.1**compound, 1.2**compound
    current = 32
    layers: list[nn.Module] = [convolution(in_channels, current, 3, stride=1 if small else 2, act=nn.ReLU6)]
    for expansion, wide, repeats, first_stride, kernel in plan[:5] if small else plan:
        following = channels(wide * wider)
        for repeat in range(max(1, round(repeats * deeper))):
            layers.append(
                InvertedResidual(
                    current, current * expansion, following, kernel=kernel, stride=first_stride if repeat == 0 else 1,
                    act=nn.ReLU6, squeeze=False,
                )
            )  # fmt: skip
            current = following
    last = 384 if small else 1280
    return nn.Sequential(*layers, convolution(current, last, 1, act=nn.ReLU6), Pooled(last, classes))
