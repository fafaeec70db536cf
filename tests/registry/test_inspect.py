"""What a model file says, and files that are none or mean harm."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from agent.core.manifest import Quantization
from agent.errors import ModelError
from agent.registry.inspect import inspect_model, prepared_data
from tests.registry.samples import onnx_model


def _save(model, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_an_onnx_file_says_what_it_needs(tmp_path):
    facts = inspect_model(onnx_model(tmp_path / "m.onnx", opset=20, ir_version=10))
    assert (facts.format, facts.opset, facts.ir_version, facts.quantized) == ("onnx", 20, 10, False)
    assert facts.operators == ("MatMul", "Softmax")
    assert [(t.name, t.dtype, t.shape) for t in facts.inputs] == [("x", "float32", (-1, 4))]
    assert [(t.name, t.dtype, t.shape) for t in facts.outputs] == [("y", "float32", (-1, 3))]


@pytest.mark.parametrize(("opset", "ir_version"), [(21, 10), (20, 11)])
def test_what_boards_cannot_run_is_refused(tmp_path, opset, ir_version):
    with pytest.raises(ModelError, match="boards"):
        inspect_model(onnx_model(tmp_path / "m.onnx", opset=opset, ir_version=ir_version))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "is a Git LFS pointer, not a model"),
        (b"\x89PNG\r\n\x1a\n0000", "neither an ONNX nor a TFLite"),
        (b"\x08\x08garbage", "not a whole ONNX model"),
        (b"\x1c\x00\x00\x00TFL3" + b"\0" * 64, "refuses the file"),
        (b"\0" * 4096, "neither"),
    ],
)
def test_what_is_no_model_is_said_in_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=sentence):
        inspect_model(path)


def test_a_truncated_onnx_file_is_refused(tmp_path):
    path = onnx_model(tmp_path / "m.onnx", features=64)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError):
        inspect_model(path)


@pytest.mark.parametrize("kind", ["absent", "folder", "fifo"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "model"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(ModelError):
        inspect_model(path)


@pytest.mark.parametrize("where", ["initializer", "attribute", "subgraph"])
def test_weights_outside_of_the_file_are_refused(tmp_path, where):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    secret = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    secret.ClearField("raw_data")
    secret.data_location = TensorProto.EXTERNAL
    entry = secret.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    nodes, initializers = [helper.make_node("Add", ["x", "w"], ["y"])], []
    if where == "initializer":
        initializers = [secret]
    elif where == "attribute":
        nodes = [helper.make_node("Constant", [], ["w"], value=secret), *nodes]
    else:
        inner = helper.make_graph([helper.make_node("Identity", ["w"], ["o"])], "inner", [],
                                  [helper.make_tensor_value_info("o", TensorProto.FLOAT, [4])], [secret])  # fmt: skip
        nodes = [helper.make_node("If", ["c"], ["w"], then_branch=inner, else_branch=inner), *nodes]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert onnx.__version__
    with pytest.raises(ModelError, match="outside of its file"):
        inspect_model(_save(model, tmp_path / "m.onnx"))


def test_operators_inside_functions_and_branches_are_counted(tmp_path):
    from onnx import TensorProto, helper

    inner = helper.make_graph([helper.make_node("Relu", ["x"], ["o"])], "inner", [],
                              [helper.make_tensor_value_info("o", TensorProto.FLOAT, [4])])  # fmt: skip
    function = helper.make_function("own", "Mine", ["a"], ["b"], [helper.make_node("Tanh", ["a"], ["b"])],
                                    [helper.make_opsetid("", 17)])  # fmt: skip
    nodes = [
        helper.make_node("Mine", ["x"], ["t"], domain="own"),
        helper.make_node("If", ["c"], ["r"], then_branch=inner, else_branch=inner),
        helper.make_node("FusedMatMul", ["t", "r"], ["y"], domain="com.microsoft"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [4]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    domains = [helper.make_opsetid(name, version) for name, version in (("", 17), ("own", 1), ("com.microsoft", 1))]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8, functions=[function])
    facts = inspect_model(_save(model, tmp_path / "m.onnx"))
    assert facts.operators == ("If", "Relu", "Tanh", "com.microsoft:FusedMatMul")


def test_a_model_that_never_ends_meets_the_deadline(tmp_path):
    from onnx import TensorProto, helper, numpy_helper

    body = helper.make_graph(
        [helper.make_node("Identity", ["keep"], ["keep_out"]), helper.make_node("Sin", ["v"], ["v_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [4]),
        ],
        [
            helper.make_tensor_value_info("keep_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, [4]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.array(True), "yes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = _save(model, tmp_path / "m.onnx")
    facts = inspect_model(path)
    with pytest.raises(ModelError, match="not done after"), prepared_data(path, facts, deadline_s=3.0):
        pass


def test_a_model_that_crashes_the_engine_is_a_fault_of_the_model(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(_tflite_add(inputs=(-1, 0)))
    with pytest.raises(ModelError) as caught:
        inspect_model(path)
        pytest.fail("it was read without complaint")
    assert "killed by SIG" in caught.value.problem or "TFLite runtime" in caught.value.problem


def test_a_tflite_file_made_by_hand_is_read(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(_tflite_add(inputs=(0, 0)))
    facts = inspect_model(path)
    assert (facts.format, facts.operators) == ("tflite", ("ADD",))
    assert [(t.name, t.dtype, t.shape) for t in facts.inputs] == [("x", "float32", (1, 4))]
    with prepared_data(path, facts) as prepared, np.load(prepared.golden_file) as arrays:
        assert np.array_equal(arrays["output_0"], arrays["input_0"] * 2)


def test_outputs_that_are_not_numbers_are_refused(tmp_path):
    from onnx import TensorProto, helper

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    nodes = [helper.make_node("Sub", ["x", "x"], ["z"]), helper.make_node("Div", ["z", "z"], ["y"])]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = _save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="NaN"), prepared_data(path, inspect_model(path)):
        pass


def test_the_child_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    model = onnx_model(tmp_path / "m.onnx")
    facts = inspect_model(model)
    with prepared_data(model, facts) as prepared:
        assert prepared.golden_file.is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.real
def test_real_models_say_what_they_are(real_models):
    facts = inspect_model(real_models / "kws" / "kws_dscnn_int8.tflite")
    assert facts.inputs[0].shape == (-1, 49, 10, 1)
    assert facts.inputs[0].quantization == Quantization(scale=0.5847029089927673, zero_point=83)
    assert "DEPTHWISE_CONV_2D" in facts.operators
    facts = inspect_model(real_models / "kws" / "kws_int8.onnx")
    assert (facts.opset, facts.ir_version, facts.quantized) == (13, 7, True)
    facts = inspect_model(real_models / "mobilenet" / "mobilenet_v1_0.25_128_quant.tflite")
    assert (facts.inputs[0].dtype, facts.outputs[0].shape) == ("uint8", (1, 1001))


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "sentence"),
    [("lfs_pointer_not_a_model.tflite", "Git LFS pointer"), ("person_detect_bad_quant_dim.tflite", "refuses the file")],
)
def test_real_hostile_files_are_refused(real_models, name, sentence):
    with pytest.raises(ModelError, match=sentence):
        inspect_model(real_models / "hostile" / name)


def _tflite_add(inputs: tuple[int, int]) -> bytes:
    """One ADD operator, built by hand; an input index of -1 makes LiteRT 2.3 read out of bounds."""
    flatbuffers = pytest.importorskip("flatbuffers")
    tflite = pytest.importorskip("tflite")
    builder = flatbuffers.Builder(1024)

    def vector(start, items, prepend) -> int:
        start(builder, len(items))
        for item in reversed(items):
            prepend(item)
        return builder.EndVector()

    names = [builder.CreateString(name) for name in ("x", "y")]
    tensors = []
    for name in names:
        shape = vector(tflite.TensorStartShapeVector, (1, 4), builder.PrependInt32)
        tflite.TensorStart(builder)
        tflite.TensorAddShape(builder, shape)
        tflite.TensorAddType(builder, tflite.TensorType.FLOAT32)
        tflite.TensorAddBuffer(builder, 0)
        tflite.TensorAddName(builder, name)
        tensors.append(tflite.TensorEnd(builder))
    tensor_vector = vector(tflite.SubGraphStartTensorsVector, tensors, builder.PrependUOffsetTRelative)
    op_inputs = vector(tflite.OperatorStartInputsVector, inputs, builder.PrependInt32)
    op_outputs = vector(tflite.OperatorStartOutputsVector, (1,), builder.PrependInt32)
    tflite.AddOptionsStart(builder)
    options = tflite.AddOptionsEnd(builder)
    tflite.OperatorStart(builder)
    tflite.OperatorAddOpcodeIndex(builder, 0)
    tflite.OperatorAddInputs(builder, op_inputs)
    tflite.OperatorAddOutputs(builder, op_outputs)
    tflite.OperatorAddBuiltinOptionsType(builder, tflite.BuiltinOptions.AddOptions)
    tflite.OperatorAddBuiltinOptions(builder, options)
    operators = vector(
        tflite.SubGraphStartOperatorsVector, [tflite.OperatorEnd(builder)], builder.PrependUOffsetTRelative
    )
    graph_inputs = vector(tflite.SubGraphStartInputsVector, (0,), builder.PrependInt32)
    graph_outputs = vector(tflite.SubGraphStartOutputsVector, (1,), builder.PrependInt32)
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensor_vector)
    tflite.SubGraphAddInputs(builder, graph_inputs)
    tflite.SubGraphAddOutputs(builder, graph_outputs)
    tflite.SubGraphAddOperators(builder, operators)
    graphs = vector(tflite.ModelStartSubgraphsVector, [tflite.SubGraphEnd(builder)], builder.PrependUOffsetTRelative)
    tflite.OperatorCodeStart(builder)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, tflite.BuiltinOperator.ADD)
    tflite.OperatorCodeAddBuiltinCode(builder, tflite.BuiltinOperator.ADD)
    tflite.OperatorCodeAddVersion(builder, 1)
    codes = vector(
        tflite.ModelStartOperatorCodesVector, [tflite.OperatorCodeEnd(builder)], builder.PrependUOffsetTRelative
    )
    tflite.BufferStart(builder)
    buffers = vector(tflite.ModelStartBuffersVector, [tflite.BufferEnd(builder)], builder.PrependUOffsetTRelative)
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, codes)
    tflite.ModelAddSubgraphs(builder, graphs)
    tflite.ModelAddBuffers(builder, buffers)
    builder.Finish(tflite.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())
