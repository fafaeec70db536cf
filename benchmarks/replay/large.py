"""MobileNetV2-shaped ONNX models with random weights, so that the bank's latencies reach 40 ms. Needs ``onnx``.

Source of the shape: Sandler et al. 2018, MobileNetV2, table 2 (expansion, channels, repeats, stride); batch norms are
folded into the convolutions, as any exporter does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
#: Name of each model: its width multiplier and the side of its input.
SHAPES: dict[str, tuple[float, int]] = {
    "large_v2-w035-r096": (0.35, 96),
    "large_v2-w050-r128": (0.5, 128),
    "large_v2-w050-r160": (0.5, 160),
    "large_v2-w075-r160": (0.75, 160),
    "large_v2-w075-r192": (0.75, 192),
    "large_v2-w100-r160": (1.0, 160),
    "large_v2-w100-r192": (1.0, 192),
    "large_v2-w100-r224": (1.0, 224),
    "large_v2-w130-r224": (1.3, 224),
    "large_v2-w140-r256": (1.4, 256),
}


class _Net:
    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def _weight(self, shape: tuple[int, ...]) -> str:
        name = f"w{len(self.weights)}"
        fan_in = max(1, int(np.prod(shape[1:])))
        array = (self._random.standard_normal(shape) / fan_in**0.5).astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def _node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def conv(
        self, x: str, into: int, out: int, kernel: int, *, stride: int = 1, group: int = 1, relu: bool = True
    ) -> str:
        pad = kernel // 2
        weight, bias = self._weight((out, into // group, kernel, kernel)), self._weight((out,))
        y = self._node(
            "Conv", [x, weight, bias],
            kernel_shape=[kernel, kernel], strides=[stride, stride], pads=[pad] * 4, group=group,
        )  # fmt: skip
        return self._node("Clip", [y, "zero", "six"]) if relu else y

    def block(self, x: str, into: int, out: int, expansion: int, stride: int) -> str:
        wide = into * expansion
        y = self.conv(x, into, wide, 1) if expansion > 1 else x
        y = self.conv(y, wide, wide, 3, stride=stride, group=wide)
        y = self.conv(y, wide, out, 1, relu=False)
        return self._node("Add", [x, y]) if stride == 1 and into == out else y

    def head(self, x: str, into: int, classes: int) -> str:
        y = self._node("Flatten", [self._node("GlobalAveragePool", [x])])
        return self._node("Gemm", [y, self._weight((into, classes)), self._weight((classes,))])


def _rounded(channels: float) -> int:
    return max(8, int(channels + 4) // 8 * 8)


def build(path: Path, width: float, side: int, *, seed: int = 0, classes: int = 1000) -> None:
    """Write one model: input ``x`` float32 [1, 3, side, side], output [1, classes]."""
    net = _Net(seed)
    into = _rounded(32 * width)
    x = net.conv("x", 3, into, 3, stride=2)
    for expansion, channels, repeats, stride in _BLOCKS:
        for number in range(repeats):
            out = _rounded(channels * width)
            x = net.block(x, into, out, expansion, stride if number == 0 else 1)
            into = out
    last = _rounded(1280 * max(1.0, width))
    output = net.head(net.conv(x, into, last, 1), last, classes)
    bounds = [numpy_helper.from_array(np.array(v, np.float32), n) for v, n in ((0.0, "zero"), (6.0, "six"))]
    graph = helper.make_graph(
        net.nodes, "mobilenet_v2_shaped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, classes])],
        [*net.weights, *bounds],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
