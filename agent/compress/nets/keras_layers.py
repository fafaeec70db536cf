"""Keras layers as torch layers: which become what, with their weights. Keras itself computes nothing of the result.

Rules:
- Images are channels last in Keras and channels first in torch; here they are turned once, at the input.
- ``same`` padding of Keras adds the odd row at the bottom and right; where torch's own padding is not that, a layer of
  its own pads.
- ``Flatten`` reads rows, columns, channels; here channels come first, and the dense layer behind it has its columns
  reordered instead of the values being moved.
- A layer or setting that is not in the table is an error that names it: nothing is approximated.

Source: keras.io/api/layers; keras/src/backend/common/backend_utils.py for padding, layers/ for defaults (Keras 3.12).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agent.compress.nets.building import Builder, Layer, Value, Window, array, padded, pads, scaled
from agent.compress.nets.keras_shapes import MERGING, SHAPES


def apply(build: Builder, layer: Layer, given: list[Value], constants: list[float]) -> Value:
    """Add one Keras layer. Raises: ModelError: it has no translation."""
    kind, build.owner = type(layer).__name__, id(layer)
    make = _LAYERS.get(kind)
    if make is None or not type(layer).__module__.startswith("keras."):
        raise build.refuse(layer, "has no translation")
    if getattr(layer, "data_format", "channels_last") not in ("channels_last", None):
        raise build.refuse(layer, "has channels first, only channels last is read")
    if kind not in _KEEPS_FLAT:
        given = [build.settled(f"{layer.name}_from{number}", value) for number, value in enumerate(given)]
    if kind in MERGING:
        return make(build, layer, given, constants)
    if len(given) != 1 or constants:
        raise build.refuse(layer, f"has {len(given) + len(constants)} inputs")
    return make(build, layer, given[0])


def _set(layer: nn.Module, weight: Tensor, bias: Any) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(array(bias))
    return layer


# -- convolutions and dense ------------------------------------------------------------------------------------------


def _conv(build: Builder, layer: Layer, value: Value) -> Value:
    kernel = array(layer.kernel).permute(3, 2, 0, 1)  # [k, k, in, out] to [out, in, k, k]
    return _activated(build, layer, layer.activation, _convolved(build, layer, value, kernel, layer.groups))


def _depthwise(build: Builder, layer: Layer, value: Value) -> Value:
    kernel = _by_channel(array(layer.kernel))
    return _activated(build, layer, layer.activation, _convolved(build, layer, value, kernel, value.example.shape[1]))


def _separable(build: Builder, layer: Layer, value: Value) -> Value:
    deep, wide = _by_channel(array(layer.depthwise_kernel)), array(layer.pointwise_kernel).permute(3, 2, 0, 1)
    value = _convolved(build, layer, value, deep, value.example.shape[1], part="_depthwise")
    value = _convolved(build, layer, value, wide, 1, part="_pointwise")
    return _activated(build, layer, layer.activation, value)


def _by_channel(kernel: Tensor) -> Tensor:
    """Return [k, k, in, multiplier] as [in * multiplier, 1, k, k]."""
    return kernel.permute(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])


def _convolved(build: Builder, layer: Layer, value: Value, kernel: Tensor, groups: int, *, part: str = "") -> Value:
    """Add a convolution; the first part of a separable one has no bias, the second neither stride nor padding."""
    size = tuple(kernel.shape[2:])
    bias = layer.bias if layer.use_bias and part != "_depthwise" else None
    plain = part == "_pointwise"
    window = Window(size, (1, 1)) if plain else Window(size, tuple(layer.strides), tuple(layer.dilation_rate))
    around = pads(build, layer, value, window)
    padding = (around[0][0], around[1][0])
    if any(before != after for before, after in around):
        value = padded(build, f"{layer.name}{part}_pad", value, around)
        padding = (0, 0)

    def make() -> nn.Module:
        made = nn.Conv2d(
            kernel.shape[1] * groups, kernel.shape[0], size, stride=window.strides, padding=padding,
            dilation=window.dilation, groups=groups, bias=bias is not None,
        )  # fmt: skip
        return _set(made, kernel, bias)

    return build.call(f"{layer.name}{part}", make, value)


def _dense(build: Builder, layer: Layer, value: Value) -> Value:
    kernel = array(layer.kernel).T
    if value.example.ndim != 2:
        raise build.refuse(layer, f"gets {value.example.ndim} dimensions, not rows")
    if value.flat_of is not None:
        rows, columns = value.flat_of
        kernel = kernel.reshape(len(kernel), rows, columns, -1).permute(0, 3, 1, 2).reshape(len(kernel), -1)
    bias = layer.bias if layer.use_bias else None

    def make() -> nn.Module:
        return _set(nn.Linear(kernel.shape[1], kernel.shape[0], bias=bias is not None), kernel, bias)

    result = build.call(layer.name, make, value)
    return _activated(build, layer, layer.activation, result)


# -- normalization, scaling ------------------------------------------------------------------------------------------


def _batch_norm(build: Builder, layer: Layer, value: Value) -> Value:
    _check_axis(build, layer, value, layer.axis)

    def make() -> nn.Module:
        width = value.example.shape[1]
        kind = nn.BatchNorm2d if value.example.ndim == 4 else nn.BatchNorm1d
        made = kind(width, eps=layer.epsilon, momentum=1.0 - layer.momentum)
        with torch.no_grad():
            made.running_mean.copy_(array(layer.moving_mean))
            made.running_var.copy_(array(layer.moving_variance))
            if layer.scale:
                made.weight.copy_(array(layer.gamma))
            if layer.center:
                made.bias.copy_(array(layer.beta))
        made.weight.requires_grad_(bool(layer.scale))
        made.bias.requires_grad_(bool(layer.center))
        return made

    return build.call(layer.name, make, value)


def _check_axis(build: Builder, layer: Layer, value: Value, axis: Any) -> None:
    (only,) = axis if isinstance(axis, list | tuple) and len(axis) == 1 else (axis,)
    if only not in (-1, value.example.ndim - 1):
        raise build.refuse(layer, f"works along axis {axis}, only the last is read")


def _rescaling(build: Builder, layer: Layer, value: Value) -> Value:
    return scaled(build, layer, value, np.asarray(layer.scale), np.asarray(layer.offset))


def _normalization(build: Builder, layer: Layer, value: Value) -> Value:
    if layer.axis not in ((), None, -1, (value.example.ndim - 1,), (-1,)):
        raise build.refuse(layer, f"works along axis {layer.axis}, only the last is read")
    mean, deviation = (
        np.asarray(array.detach().numpy() if hasattr(array, "detach") else array, np.float64).reshape(-1)
        for array in (layer.mean, torch.as_tensor(layer.variance).sqrt())
    )
    deviation = np.maximum(deviation, 1e-7)  # keras.config.epsilon()
    if layer.invert:
        return scaled(build, layer, value, deviation, mean)
    return scaled(build, layer, value, 1.0 / deviation, -mean / deviation)


# -- activations -----------------------------------------------------------------------------------------------------

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "silu": nn.SiLU, "swish": nn.SiLU,
    "hard_sigmoid": nn.Hardsigmoid, "hard_silu": nn.Hardswish, "hard_swish": nn.Hardswish, "elu": nn.ELU,
    "selu": nn.SELU, "softplus": nn.Softplus, "softsign": nn.Softsign, "mish": nn.Mish,
    "gelu": lambda: nn.GELU(approximate="none"), "leaky_relu": lambda: nn.LeakyReLU(0.2),
}  # fmt: skip


def _activated(build: Builder, layer: Layer, function: Any, value: Value) -> Value:
    name = getattr(function, "__name__", type(function).__name__)
    if function is None or name == "linear":
        return value
    if not getattr(function, "__module__", "").startswith("keras."):
        raise build.refuse(layer, f"has an activation of its own, {name}")
    if name == "softmax":
        return _softmaxed(build, layer, f"{layer.name}_softmax", value)
    if name not in _ACTIVATIONS:
        raise build.refuse(layer, f"has the activation {name}, which has no translation")
    return build.call(f"{layer.name}_{name}", _ACTIVATIONS[name], value, flat_of=value.flat_of)


def _softmaxed(build: Builder, layer: Layer, key: str, value: Value) -> Value:
    if value.example.ndim != 2:
        raise build.refuse(layer, "is a softmax over an image")
    return build.call(key, lambda: nn.Softmax(dim=-1), build.settled(key, value))


def _activation(build: Builder, layer: Layer, value: Value) -> Value:
    return _activated(build, layer, layer.activation, value)


def _softmax(build: Builder, layer: Layer, value: Value) -> Value:
    _check_axis(build, layer, value, layer.axis)
    return _softmaxed(build, layer, layer.name, value)


def _relu(build: Builder, layer: Layer, value: Value) -> Value:
    most, slope, threshold = layer.max_value, float(layer.negative_slope), float(layer.threshold)
    if threshold or (most is not None and slope):
        raise build.refuse(layer, "has a threshold or a slope below a limit")
    if most is None:
        return build.call(layer.name, lambda: nn.LeakyReLU(slope) if slope else nn.ReLU(), value, flat_of=value.flat_of)
    made = nn.ReLU6() if most == 6 else nn.Hardtanh(0.0, float(most))
    return build.call(layer.name, lambda: made, value, flat_of=value.flat_of)


def _leaky(build: Builder, layer: Layer, value: Value) -> Value:
    return build.call(layer.name, lambda: nn.LeakyReLU(float(layer.negative_slope)), value, flat_of=value.flat_of)


_KEEPS_FLAT = {"Dense", "Dropout", "Activation", "ReLU", "LeakyReLU", "Identity", "ActivityRegularization"}
_LAYERS: dict[str, Callable[..., Value]] = {
    "Conv2D": _conv, "DepthwiseConv2D": _depthwise, "SeparableConv2D": _separable, "Dense": _dense,
    "BatchNormalization": _batch_norm, "Rescaling": _rescaling, "Normalization": _normalization,
    "Activation": _activation, "Softmax": _softmax, "ReLU": _relu, "LeakyReLU": _leaky, **SHAPES, **MERGING,
}  # fmt: skip
