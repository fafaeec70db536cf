"""A model of six nodes with one, Unique, that accelerators leave to the CPU."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, helper

SIDE = 4


def split_model(path: Path, *, whole: bool = False) -> Path:
    """y = relu(x * x) + max - x * x on float32 [4, 4]; ``whole`` leaves Unique, which changes nothing, out."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"], name="mul"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Unique", ["b"], ["u"], name="unique"),
        helper.make_node("ReduceMax", ["b" if whole else "u"], ["m"], keepdims=0, name="max"),
        helper.make_node("Add", ["b", "m"], ["c"], name="add"),
        helper.make_node("Sub", ["c", "a"], ["y"], name="sub"),
    ]
    if whole:
        del nodes[2]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [SIDE, SIDE])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [SIDE, SIDE])
    graph = helper.make_graph(nodes, "split", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path
