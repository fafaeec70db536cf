"""Hostile TFLite models, made by code from the schema that LiteRT brings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from benchmarks.make_tiny_models import tflite_bytes
from tests.faults.hostile.fixture import REFUSED, VOID, Hostile

_TIMEOUT = frozenset({"timeout"})
_FULL = frozenset({"out_of_memory", "load_failed", "crashed"})
Operators = schema.BuiltinOperator


def unpacked() -> Any:
    """The tiny model y = x + x as objects: tensor 0 is x, 1 is y."""
    return schema.ModelT.InitFromPackedBuf(tflite_bytes(), 0)


def packed(model: Any) -> bytes:
    """Return a model's bytes."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def changed(change: Callable[[Any, Any], object]) -> bytes:
    """The tiny model after a change of the model and its graph."""
    model = unpacked()
    change(model, model.subgraphs[0])
    return packed(model)


def _tensor(name: str, shape: list[int], kind: int = schema.TensorType.FLOAT32, buffer: int = 0) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
    return tensor


def _operator(code: int, inputs: list[int], outputs: list[int], options: Any = None, kind: int = 0) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
    operator.builtinOptions, operator.builtinOptionsType = options, kind
    return operator


def _code(builtin: int, custom: str | None = None) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version, code.customCode = builtin, min(builtin, 127), 1, custom
    return code


def _set(path: str, value: Any) -> Callable[[Any, Any], object]:
    """Return a change that sets one attribute of the graph's first operator, a tensor or the graph itself."""

    def change(_model: Any, graph: Any) -> None:
        *owner, name = path.split(".")
        target = graph
        for step in owner:
            target = target[int(step)] if step.isdigit() else getattr(target, step)
        if name.isdigit():
            target[int(name)] = value
        else:
            setattr(target, name, value)

    return change


def _indexes() -> Iterator[Hostile]:
    for code in (Operators.ADD, Operators.MUL, Operators.SUB):
        made = unpacked()
        made.operatorCodes = [_code(code)]
        made.subgraphs[0].operators = [_operator(0, [-1, -1], [1])]
        yield Hostile("crash", f"index -1 of operator {code}", ".tflite", packed(made), VOID)
    for name, path, value in (
        ("input 99", "operators.0.inputs", [99, 0]), ("output -1", "operators.0.outputs", [-1]),
        ("input -2", "operators.0.inputs", [-2, 0]), ("output 99", "operators.0.outputs", [99]),
        ("operator 99", "operators.0.opcodeIndex", 99), ("buffer 99", "tensors.0.buffer", 99),
        ("graph's input 99", "inputs", [99]), ("graph's output -1", "outputs", [-1]),
    ):  # fmt: skip
        yield Hostile("bad index", name, ".tflite", changed(_set(path, value)), REFUSED, says="the file does not")


def _shapes() -> Iterator[Hostile]:
    for name, shape in (
        ("2^31 - 1 twice", [2**31 - 1] * 2), ("negative", [-4, 4]), ("overflowing", [65536] * 4),
        ("80 dimensions", [2] * 80),
    ):  # fmt: skip
        yield Hostile("absurd shapes", f"an input {name}", ".tflite", changed(_set("tensors.0.shape", shape)), REFUSED)
    for name, shape in (("16 GiB", [4096, 1024, 1024]), ("1 TiB", [1 << 19, 1 << 19])):

        def both(_: Any, graph: Any, shape: list[int] = shape) -> None:
            for tensor in graph.tensors:
                tensor.shape = shape

        yield Hostile("memory bomb", f"tensors of {name}", ".tflite", changed(both), _FULL)


def _bombs() -> Iterator[Hostile]:
    model = unpacked()
    graph = model.subgraphs[0]
    model.operatorCodes = [_code(Operators.FILL)]
    buffer = schema.BufferT()
    buffer.data = list((1 << 16).to_bytes(4, "little") * 2)
    model.buffers.append(buffer)
    graph.tensors[0].shape = []
    graph.tensors[1].shape = []
    graph.tensors.append(_tensor("dims", [2], schema.TensorType.INT32, len(model.buffers) - 1))
    graph.operators = [_operator(0, [2, 0], [1])]
    yield Hostile("memory bomb", "FILL", ".tflite", packed(model), _FULL)
    long = unpacked()
    long.subgraphs[0].tensors[1].name = "y" * (5 << 20)
    yield Hostile("output bomb", "an output's name of 5 MiB", ".tflite", packed(long), REFUSED, says="a name of")
    many = unpacked()
    many.subgraphs[0].outputs = [1] * 100_000
    yield Hostile("output bomb", "100,000 outputs", ".tflite", packed(many), REFUSED, says="inputs or outputs")


