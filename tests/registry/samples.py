"""Small models and data made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def onnx_model(path: Path, *, opset: int = 17, ir_version: int = 8, features: int = 4, classes: int = 3) -> Path:
    """Write a small linear classifier."""
    onnx = pytest.importorskip("onnx")
    weights = np.random.default_rng(features).standard_normal((features, classes)).astype(np.float32)
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Softmax", ["h"], ["y"])],
        "classifier",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", classes])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    path.write_bytes(model.SerializeToString())
    return path


def evaluation_pack(path: Path, *, n: int = 16, features: int = 4, classes: int = 3) -> Path:
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((n, features)).astype(np.float32)
    np.savez(path, inputs=inputs, labels=generator.integers(0, classes, n).astype(np.int64))
    return path
