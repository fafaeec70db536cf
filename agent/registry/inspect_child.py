"""The confined child: reads what a model file says about itself. Run as ``python -m agent.registry.inspect_child``.

It sets its limits and enters the sandbox (``agent.sandbox``, what the kernel has of it) before it opens anything, does
the one action that ``request.json`` in its folder names, and writes ``answer.json``: either the result, or
``{"problem": ..., "fix": ...}``. It never sees a path outside of its folder.

What is read, and by what: ONNX by the ``onnx`` package (operators, opset, IR version, external data), TFLite by
LiteRT's own interpreter (or tflite-runtime's, where LiteRT is absent).
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.confinement import die_with_parent, forbid_new_privileges, limit
from agent.errors import ModelError
from agent.registry.child import ANSWER, REQUEST
from agent.sandbox.entry import enter

_MEMORY_BYTES = 6 * 1024**3  # address space: engines map far more than they touch
_CPU_S = 110
_FILE_BYTES = 256 * 1024**2
_OPEN_FILES = 256
_LFS_MARK = b"version https://git-lfs"
_TFLITE_MARK = b"TFL3"
_QUANTIZED_ONNX = ("QuantizeLinear", "DequantizeLinear", "QLinear", "Integer", "DynamicQuantize", "QAttention", "QGemm")


def confine() -> None:
    """Limit this process for good. Raises: OSError, ValueError where the kernel refuses a limit."""
    die_with_parent()
    if not forbid_new_privileges():
        raise OSError("no_new_privs was refused")
    for which, value in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        limit(which, value)
    work = Path.cwd()
    enter((), writable=(work,))


def read_format(path: Path) -> str:
    """Tell ``onnx`` from ``tflite`` by content.

    Raises: ModelError: the file is empty, a Git LFS pointer, or neither.
    """
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise ModelError("the file is empty, not a model", fix="export the model again")
    if head.startswith(_LFS_MARK):
        raise ModelError("the file is a Git LFS pointer, not a model", fix="fetch the file itself with `git lfs pull`")
    if head[4:8] == _TFLITE_MARK:
        return "tflite"
    # An ONNX file begins with field 1 (ir_version), a varint; nothing else marks it, the parser decides.
    if head[0] == 0x08 and len(head) > 2:
        return "onnx"
    raise ModelError("the file is neither an ONNX nor a TFLite model", fix="export the model to one of the two")


def inspect_onnx(path: Path) -> dict[str, Any]:
    """Read an ONNX file without loading external data. Raises: ModelError."""
    try:
        import onnx
    except ImportError as error:
        raise ModelError(
            "reading ONNX models needs the package onnx", fix="install it with: pip install 'boardfit[author]'"
        ) from error
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError) as error:
        raise ModelError(
            "the file is not a whole ONNX model: it is truncated or damaged", fix="export it again"
        ) from error
    if not model.graph.node and not model.graph.output:
        raise ModelError("the file is not a whole ONNX model: it has no graph", fix="export it again")
    tensors, operators = _walk_onnx(model)
    outside = [
        tensor.name for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data
    ]
    if outside:
        raise ModelError(
            f"the model keeps weights outside of its file ({outside[0]!r})",
            fix="save it as one file, without external data",
        )
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=None)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [_onnx_tensor(value) for value in model.graph.input if value.name not in constants]
    return {
        "format": "onnx",
        "opset": opset,
        "ir_version": int(model.ir_version),
        "operators": sorted(operators),
        "inputs": inputs,
        "outputs": [_onnx_tensor(value) for value in model.graph.output],
        "quantized": any(mark in name for name in operators for mark in _QUANTIZED_ONNX),
    }


def _walk_onnx(model: Any) -> tuple[list[Any], set[str]]:
    """Return every tensor and every operator of a model, of its functions and of graphs inside attributes."""
    tensors: list[Any] = []
    operators: set[str] = set()
    own = {(function.domain, function.name) for function in model.functions}
    graphs = [model.graph]
    nodes: list[Any] = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            tensors.extend(graph.initializer)
            for sparse in graph.sparse_initializer:
                tensors.extend((sparse.values, sparse.indices))
            nodes.extend(graph.node)
            continue
        node = nodes.pop()
        if (node.domain, node.op_type) not in own:
            domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}:"
            operators.add(f"{domain}{node.op_type}")
        for attribute in node.attribute:
            tensors.extend(attribute.tensors)
            graphs.extend(attribute.graphs)
            if attribute.HasField("t"):
                tensors.append(attribute.t)
            if attribute.HasField("g"):
                graphs.append(attribute.g)
            for sparse in (
                *attribute.sparse_tensors,
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            ):
                tensors.extend((sparse.values, sparse.indices))
    return tensors, operators


def _onnx_tensor(value: Any) -> dict[str, Any]:
    from onnx import helper

    if not value.type.HasField("tensor_type"):
        raise ModelError(f"{value.name!r} is not a tensor", fix="sequences, maps and optionals cannot be measured")
    kind = value.type.tensor_type
    try:
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"{value.name!r} has element type {kind.elem_type}, unknown here", fix="use a plain dtype"
        ) from error
    shape = [
        int(size.dim_value) if size.HasField("dim_value") and size.dim_value > 0 else -1 for size in kind.shape.dim
    ]
    return {"name": value.name, "dtype": dtype, "shape": shape}


def open_tflite(path: Path, resolver: str = "AUTO") -> tuple[Any, str]:
    """Open a TFLite file. Returns: the interpreter, and the engine's name with its version. Raises: ModelError."""
    from importlib.metadata import version

    options: dict[str, Any] = {"model_path": str(path), "num_threads": 1}
    try:
        from ai_edge_litert import interpreter as engine

        name = f"ai-edge-litert {version('ai-edge-litert')}"
    except ImportError:
        try:
            from tflite_runtime import interpreter as engine
        except ImportError as error:
            raise ModelError(
                "reading TFLite models needs a runtime", fix="install ai-edge-litert (or tflite-runtime)"
            ) from error
        name = f"tflite-runtime {version('tflite-runtime')}"
    options["experimental_op_resolver_type"] = engine.OpResolverType[resolver]
    try:
        return engine.Interpreter(**options), name
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"the TFLite runtime refuses the file: {first_sentence(error)}", fix="convert it again"
        ) from error