def _while(own_body: bool = False) -> bytes:
    """A loop whose condition is always true."""
    model = unpacked()
    main = model.subgraphs[0]
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 0 if own_body else 2
    model.operatorCodes = [_code(Operators.WHILE), _code(Operators.ADD), _code(Operators.GREATER_EQUAL)]
    main.operators = [_operator(0, [0], [1], options, schema.BuiltinOptions.WhileOptions)]
    condition, body = schema.SubGraphT(), schema.SubGraphT()
    condition.tensors = [_tensor("a", [1]), _tensor("b", [1], schema.TensorType.BOOL)]
    condition.inputs, condition.outputs = [0], [1]
    condition.operators = [_operator(2, [0, 0], [1])]
    body.tensors = [_tensor("a", [1]), _tensor("b", [1])]
    body.inputs, body.outputs, body.operators = [0], [1], [_operator(1, [0, 0], [1])]
    for tensor in main.tensors:
        tensor.shape = [1]
    model.subgraphs = [main, condition, body]
    return packed(model)


def _lies() -> Iterator[Hostile]:
    model = unpacked()
    buffer = schema.BufferT()
    buffer.data = [0, 0, 0, 0]
    model.buffers.append(buffer)
    model.subgraphs[0].tensors.append(_tensor("w", [1, 4], buffer=len(model.buffers) - 1))
    model.subgraphs[0].operators[0].inputs = [0, 2]
    yield Hostile("lying sizes", "weights too short", ".tflite", packed(model), VOID)
    beyond = unpacked()
    beyond.buffers[0].offset, beyond.buffers[0].size = 64, 1 << 40
    yield Hostile("lying sizes", "a buffer past the end", ".tflite", packed(beyond), REFUSED, says="past its end")
    wraps = unpacked()
    wraps.buffers[0].offset, wraps.buffers[0].size = 2**64 - 8, 64
    yield Hostile("lying sizes", "a buffer that wraps around", ".tflite", packed(wraps), REFUSED, says="past its end")
    whole = bytearray(tflite_bytes())
    whole[0:4] = (1 << 31).to_bytes(4, "little")
    yield Hostile("lying sizes", "a root past the end", ".tflite", bytes(whole), REFUSED, says="past its end")


def _others() -> Iterator[Hostile]:
    custom = unpacked()
    custom.operatorCodes = [_code(Operators.CUSTOM, "Unheard")]
    custom.subgraphs[0].operators = [_operator(0, [0, 0], [1])]
    yield Hostile("custom operator", "Unheard", ".tflite", packed(custom), REFUSED)
    newer = unpacked()
    newer.operatorCodes = [_code(9999)]
    yield Hostile("custom operator", "a builtin of the future", ".tflite", packed(newer), REFUSED)
    yield Hostile("spin", "endless WHILE", ".tflite", _while(), _TIMEOUT)
    yield Hostile("deep nesting", "a graph that is its own body", ".tflite", _while(own_body=True), VOID | _TIMEOUT)
    group, file = schema.ExternalBufferGroupT(), schema.ExternalBufferT()
    group.name, file.id, file.group, file.offset, file.length = "/etc/passwd", 1, 0, 0, 16
    outside = unpacked()
    outside.externalBufferGroups, outside.externalBuffers = [group], [file]
    outside.subgraphs[0].tensors[0].externalBuffer = 1
    yield Hostile(
        "external data", "a group of buffers", ".tflite", packed(outside), REFUSED, says="outside of its file"
    )


def _broken() -> Iterator[Hostile]:
    whole = tflite_bytes()
    for share in (2, 6, 9):
        yield Hostile("truncated", f"{share} tenths", ".tflite", whole[: math.floor(len(whole) * share / 10)], VOID)
    yield Hostile("truncated", "the mark alone", ".tflite", b"\x1c\0\0\0TFL3", REFUSED)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    yield Hostile("polyglot", "a Git LFS pointer", ".tflite", pointer, REFUSED)
    yield Hostile("polyglot", "an ONNX model", ".tflite", b"\x08\x08\x3a\x02" + whole, REFUSED)


def fixtures() -> Iterator[Hostile]:
    """All of them."""
    for part in (_indexes, _shapes, _bombs, _lies, _others, _broken):
        yield from part()
