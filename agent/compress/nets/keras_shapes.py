"""Keras layers without weights as torch layers: pooling, shapes, joining. What has no translation is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from agent.compress.nets import graph as net
from agent.compress.nets.building import Builder, Layer, Value, Window, padded, pads, scaled


def _pool(build: Builder, layer: Layer, value: Value) -> Value:
    size, strides = tuple(layer.pool_size), tuple(layer.strides)
    around = pads(build, layer, value, Window(size, strides))
    even = all(before == after for before, after in around)
    if not even and any(before for before, _ in around):
        raise build.refuse(layer, "pads rows and columns unevenly")
    padding = tuple(
        before for before, _ in around
    )  # what is odd comes after: torch's ceil_mode, which counts no padding
    if type(layer).__name__ == "MaxPooling2D":
        return build.call(layer.name, lambda: nn.MaxPool2d(size, strides, padding, ceil_mode=not even), value)
    return build.call(
        layer.name, lambda: nn.AvgPool2d(size, strides, padding, ceil_mode=not even, count_include_pad=False), value
    )


def _global(build: Builder, layer: Layer, value: Value) -> Value:
    kind = net.Mean if "Average" in type(layer).__name__ else net.Largest
    return build.call(layer.name, lambda: kind(keep=bool(layer.keepdims)), value)


def _zero_padding(build: Builder, layer: Layer, value: Value) -> Value:
    return padded(build, layer.name, value, layer.padding)


def _flatten(build: Builder, layer: Layer, value: Value) -> Value:
    if value.example.ndim == 2:
        return value
    rows, columns = map(int, value.example.shape[2:])
    order = None if rows * columns == 1 else (rows, columns)
    return build.call(layer.name, nn.Flatten, value, flat_of=order)


def _reshape(build: Builder, layer: Layer, value: Value) -> Value:
    if value.example.ndim == 4:
        value = build.call(f"{layer.name}_turned", lambda: net.Turned(0, 2, 3, 1), value)
    sizes = tuple(map(int, layer.target_shape))
    shaped = build.call(layer.name, lambda: net.Shaped(*sizes), value)
    if len(sizes) == 3:
        return build.call(f"{layer.name}_back", lambda: net.Turned(0, 3, 1, 2), shaped)
    if len(sizes) == 1:
        return shaped
    raise build.refuse(layer, f"makes {len(sizes)} dimensions")


def _same(_build: Builder, _layer: Layer, value: Value) -> Value:
    return value


def _dropout(build: Builder, layer: Layer, value: Value) -> Value:
    spatial = type(layer).__name__ == "SpatialDropout2D"
    made = nn.Dropout2d(float(layer.rate)) if spatial else nn.Dropout(float(layer.rate))
    return build.call(layer.name, lambda: made, value, flat_of=value.flat_of)


def _merged(kind: Callable[[], nn.Module], neutral: float) -> Callable[..., Value]:
    def make(build: Builder, layer: Layer, given: list[Value], constants: list[float]) -> Value:
        if len(constants) > 1 or not given or (len(given) > 1 and constants):
            raise build.refuse(layer, "joins a tensor and several constants")
        if constants:
            sum_ = neutral == 0.0
            pair = (1.0, constants[0]) if sum_ else (constants[0], 0.0)
            return scaled(build, layer, given[0], np.asarray(pair[0]), np.asarray(pair[1]))
        if len({one.example.ndim for one in given}) > 1:
            raise build.refuse(layer, "joins tensors of several ranks")
        return build.call(layer.name, kind, *given)

    return make


def _subtract(build: Builder, layer: Layer, given: list[Value], constants: list[float]) -> Value:
    if len(given) != 2 or constants or given[0].example.ndim != given[1].example.ndim:
        raise build.refuse(layer, "does not subtract one tensor from another of its rank")
    return build.call(layer.name, net.Difference, *given)


def _concatenate(build: Builder, layer: Layer, given: list[Value], constants: list[float]) -> Value:
    rank = given[0].example.ndim
    axis = layer.axis % rank
    ours = (0, 2, 3, 1)[axis] if rank == 4 else axis
    if constants or axis == 0:
        raise build.refuse(layer, "joins along the batch")
    return build.call(layer.name, lambda: net.Join(ours), *given)


MERGING: dict[str, Callable[..., Value]] = {
    "Add": _merged(net.Sum, 0.0), "Multiply": _merged(net.Product, 1.0), "Subtract": _subtract,
    "Concatenate": _concatenate,
}  # fmt: skip
SHAPES: dict[str, Callable[..., Value]] = {
    "MaxPooling2D": _pool, "AveragePooling2D": _pool,
    "GlobalAveragePooling2D": _global, "GlobalMaxPooling2D": _global,
    "ZeroPadding2D": _zero_padding, "Flatten": _flatten, "Reshape": _reshape,
    "Dropout": _dropout, "SpatialDropout2D": _dropout, "Identity": _same, "ActivityRegularization": _same,
}  # fmt: skip