def inspect_tflite(path: Path, *, compiled: bool = False) -> dict[str, Any]:
    """Read a TFLite file. Args: compiled: it holds what only an accelerator can prepare. Raises: ModelError."""
    interpreter, _ = open_tflite(path)
    try:
        if not compiled:
            interpreter.allocate_tensors()
        inputs = [_tflite_tensor(detail) for detail in interpreter.get_input_details()]
        outputs = [_tflite_tensor(detail) for detail in interpreter.get_output_details()]
        # The one place where LiteRT names operators; a leading underscore, the same in both runtimes since 2.3.
        operators = {str(detail["op_name"]) for detail in interpreter._get_ops_details()}
        tensors = interpreter.get_tensor_details()
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"the TFLite runtime cannot prepare the model: {first_sentence(error)}", fix=_what_next(str(error))
        ) from error
    integers = ("int8", "uint8", "int16")
    quantized = any(
        _dtype(detail) in integers and len(detail["quantization_parameters"]["scales"]) > 0 for detail in tensors
    )
    return {
        "format": "tflite",
        "opset": None,
        "ir_version": None,
        "operators": sorted(operators - {"DELEGATE"}),
        "inputs": inputs,
        "outputs": outputs,
        "quantized": quantized,
    }


def _what_next(refusal: str) -> str:
    from agent.runtimes.providers import PROVIDERS

    for row in PROVIDERS:
        if row.operator is not None and row.operator in refusal:
            return f"it is compiled for {row.name}: say --compiled-for {row.name} --twin MODEL_BEFORE_IT_WAS_COMPILED"
    return "convert it again"


def _dtype(detail: dict[str, Any]) -> str:
    import numpy as np

    return str(np.dtype(detail["dtype"]).name)


def _tflite_tensor(detail: dict[str, Any]) -> dict[str, Any]:
    signature = detail.get("shape_signature")
    shape = detail["shape"] if signature is None or len(signature) != len(detail["shape"]) else signature
    parameters = detail["quantization_parameters"]
    document: dict[str, Any] = {
        "name": str(detail["name"]),
        "dtype": _dtype(detail),
        "shape": [int(size) for size in shape],
    }
    if len(parameters["scales"]) == 1:
        document["quantization"] = {
            "scale": float(parameters["scales"][0]),
            "zero_point": int(parameters["zero_points"][0]),
        }
    return document


def first_sentence(error: BaseException) -> str:
    """Return the beginning of a runtime's message: they append to it without end."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def inspect(request: dict[str, Any]) -> dict[str, Any]:
    """Read the model named in the request. Raises: ModelError."""
    path = Path(request["model"])
    if read_format(path) == "onnx":
        return inspect_onnx(path)
    return inspect_tflite(path, compiled=bool(request.get("compiled")))


def main(arguments: Iterable[str] = ()) -> int:
    """Do the request in the current folder; the answer's file is written last. Returns: 0."""
    del arguments
    confine()
    request = json.loads(Path(REQUEST).read_text())
    try:
        if request["action"] == "inspect":
            answer = inspect(request)
        else:
            from agent.registry.samples_child import prepare

            answer = prepare(request)
    except ModelError as error:
        answer = {"problem": error.problem, "fix": error.fix}
    except MemoryError:
        answer = {"problem": "the model or its data needs more memory than it is given", "fix": "publish a smaller one"}
    with suppress(FileNotFoundError):
        Path(ANSWER).unlink()
    Path(ANSWER).write_text(json.dumps(answer))
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # engines have been seen to crash in their own teardown, after the answer
