"""Write the two models with which engines are proven: y = x + x on float32 [1, 4], a few hundred bytes each.

    python benchmarks/make_tiny_models.py agent/runtimes/tiny

Needs the development extra (``onnx``, ``flatbuffers``, ``tflite``); the result is committed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import flatbuffers
import tflite
from onnx import TensorProto, helper

SHAPE = (1, 4)


def onnx_bytes() -> bytes:
    """Return the ONNX form; opset 13 and IR 8 load in every supported onnxruntime."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "add", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def tflite_bytes(input_index: int = 0) -> bytes:
    """Return the TFLite form: tensor 0 is x, tensor 1 is y. A wrong ``input_index`` makes a model that crashes."""
    builder = flatbuffers.Builder(512)
    tensors = [_tensor(builder, name) for name in ("x", "y")]
    tensor_vector = _offsets(builder, tflite.SubGraphStartTensorsVector, tensors)
    inputs, outputs = (
        _ints(builder, tflite.SubGraphStartInputsVector, [0]),
        _ints(builder, tflite.SubGraphStartOutputsVector, [1]),
    )
    tflite.AddOptionsStart(builder)
    options = tflite.AddOptionsEnd(builder)
    reads = _ints(builder, tflite.OperatorStartInputsVector, [input_index, input_index])
    writes = _ints(builder, tflite.OperatorStartOutputsVector, [1])
    tflite.OperatorStart(builder)
    tflite.OperatorAddOpcodeIndex(builder, 0)
    tflite.OperatorAddInputs(builder, reads)
    tflite.OperatorAddOutputs(builder, writes)
    tflite.OperatorAddBuiltinOptionsType(builder, tflite.BuiltinOptions.AddOptions)
    tflite.OperatorAddBuiltinOptions(builder, options)
    operator = tflite.OperatorEnd(builder)
    operators = _offsets(builder, tflite.SubGraphStartOperatorsVector, [operator])
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensor_vector)
    tflite.SubGraphAddInputs(builder, inputs)
    tflite.SubGraphAddOutputs(builder, outputs)
    tflite.SubGraphAddOperators(builder, operators)
    subgraphs = _offsets(builder, tflite.ModelStartSubgraphsVector, [tflite.SubGraphEnd(builder)])
    tflite.OperatorCodeStart(builder)
    tflite.OperatorCodeAddBuiltinCode(builder, tflite.BuiltinOperator.ADD)
    tflite.OperatorCodeAddVersion(builder, 1)
    codes = _offsets(builder, tflite.ModelStartOperatorCodesVector, [tflite.OperatorCodeEnd(builder)])
    tflite.BufferStart(builder)
    buffers = _offsets(builder, tflite.ModelStartBuffersVector, [tflite.BufferEnd(builder)])
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, codes)
    tflite.ModelAddSubgraphs(builder, subgraphs)
    tflite.ModelAddBuffers(builder, buffers)
    builder.Finish(tflite.ModelEnd(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _tensor(builder: flatbuffers.Builder, name: str) -> int:
    text = builder.CreateString(name)
    shape = _ints(builder, tflite.TensorStartShapeVector, list(SHAPE))
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, tflite.TensorType.FLOAT32)
    tflite.TensorAddBuffer(builder, 0)
    tflite.TensorAddName(builder, text)
    return int(tflite.TensorEnd(builder))


def _ints(builder: flatbuffers.Builder, start: object, values: list[int]) -> int:
    start(builder, len(values))  # type: ignore[operator]
    for value in reversed(values):
        builder.PrependInt32(value)
    return int(builder.EndVector())


def _offsets(builder: flatbuffers.Builder, start: object, values: list[int]) -> int:
    start(builder, len(values))  # type: ignore[operator]
    for value in reversed(values):
        builder.PrependUOffsetTRelative(value)
    return int(builder.EndVector())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "add.onnx").write_bytes(onnx_bytes())
    (folder / "add.tflite").write_bytes(tflite_bytes())
