"""A MobileNetV2 with random weights, for figures that need a model of 5 ms and more; made where it is needed.

    python benchmarks/big_model.py FILE.onnx [--size 224] [--width 1.0]

Source: Sandler et al. 2018, MobileNetV2, table 2; batch normalisation folded, ReLU6 as Clip. What it computes means
nothing: only its time is of use.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

# expansion, channels, repeats, stride
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class _Graph:
    """Nodes and weights, in the order they are added."""

    def __init__(self) -> None:
        import numpy as np

        self._random = np.random.default_rng(1)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.last = "x"

    def weight(self, shape: tuple[int, ...], scale: float) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        values = (self._random.standard_normal(shape) * scale).astype("float32")
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> None:
        from onnx import helper

        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.last, *inputs], [output], **attributes))
        self.last = output

    def conv(self, given: int, channels: int, kernel: int, stride: int = 1, *, groups: int = 1, clip: bool) -> None:
        fan_in = given // groups * kernel * kernel
        weights = self.weight((channels, given // groups, kernel, kernel), (2.0 / fan_in) ** 0.5)
        bias = self.weight((channels,), 0.1)
        pads = [kernel // 2] * 4
        shape = [kernel, kernel]
        self.add("Conv", weights, bias, kernel_shape=shape, strides=[stride, stride], pads=pads, group=groups)
        if clip:
            self.add("Clip", "zero", "six")


def write(path: Path, size: int = 224, width: float = 1.0) -> Path:
    """Write the model and return its path. Needs onnx and numpy."""
    import numpy as np
    from onnx import TensorProto, checker, helper, numpy_helper, save

    graph = _Graph()
    for name, value in (("zero", 0.0), ("six", 6.0)):
        graph.weights.append(numpy_helper.from_array(np.array(value, np.float32), name))
    channels = _round(32 * width)
    graph.conv(3, channels, 3, 2, clip=True)
    for expansion, base, repeats, first_stride in BLOCKS:
        for number in range(repeats):
            stride, output = (first_stride if number == 0 else 1), _round(base * width)
            entry, inner = graph.last, channels * expansion
            if expansion > 1:
                graph.conv(channels, inner, 1, clip=True)
            graph.conv(inner, inner, 3, stride, groups=inner, clip=True)
            graph.conv(inner, output, 1, clip=False)
            if stride == 1 and channels == output:
                graph.add("Add", entry)
            channels = output
    head = max(1280, _round(1280 * width))
    graph.conv(channels, head, 1, clip=True)
    graph.add("GlobalAveragePool")
    graph.add("Flatten")
    graph.add("Gemm", graph.weight((head, 1000), 0.03), graph.weight((1000,), 0.03))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, f"mobilenet_v2_{size}",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
            [helper.make_tensor_value_info(graph.last, TensorProto.FLOAT, [1, 1000])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 13)], ir_version=8,
    )  # fmt: skip
    checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(model, path)
    return path


def _round(channels: float) -> int:
    """Round to a multiple of eight, and down by no more than a tenth, as the paper's code does."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def main() -> int:
    parser = argparse.ArgumentParser(description="write a MobileNetV2 with random weights")
    parser.add_argument("file", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--width", type=float, default=1.0)
    options = parser.parse_args()
    print(write(options.file, options.size, options.width))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
