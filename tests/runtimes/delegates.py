"""Builds the SIMULATED accelerator (``simulated_delegate.c``) and small TFLite models for it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flatbuffers
import pytest
import tflite

from benchmarks.make_tiny_models import SHAPE, _ints, _offsets, _tensor

SOURCE = Path(__file__).with_name("simulated_delegate.c")


class Node(NamedTuple):
    """One node: a builtin operator's name or a custom operator's, the tensors read, and the one written."""

    operator: str
    inputs: tuple[int, ...]
    output: int


ADD_THEN_MUL = (Node("ADD", (0, 0), 1), Node("ADD", (1, 0), 2), Node("MUL", (2, 0), 3))
ADDS = (Node("ADD", (0, 0), 1), Node("ADD", (1, 0), 2))
COMPILED = (Node("edgetpu-custom-op", (0,), 1),)


def build_delegate(folder: Path, name: str, mode: str = "right", operator: str | None = None) -> Path:
    """Compile the simulated delegate under the name of a real one. Returns: its folder, for LD_LIBRARY_PATH."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler (gcc)")
    folder.mkdir(exist_ok=True)
    more = [] if operator is None else [f'-DOPERATOR="{operator}"']
    command = [compiler, "-shared", "-fPIC", "-O1", f"-DMODE={mode}", *more, str(SOURCE), "-o", str(folder / name)]
    subprocess.run(command, check=True)
    return folder


def save_model(path: Path, nodes: Sequence[Node]) -> Path:
    """Write a TFLite model of nodes on float32 [1, 4]: tensor 0 is read, the last node's output is the result."""
    builder = flatbuffers.Builder(1024)
    operators = list(dict.fromkeys(node.operator for node in nodes))
    last = max(node.output for node in nodes)
    tensors = _offsets(
        builder, tflite.SubGraphStartTensorsVector, [_tensor(builder, f"t{number}") for number in range(last + 1)]
    )
    inputs = _ints(builder, tflite.SubGraphStartInputsVector, [0])
    outputs = _ints(builder, tflite.SubGraphStartOutputsVector, [nodes[-1].output])
    made = _offsets(builder, tflite.SubGraphStartOperatorsVector, [_node(builder, node, operators) for node in nodes])
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensors)
    tflite.SubGraphAddInputs(builder, inputs)
    tflite.SubGraphAddOutputs(builder, outputs)
    tflite.SubGraphAddOperators(builder, made)
    subgraphs = _offsets(builder, tflite.ModelStartSubgraphsVector, [tflite.SubGraphEnd(builder)])
    codes = _offsets(builder, tflite.ModelStartOperatorCodesVector, [_code(builder, name) for name in operators])
    tflite.BufferStart(builder)
    buffers = _offsets(builder, tflite.ModelStartBuffersVector, [tflite.BufferEnd(builder)])
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, codes)
    tflite.ModelAddSubgraphs(builder, subgraphs)
    tflite.ModelAddBuffers(builder, buffers)
    builder.Finish(tflite.ModelEnd(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def _node(builder: Any, node: Node, operators: list[str]) -> int:
    options = {"ADD": ("AddOptions", tflite.AddOptionsStart, tflite.AddOptionsEnd),
               "MUL": ("MulOptions", tflite.MulOptionsStart, tflite.MulOptionsEnd)}.get(node.operator)  # fmt: skip
    if options is not None:
        options[1](builder)
        given = options[2](builder)
    reads = _ints(builder, tflite.OperatorStartInputsVector, list(node.inputs))
    writes = _ints(builder, tflite.OperatorStartOutputsVector, [node.output])
    tflite.OperatorStart(builder)
    tflite.OperatorAddOpcodeIndex(builder, operators.index(node.operator))
    tflite.OperatorAddInputs(builder, reads)
    tflite.OperatorAddOutputs(builder, writes)
    if options is not None:
        tflite.OperatorAddBuiltinOptionsType(builder, getattr(tflite.BuiltinOptions, options[0]))
        tflite.OperatorAddBuiltinOptions(builder, given)
    return int(tflite.OperatorEnd(builder))


def _code(builder: Any, name: str) -> int:
    code = getattr(tflite.BuiltinOperator, name, tflite.BuiltinOperator.CUSTOM)
    text = builder.CreateString(name) if code == tflite.BuiltinOperator.CUSTOM else None
    tflite.OperatorCodeStart(builder)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, code)
    tflite.OperatorCodeAddBuiltinCode(builder, code)
    tflite.OperatorCodeAddVersion(builder, 1)
    if text is not None:
        tflite.OperatorCodeAddCustomCode(builder, text)
    return int(tflite.OperatorCodeEnd(builder))


__all__ = ["ADDS", "ADD_THEN_MUL", "COMPILED", "SHAPE", "Node", "build_delegate", "save_model"]
