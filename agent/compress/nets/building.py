"""Building a network call by call from another library's layers: values, shared layers, padding, refusals.

Every call is computed at once on an example, so that a size is known where a layer's padding depends on it. Which layer
becomes what is for ``keras_layers`` and ``keras_shapes``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agent.compress.nets import graph as net
from agent.errors import ModelError

Layer = Any  # of Keras


class Value:
    """A value inside the network: its number, an example [1, ...], and how a flattened image lies (rows, columns)."""

    def __init__(self, number: int, example: Tensor, flat_of: tuple[int, int] | None = None) -> None:
        self.number, self.example, self.flat_of = number, example, flat_of


class Builder:
    """Collects a network, call by call."""

    def __init__(self, name: str, example: Tensor) -> None:
        self.name, self.graph = name, net.Graph().eval()
        self.input = Value(0, example)
        self.owner = 0  # the layer at hand: another of its name, in a model inside the model, gets another key
        self._owners: dict[str, int] = {}

    def call(self, key: str, make: Callable[[], nn.Module], *given: Value, flat_of: tuple[int, int] | None = None
    ) -> Value:  # fmt: skip
        """Call the layer of a key, made at its first use. Returns: its result."""
        name = key.replace(".", "_")
        while self._owners.setdefault(name, self.owner) != self.owner:
            name += "_"
        if name not in self.graph.layers:
            self.graph.layers[name] = make().eval()
        self.graph.calls.append(net.Call(name, tuple(one.number for one in given)))
        with torch.no_grad():
            example = self.graph.layers[name](*(one.example for one in given))
        return Value(len(self.graph.calls), example, flat_of)

    def settled(self, key: str, value: Value) -> Value:
        """Return a flattened image in Keras's order."""
        if value.flat_of is None:
            return value
        rows, columns = value.flat_of
        shaped = self.call(f"{key}_image", lambda: net.Shaped(-1, rows, columns), value)
        turned = self.call(f"{key}_turned", lambda: net.Turned(0, 2, 3, 1), shaped)
        return self.call(f"{key}_flat", nn.Flatten, turned)

    def refuse(self, layer: Layer, why: str) -> ModelError:
        """Return the error that a layer cannot be taken."""
        return ModelError(
            f"{self.name}: layer {layer.name} ({type(layer).__name__}) {why}",
            fix="replace the layer, or export the model to ONNX and name that file",
        )


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return how many rows ``same`` adds before and after: the odd one comes after."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


class Window(NamedTuple):
    """What a layer slides over an image, each for rows and columns."""

    kernel: Any
    strides: Any
    dilation: Any = (1, 1)


def pads(build: Builder, layer: Layer, value: Value, window: Window) -> tuple[tuple[int, int], ...]:
    """Return what a layer's padding adds: before and after, for rows and columns. Raises: ModelError."""
    if value.example.ndim != 4:
        raise build.refuse(layer, "does not get an image")
    if layer.padding == "valid":
        return ((0, 0), (0, 0))
    if layer.padding != "same":
        raise build.refuse(layer, f"has padding {layer.padding}")
    sizes = value.example.shape[2:]
    return tuple(same_padding(int(s), int(k), int(t), int(d)) for s, k, t, d in
                 zip(sizes, *window, strict=True))  # fmt: skip


def padded(build: Builder, name: str, value: Value, around: Any) -> Value:
    """Add zeros around an image."""
    (top, bottom), (left, right) = around
    return build.call(name, lambda: nn.ZeroPad2d((left, right, top, bottom)), value)


def scaled(build: Builder, layer: Layer, value: Value, factor: Any, offset: Any) -> Value:
    """Add x * factor + offset, each a number or one for each channel."""

    def spread(given: Any) -> Tensor:
        flat = torch.from_numpy(np.array(given, dtype=np.float32)).reshape(-1)
        return flat.reshape(-1, 1, 1) if value.example.ndim == 4 else flat

    return build.call(layer.name, lambda: net.Scaled(spread(factor), spread(offset)), value)


def array(variable: Any) -> Tensor:
    """Return a variable of Keras as float32."""
    return torch.from_numpy(np.array(variable.numpy() if hasattr(variable, "numpy") else variable, dtype=np.float32))
