"""Small models, well-meant and hostile, built in the test; and candidates around them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from agent.core.facts import BoardIdentity, CpuFacts, DeviceFacts, EngineFacts, MemoryFacts, OsFacts
from agent.core.manifest import Candidate, Manifest, TargetRef
from agent.core.measurement import OperatingPoint

ONNX_POINT = OperatingPoint(engine="onnxruntime", engine_version="0", provider="CPUExecutionProvider", threads=1)
LITERT_POINT = OperatingPoint(engine="ai-edge-litert", engine_version="0", provider="XNNPACK", threads=1)
CLASSES = 4


def facts(**changes: Any) -> DeviceFacts:
    """A two-core board with all three engines proven."""
    rows = (
        ("onnxruntime", "onnx", "CPUExecutionProvider"),
        ("ai-edge-litert", "tflite", "XNNPACK"),
        ("tflite-runtime", "tflite", "XNNPACK"),
    )
    fields: dict[str, Any] = {
        "board": BoardIdentity(model=None, profile="generic", matched_on="test"),
        "cpu": CpuFacts(architecture="x86_64", present=(0, 1), usable=(0, 1), features=("sse2",)),
        "memory": MemoryFacts(total_bytes=1 << 30),
        "os": OsFacts(),
        "class_fingerprint": "test-class",
        "engines": tuple(
            EngineFacts(name=name, formats=(form,), version="0", providers=(provider,), proven=True)
            for name, form, provider in rows
        ),
    }
    return DeviceFacts(**{**fields, **changes})


def candidate(path: Path, **manifest: Any) -> Candidate:
    """A candidate around a model file."""
    data = path.read_bytes()
    form = "onnx" if path.suffix == ".onnx" else "tflite"
    fields: dict[str, Any] = {"task": "test", "name": path.stem, "format": form, "inputs": (), "outputs": ()}
    return Candidate(
        manifest=Manifest(**{**fields, **manifest}),
        target=TargetRef(path=path.name, sha256=hashlib.sha256(data).hexdigest(), length=len(data)),
    )


def _save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def identity_classifier(path: Path) -> Path:
    """y = x on float32 [N, 4] (N dynamic): the class is the largest input."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CLASSES])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])
    return _save(path, [helper.make_node("Identity", ["x"], ["y"])], [value], [result], [])


def two_inputs(path: Path) -> Path:
    """s = a + b, d = a - b on float32 [1, 4]."""
    names = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, CLASSES]) for name in ("a", "b", "s", "d")]
    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Sub", ["a", "b"], ["d"])]
    return _save(path, nodes, names[:2], names[2:], [])


def endless_loop(path: Path) -> Path:
    """A Loop that runs 2^62 times."""
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, [1])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["state", "state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            state,
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1]),
        ],
    )
    constants = [
        helper.make_tensor("times", TensorProto.INT64, [], [1 << 62]),
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
    ]
    return _save(
        path,
        [helper.make_node("Loop", ["times", "yes", "x"], ["y"], body=body)],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        constants,
    )


def linger(model: Any, turns: int) -> None:
    """Let a model change its input's sign so often before it goes on: an even number of turns changes no output."""
    name = model.graph.input[0].name
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, None)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Neg", ["state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            state,
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    for node in model.graph.node:
        node.input[:] = ["lingered" if one == name else one for one in node.input]
    model.graph.node.insert(0, helper.make_node("Loop", ["turns", "", name], ["lingered"], body=body))
    model.graph.initializer.append(helper.make_tensor("turns", TensorProto.INT64, [], [turns]))


def memory_bomb(path: Path) -> Path:
    """Makes 16 GiB of zeros from two numbers that depend on the input, so that it happens at the first run."""
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Mul", ["whole", "zero"], ["none"]),
        helper.make_node("Add", ["none", "huge"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["bomb"]),
        helper.make_node("ReduceSum", ["bomb"], ["y"], keepdims=0),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [2], [0, 0]),
        helper.make_tensor("huge", TensorProto.INT64, [2], [1 << 16, 1 << 16]),
    ]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    return _save(path, nodes, [value], [result], constants)


def function_chain(path: Path, depth: int = 3000) -> Path:
    """A chain of model-local functions so deep that inlining it overflows ONNX Runtime's stack."""
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("chain", 1)]
    functions = []
    for number in range(depth):
        last = number == depth - 1
        step = (
            helper.make_node("Identity", ["x"], ["y"])
            if last
            else helper.make_node(f"f{number + 1}", ["x"], ["y"], domain="chain")
        )
        functions.append(helper.make_function("chain", f"f{number}", ["x"], ["y"], [step], opsets))
    graph = helper.make_graph(
        [helper.make_node("f0", ["x"], ["y"], domain="chain")],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def pack(path: Path, inputs: np.ndarray, labels: np.ndarray) -> Path:
    """An evaluation pack."""
    np.savez(path, inputs=inputs, labels=labels)
    return path


def one_hot(labels: np.ndarray) -> np.ndarray:
    """float32 [N, 4] whose largest element is the label."""
    return np.eye(CLASSES, dtype=np.float32)[labels]
